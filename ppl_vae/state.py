"""What belongs to the process and not to this library, left as it is."""

import os
import sys
from importlib import import_module

__all__ = ["ready_optimizers"]


def ready_optimizers() -> None:
    """Imports what torch imports with its first optimiser, and keeps the environment as it is.

    That import sets `TORCHINDUCTOR_CACHE_DIR`, which processes started later would inherit; torch
    sets it again where it needs it.
    """
    if "torch._dynamo" in sys.modules:
        return
    before = set(os.environ)
    import_module("torch._dynamo")
    for name in set(os.environ) - before:
        del os.environ[name]
