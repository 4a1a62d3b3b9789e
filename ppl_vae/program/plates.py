"""Which plate is the data's: one rule, and one message where it gives no answer.

A candidate is a vectorised plate that holds an observation, and a latent site in the model and in
the guide; where the sites of a joint are named, all of these. One candidate is taken. Of several
the one named `data` is, which the log says once. Otherwise there is no answer, and nothing is
guessed from nesting, lengths or arguments: `NoDataPlate` asks for `plate=`.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample

from ppl_vae.program.sites import Site

__all__ = [
    "NoDataPlate",
    "PlateName",
    "candidates",
    "check_full",
    "data_plates",
    "global_only",
    "plate_names",
    "reason",
    "rowless",
]

logger = logging.getLogger(__name__)

PlateName = str | Sequence[str]
Sites = Mapping[str, Site]

_said: set[tuple[str, ...]] = set()


class NoDataPlate(ValueError):
    """No plate, or more than one, could be the data's; the message says what to type.

    Args:
        reason: what is the matter.
        sites: the model's sites, which are listed by plate.
        advice: what to type.
    """

    def __init__(self, reason: str, sites: Sites, advice: str) -> None:
        listed = [
            f"{name} {list(site.dims) or 'outside'}"
            for name, site in sites.items()
            if site.role != "deterministic"
        ]
        super().__init__(f"{reason}; sites by plate: {', '.join(listed)}. {advice}")


def plate_names(plate: PlateName) -> tuple[str, ...]:
    """The names of one plate or several."""
    return (plate,) if isinstance(plate, str) else tuple(plate)


def candidates(model: Sites, guide: Sites, joint: Sequence[str] | None = None) -> list[str]:
    """The plates that could be the data's, in the order the model enters them.

    Args:
        model: the model's sites.
        guide: the guide's.
        joint: latent sites that the plate must hold; any one where None.
    """
    observed = [site for site in model.values() if site.role == "observed"]
    if not observed:
        # A likelihood written as a factor; next to a distribution's, a factor is a penalty.
        observed = [site for site in model.values() if site.role == "factor"]
    holding = {name: None for site in observed for name in site.dims}
    latent = [n for n, site in model.items() if site.role == "latent" and n in guide]
    wanted = latent if joint is None else joint
    some = any if joint is None else all
    return [
        plate
        for plate in holding
        if wanted and some(_holds(plate, n, model, guide) for n in wanted)
    ]


def _holds(plate: str, name: str, model: Sites, guide: Sites) -> bool:
    return all(name in sites and sites[name].plate(plate) is not None for sites in (model, guide))


def data_plates(
    model: Sites,
    guide: Sites,
    plate: PlateName | None = None,
    joint: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The plate whose entries are the data, or the plates pooled.

    Args:
        model: the model's sites.
        guide: the guide's.
        plate: the plate or plates asked for. They must hold the joint in the guide; no
            observation is needed then.
        joint: the latent sites that are compared; those in the plate where None.

    Raises:
        NoDataPlate: if no plate or more than one fits.
    """
    if plate is not None:
        return _asked(model, guide, plate_names(plate), joint)
    choice = candidates(model, guide, joint)
    if len(choice) == 1:
        return (choice[0],)
    if "data" in choice:
        if tuple(choice) not in _said:
            _said.add(tuple(choice))
            logger.info("of the plates %s the one named 'data' is taken for the data's", choice)
        return ("data",)
    if not choice:
        raise _none(model, guide, joint)
    raise NoDataPlate(
        f"several plates could be the data's, {choice}",
        model,
        f"Name one with plate={choice[0]!r}, or give each site its own divergence with "
        "sites={...}, or put what belongs to a datum under one "
        '`with pyro.plate("data", len(x)):` in model and guide.',
    )


def reason(model: Sites, guide: Sites) -> str:
    """Why the rule takes the plate that it takes, in words."""
    choice = candidates(model, guide)
    if len(choice) > 1:
        return f"of the plates {choice}, which hold a latent site and an observation each"
    return "it alone holds a latent site and an observation"


