"""Reading the sites of a trace."""

from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

__all__ = ["LeaveAfter", "closed_kl", "is_unobserved", "latent_nodes", "plate_sizes"]


class LeaveAfter(Messenger):
    """Leaves the model once the last of the latents is drawn, before the decoder runs."""

    class Done(Exception):
        pass

    def __init__(self, latents: list[str]):
        super().__init__()
        self.missing = set(latents)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.missing.discard(msg["name"])
        if not self.missing:
            raise LeaveAfter.Done


def closed_kl(q: Distribution, p: Distribution) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        pass
    try:
        return kl_divergence(_joint_normal(q), _joint_normal(p))
    except NotImplementedError:
        return None


def _joint_normal(fn: Distribution) -> Distribution:
    # A full-covariance guide against independent normals has no rule of its own in torch.
    if (
        isinstance(fn, Independent)
        and isinstance(fn.base_dist, Normal)
        and len(fn.event_shape) == 1
    ):
        tril = fn.base_dist.scale.diag_embed()
        return MultivariateNormal(fn.base_dist.loc, scale_tril=tril, validate_args=False)
    return fn


def latent_nodes(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def plate_sizes(trace: poutine.Trace) -> dict[str, int]:
    frames = [f for s in trace.nodes.values() for f in s.get("cond_indep_stack", ())]
    return {f.name: int(f.size) for f in frames if f.vectorized}


def is_unobserved(name: str, model: poutine.Trace) -> bool:
    # `pyro.sample(..., obs_mask=m)` splits "x" into "x_observed" and "x_unobserved"; the latter
    # integrates to one and is left out.
    base = name.removesuffix("_unobserved")
    return base != name and f"{base}_observed" in model.nodes
