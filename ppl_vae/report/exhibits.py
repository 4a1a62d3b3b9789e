"""What a report shows of one run: its pictures, with the words that explain them."""

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import files, plots
from ppl_vae.evaluation.metric import Inapplicable
from ppl_vae.experiment import Experiment
from ppl_vae.plots.output import png, svg, themed
from ppl_vae.plots.rows import canvas
from ppl_vae.report import pictures as of_run
from ppl_vae.report.shown import Shown
from ppl_vae.training.run import Run

__all__ = ["SECTIONS", "Picture", "Section", "pictures"]


class Picture(NamedTuple):
    """One picture: a data URI with its text alternative, or the reason why there is none.

    Attributes:
        uri: the picture.
        alt: its text alternative.
        caption: words under it.
        missing: why there is none.
        kind: `"chart"`, `"chart broad"`, `"pixels"`, or `"pixels ink"` for ink on paper.
        apt: whether there could be one for such data.
    """

    uri: str = ""
    alt: str = ""
    caption: str = ""
    missing: str = ""
    kind: str = "chart"
    apt: bool = True

    @classmethod
    def of(cls, figure: Figure, alt: str, caption: str = "") -> "Picture":
        """Of a figure."""
        kind = "chart broad" if figure.get_figwidth() > 8 else "chart"
        return cls.stored(svg(figure), alt, caption)._replace(kind=kind)

    @classmethod
    def stored(cls, text: str, alt: str, caption: str = "") -> "Picture":
        """Of the text of an SVG."""
        return cls(_uri("svg+xml", themed(text).encode()), alt, caption)

    @classmethod
    def tiled(
        cls, rows: Sequence[Sequence[Tensor]], alt: str, caption: str = "", after: int = 1
    ) -> "Picture":
        """Of images, as `canvas` takes them."""
        kind = "pixels ink" if rows[0][0].shape[1] == 1 else "pixels"
        return cls(_uri("png", png(canvas(rows, after))), alt, caption, kind=kind)


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
        "noise",
        "Codes in training",
        "Of each code the noise of q(z|x), the spread of its means, and the most it can carry, "
        "½ log(1 + (spread / noise)²): a code at 0 says nothing of the data.",
        wide=True,
    ),
    Section(
        "reconstructions",
        "Reconstructions",
        "Data and the mean of p(x|z) at their posterior means, a draw of it where it has none; an "
        "image has its own below it.",
    ),
    Section(
        "samples",
        "Samples",
        "The model at draws of z from the prior: means of p(x|z), and draws of it where data are "
        "a table or it has no mean.",
    ),
    Section(
        "rows",
        "Rows",
        "Rows as a heat map, each column centred and scaled as in the data, in order of the "
        "data's first principal axis: what the reconstruction loses is flat.",
        wide=True,
    ),
    Section(
        "columns",
        "Columns",
        "Each point is a column: its mean and standard deviation in draws of the model against "
        "those in the data. On the line where the model has it right.",
    ),
    Section(
        "counts",
        "Counts",
        "Variance and share of zeros against the mean of each column of counts: draws of the "
        "model should lie where the data do.",
    ),
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
    Section(
        "moved",
        "What each code moves",
        "The change of the decoder's mean as one code goes from −2 to 2 standard deviations of "
        "the aggregate posterior, the rest held, averaged over data.",
        wide=True,
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
    shown = Shown(experiment, seed)
    found = {"noise": _noise(run)}
    for key, make in _DRAWN.items():
        try:
            found[key] = make(shown)
        except (ValueError, NotImplementedError) as error:
            text = (str(error).splitlines() or [type(error).__name__])[0][:300]
            found[key] = Picture(missing=text, apt=not isinstance(error, Inapplicable))
    for key, alt in _STORED.items():
        path = run.path / f"{key}.svg"
        if files.present(path):
            found[key] = Picture.stored(_drawing(path), alt)
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


def _noise(run: Run) -> Picture:
    figure = plots.noise_and_spread(run.history)
    if figure is None:
        return Picture(missing="the log holds nothing of codes")
    return Picture.of(figure, "noise and spread of each code against epochs")


def _reconstructions(s: Shown) -> Picture:
    if not s.image:
        alt = "data and their reconstructions" + ", a panel to a column" * s.wide
        return Picture.of(of_run.reconstructions(s), alt)
    count = 10
    blocks: list[list[Tensor]] = []
    for start in range(0, min(len(s.x), 4 * count), count):
        line = slice(start, start + count)
        if start and len(s.x[line]) < count:
            break
        blocks += [[s.x[line]], [s.decode(line)]]
    return Picture.tiled(blocks, "rows of data, each above its reconstruction", after=2)


def _samples(s: Shown) -> Picture:
    if not s.image:
        alt = "data and samples of the model" + ", a panel to a column" * s.wide
        return Picture.of(of_run.samples(s), alt)
    drawn = s.draw(80, mean=True)
    return Picture.tiled([[block] for block in drawn.split(10)], "samples of the model in a grid")


def _interpolations(s: Shown) -> Picture:
    if s.wide:
        raise Inapplicable("of rows with many columns a way between two says little")
    s.check_real()
    ends = [(a, b) for a, b in _pairs(s) if b < len(s.x)][:6]
    if not ends:
        raise ValueError("two data are needed to go from one to the other")
    at = torch.linspace(0, 1, 9, device=s.x.device)[:, None]
    paths = [s.between(a, b, at) for a, b in ends]
    alt = "ways between two data, one to a row"
    if not s.image:
        named = {f"{a} to {b}": path for (a, b), path in zip(ends, paths, strict=True)}
        return Picture.of(plots.paths(named, legend=False), alt)
    tiles = [
        [s.x[a : a + 1], path, s.x[b : b + 1]] for (a, b), path in zip(ends, paths, strict=True)
    ]
    return Picture.tiled(tiles, alt)


def _pairs(s: Shown) -> Iterator[tuple[int, int]]:
    """Neighbouring rows of different classes, where classes are known."""
    k = 0
    while k + 1 < len(s.x):
        if s.labels is None or s.labels[k] != s.labels[k + 1]:
            yield k, k + 1
            k += 1
        k += 1


def _traversals(s: Shown) -> Picture:
    if s.wide:
        raise Inapplicable("of rows with many columns, what each code moves is shown instead")
    s.check_real()
    at = torch.linspace(-3, 3, 11, device=s.x.device)
    first = [0] * len(at)
    paths = {
        name: s.varying(j, first, s.middle[j] + at * s.width[j])
        for j, name in s.active(10).items()
    }
    alt = "the decoder's mean along single latent dimensions"
    if not s.image:
        return Picture.of(plots.paths(paths), alt)
    caption = "Top to bottom, the most active first: " + ", ".join(paths)
    return Picture.tiled([[path] for path in paths.values()], alt, caption)


def _codes(s: Shown) -> Picture:
    alt = "posterior means as points" + ", by class" * (s.labels is not None)
    return Picture.of(of_run.codes(s), alt)


def _moved(s: Shown) -> Picture:
    return Picture.of(of_run.moved(s), "change of each column with each code")


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_DRAWN: dict[str, Callable[[Shown], Picture]] = {
    "reconstructions": _reconstructions,
    "samples": _samples,
    "rows": lambda s: Picture.of(of_run.rows(s), "rows of data and of the model as heat maps"),
    "columns": lambda s: Picture.of(of_run.columns(s), "columns of draws against those of data"),
    "counts": lambda s: Picture.of(of_run.counts(s), "variance and zeros against means"),
    "interpolations": _interpolations,
    "traversals": _traversals,
    "moved": _moved,
    "codes": _codes,
}
_STORED = {
    "khat": "Pareto k-hat of the data in ascending order",
    "coverage": "observed against nominal coverage",
    "sbc": "rank histograms, and differences of their distribution from uniform",
}
