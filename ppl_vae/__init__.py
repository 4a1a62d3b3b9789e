"""Aggregate-posterior objectives for any Pyro model and guide, and what goes around them.

Names are loaded when first used, so that importing the package is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "VAE": "ppl_vae.pairs",
    "ConditionalVAE": "ppl_vae.pairs",
    "Experiment": "ppl_vae.experiment",
    "HierarchicalVAE": "ppl_vae.pairs",
    "SemiSupervisedVAE": "ppl_vae.pairs",
    "compare": "ppl_vae.comparison",
    "fit": "ppl_vae.training",
    "load": "ppl_vae.experiment",
    "read": "ppl_vae.objectives.outlook",
}

__all__ = [
    "VAE",
    "ConditionalVAE",
    "Experiment",
    "HierarchicalVAE",
    "SemiSupervisedVAE",
    "__version__",
    "compare",
    "fit",
    "load",
    "read",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
