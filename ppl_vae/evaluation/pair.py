"""Running a model/guide pair on blocks of rows and reading off its terms datum by datum."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ppl_vae import distributions  # noqa: F401  closed forms enter PyTorch's registry
from ppl_vae.evaluation.programs import Data, Program, arguments_of, evaluating
from ppl_vae.program.agreement import check_match
from ppl_vae.program.blocks import Blocks, at_rows
from ppl_vae.program.density import closed_kl, log_density
from ppl_vae.program.rows import Rows
from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import is_point

__all__ = ["Pair", "Terms", "with_values"]

Sites = Mapping[str, Site]


class Terms:
    """The log-density terms of one draw of the guide, per row of data, in nats.

    The model is run when it is first asked for: in full for the likelihood, which serves the
    prior too where it comes first, and for the prior alone without a decoder call.

    Args:
        pair: the pair.
        rows: the data of its rows, which may repeat; all where None.
        guide: the guide's sites.
    """

    def __init__(self, pair: "Pair", rows: Tensor | None, guide: Sites) -> None:
        self.pair, self.rows, self.guide = pair, rows, guide

    @cached_property
    def model(self) -> list[Sites]:
        """The model's sites at the guide's latents, in one run or in blocks of the rows."""
        return self.pair.run_model(self.rows, self.latents)

    @cached_property
    def prior(self) -> Sites:
        """The model's latents, of all rows in one run."""
        if "model" in self.__dict__ and len(self.model) == 1:
            return self.model[0]
        return self.pair.run_prior(self.rows, {n: s.value for n, s in self.latents.items()})

    @property
    def latents(self) -> Sites:
        """The guide's sites that the model samples too, but for those held."""
        return {n: s for n, s in self.guide.items() if n in self.pair.shared}

    def _sum(self, sites: Sites, names: Iterable[str]) -> Tensor:
        return sum((self.pair.log_prob(sites[name]) for name in names), torch.zeros(()))

    @property
    def log_q(self) -> Tensor:
        """log q(z | x), auxiliary sites and what the guide observes included."""
        self.pair.require_rows()
        return self._sum(self.guide, self.pair.guide_sites + self.pair.guide_observed)

    @property
    def log_prior(self) -> Tensor:
        return self._sum(self.prior, self.pair.latents)

    @property
    def log_likelihood(self) -> Tensor:
        self.pair.require_observed()
        return torch.cat([self._sum(part, self.pair.observed) for part in self.model])

    @property
    def kl(self) -> Tensor:
        """KL(q(z | x) || p(z)): in closed form where that is right, else one sampled log-ratio."""
        self.pair.require_rows()
        names = [n for n in self.pair.guide_sites if n not in self.pair.latents]
        total = self._sum(self.guide, names + self.pair.guide_observed)
        for name in self.pair.latents:
            q, p = self.guide[name], self.prior[name]
            kl = None if name in self.pair.out_of_order else closed_kl(q, p)
            if kl is None:
                total = total + self.pair.log_prob(q) - self.pair.log_prob(p)
            else:
                total = total + self.pair.per_row(q.unscaled().scaled(kl), q)
        return total

    @property
    def codes(self) -> Tensor:
        """The joint of the codes, `(n, d)`."""
        return self.pair.joint(self.guide)


