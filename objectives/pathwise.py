"""What a guide must be so that every term of a loss passes its gradient through the draws."""

from pyro.distributions import Rejector

from ppl_vae.program.reading import Reading

__all__ = ["check_pathwise"]


def check_pathwise(reading: Reading) -> None:
    """Refuses a guide whose draws would pass no gradient, or part of one.

    Raises:
        ValueError: for a sampled site that is neither reparameterised nor enumerated in parallel.
    """
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
