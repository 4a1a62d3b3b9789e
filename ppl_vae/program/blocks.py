r"""A pair run on blocks of its rows, where it can be: tried, and compared with a whole run.

An amortised guide run on some rows of its arguments gives those rows' conditionals. A guide that
is a table of parameters does not: it is run whole and its sites are cut. A model whose plate is
given as a number is run at indices where `pyro.subsample` makes it follow, and else whole too.
Which of these holds is not guessed from the programs' text: two rows are run by themselves, at
the values that a whole run gave them, and every site's log-density must agree with that run's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from ppl_vae.program.density import log_density
from ppl_vae.program.handlers import SetIndices
from ppl_vae.program.joint_rows import check_by_row
from ppl_vae.program.modules import Program, evaluating
from ppl_vae.program.plates import NoDataPlate, PlateName, check_full
from ppl_vae.program.running import read
from ppl_vae.program.sites import Site
from ppl_vae.program.whole import Whole

__all__ = ["Blocks", "at_rows"]

Sites = dict[str, Site]
Densities = dict[str, tuple[Site, Tensor | None]]

_ROWS = 3
"""How many rows the run has that two rows are compared with, where the pair runs on so few."""


class Blocks(Whole):
    """How a model and a guide run on some rows of the data plate, and those runs.

    The pair is run on the first rows alone and, where that is not a run of the whole pair in
    small, on all. Two rows out of order, the last and the second, are then run by themselves. A
    wrong guess costs a run, never a number. Sites that the guide marks for enumeration are
    sampled, those of the model alone are summed over.

    Args:
        model: the model; any Pyro callable.
        guide: the guide, called the same way.
        args: their arguments. Tensors as long as the data plate are cut at their first dimension.
        plate: the data plate's name, where the rule leaves a choice.
        block: rows that may be run at once; None runs all programs whole.

    Attributes:
        reading: the run that was compared with, of all data or of their first rows.
        plate: the data plate.
        how_guide: `"sliced"`: run on slices of the arguments; or `"whole"`.
        how_model: also `"at indices"` of the plate.

    Raises:
        NoDataPlate: if no plate or more than one could be the data's.
        ValueError: for a plate that is subsampled at random, data without rows, or a pair that
            `read` refuses.
    """

    how_guide: Literal["sliced", "whole"]
    how_model: Literal["sliced", "at indices", "whole"]

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: Sequence[Any],
        plate: PlateName | None = None,
        block: int | None = 1024,
    ) -> None:
        super().__init__(model, guide, args)
        self.block, self._asked = block, plate
        lengths = [len(a) for a in self.args if isinstance(a, Tensor) and a.dim()]
        if not all(lengths):
            raise ValueError(f"data of {lengths} rows: numbers above 0 are needed")
        with evaluating(model, guide), torch.no_grad():
            # A guide that was never called takes the size of its tables from the first call.
            made = getattr(guide, "prototype_trace", True) is not None and not self._messenger
            if block is None or not (made and lengths and self._small(lengths[0])):
                self._whole(lengths)

    def __len__(self) -> int:
        return self._size

    @property
    def implicit(self) -> list[str]:
        """Names of the guide's sites whose distributions have no density."""
        return [name for name, (_, density) in self._densities[1].items() if density is None]

    @property
    def sliced(self) -> bool:
        """Whether both programs run on slices of the arguments, in which rows may repeat."""
        return self.how_guide == self.how_model == "sliced"

    # Runs

    def guide_run(
        self, values: Mapping[str, Tensor] | None = None, indices: Tensor | None = None
    ) -> Sites:
        """The guide's sites: at some rows where it is sliced, else of all data.

        Args:
            values: of sites that are not sampled, for the rows of the run.
            indices: the rows, in any order and number; all where None or the guide runs whole.
        """
        cut = None if self.how_guide == "whole" else indices
        return self.guide_at(values or {}, self.cut(cut))

    def model_run(
        self,
        values: Mapping[str, Tensor] | None = None,
        indices: Tensor | None = None,
        until: Sequence[str] = (),
        sums: bool = True,
    ) -> Sites:
        """The model's sites at given latents, at some rows where it can be, else of all data.

        Args:
            values: of latent sites, for the rows of the run; others are sampled.
            indices: the rows; in any order and number where the model is sliced, fewer than there
                are at indices of the plate. All where None or the model runs whole.
            until: the model is left after the last of these sites.
            sums: whether what the model sums over is summed out where all latents are given; else
                it is drawn.
        """
        if self.how_model == "whole":
            indices = None
        if indices is not None and self.how_model == "at indices":
            with SetIndices(self.plate, indices):
                return self.model_at(values or {}, self.args, until, sums)
        return self.model_at(values or {}, self.cut(indices), until, sums)

    def cut(self, indices: Tensor | slice | None) -> tuple[Any, ...]:
        """The arguments at some rows; all where None."""
        if indices is None:
            return self.args
        return tuple(
            a[indices.to(a.device) if isinstance(indices, Tensor) else indices] if cut else a
            for a, cut in zip(self.args, self._is_rows, strict=True)
        )

    # How the pair runs

    def _small(self, size: int) -> bool:
        """Tries the pair on its first rows; whether guide and model are sliced."""
        self._size, rows = size, min(size, _ROWS)
        self._is_rows = [_is_rows(a, size) for a in self.args]
        args, store = self.cut(slice(0, rows)), pyro.get_param_store()
        before = set(store.keys())
        try:
            sliced = self._read(args) == rows and self._probe(rows) == ("sliced", "sliced")
        except Exception:  # whatever a program says to rows it is not made for
            sliced = False
        if not sliced:
            for name in set(store.keys()) - before:  # tables as long as the first rows
                del store[name]
        self.how_guide = self.how_model = "sliced"
        return sliced

    def _whole(self, lengths: list[int]) -> None:
        try:
            self._size = self._read(self.args)
        except NoDataPlate:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            if len(set(lengths)) < 2:
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{reason}; the data are of {lengths} rows: equal numbers are needed, where each "
                "is a row of data"
            ) from error
        self._is_rows = [_is_rows(a, self._size) for a in self.args]
        self.how_guide = self.how_model = "whole"
        if self.block is not None:
            self.how_guide, self.how_model = self._probe(self._size)

    def _read(self, args: tuple[Any, ...]) -> int:
        """Reads a run, and gives the number of its rows."""
        self.reading = reading = read(self.model, self.guide, args, check_shapes=True)
        self.plate = reading.plate(self._asked)
        check_full(reading.model_trace, reading.guide_trace, plate=self.plate)
        check_by_row(reading.model_sites, [self.plate])
        self._densities = tuple(_densities(s) for s in (reading.model_sites, reading.guide_sites))
        inside = (site.plate(self.plate) for site in reading.guide_sites.values())
        return next(plate.size for plate in inside if plate is not None)

    def _probe(self, size: int) -> tuple[Any, Any]:
        """How guide and model run on two rows of the run that was read."""
        # From the end: a table cut to the arguments' length gives its first rows. And never as
        # many as there are, which a plate given as a number would take.
        indices = torch.tensor([[0, 0], [1, 0, 1]][size - 1] if size < 3 else [size - 1, 1])
        values = {
            name: at_rows(site.value, site, self.plate, indices, site.event_dim)
            for name, site in self.reading.guide_sites.items()
            if not site.is_observed
        }
        args = self.cut(indices)

        def agrees(run: Callable[[], Sites], densities: Densities) -> bool:
            try:
                return _agree(run(), densities, self.plate, indices)
            except Exception:  # whatever a program says to rows it is not made for
                return False

        model, guide = self._densities
        how_guide = "sliced" if agrees(lambda: self.guide_at(values, args), guide) else "whole"
        if agrees(lambda: self.model_at(values, args), model):
            return how_guide, "sliced"
        if len(indices) < size:
            with SetIndices(self.plate, indices):
                if agrees(lambda: self.model_at(values, self.reading.args), model):
                    return how_guide, "at indices"
        return how_guide, "whole"


