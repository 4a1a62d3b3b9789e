"""Mixtures with draws that can be differentiated."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DiagonalNormalMixture", "Mixture"]


class Mixture(dist.MixtureSameFamily):
    r"""A mixture $\sum_k \pi_k p_k(z)$ whose draws follow the parameters of the components.

    A draw is differentiated through the component it came from. That is unbiased for the
    components' parameters, and gives none to the weights; `DiagonalNormalMixture` does.
    """

    @property
    def has_rsample(self) -> bool:
        return self.component_distribution.has_rsample

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        which = self.mixture_distribution.sample(sample_shape)
        draws = self.component_distribution.rsample(sample_shape)
        return _pick(draws, which)


class DiagonalNormalMixture(Mixture):
    r"""A mixture of normals with diagonal covariances, reparameterised in all its parameters.

    The weights move a draw z by implicit differentiation. With the conditional distribution
    functions $S_j(z) = \sum_k w_{kj}(z_{<j}) \Phi\big((z_j - \mu_{kj}) / \sigma_{kj}\big)$,
    which a change of the weights leaves uniform,

    $$\frac{dz}{d\pi} = - \Big(\frac{\partial S}{\partial z}\Big)^{-1}
      \frac{\partial S}{\partial \pi},$$

    a triangular system of d equations. Costs n K d^2 for n draws, and only where the weights
    require a gradient.

    Args:
        mixture_distribution: categorical distribution over the K components.
        component_distribution: `Normal(loc, scale).to_event(1)` of batch shape (*batch, K).

    References:
        Figurnov, Mohamed and Mnih (2018), Implicit reparameterization gradients, arXiv:1805.08498.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        normal = self.component_distribution.base_dist
        which = self.mixture_distribution.sample(sample_shape)
        wide = (*shape[:-1], *normal.batch_shape[-2:])
        loc, scale = (_pick(p.expand(wide), which) for p in (normal.loc, normal.scale))
        z = loc + scale * torch.randn(shape, dtype=loc.dtype, device=loc.device)
        if self.mixture_distribution.logits.requires_grad:
            z = z + self._shift(z.detach())
        return z

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _shift(self, z: Tensor) -> Tensor:
        """A zero whose derivative by the weights is that of the draw z, of shape (*S, d)."""
        normal = self.component_distribution.base_dist
        loc, scale = normal.loc.detach(), normal.scale.detach()
        u = (z.unsqueeze(-2) - loc) / scale
        log_density = -0.5 * u.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        before = F.pad(log_density[..., :-1], (1, 0)).cumsum(-1)
        weights = (self.mixture_distribution.logits.unsqueeze(-1) + before).softmax(-2)
        cdf = torch.special.ndtr(u)
        s = (weights * cdf).sum(-2)
        with torch.no_grad():
            jacobian = torch.einsum(
                "...ki,...kj->...ij", weights * (cdf - s.unsqueeze(-2)), -u / scale
            ).tril(-1)
            jacobian = jacobian + torch.diag_embed((weights * log_density.exp()).sum(-2))
        rhs = (s.detach() - s).unsqueeze(-1)
        return torch.linalg.solve_triangular(jacobian, rhs, upper=False).squeeze(-1)


def _pick(draws: Tensor, which: Tensor) -> Tensor:
    """The rows `which`, of shape S, of a tensor of shape (*S, K, d)."""
    index = which[..., None, None].expand(*which.shape, 1, draws.shape[-1])
    return draws.gather(-2, index).squeeze(-2)
