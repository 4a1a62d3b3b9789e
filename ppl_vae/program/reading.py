"""One run of a guide and of the model replayed against it, read as sites and rows of data."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae.program.density import closed_kl
from ppl_vae.program.dependence import depends
from ppl_vae.program.enumeration import Enumeration
from ppl_vae.program.joint_rows import rows_of
from ppl_vae.program.marginal import marginalise
from ppl_vae.program.modules import Program
from ppl_vae.program.plates import (
    NoDataPlate,
    PlateName,
    candidates,
    data_plates,
    plate_names,
)
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site, read_sites
from ppl_vae.program.wrapping import distribution_name

__all__ = ["Reading", "joined"]


class Reading:
    """The sample sites of one run of a pair, with their roles, plates and rows.

    Args:
        model: the model as run, wrapped in the particle plate if particles are vectorised.
        args: its positional arguments.
        kwargs: its keyword arguments.
        model_trace: its trace, subsample indices and parameters included.
        guide_trace: the guide's.
        max_plate_nesting: the batch dimensions left to plates; enumerated ones come before.

    Attributes:
        model_sites: the model's sites in the order sampled, by name.
        guide_sites: the guide's.
        enumeration: the guide's enumerated sites.
    """

    def __init__(
        self,
        model: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        model_trace: Trace,
        guide_trace: Trace,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.model_trace, self.guide_trace = model_trace, guide_trace
        self.max_plate_nesting = max_plate_nesting
        model_sites = read_sites(model_trace)
        self.guide_sites = read_sites(guide_trace, model_sites)
        self.model_sites = marginalise(model_sites, self.guide_sites)
        self.enumeration = Enumeration(self.guide_sites)
        self._plates: dict[Any, tuple[str, ...]] = {}
        self._rows: dict[Any, Rows] = {}

    def check(self, complete: bool = True) -> None:
        """Refuses sites that model and guide do not share as they should; see `read`."""
        for name, site in self.model_sites.items():
            if site.role == "latent":
                if name not in self.guide_sites:
                    if not complete:
                        continue
                    fn = site.fn
                    finite = getattr(fn, "has_enumerate_support", False)
                    raise ValueError(
                        f"latent site {name!r} of the model is not in the guide: sample it there, "
                        + (
                            f"or sum over the values of this {distribution_name(fn)}: "
                            "pyro.infer.config_enumerate(model), or infer={'enumerate': "
                            "'parallel'} at the site"
                            if finite
                            else "or marginalise it in the model"
                        )
                    )
                if self.guide_sites[name].is_observed:
                    raise ValueError(
                        f"site {name!r} is observed in the guide and latent in the model: observe "
                        "it in both, or sample it in the guide"
                    )
        for name in self.auxiliary:
            if not self.guide_sites[name].infer.get("is_auxiliary"):
                raise ValueError(
                    f"site {name!r} of the guide is not in the model: add infer="
                    "{'is_auxiliary': True} to it if that is meant"
                )

    # Sites by role

    def _model_names(self, *roles: str) -> list[str]:
        return [name for name, site in self.model_sites.items() if site.role in roles]

    @cached_property
    def observed(self) -> list[str]:
        """The model's observed sites (`pyro.factor` included)."""
        return self._model_names("observed", "factor")

    @cached_property
    def latent(self) -> list[str]:
        """The model's latent sites, in the model's order; missing data that the guide samples
        among them."""
        return [n for n in self._model_names("latent", "missing") if n in self.guide_sites]

    @cached_property
    def marginalised(self) -> list[str]:
        """The model's sites that are summed over."""
        return self._model_names("marginalised")

    @cached_property
    def labels(self) -> dict[str, str]:
        """The names by which densities are told: those of all sites that share one, joined."""
        shared = [s.summed.names for s in self.model_sites.values() if s.summed is not None]
        labels = {name: joined(names) for names in shared for name in names}
        return {name: labels.get(name, name) for name in self.model_sites}

    @cached_property
    def auxiliary(self) -> list[str]:
        """The sites that the guide samples and the model does not have."""
        return [name for name, site in self.guide_sites.items() if site.role == "auxiliary"]

    @cached_property
    def guide_observed(self) -> list[str]:
        """What the guide observes: `obs=`, `pyro.factor`, a repeat of what the model observes."""
        return [name for name, site in self.guide_sites.items() if site.is_observed]

    @property
    def enumerated(self) -> dict[str, int]:
        """The guide's enumerated sites in the order sampled, with their batch dimensions."""
        return self.enumeration.dims

    # Plates and rows

    def check_names(self, names: Iterable[str]) -> None:
        """Refuses names that no latent site has.

        Raises:
            ValueError: naming the first.
        """
        for name in names:
            if name not in self.latent:
                raise ValueError(f"{name!r} is no latent site: the model has {self.latent}")

    @cached_property
    def candidates(self) -> list[str]:
        """The plates that could be the data's."""
        return candidates(self.model_sites, self.guide_sites)

    def plates(
        self, plate: PlateName | None = None, sites: Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """The data plate, or the plates pooled; see `ppl_vae.program.plates`.

        Raises:
            NoDataPlate: if no plate or more than one fits.
        """
        key = (_key(plate), _key(sites))
        if key not in self._plates:
            self.check_names(sites or ())
            self._plates[key] = data_plates(self.model_sites, self.guide_sites, plate, sites)
        return self._plates[key]

    def plate(self, plate: PlateName | None = None) -> str:
        """The data plate, where rows are of one.

        Raises:
            NoDataPlate: see `plates`.
            ValueError: for several plates pooled.
        """
        names = self.plates(plate)
        if len(names) > 1:
            raise ValueError(f"plate={list(names)}: rows are of one plate here; name it alone")
        return names[0]

    def local(self, plate: PlateName | None = None) -> list[str]:
        """The latent sites in the data plate that are codes: missing data are not.

        Raises:
            NoDataPlate: see `plates`.
        """
        names = [n for n in self.latent if self.model_sites[n].role == "latent"]
        return self._inside(names, self.plates(plate))

    def inside(self, plate: PlateName | None = None) -> set[str]:
        """The guide's sites in the data plate, missing data and auxiliary ones among them; where
        several plates could be the data's, those in any of them."""
        try:
            return set(self._inside(self.guide_sites, self.plates(plate)))
        except NoDataPlate:
            found = [self._inside(self.guide_sites, [name]) for name in self.candidates]
            return {name for names in found for name in names}

    def _inside(self, names: Iterable[str], plates: Sequence[str]) -> list[str]:
        return [name for name in names if self.guide_sites[name].inside(plates)]

    def forget_rows(self) -> None:
        """Reads rows anew, as sites have changed."""
        self._rows.clear()

    def rows(
        self, plate: PlateName | None = None, sites: Sequence[str] | None = None
    ) -> tuple[list[str], Rows]:
        """The sites of one joint in the model's order, and their rows.

        Args:
            plate: the plate or plates whose entries are rows, where the rule leaves a choice.
            sites: the joint's sites; all local ones by default.

        Raises:
            NoDataPlate: see `plates`.
            ValueError: if sites of the joint differ in scale or mask, or depend on a site that is
                enumerated elsewhere than once a row.
        """
        plates = self.plates(plate, sites)
        chosen = set(self.local(plate) if sites is None else sites)
        joint = [name for name in self.latent if name in chosen]
        key = (plates, tuple(joint))
        if key not in self._rows:
            self._rows[key] = rows_of(
                joint, plates, self.model_sites, self.guide_sites, self.enumeration
            )
        return joint, self._rows[key]

    def check_drawn(self) -> None:
        """Refuses to draw observations given latents where both depend on what is summed over,
        which would be drawn anew.

        Raises:
            ValueError: naming the sites.
        """
        summed = [name for name, site in self.model_sites.items() if site.summed is not None]
        latent = [name for name in summed if name in self.latent]
        observed = [name for name in summed if name in self.observed]
        if latent and observed:
            raise ValueError(
                f"{observed[0]!r} cannot be drawn given {latent[0]!r}: both depend on "
                f"{self.marginalised[0]!r}, which the model sums over and would draw anew; sample "
                "it in the guide, or use pyro.infer.infer_discrete"
            )

    # Densities, in nats

    def log_prob(self, name: str) -> Tensor:
        """The scaled, masked log-density of a model site, summed."""
        return self._summed(self.model_sites[name])

    def guide_log_prob(self, name: str) -> Tensor:
        """The scaled, masked log-density of a guide site, summed, differentiated as it stands."""
        return self._summed(self.guide_sites[name])

    def _summed(self, site: Site) -> Tensor:
        return self.enumeration.expectation(site.log_prob(), site)

    def kl(self, name: str) -> Tensor:
        r"""The scaled, masked $\mathrm{KL}(q \Vert p)$ of a latent site, summed.

        In closed form where Pyro has one, else the sampled $\log q - \log p$. Sampled too

        * for a point mass, whose `log_density` is a change of variables that the closed form
          leaves out (a constrained latent of an automatic guide);
        * where model and guide sample two sites in opposite orders, as a bottom-up guide of a
          chain does: the closed form would hold a parent fixed at a value that depends on its
          child.
        """
        model, guide = self.model_sites[name], self.guide_sites[name]
        if name not in self.out_of_order and name not in self.enumerated:
            kl = closed_kl(guide, model)
            if kl is not None:
                return self.enumeration.expectation(guide.scaled(kl), guide)
        return self.log_ratio(name)

    def log_ratio(self, name: str) -> Tensor:
        r"""The scaled, masked $\log q - \log p$ of a latent at its draw, summed."""
        return self.guide_log_prob(name) - self.log_prob(name)

    def expectation(self, values: Tensor, site: Site) -> Tensor:
        """The sum of a site's values by entry, weighted where they depend on enumerated sites."""
        return self.enumeration.expectation(values, site)

    @cached_property
    def out_of_order(self) -> set[str]:
        """Latent sites that some other site precedes in one of model and guide only."""
        names = self.latent
        rank = {name: i for i, name in enumerate(self.guide_sites)}
        return {
            name
            for i, first in enumerate(names)
            for second in names[i + 1 :]
            if rank[first] > rank[second]
            for name in (first, second)
        }

    def standing_on(self, name: str) -> set[str]:
        """Latent sites whose value in the guide is a function of an auxiliary site's.

        Where autograd has no record of it (a frozen guide), all of them.
        """
        value = self.guide_sites[name].value
        if not value.requires_grad:
            return set(self.latent)
        return {n for n in self.latent if depends([self.guide_sites[n].value], value)}


def joined(names: Sequence[str]) -> str:
    """The label of several sites."""
    return "+".join(names) if len(names) < 4 else f"{names[0]}+...+{names[-1]}"


def _key(names: PlateName | None) -> tuple[str, ...] | None:
    return None if names is None else plate_names(names)
