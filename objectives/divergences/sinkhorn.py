"""The Sinkhorn divergence, by the optional package geomloss."""

import math
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.weighting import normalised

__all__ = ["Sinkhorn"]


class Sinkhorn(Divergence):
    r"""The debiased entropic transport cost between codes and prior draws.

    $$D = \mathrm{OT}_\varepsilon(q, p) - \tfrac{1}{2} \mathrm{OT}_\varepsilon(q, q)
          - \tfrac{1}{2} \mathrm{OT}_\varepsilon(p, p), \qquad
      \mathrm{OT}_\varepsilon(q, p) = \min_\pi \mathbb{E}_\pi\, c(z, y)
          + \varepsilon\, \mathrm{KL}(\pi \Vert q \otimes p),$$

    with $c = r^p / p$ and $\varepsilon = \mathrm{blur}^p$. As blur falls to 0, D tends to
    $W_p^p / p$; as it grows, to half the squared distance of the means (p = 2) or half the energy
    distance (p = 1). The iterations are those of the package geomloss, an extra:
    `pip install 'ppl-vae[sinkhorn]'`.

    * **Bias.** Positive over finite n and m, though zero for equal sets: at n = m = 1 it is
      $\mathbb{E}\, c$; at small blur it falls as slowly as $n^{-1/d}$ and shrinks q (at n = 100,
      d = 10 and blur 1 a code of half the prior's width scores no worse than the prior itself);
      at large blur, for p = 2, it is $d (1/n + 1/m) / 2$ for unit variances. `Memory` lowers it.
    * **Variance.** About 1/n + 1/m. Prior draws and encoder noise are sampled: start the encoder
      narrow.
    * **Cost.** $4 n^2$ a step of some $\log(\mathrm{diameter} / \mathrm{blur}) /
      \log(1 / \mathrm{scaling})$, and $n^2 d$. Memory is quadratic
      in the batch too, as of no other divergence here.

    Args:
        blur: the length below which detail is not seen, in units of the code, or "dimension" for
            $\sqrt{d / 2}$, at which $\varepsilon$ is half the cost of two prior draws.
        power: p, 2 or 1.
        scaling: the ratio of successive lengths as the blur is lowered, in (0, 1): near 1 for
            accuracy, lower for speed.
        diameter: a bound on the distance of two codes; measured if None, which waits for the
            device at each call.
        draws: prior draws m, as many as rows by default.

    Shape:
        codes `(n, d)`; the result is a scalar, in units of the code to the power p.

    Raises:
        ImportError: without geomloss, when it is built.
        ValueError: for an argument out of its range.

    References:
        Feydy, Séjourné, Vialard, Amari, Trouvé and Peyré (2019), Interpolating between optimal
        transport and MMD using Sinkhorn divergences, arXiv:1810.08278.
        Genevay, Chizat, Bach, Cuturi and Peyré (2019), Sample complexity of Sinkhorn divergences,
        arXiv:1810.02733.
    """

    def __init__(
        self,
        blur: float | Literal["dimension"] = "dimension",
        power: Literal[1, 2] = 2,
        scaling: float = 0.7,
        diameter: float | None = None,
        draws: int | None = None,
    ):
        super().__init__()
        if power not in (1, 2):
            raise ValueError(f"Sinkhorn power={power}: use 1 or 2")
        if isinstance(blur, str) and blur != "dimension":
            raise ValueError(f"Sinkhorn blur={blur!r}: use 'dimension' or a positive number")
        for name, value in (("blur", blur), ("diameter", diameter)):
            if value is not None and not isinstance(value, str) and not value > 0:
                raise ValueError(f"Sinkhorn {name}={value}: it must be positive")
        if not 0 < scaling < 1:
            raise ValueError(f"Sinkhorn scaling={scaling}: it must lie between 0 and 1")
        if draws is not None and draws < 1:
            raise ValueError(f"Sinkhorn draws={draws}: one prior draw or more")
        self.blur = blur
        self.diameter = diameter
        self.draws = draws
        self.loss = _geomloss().SamplesLoss(
            "sinkhorn", p=power, scaling=scaling, backend="tensorized"
        )

    def of_unit_shift(self, dim: int) -> float | None:
        # At p = 2 any shift of q adds its half square, whatever the blur.
        return 0.5 if self.loss.p == 2 else None

    def forward(self, q: AggregatePosterior) -> Tensor:
        draws, of_draws = q.weighted_prior_draws(self.draws)
        codes = q.codes
        diameter = _diameter(codes, draws) if self.diameter is None else self.diameter
        if not math.isfinite(diameter):
            return codes.sum() * math.nan  # for the objective's check to name
        self.loss.diameter = diameter
        self.loss.blur = math.sqrt(q.dim / 2) if isinstance(self.blur, str) else self.blur
        # geomloss leaves gradients enabled, whatever they were.
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            value = self.loss(normalised(q.weights), codes, normalised(of_draws), draws)
        return torch.where(q.weights.sum() > 0, value, 0)


def _diameter(codes: Tensor, draws: Tensor) -> float:
    rows = torch.cat([codes, draws]).detach()
    return float((rows.amax(0) - rows.amin(0)).norm().clamp_min(1e-6))


def _geomloss() -> Any:
    try:
        return import_module("geomloss")
    except ImportError as error:
        raise ImportError(
            "Sinkhorn needs the package geomloss: pip install 'ppl-vae[sinkhorn]'"
        ) from error
