"""What a pair must be so that every term of a loss is right and passes its gradient."""

import warnings
from collections.abc import Iterable

from pyro.distributions import Rejector, Uniform
from torch import Tensor

from ppl_vae.objectives.divergences.location_scale import location_scale
from ppl_vae.program.agreement import check_match
from ppl_vae.program.dependence import depends
from ppl_vae.program.reading import Reading
from ppl_vae.program.wrapping import base_of, distribution_name, support_name

__all__ = ["check_mean_moves", "check_scored", "check_trainable", "untrained", "warn_untrained"]


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


def check_scored(reading: Reading, names: Iterable[str], who: str) -> None:
    """Refuses priors on less than all vectors for a divergence that follows their score.

    Stein's identity wants a density that comes to nothing at the edge of its support, which a
    bounded prior's need not, and a score along every dimension, which a simplex or a discrete
    variable does not have. A LogNormal is followed as its normal.

    Raises:
        ValueError: naming the first.
    """
    for name in names:
        fn = reading.model_sites[name].fn
        support, units = support_name(fn), location_scale(fn)
        if support not in ("Real", "?") and (units is None or units.kind is Uniform):
            raise ValueError(
                f"the prior of site {name!r} is on {support}, and {who} follows a score that all "
                "vectors have: leave the site out with sites=[...], or use a divergence of draws, "
                "such as MMD()"
            )


def check_mean_moves(reading: Reading, cost: Tensor) -> None:
    """Refuses a cost that no latent site moves.

    As where a Gaussian process is marginalised, whose mean is 0 wherever its inputs are.

    Raises:
        ValueError: naming the observed sites.
    """
    if not reading.observed or cost.requires_grad:
        return
    if any(reading.guide_sites[name].value.requires_grad for name in reading.latent):
        raise ValueError(
            f"the mean of {' and '.join(map(repr, reading.observed))} depends on no latent site: "
            "use InfoVAE, whose log-likelihood may, or observe with the decoder's output for a "
            "mean"
        )


def untrained(reading: Reading, names: Iterable[str]) -> list[str]:
    """Sites whose prior has parameters to learn that its draws pass no gradient to.

    That of a discrete prior stays where it is under a loss that looks at its draws alone. One
    that is drawn given another latent is left aside: its parameters are functions of that.
    """
    found = []
    latent = [reading.guide_sites[name].value for name in reading.latent]
    for name in names:
        fn = base_of(reading.model_sites[name].fn)
        if fn.has_rsample:
            continue
        values = [getattr(fn, key, None) for key in getattr(fn, "arg_constraints", {})]
        learned = [v for v in values if isinstance(v, Tensor) and v.requires_grad]
        parents = [v for v in latent if v.requires_grad]
        if learned and not any(depends(learned, v) for v in parents):
            found.append(name)
    return found


def warn_untrained(reading: Reading, name: str, who: str) -> None:
    """Warns that a learned prior stays where it is."""
    kind = distribution_name(reading.model_sites[name].fn)
    warnings.warn(
        f"the prior of site {name!r}, {kind}, has parameters that get no gradient: alpha=1 leaves "
        f"its KL out, and {who} looks at draws of it, which are discrete. Lower alpha, or "
        "fix the prior",
        stacklevel=5,
    )
