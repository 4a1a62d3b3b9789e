"""What a pair must be so that every term of a loss is right and passes its gradient."""

from pyro.distributions import Rejector

from ppl_vae.program.agreement import check_match
from ppl_vae.program.reading import Reading

__all__ = ["check_trainable"]


def check_trainable(reading: Reading) -> None:
    """Refuses a latent weighed unlike in model and guide, and draws that pass no gradient.

    Raises:
        ValueError: for a latent of another scale or mask in the guide; for a guide's site that is
            neither reparameterised nor enumerated in parallel.
    """
    for name in reading.latent:
        check_match(reading.model_sites[name], reading.guide_sites[name])
    for name, site in reading.guide_sites.items():
        if site.role not in ("latent", "auxiliary", "missing"):
            continue
        how = site.infer.get("enumerate")
        if how is not None and (how != "parallel" or "num_samples" in site.infer):
            raise ValueError(
                f"site {name!r} of the guide is enumerated in a way that this objective does "
                "not know: use infer={'enumerate': 'parallel'} without num_samples"
            )
        if isinstance(site.fn, Rejector):
            raise ValueError(
                f"site {name!r} of the guide, {type(site.fn).__name__}, is drawn by "
                "rejection, whose gradient has a part that this objective leaves out: use the "
                "distribution itself, or pyro.infer.Trace_ELBO"
            )
        if not site.fn.has_rsample and name not in reading.enumerated:
            finite = site.fn.has_enumerate_support
            raise ValueError(
                f"site {name!r} of the guide, {type(site.fn).__name__}, is not "
                "reparameterised and would pass no gradient: "
                + ("sum over its values with infer={'enumerate': 'parallel'}, " * finite)
                + "use a relaxation (RelaxedOneHotCategorical, RelaxedBernoulli) or "
                "pyro.infer.TraceGraph_ELBO"
            )
