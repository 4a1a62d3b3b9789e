"""The importance-weighted bound against exact values, and its two gradients."""

from typing import Any

from pairs import PAIRS

GLOBAL = ("global_and_local", "auto_globals", "pyro_modules")
LOCAL = [name for name in PAIRS if name not in GLOBAL]
VECTORISED: dict[str, Any] = {"vectorize_particles": True, "max_plate_nesting": 2}
