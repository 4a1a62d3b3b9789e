"""The rows of a run that its pictures are of, with their codes, and what the decoder makes of
them."""

from functools import cached_property

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data.dataset import Dataset
from ppl_vae.evaluation import posterior_codes
from ppl_vae.evaluation.codes import Codes
from ppl_vae.evaluation.metric import Inapplicable
from ppl_vae.evaluation.programs import seeded
from ppl_vae.evaluation.samples import draw
from ppl_vae.experiment import Experiment
from ppl_vae.plots.rows import is_image
from ppl_vae.program.density import is_real
from ppl_vae.program.modules import evaluating
from ppl_vae.report.findings import SILENT
from ppl_vae.training.spread import carried
from ppl_vae.using.decoding import decode, latents

__all__ = ["Shown"]


class Shown:
    """Rows of an experiment.

    Args:
        experiment: a trained one.
        seed: of the samples that are drawn.
        codes: of its rows, if they are at hand.

    Attributes:
        x: the data.
        labels: their classes, -1 where unknown; None where there are none.
        image: whether they are images.
    """

    def __init__(self, experiment: Experiment, seed: int, codes: Codes | None = None) -> None:
        self.pair, self.seed = experiment.pair, seed
        self.data: Dataset = experiment.data
        self.labels = self.data.labels(self.data.held_out)
        self.args = tuple(part[:4000] for part in experiment.rows())
        self.x = self.args[0]
        self.image = is_image(self.x)
        self.programs = self.pair.model, self.pair.guide
        with seeded(seed):
            self.codes = posterior_codes(*self.programs, self.args) if codes is None else codes
            self.latents = latents(*self.programs, self.args, self.codes)

    def decode(self, chosen: slice) -> Tensor:
        """Reconstructions of some rows."""
        values = {name: value[chosen] for name, value in self.latents.items()}
        return decode(*self.programs, tuple(part[chosen] for part in self.args), values)

    def draw(self, count: int, mean: bool) -> Tensor:
        """Samples of the model: draws of p(x | z), or its means where these are asked and it has
        them."""
        with seeded(self.seed):
            return draw(*self.programs, self.args, count, mean=mean)

    def between(self, a: int, b: int, at: Tensor) -> Tensor:
        """The mean of p(x | z) on the way from one row to another, at shares `(m, 1)` of it."""

        def way(values: Tensor) -> Tensor:
            if not values.is_floating_point():
                return values[a].expand(len(at), *values.shape[1:])
            share = at.reshape(-1, *[1] * (values.dim() - 1)).to(values)
            return values[a] + share * (values[b] - values[a])

        moved = {name: way(value) for name, value in self.latents.items()}
        # only its shape is used of x, which between two data may be none that the model allows
        x = self.x[a].expand(len(at), *self.x.shape[1:])
        return decode(*self.programs, (x, *map(way, self.args[1:])), moved)

    def varying(self, dimension: int, rows: list[int], at: Tensor) -> Tensor:
        """The mean of p(x | z) as one dimension of a code takes values `(m,)` at m rows."""
        # layers of codes below the moved one follow it
        below = self.codes.slices.keys() - {self.moved}
        values = {k: v[rows] for k, v in self.latents.items() if k not in below}
        values[self.moved][:, dimension] = at.to(values[self.moved])
        return decode(*self.programs, tuple(part[rows] for part in self.args), values)

    @property
    def moved(self) -> str:
        """The site that traversals move: of several layers the top one."""
        return next(iter(self.codes.slices))

    @cached_property
    def middle(self) -> Tensor:
        """The mean of each dimension of it, `(d,)`."""
        return self.codes.mean[:, self.codes.slices[self.moved]].mean(0)

    @cached_property
    def width(self) -> Tensor:
        """Its standard deviation under the aggregate posterior, `(d,)`."""
        columns = self.codes.slices[self.moved]
        return (self._spread + self.codes.variance[:, columns].mean(0)).sqrt()

    @cached_property
    def _spread(self) -> Tensor:
        """The variance of its means, `(d,)`; 0 of a single row."""
        mean = self.codes.mean[:, self.codes.slices[self.moved]]
        return mean.var(0) if len(mean) > 1 else torch.zeros_like(mean[0])

    def active(self, most: int) -> dict[int, str]:
        """The dimensions of widest means, and what they are called; it is said of those that say
        nothing of the data."""
        order = self._spread.argsort(descending=True)[:most].tolist()
        noise = self.codes.variance[:, self.codes.slices[self.moved]].mean(0).sqrt().tolist()
        spread = self._spread.sqrt().tolist()
        several = len(self.codes.mean) > 1  # of one row nothing can be said
        silent = {j for j in order if several and carried(noise[j], spread[j]) < SILENT}
        return {j: f"{self.moved}[{j}]" + " (says nothing)" * (j in silent) for j in order}

    def check_real(self) -> None:
        """Refuses spaces in which a straight line leaves the prior's support."""
        with torch.no_grad(), evaluating(self.pair):
            trace = poutine.trace(self.pair.model).get_trace(*(part[:2] for part in self.args))
        for name in self.codes.slices:
            if not is_real(trace.nodes[name]["fn"]):
                prior = type(self.pair.prior).__name__
                raise ValueError(f"codes under {prior} are not free to move along straight lines")

    # Rows that are no images

    @property
    def wide(self) -> bool:
        """Whether rows have columns to look at one by one."""
        return not self.image and self.x[0].numel() > 2

    def check_wide(self) -> None:
        """Refuses what columns say nothing of."""
        if not self.wide:
            raise Inapplicable("images, and rows of one or two numbers, are shown as such")

    @cached_property
    def names(self) -> list[str]:
        """What the numbers of a row are called."""
        if self.data.layout is not None:
            return self.data.layout.names
        places = np.ndindex(*self.x.shape[1:])
        return [f"x[{', '.join(map(str, place))}]" for place in places]

    def numbers(self, part: Tensor) -> np.ndarray:
        """Rows `(n, columns)` in the data's own units."""
        found = self.data.transform.undo(part).detach().cpu().double()
        flat: np.ndarray = found.flatten(1).numpy()
        return flat

    def table(self, part: Tensor) -> dict[str, np.ndarray]:
        """The columns of rows by name, as they stood in the table they came from."""
        if self.data.layout is not None:
            return self.data.layout.columns(self.data.transform.undo(part))
        return dict(zip(self.names, self.numbers(part).T, strict=True))

    @property
    def classes(self) -> list[str]:
        """The columns that hold classes."""
        return [] if self.data.layout is None else self.data.layout.classes