def _asked(
    model: Sites, guide: Sites, plates: tuple[str, ...], joint: Sequence[str] | None
) -> tuple[str, ...]:
    latent = [n for n, site in model.items() if site.role == "latent" and n in guide]
    wanted = latent if joint is None else joint  # which may hold missing data, if it says so
    inside = [n for n in wanted if guide[n].inside(plates)]
    missing = [] if joint is None and inside else [n for n in wanted if n not in inside]
    if not missing and inside:
        return plates
    name = plates[0] if len(plates) == 1 else list(plates)
    if any(plate in guide[n].sequential for n in wanted for plate in plates):
        reason = f"plate {name!r} is sequential, and has no rows"
    elif joint is None:
        reason = f"plate {name!r} holds no latent site of the guide"
    else:
        reason = f"plate {name!r} does not hold all of {list(joint)} in the guide"
    if global_only(model, guide) and not any(guide[n].dims for n in wanted):
        raise NoDataPlate(f"{reason}: {_all_global(model, guide)}", guide, _FOR_GLOBALS)
    raise NoDataPlate(reason, guide, "Name another with plate=, or the sites in it with sites=.")


def _none(model: Sites, guide: Sites, joint: Sequence[str] | None) -> NoDataPlate:
    reason = "no plate holds a latent site and an observation"
    if joint is not None:
        reason = f"no plate holds all of {list(joint)} and an observation"
    if global_only(model, guide) and not (joint and guide[joint[0]].dims):
        own = _own_plates(model, guide)
        advice = f" If the entries of a plate are the rows, pass plate={own[0]!r}." if own else ""
        return NoDataPlate(f"{reason}: {_all_global(model, guide)}", model, _FOR_GLOBALS + advice)
    loops = dict.fromkeys(
        name for site in [*guide.values(), *model.values()] for name in site.sequential
    )
    if loops:
        reason += f" (the sequential plate {next(iter(loops))!r} has no rows)"
    advice = (
        'Put what belongs to a datum under one `with pyro.plate("data", len(x)):` in model and '
        "guide"
    )
    if joint is None:
        shared = _own_plates(model, guide)
    else:
        shared = [p for p in guide[joint[0]].dims if _in_all(p, guide, joint)]
    if shared:
        advice += f", or, if its entries are the rows, pass plate={shared[0]!r}"
    elif joint is not None and len(joint) > 1:
        advice += ", or give each site its own divergence with sites={...}"
    return NoDataPlate(reason, model, f"{advice}.")


_FOR_GLOBALS = (
    "Train with BetaVAE(), InfoVAE(alpha=0) or pyro.infer.TraceMeanField_ELBO(); "
    "ppl_vae.evaluation gives elbo, rate, distortion and nll in total."
)


def _own_plates(model: Sites, guide: Sites) -> list[str]:
    """The plates of latent sites: a Gaussian process' have one, where all data share a density."""
    latent = [site for name, site in guide.items() if site.role == "latent" and name in model]
    return [name for site in latent for name in site.dims]


def _all_global(model: Sites, guide: Sites) -> str:
    names = [repr(name) for name, site in model.items() if site.role == "latent" and name in guide]
    are = "is a global latent" if len(names) == 1 else "are global latents"
    return (
        f"{', '.join(names)} {are}, the same for all data, so there are no codes by row and no "
        "aggregate posterior"
    )


def global_only(model: Sites, guide: Sites) -> bool:
    """Whether data stand in plates, and no latent site in any of these: all data share it."""
    return rowless(model, guide) and any(s.dims for s in model.values() if s.is_observed)


def rowless(model: Sites, guide: Sites) -> bool:
    """Whether no latent site is of one row: none is in a plate of data; in any, if data are in
    none."""
    data = {name for site in model.values() if site.is_observed for name in site.dims}
    names = [name for name, site in guide.items() if name in model and not site.is_observed]
    latent = [sites[name] for name in names for sites in (model, guide)]
    around = [site.dims.keys() & data if data else site.dims for site in latent]
    return bool(latent) and not any(around) and not any(site.sequential for site in latent)


def check_full(*traces: Trace, plate: str | None = None) -> None:
    """Refuses a plate that draws some of its entries at random; any where `plate` is None.

    Raises:
        ValueError: naming the plate.
    """
    for trace in traces:
        for name, node in trace.nodes.items():
            if plate not in (None, name) or not site_is_subsample(node):
                continue
            fn: Any = node["fn"]
            if fn.subsample_size is not None and fn.subsample_size < fn.size:
                raise ValueError(
                    f"the subsampled plate {name!r} draws {fn.subsample_size} of {fn.size}: a "
                    "datum has no fixed row, so run the plate in full, or give the rows with "
                    "subsample="
                )


def _in_all(plate: str, guide: Sites, joint: Sequence[str]) -> bool:
    return all(guide[name].plate(plate) is not None for name in joint)