def at_rows(tensor: Tensor, site: Site, plate: str, indices: Tensor, event_dim: int = 0) -> Tensor:
    """A tensor of a site's batch shape, or batch and event shape, at some rows of a plate.

    Args:
        tensor: by batch entry, with `event_dim` dimensions more.
        site: the site. One outside the plate gives the tensor as it is.
        plate: the plate's name.
        indices: the rows.
        event_dim: 0, or the site's.
    """
    inside = site.plate(plate)
    if inside is None:
        return tensor
    shape = site.shape if event_dim else site.batch_shape
    tensor = tensor.expand(torch.broadcast_shapes(tensor.shape, shape))
    return tensor.index_select(inside.dim - event_dim, indices.to(tensor.device))


def _densities(sites: Mapping[str, Site]) -> Densities:
    """Each site with its log-density by batch entry; None of a distribution without one."""
    densities: Densities = {}
    for name, site in sites.items():
        try:
            densities[name] = site, log_density(site)
        except NotImplementedError:
            densities[name] = site, None
    return densities


def _agree(part: Sites, whole: Densities, plate: str, indices: Tensor) -> bool:
    """Whether all log-densities of some rows are those of the whole run, of sites outside the
    plate in full; of a distribution without a density, whether there are as many rows."""
    if part.keys() != whole.keys():
        return False
    for name, (site, ours) in whole.items():
        inside = part[name].plate(plate)
        if (inside is None) != (site.plate(plate) is None):
            return False
        if inside is not None and inside.size != len(indices):
            return False
        if ours is None:
            continue
        ours, theirs = at_rows(ours, site, plate, indices), log_density(part[name])
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
            return False
    return True


def _is_rows(argument: Any, size: int) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) == size
