"""Whether a model, a guide and an objective fit together, before anything is trained."""

import warnings
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.infer import ELBO

from ppl_vae.objectives import Divergence, Objective
from ppl_vae.program.modules import Program, evaluating
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read
from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import distribution_name, is_point
from ppl_vae.training.guard import name_at
from ppl_vae.training.regions import VECTORS, fitting, region_of

__all__ = ["check_compatible", "check_held_out"]

_WITHOUT = "an objective that compares no densities there, such as InfoVAE(MMD(), alpha=1)"
_DRAWS = "use a divergence of draws, such as MMD()"


def check_compatible(
    model: Program, guide: Program, objective: ELBO, batch: Sequence[Any]
) -> None:
    """Refuses a combination that could not be trained, or whose training would change nothing.

    The guide and the model are run once, and the objective is evaluated once, in evaluation mode;
    torch's generators are left where they were.

    Args:
        model: the model.
        guide: the guide.
        objective: the loss.
        batch: arguments for both.

    Raises:
        ValueError: in one line that names what does not fit and says what would: a latent whose
            shape differs between model and guide; densities compared that live on different sets
            (a prior on the sphere, a guide on all vectors), or do not exist (an implicit or a
            point guide), or leave the prior's support; a divergence that reads a prior's density
            or score where there is none; an observed site without a density whose density is
            wanted; a loss that is not finite; and whatever the objective itself refuses.

    Warns:
        UserWarning: if codes on a sphere or simplex are compared with a prior on all vectors,
            which they cannot match.
    """
    with torch.random.fork_rng(), evaluating(model, guide, objective):
        with pyro.validation_enabled(False), torch.no_grad():
            # Pyro's own losses may leave a site to the prior
            complete = isinstance(objective, Objective)
            reading = read(model, guide, batch, check_shapes=True, complete=complete)
        seen = [name for name, site in reading.guide_sites.items() if site.role == "observed"]
        if not reading.observed and seen:
            raise ValueError(
                f"the model observes nothing and the guide {seen[0]!r}: have they changed places? "
                "The model comes first"
            )
        named = _Named(model, guide, reading)
        _check_sites(named, objective)
        _check_loss(model, guide, objective, batch, named)


def check_held_out(
    model: Program, guide: Program, objective: ELBO, smallest: Sequence[Any]
) -> None:
    """Refuses held-out rows whose smallest batch the loss refuses, as a single one where it pairs.

    Args:
        model: the model.
        guide: the guide.
        objective: the loss.
        smallest: as many of the held-out rows as their smallest batch has.

    Raises:
        ValueError: if the loss refuses the smallest batch of them.
    """
    size = len(smallest[0])
    with torch.random.fork_rng(), evaluating(model, guide, objective):
        try:
            objective.loss(model, guide, *smallest)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"the loss cannot be taken of {size} held-out row{'s' * (size > 1)}, hold out "
                f"more or none: {reason}"
            ) from error


def _check_sites(named: "_Named", objective: ELBO) -> None:
    reading = named.reading
    compared, matched, own = reading.latent, {}, set[str]()
    if isinstance(objective, Objective):
        compared, matched = objective.compared(reading), objective.matched(reading)
        own = reading.inside()
    for name in compared:
        _check_densities(named, name, type(objective).__name__, name in own)
    for name, divergence in matched.items():
        if divergence.reads == "draws":
            _check_reach(named, name)
        else:
            _check_read(named, name, divergence)


class _Named:
    """The sites of a run, by names that messages use."""

    def __init__(self, model: Program, guide: Program, reading: Reading) -> None:
        self.reading = reading
        self._programs = {False: model, True: guide}

    def fn(self, name: str, of_guide: bool = False) -> str:
        """The part or the distribution that a site is drawn from."""
        reading = self.reading
        site = (reading.guide_sites if of_guide else reading.model_sites)[name]
        return name_at(self._programs[of_guide], site, of_guide)

    def both(self, name: str) -> str:
        return f"site {name!r}: prior {self.fn(name)}, guide {self.fn(name, of_guide=True)}"


def _check_densities(named: _Named, name: str, objective: str, own: bool) -> None:
    p, q = named.reading.model_sites[name], named.reading.guide_sites[name]
    for part, site in (("guide", q), ("prior", p)):
        # A point guide under one of Pyro's own losses is a MAP estimate, and meant; a point that
        # is a function of an auxiliary site has that site's density.
        pointed = own and part == "guide" and is_point(site.fn) and not named.reading.auxiliary
        if _has_no_density(site) or pointed:
            raise ValueError(
                f"{named.both(name)}: the {part} has no density, which {objective} needs here; "
                f"use a guide with one, such as {fitting(region_of(p))}, or {_WITHOUT}"
            )
    _check_regions(named, name, objective)


