"""A likelihood of rows whose columns are of several kinds."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import distributions
from ppl_vae.arguments import whole
from ppl_vae.bodies import MLP
from ppl_vae.bodies.body import Body, apply_body
from ppl_vae.data.columns import Column
from ppl_vae.likelihoods.autoregressive import AutoregressiveLikelihood
from ppl_vae.likelihoods.counts import NegativeBinomial
from ppl_vae.likelihoods.likelihood import Likelihood
from ppl_vae.likelihoods.location_scale import Normal
from ppl_vae.likelihoods.unit import Bernoulli, Categorical

__all__ = ["Columns"]


class Columns(Likelihood):
    r"""The likelihood of a `ppl_vae.data.Table`: each column by a likelihood of its own.

    $$\log p(x \mid z) = \sum_j \log p_j(x_j \mid z)$$

    A class column is scored by a categorical over its levels. One network turns z into features,
    of which each column's parameters are an affine function (Nazabal et al. 2020). A missing
    value leaves out its column's term, which is the exact marginal of the others given z.

    Columns that are not named get what suits their kind: a normal with a learned standard
    deviation, a Bernoulli, a negative binomial that starts near the column's mean, or a
    categorical.

    Args:
        parts: a likelihood's class, or a `functools.partial` of one, for columns by name;
            `Categorical` for classes. The networks are made here: a part's `body` is not used.
        body: factory of the network that turns z into features.
        features: how many of these; a row's columns depend on z through no more directions.

    Raises:
        ValueError: in `build`, for a name that is no column's, or a part that does not fit it.

    References:
        Nazabal, Olmos, Ghahramani and Valera (2020), Handling incomplete heterogeneous data using
        VAEs, arXiv:1807.03653.

    Example:
        >>> columns = [Column("age"), Column("stage", "class", ("I", "II", "III"))]
        >>> p = Columns({"age": Normal}).build(2, columns)(torch.zeros(5, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([4]))
    """

    heads: nn.ModuleList

    def __init__(
        self,
        parts: Mapping[str, Callable[[int, torch.Size], Likelihood]] | None = None,
        body: Body = MLP,
        features: int = 256,
    ) -> None:
        nn.Module.__init__(self)  # the sizes are those of a table, see `build`
        whole(self, features=features)
        for name, part in (parts or {}).items():
            if isinstance(part, nn.Module) or not callable(part):
                raise TypeError(
                    f"Columns: {name!r} is {part!r}: give a likelihood's class, such as Normal"
                )
        self.parts, self.body, self.width = dict(parts or {}), body, features
        self.columns: tuple[Column, ...] = ()

    def build(self, dim: int, columns: Sequence[Column]) -> "Columns":
        """The likelihood with its networks.

        Args:
            dim: dimension d of z.
            columns: those of the rows, as `Table(...).layout.x`.
        """
        names = [column.name for column in columns]
        if stray := [name for name in self.parts if name not in names]:
            raise ValueError(f"Columns: there is no column {stray[0]!r}, only {names}")
        made = Columns(self.parts, self.body, self.width)
        size = torch.Size([sum(column.width for column in columns)])
        features = torch.Size([self.width])
        Likelihood.__init__(made, dim, size, lambda inputs, _: self.body(inputs, features))
        made.columns = tuple(columns)
        groups: dict[Any, list[int]] = {}
        makers = [self._maker(column) for column in columns]
        for i, column in enumerate(columns):
            groups.setdefault((_key(makers[i]), column.width), []).append(i)
        starts = torch.tensor([0, *(column.width for column in columns)]).cumsum(0)
        made.heads = nn.ModuleList()
        for k, ((_, width), group) in enumerate(groups.items()):
            place = starts[group]
            shape = torch.Size([len(group)])
            if columns[group[0]].kind == "class":
                place, shape = place[:, None] + torch.arange(width), torch.Size([*shape, width])
            made.register_buffer(f"place_{k}", place, persistent=False)
            made.heads.append(_head(names[group[0]], makers[group[0]], self.width, shape))
        return made

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        if not self.columns:
            raise ValueError("Columns has no columns yet: give a Table, or call build")
        features = apply_body(self.network, z, (self.dim,))
        places = [self.get_buffer(f"place_{k}") for k in range(len(self.heads))]
        return distributions.Columns([head(features) for head in self.heads], places)

    def _maker(self, column: Column) -> Callable[..., Likelihood]:
        """What makes the likelihood of a column and of others like it."""
        part: Any = self.parts.get(column.name)
        cls = getattr(part, "func", part)
        if (column.kind == "class") != (cls is Categorical) and part is not None:
            what = "Categorical" if column.kind == "class" else "another, or kinds= of the table"
            raise ValueError(
                f"Columns: column {column.name!r} is {column.kind}, which "
                f"{getattr(cls, '__name__', cls)} does not fit: give {what}"
            )
        if column.kind == "class":
            return _OneHot
        if part is not None:
            return part  # type: ignore[no-any-return]
        if column.kind == "real":
            return functools.partial(Normal, noise="pixel")
        if column.kind == "binary":
            return Bernoulli
        # a start of the right order will do, and columns of one start are scored at once
        return functools.partial(
            NegativeBinomial, mean=10.0 ** round(math.log10(column.mean or 1))
        )


class _OneHot(Likelihood):
    """Independent classes in one-hot coding, along the last dimension."""

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        (logits,) = self.features(z)
        return dist.OneHotCategorical(logits=logits).to_event(len(self.size) - 1)


_AFFINE = functools.partial(MLP, hidden=())


def _head(name: str, maker: Any, features: int, shape: torch.Size) -> Likelihood:
    """The likelihood of columns of one kind, given features.

    Raises:
        ValueError: if it is not one of elements with a density each.
    """
    cls = getattr(maker, "func", maker)
    whole = inspect.isclass(cls) and issubclass(cls, AutoregressiveLikelihood)
    if not whole and "body" in inspect.signature(maker).parameters:
        made: Likelihood = maker(features, shape, body=_AFFINE)
        if isinstance(made(torch.zeros(1, features)), torch.distributions.Independent):
            return made
    raise ValueError(
        f"Columns: column {name!r} is {getattr(cls, '__name__', cls)}, which has no density of "
        "single elements: give one that has, such as Normal"
    )


def _key(maker: Any) -> Any:
    """What is alike of makers of like parts."""
    settings = tuple(sorted(getattr(maker, "keywords", {}).items()))
    return getattr(maker, "func", maker), getattr(maker, "args", ()), repr(settings)
