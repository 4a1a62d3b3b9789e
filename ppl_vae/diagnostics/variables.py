"""Variables and dimensions of ArviZ, by the names of a pair's sites and plates."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics._arviz import tree
from ppl_vae.diagnostics.pair import Pair

__all__ = ["Names", "Variable", "array_of", "assemble", "label_of"]

Variable = tuple[tuple[str, ...], np.ndarray]
"""The names of a variable's dimensions, and its values."""


class Names:
    """Names of variables and dimensions."""

    def __init__(self, pair: Pair, dims: Mapping[str, Sequence[str]], chains: int) -> None:
        self.pair, self.chains = pair, chains
        self.given = dict(dims)
        for name, labels in self.given.items():
            if name not in pair.sites:
                raise ValueError(f"dims names {name!r}, which is no site: {list(pair.sites)}")
            site = pair.sites[name]
            if len(labels) != site.event_dim:
                raise ValueError(
                    f"dims of {name!r} has {len(labels)} names, its event shape "
                    f"{tuple(site.event_shape)} needs {site.event_dim}"
                )

    def variable(self, name: str, value: Tensor, drawn: bool, event: bool = True) -> Variable:
        site = self.pair.sites[name]
        if site.joint:
            value = value.squeeze(1 if drawn else 0)
        dims: tuple[str, ...] = ("chain", "draw") if drawn else ()
        dims += site.dims
        if event:
            default = [f"{label_of(name)}_dim_{i}" for i in range(site.event_dim)]
            dims += tuple(self.given.get(name, default))
        array = array_of(value)
        return dims, self._chained(array) if drawn else array

    def _chained(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.chains, -1, *array.shape[1:])

    def by_datum(self, value: Tensor) -> Variable:
        """A variable of (draws,) or (draws, n); where all data are one row, of (draws,)."""
        plate = self.pair.plate
        if plate is None:
            value = value.reshape(len(value))
        return ("chain", "draw", plate or "")[: 1 + value.dim()], self._chained(array_of(value))

    def drawn(
        self, values: Mapping[str, Tensor], roles: Collection[str], event: bool = True
    ) -> dict[str, Variable]:
        return {
            label_of(k): self.variable(k, v, drawn=True, event=event)
            for k, v in values.items()
            if self.pair.sites[k].role in roles
        }


def assemble(
    groups: Mapping[str, dict[str, Variable]],
    coords: dict[str, Any],
    attrs: Mapping[str, dict[str, Any]],
) -> Any:
    """Groups of variables as one object of ArviZ.

    Args:
        groups: the variables by group and name.
        coords: labels of dimensions.
        attrs: attributes of groups.

    Raises:
        ValueError: if a dimension is of two lengths or bears a variable's name, or if `coords`
            names what is not there or has the wrong length.
    """
    import xarray

    sizes: dict[str, int] = {}
    for variables in groups.values():
        for name, (dims, array) in variables.items():
            for dim, size in zip(dims, array.shape, strict=True):
                if dim in ("chain", "draw"):
                    continue
                if dim in variables:
                    raise ValueError(f"dimension {dim!r} bears the name of a variable")
                if sizes.setdefault(dim, size) != size:
                    raise ValueError(
                        f"dimension {dim!r} is {size} long in {name!r} and {sizes[dim]} elsewhere"
                    )
    for dim, labels in coords.items():
        if dim not in sizes:
            raise ValueError(f"coords names {dim!r}, which is no dimension: {sorted(sizes)}")
        if len(labels) != sizes[dim]:
            raise ValueError(f"coords of {dim!r} has {len(labels)} labels for {sizes[dim]}")
    data = {}
    for group, variables in groups.items():
        used = {d: n for dims, a in variables.values() for d, n in zip(dims, a.shape, strict=True)}
        labels = {d: np.asarray(coords.get(d, np.arange(n))) for d, n in used.items()}
        data[group] = xarray.Dataset(variables, coords=labels, attrs=attrs.get(group))
    return tree(data, {"inference_library": "pyro", "creation_library": "ppl-vae"})


def array_of(value: Tensor) -> np.ndarray:
    """A tensor for NumPy, numbers of 16 bits as those of 32."""
    value = value.detach().cpu()
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()


def label_of(name: str) -> str:
    """A site's name without the slash, which netCDF and xarray keep for groups."""
    return name.replace("/", ".")