def _check_read(named: _Named, name: str, divergence: Divergence) -> None:
    """Whether the prior has what a divergence reads of it at the guide's codes."""
    reader, what = type(divergence).__name__, divergence.reads
    p, q = named.reading.model_sites[name], named.reading.guide_sites[name]
    if _has_no_density(p) or is_point(p.fn):
        raise ValueError(
            f"{named.both(name)}: the prior has no density, which {reader} reads; {_DRAWS}"
        )
    region = region_of(p)
    bounded = region is not None and (region.kind != VECTORS or region.is_bounded)
    if what == "score" and bounded:
        raise ValueError(
            f"{named.both(name)}: {reader} follows the prior's score, which a prior on {region} "
            f"does not have everywhere; {_DRAWS}"
        )
    if not bounded:
        _check_reach(named, name)
        return
    if region_of(q) is None or is_point(q.fn):
        raise ValueError(
            f"{named.both(name)}: the prior is on {region}, which the guide may leave, and "
            f"{reader} reads its density; use {fitting(region)} for the guide, or {_DRAWS[4:]}"
        )
    _check_regions(named, name, reader)


def _check_regions(named: _Named, name: str, who: str) -> None:
    p, q = named.reading.model_sites[name], named.reading.guide_sites[name]
    ours, theirs = region_of(p), region_of(q)
    if ours is None or theirs is None or is_point(q.fn):
        return
    use = f"use {fitting(ours)} for the guide"
    if fitting(ours) == named.fn(name, of_guide=True):
        use = "use another prior for it"
    if ours.kind != theirs.kind:
        raise ValueError(
            f"{named.both(name)}: the prior is on {ours}, the guide on {theirs}, so {who} would "
            f"compare densities that do not compare; {use}, or {_WITHOUT}"
        )
    if not ours.holds(theirs):
        raise ValueError(
            f"{named.both(name)}: the guide, on {theirs}, can leave the prior, on {ours}, where "
            f"{who} is infinite; {use}, or {_WITHOUT}"
        )


def _check_reach(named: _Named, name: str) -> None:
    """Warns where a divergence of draws can never come to nothing."""
    ours, theirs = (
        region_of(sites[name]) if name in sites else None
        for sites in (named.reading.model_sites, named.reading.guide_sites)
    )
    if ours is None or theirs is None or ours.kind != VECTORS:
        return
    if theirs.kind in ("sphere", "simplex"):
        warnings.warn(
            f"{named.both(name)}: codes on the {theirs.kind} cannot match a prior on {ours}, "
            "however long they are trained",
            stacklevel=7,
        )


def _check_loss(
    model: Program, guide: Program, objective: ELBO, batch: Sequence[Any], named: _Named
) -> None:
    name = type(objective).__name__
    with torch.enable_grad():
        try:
            loss = objective.loss(model, guide, *batch)
        except NotImplementedError as error:
            names = {named.fn(site, of_guide=True) for site in named.reading.guide_sites}
            raise ValueError(
                f"{name} does not fit the guide's {', '.join(sorted(names))}: {error}"
            ) from error
    if abs(loss) < float("inf"):
        return
    for site in named.reading.observed:
        if is_point(named.reading.model_sites[site].fn):
            raise ValueError(
                f"site {site!r}: {named.fn(site)} has no density, which {name} needs of data; use "
                "WAE, which takes a cost in its place, or another likelihood"
            )
    terms = {key: float(v) for key, v in getattr(objective, "terms", {}).items()}
    bad = [f"term {key!r} is {v:g}" for key, v in terms.items() if not abs(v) < float("inf")]
    sites = ", ".join(
        named.both(site) for site in named.reading.guide_sites if site in named.reading.model_sites
    )
    raise ValueError(
        f"the loss of {name} is {loss:g} before any training"
        + (f" ({bad[0]})" if bad else "")
        + f", with {sites}: look at the parts' settings and the data there"
    )


def _has_no_density(site: Site) -> bool:
    try:
        with torch.no_grad():
            site.fn.log_prob(site.value)
    except NotImplementedError:
        return True
    except (IndexError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(
            f"site {site.name!r}: {distribution_name(site.fn)} cannot score what is drawn there "
            f"({said}); let the guide draw within its support"
        ) from error
    return False
