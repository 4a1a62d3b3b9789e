"""The Wasserstein critic with a gradient penalty."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.objectives.divergences.f_divergence import Bound, Critic
from ppl_vae.objectives.divergences.weighting import normalised

__all__ = ["WassersteinGP"]


@dataclass(frozen=True)
class WassersteinGP(Bound):
    r"""The 1-Wasserstein distance by a critic whose gradient's length is pulled to 1.

    The critic maximises

    $$\mathrm{E}_p\, \ell(y) - \mathrm{E}_q\, \ell(z)
      - \gamma\, \mathrm{E}\, (\lVert \nabla \ell(\hat z) \rVert_2 - 1)^2, \qquad
      \hat z = \epsilon y + (1 - \epsilon) z, \quad \epsilon \sim U(0, 1),$$

    and the difference of means is reported. The slope may pass 1, at a price, so the difference is
    above the distance. In one dimension, with q left of p, $\delta = F_q - F_p \ge 0$ and h the
    density of $\hat z$, the best critic has the slope $1 + \delta / (2 \gamma h)$ and reports

    $$\int \delta + \frac{1}{2 \gamma} \int \frac{\delta^2}{h};$$

    for two points a distance r apart, in any dimension, that is $r + r^2 / (2 \gamma)$.

    A slope that starts the wrong way is pulled to -1 before it can turn, and in one dimension,
    where it cannot go round, a critic can stay there. One-sided, only lengths above 1 are
    penalised: the best critic above is the same, and there is no false one.

    The penalty looks at one point at a time: batch-norm in the critic would mix them.

    Args:
        weight: gamma; the paper's is 10.
        one_sided: whether lengths below 1 go free; the paper's do not.

    Raises:
        ValueError: if the weight is not positive.

    References:
        Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville (2017), Improved training of
        Wasserstein GANs, arXiv:1704.00028.
        Petzka, Fischer and Lukovnicov (2018), On the regularization of Wasserstein GANs,
        arXiv:1709.08894 (one-sided).
    """

    weight: float = 10.0
    one_sided: bool = False

    is_ratio = False

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"WassersteinGP weight={self.weight} must be positive: without a penalty the "
                "critic's slope has no bound"
            )

    def on_prior(self, logit: Tensor) -> Tensor:
        return logit

    def on_codes(self, logit: Tensor) -> Tensor:
        return logit

    def of_unit_shift(self) -> float:
        return 1.0  # the distance itself, without what the penalty lets through

    def penalty(self, critic: Critic, draws: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
        n = len(codes)
        partner = draws[torch.arange(n, device=codes.device) % len(draws)]
        with torch.enable_grad():
            between = torch.lerp(codes, partner, torch.rand_like(codes[:, :1])).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            # The floor keeps the root's derivative finite where a critic is flat.
            length = (slope.square().sum(-1) + 1e-12).sqrt()
            excess = (length - 1).clamp_min(0) if self.one_sided else length - 1
        return self.weight * (normalised(weights) * excess.square()).sum()
