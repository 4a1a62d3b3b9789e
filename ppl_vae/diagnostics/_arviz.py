"""The few places where ArviZ 0.23 and 1.x differ. ArviZ is imported on first use only."""

import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["arviz", "convergence", "tree"]


def arviz() -> ModuleType:
    """The installed ArviZ, without the notice about its refactor that 0.23 prints on import."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        import arviz
    return arviz  # type: ignore[no-any-return]


def tree(groups: Mapping[str, Any], attrs: Mapping[str, str]) -> Any:
    """Joins xarray datasets: `arviz.InferenceData` under 0.23, `xarray.DataTree` under 1.x.

    `from_dict` is not used: 0.23 reads the nested form of 1.x as variables of the posterior,
    silently. Nor is `hasattr(arviz, "InferenceData")`, which 1.x answers with yes.
    """
    az = arviz()
    if int(az.__version__.split(".")[0]) < 1:
        return az.InferenceData(attrs=dict(attrs), **groups)
    import xarray

    result = xarray.DataTree.from_dict({f"/{name}": data for name, data in groups.items()})
    result.attrs.update(attrs)
    return result


def convergence(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank-normalised R-hat, bulk ESS and the ESS of the standard deviation.

    Args:
        draws: (chain, draw, ...).

    Returns:
        Three arrays of the shape of `...`.

    References:
        Vehtari et al. (2021), Rank-normalization, folding, and localization: an improved R-hat,
        arXiv:1903.08008.
    """
    az = arviz()
    import xarray

    dims = ["chain", "draw", *(f"dim_{i}" for i in range(draws.ndim - 2))]
    data = xarray.Dataset({"value": (dims, draws)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = (az.rhat(data), az.ess(data, method="bulk"), az.ess(data, method="sd"))
    rhat, bulk, spread = (np.asarray(f["value"].values) for f in found)
    return rhat, bulk, spread
