"""What a report shows of one run: its pictures, with the words that explain them."""

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import files
from ppl_vae.evaluation import Codes, posterior_codes
from ppl_vae.evaluation.codes import ACTIVE
from ppl_vae.evaluation.samples import draw
from ppl_vae.experiment import Experiment
from ppl_vae.plots import charts
from ppl_vae.plots.pictures import is_image
from ppl_vae.program.density import is_real
from ppl_vae.program.modules import evaluating
from ppl_vae.training.run import Run
from ppl_vae.using.decoding import decode, latents

__all__ = ["SECTIONS", "Picture", "Section", "pictures"]


class Picture(NamedTuple):
    """One picture: a data URI with its text alternative, or the reason why there is none.

    Attributes:
        uri: the picture.
        alt: its text alternative.
        caption: words under it.
        missing: why there is none.
        kind: `"chart"`, `"pixels"`, or `"pixels ink"` for ink on paper.
    """

    uri: str = ""
    alt: str = ""
    caption: str = ""
    missing: str = ""
    kind: str = "chart"

    @classmethod
    def of(cls, svg: str, alt: str) -> "Picture":
        """Of an SVG's text."""
        return cls(_uri("svg+xml", charts.themed(svg).encode()), alt)

    @classmethod
    def tiled(
        cls, rows: Sequence[Sequence[Tensor]], alt: str, caption: str = "", after: int = 1
    ) -> "Picture":
        """Of images, as `charts.grid` takes them."""
        kind = "pixels ink" if rows[0][0].shape[1] == 1 else "pixels"
        return cls(_uri("png", charts.grid(rows, after)), alt, caption, kind=kind)


class Section(NamedTuple):
    """One kind of picture.

    Attributes:
        key: of the pictures it holds.
        title: its heading.
        text: how to read it.
        wide: whether its pictures need the page's whole width.
    """

    key: str
    title: str
    text: str
    wide: bool = False


SECTIONS = (
    Section(
        "reconstructions",
        "Reconstructions",
        "Data and the mean of p(x|z) at their posterior means; an image has its own below it.",
    ),
    Section("samples", "Samples", "Means of p(x|z) at draws of z from the prior."),
    Section(
        "interpolations",
        "Interpolations",
        "From one datum to another on a straight line between their posterior means, "
        "the data at both ends.",
    ),
    Section(
        "traversals",
        "Latent traversals",
        "One latent dimension at a time, from −3 to 3 standard deviations of the aggregate "
        "posterior about its mean, the rest held at the code of one datum.",
    ),
    Section("codes", "Codes", "Posterior means of the data in the plane."),
    Section(
        "khat",
        "Importance weights",
        "Pareto k̂ of each datum: above the threshold the guide misses part of the posterior, "
        "and importance sampling from it is not to be trusted.",
    ),
    Section(
        "coverage",
        "Coverage",
        "Central intervals of q(z|x) on data simulated from the model: below the diagonal they "
        "are too narrow.",
    ),
    Section(
        "sbc",
        "Calibration",
        "Ranks of the true codes of simulated data among draws of q(z|x). Heaps at both ends: too "
        "narrow; in the middle: too wide; on one side: biased.",
        wide=True,
    ),
)


def pictures(run: Run, experiment: Experiment, seed: int = 0) -> dict[str, Picture]:
    """The pictures of one run, by the key of their section.

    Args:
        run: its folder, which has been evaluated.
        experiment: the trained experiment it is of.
        seed: of the samples.
    """
    shown = _Shown(experiment, seed)
    found = {}
    for key, make in _DRAWN.items():
        try:
            found[key] = make(shown)
        except (ValueError, NotImplementedError) as error:
            found[key] = Picture(missing=str(error) or type(error).__name__)
    for key, alt in _STORED.items():
        path = run.path / f"{key}.svg"
        if files.present(path):
            found[key] = Picture.of(_drawing(path), alt)
        else:
            found[key] = Picture(missing=f"the run's folder has no {path.name}")
    return found