class Pair:
    """A model and guide, which of their sites belong to a datum, and their runs over all data.

    A datum is an entry of the data plate, see `ppl_vae.program.plates`. Its latents are
    the guide's sites there that the model samples too; those that are not missing data are its
    codes. Latents outside the plate (globals) are sampled from the guide once and held.

    Args:
        model: the model.
        guide: the guide.
        x: rows of data, or the tuple of the programs' positional arguments.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows held at once; None runs the programs whole.

    Attributes:
        latents: names of a datum's latent sites, in the guide's order.
        codes: of those that are not missing data; of all if there are no others.
        guide_sites: of what the guide samples for a datum, auxiliary sites too.
        guide_observed: of what the guide observes or factors for it.
        observed: of what the model observes or factors for it.
        joint_guide: whether log q is one number for all rows.
        deterministic: whether the codes are points.
        held: the values of the globals.

    Raises:
        NoDataPlate: if no plate or more than one could be the data's.
        ValueError: for a pair that `ppl_vae.program.blocks` refuses.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        x: Data,
        plate: str | None = None,
        block: int | None = 1024,
    ) -> None:
        args = arguments_of(x, model, guide)
        self.blocks, self.block = Blocks(model, guide, args, plate, block), block
        self.plate, self.sliced = self.blocks.plate, self.blocks.sliced
        self.index = torch.arange(len(self.blocks))
        reading = self.blocks.reading
        sites = reading.guide_sites
        inside = [name for name, site in sites.items() if site.plate(self.plate) is not None]
        self.latents = [name for name in inside if name in reading.latent]
        self.guide_observed = [name for name in inside if sites[name].is_observed]
        self.guide_sites = [name for name in inside if name not in self.guide_observed]
        missing = [n for n in self.latents if reading.model_sites[n].role == "missing"]
        self.codes = [name for name in self.latents if name not in missing] or self.latents
        self.observed = [
            name for name in reading.observed if reading.model_sites[name].plate(self.plate)
        ]
        self.out_of_order = reading.out_of_order
        for name in self.latents:
            check_match(reading.model_sites[name].unscaled(), sites[name].unscaled())
        self.implicit = bool(set(self.blocks.implicit) & set(self.guide_sites))
        sampled = [n for n in [*reading.latent, *reading.auxiliary] if n not in inside]
        self.held = {name: sites[name].value for name in sampled}
        points = any(is_point(sites[name].fn) for name in self.codes)
        points = points and self.guide_sites == self.latents
        with evaluating(model, guide):
            self.joint_guide = points and self._move_together()
        self.deterministic = points and not self.joint_guide
        if self.joint_guide:
            self.held = {}
        self.shared = [name for name in reading.latent if name not in self.held]
        self.sizes = {name: self.flatten(sites[name]).shape[1] for name in self.guide_sites}

    def _move_together(self) -> bool:
        """Whether what the guide draws outside the plate moves codes that are points."""
        outside = self._drawn_outside
        if not outside:
            return False
        held = {name: value for name, value in self.held.items() if name not in outside}
        first, second = (self.blocks.guide_run(held) for _ in range(2))
        return any(not torch.equal(first[n].value, second[n].value) for n in self.codes)

    @property
    def _drawn_outside(self) -> list[str]:
        reading = self.blocks.reading
        return [n for n in reading.auxiliary if not reading.guide_sites[n].plate(self.plate)]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def note(self) -> str:
        notes = []
        if self.blocks.how_guide == "whole" and self.block is not None:
            notes.append("guide run whole")
        if names := [n for n in self.held if n in self.blocks.reading.latent]:
            notes.append(f"conditional on one draw of {', '.join(names)} from the guide")
        return ", ".join(notes)

    def require_observed(self) -> None:
        if not self.observed:
            raise ValueError(f"the model observes nothing in plate {self.plate!r}")

    def require_rows(self) -> None:
        """Refuses a guide without log q by row."""
        if self.joint_guide:
            raise ValueError(
                f"log q is one number: the guide draws {', '.join(self._drawn_outside)} for all "
                f"rows of plate {self.plate!r} at once, so there is no log q by row; use a guide "
                "with a draw for each row, such as AutoNormal"
            )

    @property
    def slices(self) -> dict[str, slice]:
        """Where each site stands among the columns of the codes."""
        ends = torch.tensor([0] + [self.sizes[k] for k in self.codes]).cumsum(0).tolist()
        return {k: slice(a, b) for k, a, b in zip(self.codes, ends, ends[1:], strict=False)}

    def choose(self, index: Tensor) -> None:
        """Leaves out all but some of the data.

        Raises:
            ValueError: for a pair that runs whole.
        """
        if not self.sliced:
            raise ValueError(
                f"{len(index)} of {len(self)} data are asked for, and this pair runs on all of "
                "them only: leave num_data out"
            )
        self.index = self.index[index]

    def at(self, args: tuple[Any, ...]) -> "Pair":
        """The same pair at other arguments, of as many rows where it runs whole."""
        other = copy(self)
        other.blocks = copy(self.blocks)
        other.blocks.args = args
        return other

    # Runs

    def runs(self, draws: int = 1, block: int | None = None) -> Iterator[Terms]:
        """Draws from the guide for all rows, a block of rows and draws at a time.

        Where both programs are sliced, a run has some rows, each `draws` times in a row; else all
        rows once, and there are `draws` runs.

        Args:
            draws: how many for each row.
            block: rows times draws of a run; the pair's own by default.
        """
        if self.sliced:
            for index in self.split(draws, block):
                yield self.run(index if draws == 1 else index.repeat_interleave(draws))
        else:
            for _ in range(draws):
                yield self.run()

    def split(self, draws: int = 1, block: int | None = None) -> tuple[Tensor, ...]:
        """The rows in blocks, of which each is run `draws` times at once."""
        size = block or self.block or len(self)
        return self.index.split(max(1, size // draws))

    def table(self, of: Callable[[Terms], Sequence[Tensor]], draws: int = 1) -> list[Tensor]:
        """Quantities by row of a run, for all rows and draws: each `(n, draws)`."""
        columns = zip(*(of(terms) for terms in self.runs(draws)), strict=True)
        if self.sliced:
            return [torch.cat(column).view(-1, draws) for column in columns]
        return [torch.stack(column, 1) for column in columns]

    def run(self, rows: Tensor | None = None, values: Mapping[str, Tensor] | None = None) -> Terms:
        """One draw from the guide for some rows, all where the pair is not sliced.

        Args:
            rows: the data, which may repeat.
            values: of local latents that are not sampled.
        """
        rows = rows if self.sliced else None
        sites = self.blocks.guide_run({**self.held, **(values or {})}, rows)
        return Terms(self, rows, sites)

    def run_model(self, rows: Tensor | None, latents: Sites) -> list[Sites]:
        """The model's sites at the guide's latents, all rows in blocks where `rows` is None."""
        parts = [rows]
        if rows is None and self.blocks.how_model != "whole":
            parts = [*self.split()] if len(self) > (self.block or len(self)) else [None]
        runs: list[Sites] = []
        for part in parts:
            values = {name: site.value for name, site in latents.items()}
            if rows is None and part is not None:
                for name, site in latents.items():
                    values[name] = at_rows(site.value, site, self.plate, part, site.event_dim)
            runs.append(self.blocks.model_run(self.held | values, part))
        return runs

    def run_prior(self, rows: Tensor | None, values: Mapping[str, Tensor] | None = None) -> Sites:
        """The model's local latents at given values, else ancestral; no decoder call."""
        rows = rows if self.blocks.how_model == "sliced" else None
        return self.blocks.model_run({**self.held, **(values or {})}, rows, self.latents)

    @cached_property
    def sample(self) -> Tensor | None:
        """Two rows to look at; all where the pair is not sliced."""
        return self.index[:2] if self.sliced else None

    @cached_property
    def independent(self) -> bool:
        """Whether q(z_site | x) is the same whatever noise the guide drew elsewhere."""
        if self.implicit:  # densities would tell
            return len(self.guide_sites) == 1
        first, second = self.run(self.sample).guide, self.run(self.sample).guide
        for name in self.latents:
            a, b = first[name], second[name]
            if not torch.allclose(
                a.fn.log_prob(a.value), b.fn.log_prob(a.value), rtol=1e-4, atol=1e-4
            ):
                return False
        return True

    # Rows of sites

    def dim_of(self, site: Site) -> int:
        plate = site.plate(self.plate)
        assert plate is not None
        return plate.dim

    def per_row(self, values: Tensor, site: Site) -> Tensor:
        """Sums a tensor of a site's batch shape over all but the data plate."""
        values = values.expand(torch.broadcast_shapes(values.shape, site.batch_shape))
        return Rows.of(site, [self.plate]).sum(values)[0]

    def log_prob(self, site: Site) -> Tensor:
        """The site's log-density per row: plate scales are left out, masks are kept."""
        return self.per_row(log_density(site), site)

    def flatten(self, site: Site, value: Tensor | None = None) -> Tensor:
        """A site's value, or another tensor of its shape, as `(n, size)`."""
        value = site.value if value is None else value
        value = value.expand(torch.broadcast_shapes(value.shape, site.shape))
        return Rows.of(site, [self.plate]).cut(value, value.dim() - site.event_dim)[0]

    def shaped(self, name: str, rows: Tensor) -> Tensor:
        """The inverse of `flatten` for a latent: its value, from any number of rows."""
        site = self.blocks.reading.guide_sites[name]
        shape = list(site.shape)
        shape[self.dim_of(site) - site.event_dim] = len(rows)
        layout = replace(Rows.of(site, [self.plate]), sizes=(len(rows),))
        value = layout.uncut(rows[None], torch.Size(shape), len(shape) - site.event_dim)
        return value.to(site.value.dtype)

    def joint(self, sites: Sites, names: Iterable[str] | None = None) -> Tensor:
        """The codes, or other sites of a datum, side by side, `(n, d)`."""
        joint = torch.cat([self.flatten(sites[name]) for name in names or self.codes], -1)
        return joint if joint.is_floating_point() else joint.to(torch.get_default_dtype())


def with_values(sites: Sites, values: Mapping[str, Tensor]) -> dict[str, Site]:
    """Sites with other values."""
    return {n: replace(s, value=values[n]) if n in values else s for n, s in sites.items()}
