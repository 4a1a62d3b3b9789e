"""Means and standard deviations of Gaussian encoders: free, standardised, fixed or tied."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ppl_vae.arguments import above_zero
from ppl_vae.bodies.body import positive
from ppl_vae.guides.encoder import NARROW
from ppl_vae.program.weighing import row_weights
from ppl_vae.world import here

__all__ = ["Moments", "Sd", "Standardised", "running_moments"]

Sd = float | Literal["tied"] | None
"""A standard deviation: a number, tied to the spread of the means, or read off x where None."""


class Standardised(nn.Module):
    r"""Batch normalisation without an affine part, for rows that may have weights.

    $$\hat\mu_{ij} = \frac{\mu_{ij} - m_j}{\sqrt{v_j}}, \qquad
      m_j = \sum_i \bar w_i \mu_{ij}, \quad v_j = \sum_i \bar w_i (\mu_{ij} - m_j)^2, \quad
      \bar w_i = w_i / \textstyle\sum_k w_k$$

    The moments are those of the batch in training, over all rows of all batch dimensions, and
    their running means in evaluation. A row of weight 0 counts as one that is not there, in the
    moments, in their gradients and in the running means. Weights are those given, or else those
    that the rows have where the encoder is called: of `fit(weights=...)`, and of Pyro's handlers
    `mask` and `scale` around model and guide, `(n,)`.

    Args:
        dim: the number of columns d.
        momentum: the share of a batch in the running means.
        least: of the variances, so that a column of equal means comes out as zeros. Nothing is
            added to those above it: they come out as 1 exactly.

    Shape:
        means `(*batch, d)`, weights `(*batch,)`; the result `(*batch, d)`.

    Raises:
        ValueError: in training, for a single row, which is its own mean.

    References:
        Ioffe and Szegedy (2015), Batch normalization, arXiv:1502.03167.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, least: float = 1e-8) -> None:
        super().__init__()
        self.momentum, self.least = momentum, least
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, loc: Tensor, weights: Tensor | None = None) -> Tensor:
        mean, variance = self._batch(loc, weights) if self.training else (self.mean, self.variance)
        return (loc - mean) / variance.clamp_min(self.least).sqrt()

    def _batch(self, loc: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        if weights is None and loc.dim() > 1:
            weights = row_weights(loc.shape[-2])
        rows = loc.reshape(-1, loc.shape[-1])
        share = rows.new_full((len(rows), 1), 1 / max(len(rows), 1))
        share = here().portion(share, len(rows))
        if weights is not None:
            share = weights.to(rows).expand(loc.shape[:-1]).reshape(-1, 1)
            total = here().total(share.sum())
            share = share / torch.where(total > 0, total, 1)
        single = here().number(len(rows)) < 2
        if weights is not None and is_validation_enabled():
            single = here().number(int((share > 0).sum())) < 2
        if single:
            raise ValueError(
                "standardised means were given 1 row in training, and a row by itself is its own "
                "mean: give batches of 2 rows or more, or call .eval() for the running moments"
            )
        mean = here().total((share * rows).sum(0))
        variance = here().total((share * (rows - mean).square()).sum(0))
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean), self.momentum)
            self.variance.lerp_(variance.to(self.variance), self.momentum)
        return mean, variance


class Moments(nn.Module):
    r"""What a network's output means: the means and standard deviations of q(z | x).

    $$\mu_j(x) = \gamma_j \hat\mu_j(x), \qquad \sigma_j(x) = s_j \ \text{or}\ s_j(x)$$

    where $\hat\mu$ are the network's means, standardised over the batch where $\gamma$ is given.
    With a fixed s the mean KL of a batch to a standard normal prior is then the constant
    $\tfrac d2 (\gamma^2 + s^2 - 1) - d \log s$: nothing is left of it to train, so the ELBO, the
    beta-VAE and the auto-encoder are one model, whose rate is chosen. At
    $\gamma^2 + s^2 = 1$ the aggregate has the prior's variances and the rate is $-d \log s$.

    Args:
        dim: the dimension d.
        initial_scale: where a free standard deviation starts.
        standardise: gamma, the spread of the means, in (0, 1]; None leaves the means as they are.
        sd: a number, for all x; "tied", where $s_j$ is learned and $\gamma_j = \sqrt{1 - s_j^2}$;
            None, where it is read off x.
        rate: R in nats, in place of both: $s = e^{-R/d}$, $\gamma = \sqrt{1 - s^2}$.

    Raises:
        ValueError: for numbers outside (0, 1], or arguments that exclude each other.

    References:
        Zhu, Bi, Liu, Ma, Li and Wu (2020), A batch normalized inference network keeps the KL
        vanishing away, arXiv:2004.12585.
    """

    def __init__(
        self,
        dim: int,
        initial_scale: float = NARROW,
        standardise: float | None = None,
        sd: Sd = None,
        rate: float | None = None,
    ) -> None:
        super().__init__()
        if rate is not None:
            if standardise is not None or sd is not None:
                raise ValueError(
                    f"rate={rate:g} sets the spread of the means and the sd: give it, or "
                    "standardise= and sd="
                )
            above_zero(self, rate=rate)
            sd = math.exp(-rate / dim)
            standardise = math.sqrt(1 - sd**2)
        if isinstance(sd, str) and sd != "tied":
            raise ValueError(f"sd={sd!r}: give a number, 'tied', or None to read it off x")
        if sd == "tied" and standardise is not None:
            raise ValueError(
                f"sd='tied' sets the spread of the means: leave standardise={standardise} out"
            )
        for name, number in (("standardise", standardise), ("sd", sd)):
            if isinstance(number, str) or number is None:
                continue
            if not 0 < number <= 1:
                raise ValueError(
                    f"{name}={number:g} must be above 0 and at most 1, the prior's own spread"
                )
        self.initial_scale, self.gamma, self.sd = initial_scale, standardise, sd
        standardised = standardise is not None or sd == "tied"
        self.standardised = Standardised(dim) if standardised else None
        if sd == "tied" and not 0 < initial_scale < 1:
            raise ValueError(
                f"initial_scale={initial_scale:g} must be between 0 and 1 where sd='tied': the "
                "means are to have the rest of the prior's spread"
            )
        start = math.log(initial_scale / (1 - initial_scale)) if sd == "tied" else 0.0
        self.raw = nn.Parameter(torch.full((dim,), start)) if sd == "tied" else None

    def forward(
        self, loc: Tensor, raw: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Means and standard deviations `(*batch, d)`.

        Args:
            loc: the network's means `(*batch, d)`.
            raw: its further d numbers, where the standard deviations are read off x.
            weights: of the rows, `(*batch,)`; a masked row has 0.
        """
        if self.standardised is not None:
            loc = self.standardised(loc, weights)
        if self.raw is not None:
            scale = self.raw.sigmoid()
            return loc * (1 - scale.square()).sqrt(), scale.expand_as(loc)
        loc = loc if self.gamma is None else self.gamma * loc
        if self.sd is None:
            return loc, positive(raw, self.initial_scale)
        return loc, torch.full_like(loc, float(self.sd))


@contextmanager
def running_moments(module: nn.Module) -> Iterator[None]:
    """Standardises by the running moments inside, also in training: for inputs that are no batch
    of data, such as a VampPrior's pseudo-inputs."""
    parts = [part for part in module.modules() if isinstance(part, Standardised)]
    training = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, was in zip(parts, training, strict=True):
            part.training = was
