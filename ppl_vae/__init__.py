"""Aggregate-posterior objectives for any Pyro model and guide, and what goes around them.

Names are loaded when first used, so that importing the package is quick.
"""

import sys
import warnings
from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

_HOME = {
    "MMD": "ppl_vae.objectives",
    "VAE": "ppl_vae.pairs",
    "WAE": "ppl_vae.objectives",
    "Bernoulli": "ppl_vae.likelihoods",
    "BetaVAE": "ppl_vae.objectives",
    "ConditionalVAE": "ppl_vae.pairs",
    "Dataset": "ppl_vae.data",
    "Experiment": "ppl_vae.experiment",
    "HierarchicalVAE": "ppl_vae.pairs",
    "InfoVAE": "ppl_vae.objectives",
    "MeanFieldNormal": "ppl_vae.guides",
    "Normal": "ppl_vae.likelihoods",
    "SVI": "ppl_vae.training",
    "SemiSupervisedVAE": "ppl_vae.pairs",
    "StandardNormal": "ppl_vae.priors",
    "compare": "ppl_vae.comparison",
    "fit": "ppl_vae.training",
    "load": "ppl_vae.loading",
    "processes": "ppl_vae.together",
    "read": "ppl_vae.objectives.outlook",
}

__all__ = [
    "MMD",
    "SVI",
    "VAE",
    "WAE",
    "Bernoulli",
    "BetaVAE",
    "ConditionalVAE",
    "Dataset",
    "Experiment",
    "HierarchicalVAE",
    "InfoVAE",
    "MeanFieldNormal",
    "Normal",
    "SemiSupervisedVAE",
    "StandardNormal",
    "__version__",
    "compare",
    "fit",
    "load",
    "processes",
    "read",
]


if "IPython" in sys.modules:
    # Pyro imports a bar that asks for widgets, in notebooks, before any is shown.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import_module("tqdm.auto")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