def _drawing(path: Path) -> str:
    """A picture from a run's folder, which must be one of ours: lines and text alone."""
    text = files.read_text(path, 2**22)
    if not (text.startswith("<svg") and text.rstrip().endswith("</svg>")) or _ACTIVE.search(text):
        raise ValueError(f"{str(path)!r} is no picture that an evaluation drew: remove it")
    return text


# What a drawing may not have: entities, scripts, frames, and references out of itself.
_ACTIVE = re.compile(
    r"<[!?]|<[\w:]*(script|foreignobject|iframe|set|animate)|\bon\w+\s*=|@import"
    r"|href\s*=\s*[\"'](?!#|data:image/png)|url\((?!#)",
    re.IGNORECASE,
)


class _Shown:
    """The rows that pictures are of, and their codes."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        data, self.pair = experiment.data, experiment.pair
        self.seed, self.classes = seed, data.classes
        self.layout, self.transform = data.layout, data.transform
        self.labels = data.labels(data.held_out)
        self.args = tuple(part[:4000] for part in experiment.rows())
        self.x = self.args[0]
        self.image = is_image(self.x)
        pyro.set_rng_seed(seed)
        self.codes: Codes = posterior_codes(self.pair.model, self.pair.guide, self.args)
        self.programs = self.pair.model, self.pair.guide
        self.latents = latents(*self.programs, self.args, self.codes)

    def columns(self, x: Tensor, model: Tensor, paired: bool = False) -> Picture:
        """A table's columns in its own units, beside the model's."""
        assert self.layout is not None
        seen, made = (self.layout.columns(self.transform.undo(part)) for part in (x, model))
        what = "their reconstructions" if paired else "samples of the model"
        svg = charts.columns(seen, made, self.layout.classes, paired)
        return Picture.of(svg, f"data and {what}, a panel to a column")

    def decode(self, chosen: slice) -> Tensor:
        """Reconstructions of some rows."""
        values = {name: value[chosen] for name, value in self.latents.items()}
        return decode(*self.programs, tuple(part[chosen] for part in self.args), values)

    def between(self, a: int, b: int, at: Tensor) -> Tensor:
        """The mean of p(x | z) on the way from one row to another, at shares `(m, 1)` of it."""

        def way(values: Tensor) -> Tensor:
            if not values.is_floating_point():
                return values[a].expand(len(at), *values.shape[1:])
            share = at.reshape(-1, *[1] * (values.dim() - 1)).to(values)
            return values[a] + share * (values[b] - values[a])

        moved = {name: way(value) for name, value in self.latents.items()}
        return decode(*self.programs, tuple(map(way, self.args)), moved)

    def varying(self, dimension: int, at: Tensor) -> Tensor:
        """The mean of p(x | z) as one dimension of a code takes values `(m,)`, the rest at the
        first row's."""
        name, _ = self.moved
        first = [0] * len(at)
        # layers of codes below the moved one follow it
        below = self.codes.slices.keys() - {name}
        values = {k: v[first] for k, v in self.latents.items() if k not in below}
        values[name][:, dimension] = at
        return decode(*self.programs, tuple(part[first] for part in self.args), values)

    @property
    def moved(self) -> tuple[str, slice]:
        """The site that traversals move, and its columns: of several layers the top one."""
        return next(iter(self.codes.slices.items()))

    def check_real(self) -> None:
        """Refuses spaces in which a straight line leaves the prior's support."""
        with torch.no_grad(), evaluating(self.pair):
            trace = poutine.trace(self.pair.model).get_trace(*(part[:2] for part in self.args))
        for name in self.codes.slices:
            if not is_real(trace.nodes[name]["fn"]):
                prior = type(self.pair.prior).__name__
                raise ValueError(f"codes under {prior} are not free to move along straight lines")


