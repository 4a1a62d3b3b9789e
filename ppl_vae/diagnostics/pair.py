"""A model and its guide looked at: which rows they have; some rows alone, latents held."""

from collections.abc import Iterator
from functools import cached_property
from math import prod

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.diagnostics.draws import Draws, same_densities
from ppl_vae.diagnostics.runs import Runs
from ppl_vae.diagnostics.sites import Layout
from ppl_vae.evaluation.programs import Data, Program, arguments_of
from ppl_vae.program.joint_rows import check_by_row
from ppl_vae.program.plates import PlateName, check_full, global_only
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read
from ppl_vae.program.wrapping import is_point

__all__ = ["Draws", "Pair"]


class Pair(Runs):
    """A model, its guide and their arguments, looked at once and checked.

    Rows are the entries of the data plate, by the rule of `ppl_vae.program`. Where no latent is
    in a plate with an observation, the whole data set is one row.

    Args:
        model, guide: Pyro callables of the same arguments. Their modules are run in eval mode.
        x: rows of data, or the tuple of the callables' arguments.
        plate: name of the data plate. Needed only where several would do.

    Raises:
        NoDataPlate: if there is no data plate, or more than one.
        ValueError: if a plate is subsampled, or a latent of the model is missing from the guide
            or has another shape there.
    """

    def __init__(
        self, model: Program, guide: Program, x: Data, plate: PlateName | None = None
    ) -> None:
        super().__init__(model, guide, arguments_of(x, model, guide))
        with self.still(), torch.random.fork_rng():
            reading = read(model, self.guide, self.args, check_shapes=True)
        check_full(reading.guide_trace, reading.model_trace)
        self.plate = _row_plate(reading, plate)
        if self.plate is not None:
            check_by_row(reading.model_sites, [self.plate])
        # What the model sums over has no draws.
        outer = {k: s for k, s in reading.model_sites.items() if s.role != "marginalised"}
        inner = reading.guide_sites
        sizes: dict[str, int] = {}
        for site in (*outer.values(), *inner.values()):
            for around in site.plates:
                sizes[around.name] = max(around.size, sizes.get(around.name, 1))
        self.size = 1 if self.plate is None else sizes[self.plate]
        self.sites = {
            k: Layout.of(site, self.plate, sizes)
            for k, site in outer.items()
            if site.role != "marginalised"  # has every value and none
        }
        self.guide_sites = {
            k: Layout.of(site, self.plate, sizes)
            for k, site in inner.items()
            if site.role != "deterministic"
        }
        laid = {k: site.lay(outer[k].value, 1)[0] for k, site in self.sites.items()}
        self.observed = [k for k, site in outer.items() if site.role == "observed"]
        gone = {k: outer[k].missing for k in self.observed}
        for k, missing in gone.items():
            if missing is not None:
                laid[k] = laid[k].masked_fill(self.sites[k].lay(missing, 1)[0], torch.nan)
        self.missing = {k: laid[k].isnan().cpu() for k, m in gone.items() if m is not None}
        self.values = {k: laid[k].cpu() for k in self.observed}
        self.raw = {k: outer[k].value for k in self.observed}
        self.latents, self.marginalised = reading.latent, reading.marginalised
        self.locals = [
            k for k in self.latents if self.sites[k].local and outer[k].role != "missing"
        ]
        self.globals = [k for k in self.latents if not self.sites[k].local]
        self.device = outer[self.latents[0]].value.device
        self.points = [k for k in self.guide_sites if is_point(inner[k].fn)]
        sites = [*self.sites.values(), *self.guide_sites.values()]
        self.nesting = max(site.depth for site in (*outer.values(), *inner.values()))
        # The rows that one draw runs.
        self.width = self.size
        if self.plate is None:
            self.width = max(prod(p.size for p in site.plates) for site in sites)

    def rows(self, rows: Tensor) -> "Pair":
        """The pair on some of the data.

        Raises:
            ValueError: if the data plate does not follow the arguments' first dimension.
        """
        if torch.equal(rows, torch.arange(self.size)):
            return self
        if not self.sliced:
            raise ValueError(
                f"cannot run on {len(rows)} of {self.size} data: the plate {self.plate!r} and the "
                "guide must take their size from the arguments, as in pyro.plate('data', len(x))"
            )
        return self._cut(rows)

    @cached_property
    def sliced(self) -> bool:
        """Whether rows of the arguments give these rows' densities: tried.

        A plate given as a number does not, nor a guide that is a table of parameters.
        """
        # From the end: a table cut to the arguments' length gives its first rows.
        rows = torch.tensor([self.size - 1, 1][: max(1, self.size - 1)])
        with self.still(), torch.random.fork_rng():
            whole = self.read(1, many=False)
            made = self._made(whole.model_sites, 1, whole.guide_sites)
            # Latents outside the plate are held where rows are run, whatever their density.
            of_rows = Draws(
                log_p={k: v[:, rows] for k, v in made.log_p.items() if self.sites[k].local},
                log_q={k: v[:, rows] for k, v in made.log_q.items() if self.guide_sites[k].local},
            )
            values = {
                k: v[:, rows] if self.guide_sites[k].local else v
                for k, v in self.sampled(whole, 1).items()
            }
            try:
                part = self._cut(rows)
                return part.size == len(rows) and same_densities(of_rows, part.at(values), [0])
            except Exception:  # whatever a program says to rows it is not made for
                return False

    def _cut(self, rows: Tensor) -> "Pair":
        args = tuple(a[rows.to(a.device)] if self.is_data(a) else a for a in self.args)
        part = Pair(*self._owners, args, self.plate)
        part._vectorise = self._vectorise
        return part

    def is_data(self, arg: object) -> bool:
        """Whether an argument has one row for each datum."""
        rows = isinstance(arg, Tensor) and arg.shape[:1] == (self.size,)
        return self.plate is not None and rows

    def is_observed(self, arg: Tensor) -> bool:
        """Whether an argument holds an observed site's values, in whatever shape."""
        flat = [v.flatten() for v in self.raw.values() if v.numel() == arg.numel()]
        return any(bool((arg.flatten().to(v.device) == v).all()) for v in flat)

    def parts(self, block: int) -> "Iterator[tuple[Tensor, Pair]]":
        """(indices, pair) for blocks of at most `block` data, the whole where data share draws."""
        whole = torch.arange(self.size)
        sites = [*self.sites.values(), *self.guide_sites.values()]
        if self.size <= block or not all(site.local for site in sites) or not self.sliced:
            yield whole, self
            return
        self.vectorise  # noqa: B018  tried once, for all parts
        yield from ((rows, self._cut(rows)) for rows in whole.split(block))

    def shared(self) -> poutine.Trace:
        """One draw of what the guide samples outside the data plate, for `holding`."""
        with self.still():
            trace = poutine.trace(self.guide).get_trace(*self.args)
        kept = {
            k
            for k, site in self.guide_sites.items()
            if not site.local and site.role not in ("observed", "factor")
        }
        for name in [k for k in trace.nodes if k not in kept]:
            trace.remove_node(name)
        return trace

    def holding(self, shared: poutine.Trace) -> "Pair":
        """The pair with the latents outside the data plate held at one draw.

        The densities of local sites are given that draw then.
        """
        held = {k: shared.nodes[k]["value"] for k in self.globals}
        return self.replace(held=held, guide=poutine.replay(self.guide, trace=shared))


def _row_plate(reading: Reading, plate: PlateName | None) -> str | None:
    """The data plate; None where no latent belongs to a datum, so that all data are one row."""
    if not reading.latent:
        raise ValueError("the model has no latent site")
    if plate is None and global_only(reading.model_sites, reading.guide_sites):
        return None
    return reading.plate(plate)
