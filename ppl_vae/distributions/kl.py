"""Kullback-Leibler divergences that PyTorch and Pyro leave to sampling.

They enter PyTorch's registry, where every objective that asks it for a closed form finds them.
"""

import math

from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)

from ppl_vae.distributions.von_mises_fisher import VonMisesFisher

__all__: list[str] = []


def _kl_normal_diagonal(
    p: MultivariateNormal | LowRankMultivariateNormal, q: Independent
) -> Tensor:
    """Against a normal with independent coordinates, such as the standard normal prior."""
    base = q.base_dist
    if not isinstance(base, Normal) or len(q.event_shape) != 1:
        raise NotImplementedError
    square = (p.variance + (p.mean - base.loc).square()) / base.scale.square()
    cross = (0.5 * (square + math.log(2 * math.pi)) + base.scale.log()).sum(-1)
    return cross - p.entropy()


def _kl_von_mises_fisher(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    r"""$\log p(\mu_p) - \log q(\mu_p)$, and the rest of both exponents at the mean."""
    resultant = -p.mean_gap.unsqueeze(-1) * p.loc
    exponents = p.concentration.unsqueeze(-1) * p.loc - q.concentration.unsqueeze(-1) * q.loc
    return p.log_prob(p.loc) - q.log_prob(p.loc) + (exponents * resultant).sum(-1)


register_kl(MultivariateNormal, Independent)(_kl_normal_diagonal)
register_kl(LowRankMultivariateNormal, Independent)(_kl_normal_diagonal)
register_kl(VonMisesFisher, VonMisesFisher)(_kl_von_mises_fisher)