def _reconstructions(s: _Shown) -> Picture:
    if not s.image:
        few = slice(0, 500)
        if s.layout is not None:
            return s.columns(s.x[few], s.decode(few), paired=True)
        both = {"data": s.x[few], "model": s.decode(few)}
        return Picture.of(charts.points(both), "data and their reconstructions as points")
    count = 10
    blocks: list[list[Tensor]] = []
    for start in range(0, min(len(s.x), 4 * count), count):
        line = slice(start, start + count)
        if start and len(s.x[line]) < count:
            break
        blocks += [[s.x[line]], [s.decode(line)]]
    return Picture.tiled(blocks, "rows of data, each above its reconstruction", after=2)


def _samples(s: _Shown) -> Picture:
    if not s.image:
        count = min(500, len(s.x))
        if s.layout is not None:
            return s.columns(s.x[:500], draw(*s.programs, s.args, count, mean=False))
        drawn = draw(*s.programs, s.args, count)
        both = {"data": s.x[:500], "model": drawn}
        return Picture.of(charts.points(both), "data and samples of the model as points")
    drawn = draw(*s.programs, s.args, 80)
    return Picture.tiled([[block] for block in drawn.split(10)], "samples of the model in a grid")


def _interpolations(s: _Shown) -> Picture:
    s.check_real()
    ends = [(a, b) for a, b in _pairs(s) if b < len(s.x)][:6]
    if not ends:
        raise ValueError("two data are needed to go from one to the other")
    at = torch.linspace(0, 1, 9, device=s.x.device)[:, None]
    paths = [s.between(a, b, at) for a, b in ends]
    alt = "ways between two data, one to a row"
    if not s.image:
        named = {f"{a} to {b}": path for (a, b), path in zip(ends, paths, strict=True)}
        return Picture.of(charts.lines(named, every=False), alt)
    tiles = [
        [s.x[a : a + 1], path, s.x[b : b + 1]] for (a, b), path in zip(ends, paths, strict=True)
    ]
    return Picture.tiled(tiles, alt)


def _pairs(s: _Shown) -> Iterator[tuple[int, int]]:
    """Neighbouring rows of different classes, where classes are known."""
    k = 0
    while k + 1 < len(s.x):
        if s.labels is None or s.labels[k] != s.labels[k + 1]:
            yield k, k + 1
            k += 1
        k += 1


def _traversals(s: _Shown) -> Picture:
    s.check_real()
    _, columns = s.moved
    mean, variance = s.codes.mean[:, columns], s.codes.variance[:, columns]
    middle = mean.mean(0)
    spread = (mean.var(0) + variance.mean(0)).sqrt()
    order = mean.var(0).argsort(descending=True)[:10].tolist()
    at = torch.linspace(-3, 3, 11, device=mean.device)
    name, _ = s.moved
    silent = mean.var(0) < ACTIVE
    said = {j: f"{name}[{j}]" + " (inactive)" * bool(silent[j]) for j in order}
    paths = {said[j]: s.varying(j, middle[j] + at * spread[j]) for j in order}
    alt = "the decoder's mean along single latent dimensions"
    if not s.image:
        return Picture.of(charts.lines(paths), alt)
    caption = "Top to bottom, the most active first: " + ", ".join(paths)
    return Picture.tiled([[path] for path in paths.values()], alt, caption)


def _codes(s: _Shown) -> Picture:
    drawn = charts.codes(s.codes.mean, s.labels, s.classes)
    return Picture.of(drawn, "posterior means as points" + (", by class" * (s.labels is not None)))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_DRAWN: dict[str, Callable[[_Shown], Picture]] = {
    "reconstructions": _reconstructions,
    "samples": _samples,
    "interpolations": _interpolations,
    "traversals": _traversals,
    "codes": _codes,
}
_STORED = {
    "khat": "Pareto k-hat of the data in ascending order",
    "coverage": "observed against nominal coverage",
    "sbc": "rank histograms, and differences of their distribution from uniform",
}
