"""What a run looks like: the figures that its folder and the report share."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import files, plots
from ppl_vae.diagnostics.calibration import calibration_of
from ppl_vae.diagnostics.importance import khats_of
from ppl_vae.evaluation.codes import codes_of
from ppl_vae.evaluation.metric import Inapplicable, Subject
from ppl_vae.evaluation.samples import drawn_as
from ppl_vae.experiment import Experiment
from ppl_vae.plots.output import svg
from ppl_vae.priors import StandardNormal
from ppl_vae.report.shown import Shown
from ppl_vae.training.history import KINDS
from ppl_vae.training.run import Run

__all__ = [
    "codes",
    "columns",
    "counts",
    "curves",
    "draw_diagnostics",
    "draw_pictures",
    "moved",
    "reconstructions",
    "rows",
    "samples",
]

SOME = 500
"""Rows of a table that pictures show."""


def curves(runs: Mapping[str, Run]) -> Figure:
    """The loss and its terms of some runs by name."""
    kinds = [kind for kind in KINDS if kind != "target"]  # which stand with what they are of
    return plots.curves({name: run.history for name, run in runs.items()}, kinds)


def codes(s: Shown) -> Figure:
    """Posterior means in the plane, and where a standard normal prior lies."""
    standard = isinstance(s.pair.prior, StandardNormal) and len(s.codes.slices) == 1
    radius = standard and s.codes.mean.shape[1] <= 2
    known = None if s.labels is None else s.labels[:4000]
    return plots.latent(s.codes.mean[:4000], known, s.data.classes, radius)


def reconstructions(s: Shown) -> Figure:
    """Rows and the decoder's mean at their posterior means."""
    few = slice(40 if s.image else SOME)
    x, mean = s.x[few], s.decode(few)
    if not s.wide and s.data.layout is None:
        return plots.reconstructions(x, mean)
    return plots.columns(s.table(x), s.table(mean), s.classes, paired=True)


def samples(s: Shown) -> Figure:
    """Samples of the model; of a table draws of p(x | z), as the data are."""
    table = s.wide or s.data.layout is not None
    draws = s.draw(64 if s.image else min(SOME, len(s.x)), mean=not table)
    if not table:
        return plots.samples(draws, s.x[:SOME])
    return plots.columns(s.table(s.x[:SOME]), s.table(draws), s.classes)


def rows(s: Shown) -> Figure:
    """Rows as a heat map, with their reconstructions and draws of the model."""
    s.check_wide()
    few = slice(200)
    parts = [s.numbers(part) for part in (s.x[few], s.decode(few), _drawn(s)[few])]
    return plots.heat_map(parts[0], parts[1], s.names, parts[2])


def columns(s: Shown) -> Figure:
    """Means and standard deviations of all columns, draws against data."""
    s.check_wide()
    return plots.against_columns(s.numbers(s.x), s.numbers(_drawn(s)))


def counts(s: Shown) -> Figure:
    """Variance and share of zeros of the columns that are counts."""
    s.check_wide()
    data = s.numbers(s.x)
    whole = np.where(np.isnan(data), 0, data)
    are = (whole == whole.round()).all(0) & (whole >= 0).all(0) & (whole.max(0) > 1)
    if s.data.layout is not None:
        kinds = [column.kind for column in s.data.layout.x for _ in column.names]
        are &= np.array(kinds) == "count"
    if not are.any():
        raise Inapplicable("no column holds counts")
    return plots.counts(data[:, are], s.numbers(_drawn(s))[:, are])


def moved(s: Shown) -> Figure:
    """Which columns each code moves, on average over a hundred rows, twenty codes at most."""
    s.check_wide()
    s.check_real()
    named, few = s.active(20), list(range(min(100, len(s.x))))
    sd = np.nanstd(s.numbers(s.x), 0)
    effects = []
    for j in named:
        low, high = (
            s.numbers(s.varying(j, few, s.middle[j] + step * s.width[j])) for step in (-2, 2)
        )
        effects.append(np.nanmean(high - low, 0) / np.where(sd > 0, sd, 1))
    return plots.moved(np.stack(effects), [*named.values()], s.names)


def _drawn(s: Shown) -> Tensor:
    """As many draws of the model as rows are looked at."""
    return s.draw(len(s.x), mean=False)


def draw_pictures(run: Run, experiment: Experiment, subject: Subject) -> None:
    """Draws into a run's folder how it trained, its codes, its reconstructions and samples."""
    s = Shown(experiment, subject.effort.seed, subject.once(codes_of))
    sampled = drawn_as(*s.programs, s.args) if not s.wide else "Data, and draws of the model"
    figures: dict[str, tuple[str, Callable[[Shown], Figure | None]]] = {
        "curves.png": ("Training", lambda s: curves({"": run})),
        "latent.png": (f"Posterior means, d = {s.codes.mean.shape[1]}", codes),
        "reconstructions.png": ("Held-out data and their reconstructions", reconstructions),
        "samples.png": (sampled, samples),
        "noise.png": ("Codes in training", lambda s: plots.noise_and_spread(run.history)),
        "rows.png": ("Rows, column by column", rows),
        "columns.png": ("Columns, data and draws of the model", columns),
        "counts.png": ("Counts", counts),
        "moved.png": ("Which columns each code moves", moved),
    }
    for name, (title, draw) in figures.items():
        try:
            figure = draw(s)
        except (Inapplicable, NotImplementedError):
            continue
        if figure is not None:
            plots.save(figure, run.path / name, title)


def draw_diagnostics(run: Run, subject: Subject) -> None:
    """Draws k-hat and calibration into a run's folder, as far as they were computed."""
    drawn = {}
    if khats := subject.made(khats_of):
        drawn["khat"] = plots.plot_pareto_k(khats)
    if calibration := subject.made(calibration_of):
        drawn["sbc"] = plots.plot_sbc(calibration, components=4)
        drawn["coverage"] = plots.plot_coverage(calibration.coverage())
    for name, figure in drawn.items():
        files.write_text(run.path / f"{name}.svg", svg(figure))
