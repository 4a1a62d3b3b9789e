"""The pictures in a run's folder."""

from torch import Tensor

from ppl_vae import files, plots
from ppl_vae.data.dataset import Dataset
from ppl_vae.diagnostics.calibration import calibration_of
from ppl_vae.diagnostics.importance import khats_of
from ppl_vae.evaluation.codes import codes_of
from ppl_vae.evaluation.metric import Subject
from ppl_vae.evaluation.programs import seeded
from ppl_vae.evaluation.samples import draw, drawn_as
from ppl_vae.experiment import Experiment
from ppl_vae.plots import charts
from ppl_vae.priors import StandardNormal
from ppl_vae.training.run import Run
from ppl_vae.using.decoding import decode, latents

__all__ = ["draw_diagnostics", "draw_pictures"]


def draw_pictures(run: Run, experiment: Experiment, subject: Subject) -> None:
    """Draws curves, codes, reconstructions and samples into a run's folder."""
    args, codes, folder = subject.args, subject.once(codes_of), run.path
    data, labels = subject.data, subject.data.labels(subject.data.held_out)
    plots.curves(run.history, folder / "curves.png")
    standard = isinstance(experiment.pair.prior, StandardNormal) and len(codes.slices) == 1
    plots.latent(codes.mean, labels, folder / "latent.png", data.classes, radius=standard)
    x = subject.x
    shown = slice(40) if plots.is_image(x) else slice(1000)
    few = tuple(part[shown] for part in args)
    with seeded(subject.effort.seed):
        mean = decode(*subject.pair, few, latents(*subject.pair, few, codes))
        count = 64 if plots.is_image(x) else len(x[shown])
        draws = draw(*subject.pair, args, count, mean=data.layout is None)
    if data.layout is not None:
        _draw_columns(run, data, x[shown], mean, draws)
        return
    plots.reconstructions(x[shown], mean, folder / "reconstructions.png")
    title = drawn_as(*subject.pair, args)
    plots.samples(draws, folder / "samples.png", x[shown], title=title)


def _draw_columns(run: Run, data: Dataset, x: Tensor, mean: Tensor, draws: Tensor) -> None:
    """Draws the reconstructions and samples of a table, column by column."""
    layout = data.layout
    assert layout is not None
    seen, made, drawn = (layout.columns(data.transform.undo(part)) for part in (x, mean, draws))
    pictures = (
        (made, "reconstructions.png", True, "Held-out data and their reconstructions"),
        (drawn, "samples.png", False, "Data, and draws of p(x | z) at draws of z from the prior"),
    )
    for model, name, paired, title in pictures:
        plots.columns(seen, model, run.path / name, layout.classes, paired, title)


def draw_diagnostics(run: Run, subject: Subject) -> None:
    """Draws k-hat and calibration into a run's folder, as far as they were computed."""
    drawn = {}
    if khats := subject.made(khats_of):
        drawn["khat"] = charts.khat(khats)
    if calibration := subject.made(calibration_of):
        drawn["sbc"] = charts.ranks(calibration)
        drawn["coverage"] = charts.coverage(calibration.coverage())
    for name, text in drawn.items():
        files.write_text(run.path / f"{name}.svg", text)
