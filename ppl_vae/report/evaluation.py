"""A run evaluated: its metrics, its pictures and what they say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppl_vae import files
from ppl_vae.evaluation.metric import Effort, Subject, When
from ppl_vae.evaluation.registry import Measured, asked, due, measure
from ppl_vae.experiment import Experiment
from ppl_vae.loading import load
from ppl_vae.report import results
from ppl_vae.report.findings import findings
from ppl_vae.report.pictures import draw_diagnostics, draw_pictures
from ppl_vae.training.run import PICTURES, Run

__all__ = ["evaluate", "evaluate_run", "measured", "subject_of", "tell"]


def evaluate(
    run: str,
    metrics: str = "",
    samples: int = 1000,
    rows: int = 1000,
    simulations: int = 1000,
    quick: bool = False,
    arviz: str = "",
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    data: Sequence[tuple[str, str]] = (),
) -> None:
    """Evaluates a run: writes summary.json and the pictures, and prints metrics and findings.

    The time goes with samples x rows, the runs of the decoder: some ten seconds for the digits.

    Args:
        run: the run's folder.
        metrics: names of metrics or of groups of them (fit, information, match, labels, samples,
            factors, posterior) with commas between them, or all. Without it all that apply and do
            not take long, as a group stands for; what summary.json says of the others stays.
        samples: draws of z for each datum in importance sampling.
        rows: held-out data that importance sampling, k-hat, information and calibration take at
            most; the other metrics take all.
        simulations: data to simulate for the calibration.
        quick: at most 100 samples, 200 rows and 200 simulations.
        arviz: a file ending in .nc to write the draws to for ArviZ, of so many rows.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in its configuration.
        data: settings of the data, as dotted names with values.
    """
    folder = Run(run)
    effort = Effort(samples, rows, simulations, seed)
    effort = effort.quick() if quick else effort
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    asked(names)
    file = _netcdf(arviz)
    experiment = load(folder, trust, device, data)
    evaluate_run(folder, experiment, effort, names)
    if file is not None:
        _write_arviz(experiment, effort, file)
    print("\n".join(tell(folder, experiment)))


def evaluate_run(
    run: Run,
    experiment: Experiment,
    effort: Effort | None = None,
    names: Sequence[str] = (),
    when: Sequence[When] = ("fit", "evaluate"),
) -> dict[str, Any]:
    """Computes metrics of a run into its `summary.json`, and draws its pictures, unless some
    metrics alone are asked for and pictures are there.

    Args:
        run: the folder.
        experiment: the trained experiment it is of.
        effort: how much to compute.
        names: of metrics and groups; all that are computed unasked by default.
        when: those of these occasions, where none are asked for by name.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: where nothing of what is asked for applies, or if `summary.json` is not one of
            ours, which is said before anything is computed.
    """
    results.check(run)
    found = measured(experiment, effort, names, when)
    written = results.save(run, found)
    if not names or not all((run.path / name).is_file() for name in PICTURES):
        draw_pictures(run, experiment, found.subject)
    draw_diagnostics(run, found.subject)
    return written


def measured(
    experiment: Experiment,
    effort: Effort | None = None,
    names: Sequence[str] = (),
    when: Sequence[When] = ("fit", "evaluate"),
) -> Measured:
    """Metrics of an experiment, over its held-out rows, or all if it has none; see
    `evaluate_run`."""
    chosen = asked(names) if names else due(*when)
    return measure(subject_of(experiment, effort), chosen, names)


def subject_of(experiment: Experiment, effort: Effort | None = None) -> Subject:
    """What metrics of an experiment are computed of."""
    pair = experiment.pair
    return Subject(pair.model, pair.guide, experiment.data, effort)


def tell(run: Run, experiment: Experiment) -> list[str]:
    """What the evaluations of a run found, in numbers and in words, a line each."""
    found = results.read(run)
    told = [str(finding) for finding in findings(found, run.history, experiment)]
    return [*results.lines(found), *([""] * bool(told)), *told, str(run.path)]


def _netcdf(name: str) -> Path | None:
    if not name:
        return None
    path = Path(name)
    if path.suffix != ".nc":
        raise ValueError(f"arviz is {name!r}: its name must end in .nc")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"arviz is {name!r}: there is no folder {str(path.parent)!r}")
    return path


def _write_arviz(experiment: Experiment, effort: Effort, path: Path) -> None:
    from ppl_vae.diagnostics import to_arviz

    subject = subject_of(experiment, effort)
    found = to_arviz(*subject.pair, subject.few, seed=effort.seed)
    with files.written(path) as draft:
        found.to_netcdf(str(draft))
