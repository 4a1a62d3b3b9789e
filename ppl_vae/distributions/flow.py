"""Normalising flows, by zuko."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pyro.contrib.zuko import ZukoToPyro
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Family", "Flow", "build_flow", "flow_from_noise"]

Family = Literal["affine", "spline"]
"""What an autoregressive flow does to one coordinate given the ones before it."""


class Flow(ZukoToPyro):
    """A zuko distribution as a Pyro distribution over vectors.

    The log-density of a draw is remembered, since an inverse autoregressive flow computes it as
    it draws, where scoring a given point takes one pass for each dimension. A draw changed in
    place is scored anew, unless it was changed behind autograd's back, through `.data`.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self(torch.Size(sample_shape))

    def __call__(self, shape: Sequence[int] = ()) -> Tensor:
        x = super().__call__(torch.Size(shape))
        if x in self.cache:
            self.cache[x] = self.cache[x], _version(x)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        known, version = self.cache.get(value, (None, None))
        # What was remembered without a gradient must not be passed off where one is wanted.
        usable = known is not None and (known.requires_grad or not torch.is_grad_enabled())
        return known if usable and version == _version(value) else self.dist.log_prob(value)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Flow":
        return Flow(self.dist.expand(torch.Size(batch_shape)))

    def __repr__(self) -> str:
        return f"Flow(batch_shape: {self.batch_shape}, event_shape: {self.event_shape})"


def build_flow(
    family: Family, dim: int, context: int, transforms: int, hidden: Sequence[int]
) -> Any:
    """An autoregressive flow over vectors, a zuko module: quick to score, slow to draw.

    Args:
        family: `"affine"` (masked autoregressive flow) or `"spline"` (neural spline flow).
        dim: dimension d of the vectors.
        context: dimension of what the flow is conditioned on; 0 if nothing.
        transforms: number of autoregressive transformations.
        hidden: widths of the hidden layers of each.

    Raises:
        ImportError: if zuko is not installed.
        ValueError: if there is no such family.
    """
    families = {"affine": "MAF", "spline": "NSF"}
    if family not in families:
        raise ValueError(f"flow {family!r} is none of {', '.join(sorted(families))}")
    flow = getattr(_zuko().flows, families[family])
    return flow(dim, context, transforms=transforms, hidden_features=tuple(hidden))


def flow_from_noise(flow: Any, context: Tensor, loc: Tensor, scale: Tensor) -> Flow:
    """The law of loc + scale * f(noise; context): quick to draw, slow to score.

    Args:
        flow: what `build_flow` returned.
        context: tensor of shape (*batch, context).
        loc: tensor of shape (*batch, d).
        scale: tensor of shape (*batch, d), positive.
    """
    zuko = _zuko()
    base = flow.base(context).expand(context.shape[:-1])
    # zuko's flows map z to noise; theirs is turned round, and standardised z goes in first
    standardise = _Affine(loc, scale, event_dim=1).inv
    to_noise = zuko.transforms.ComposedTransform(standardise, flow.transform(context).inv)
    return Flow(zuko.distributions.NormalizingFlow(to_noise, base))


class _Affine(torch.distributions.AffineTransform):
    """PyTorch's, whose shapes are of events: zuko reads the event shape off its transforms."""

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return shape


def _version(x: Tensor) -> int:
    """How often x was changed in place, which is not counted in inference mode."""
    return 0 if x.is_inference() else x._version


def _zuko() -> Any:
    try:
        import zuko  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as e:
        raise ImportError("flows need zuko: pip install 'ppl-vae[flows]'") from e
    return zuko
