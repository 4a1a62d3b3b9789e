"""Every metric of `ppl_vae.evaluation` and the diagnostics that applies to a run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import pyro

from ppl_vae.diagnostics import Calibration, ParetoK
from ppl_vae.evaluation import Estimate
from ppl_vae.experiment import Experiment, load
from ppl_vae.plots import charts
from ppl_vae.report.catalogue import about
from ppl_vae.report.metric_groups import COSTLY, GROUPS, Effort, Subject
from ppl_vae.report.summary import evaluate as draw_pictures
from ppl_vae.training.run import DIAGNOSTICS, EVALUATION, Run

__all__ = ["GROUPS", "Effort", "Measured", "evaluate", "measure", "read", "save"]


@dataclass
class Measured:
    """What `measure` found.

    Attributes:
        metrics: the estimates by name, in the order of `GROUPS`.
        skipped: why a group of metrics has none, by the group's name.
        effort: what they were computed with.
        held_out: whether on held-out rows.
        khat: behind the k-hat metrics, if they were computed.
        calibration: behind the calibration metrics, likewise.
    """

    metrics: dict[str, Estimate]
    skipped: dict[str, str]
    effort: Effort
    held_out: bool
    khat: ParetoK | None = None
    calibration: Calibration | None = None
    groups: dict[str, str] = field(default_factory=dict)


def evaluate(
    run: str,
    only: str = "",
    samples: int = 1000,
    rows: int = 1000,
    simulations: int = 1000,
    quick: bool = False,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    data: Sequence[tuple[str, str]] = (),
) -> None:
    """Evaluates a run: writes metrics.json, summary.json and the pictures, and prints the metrics.

    `--data` and its settings (`--data.root`) may be given as for fit, for data that have moved or
    for another data set of the same shape.

    The time goes with samples x rows, the runs of the decoder: some ten seconds for the digits.

    Args:
        run: the run's folder.
        only: groups of metrics with commas between them: terms, likelihood, annealed,
            information, surgery, codes, mmd, probes, classifier, reconstruction, columns,
            sharpness, classes, khat, calibration. All but annealed and classes, which take long,
            if none is named; what metrics.json says of the others stays.
        samples: draws of z for each datum in importance sampling.
        rows: held-out data that importance sampling, k-hat, information and calibration take at
            most; the other metrics take all.
        simulations: data to simulate for the calibration.
        quick: at most 100 samples, 200 rows and 200 simulations.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in its configuration.
        data: settings of the data, as dotted names with values.
    """
    folder = Run(run)
    effort = Effort(samples, rows, simulations, seed)
    groups = [name.strip() for name in only.split(",") if name.strip()]
    experiment = load(folder, trust, device, data)
    measured = measure(experiment, effort.quick() if quick else effort, groups)
    draw_pictures(folder, experiment, seed)
    save(folder, measured)
    for name, estimate in measured.metrics.items():
        known = isfinite(estimate.value)
        shown = f"{estimate!s:24} {about(name).unit}" if known else estimate.note or "infinite"
        print(f"{name:28} {shown}".rstrip())
        if known and estimate.flag:
            print(f"{'':28} {estimate.flag}: {estimate.note}")
    for group, reason in measured.skipped.items():
        print(f"no {group}: {reason}")
    print(folder.path)


def measure(
    experiment: Experiment, effort: Effort | None = None, only: Sequence[str] = ()
) -> Measured:
    """Computes the metrics of a trained experiment over its held-out rows, or all if it has none.

    Every group starts from the same seed, so that its values do not depend on what else is asked.
    Those that `summary.json` has too are the same there.

    Args:
        experiment: a trained one.
        effort: how much to compute.
        only: groups of metrics, of `GROUPS`; by default all that apply and are not costly.

    Raises:
        ValueError: for a group that does not exist, or one that was asked for by name and does
            not apply, as a probe on data without labels.
    """
    unknown = sorted(set(only) - set(GROUPS))
    if unknown:
        raise ValueError(f"there are no metrics {unknown[0]!r}: take {', '.join(GROUPS)}")
    subject = Subject(experiment, effort or Effort())
    found = Measured({}, {}, subject.effort, experiment.data.test is not None)
    for group, compute in GROUPS.items():
        if (only and group not in only) or (not only and group in COSTLY):
            continue
        pyro.set_rng_seed(subject.effort.seed)
        try:
            estimates = compute(subject)
        except (ValueError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if only:
                raise ValueError(f"{group}: {reason}") from error
            found.skipped[group] = reason
            continue
        if only and not estimates:
            raise ValueError(f"{group}: {type(experiment.pair).__name__} has none of these")
        found.metrics |= estimates
        found.groups |= dict.fromkeys(estimates, group)
    found.khat, found.calibration = subject.khat, subject.calibration
    return found


def save(run: Run, measured: Measured) -> dict[str, Any]:
    """Writes a run's `metrics.json` and the pictures of its diagnostics.

    Groups that were not computed this time keep what the file says of them. A number that is not
    finite becomes null, and its note says why.

    Args:
        run: the folder.
        measured: of its experiment.

    Returns:
        What the file holds.
    """
    computed = {*measured.groups.values(), *measured.skipped}
    old = read(run) if (run.path / EVALUATION).is_file() else {}
    kept = {k: v for k, v in old.get("metrics", {}).items() if v["group"] not in computed}
    metrics = kept | {k: _entry(k, v, measured.groups[k]) for k, v in measured.metrics.items()}
    reasons = {k: v for k, v in old.get("skipped", {}).items() if k not in computed}
    settings = asdict(measured.effort) | {"held_out": measured.held_out}
    found = {
        "metrics": metrics,
        "skipped": reasons | measured.skipped,
        "settings": old.get("settings", {}) | dict.fromkeys(sorted(computed), settings),
    }
    draft = run.path / f".{EVALUATION}.new"
    draft.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(run.path / EVALUATION)
    drawn: list[str | None] = [None, None, None]
    if measured.khat is not None:
        drawn[0] = charts.khat(measured.khat)
    if measured.calibration is not None:
        covered = measured.calibration.coverage()
        drawn[1:] = charts.ranks(measured.calibration), charts.coverage(covered)
    for name, text in zip(DIAGNOSTICS, drawn, strict=True):
        if text is not None:
            (run.path / name).write_text(text, encoding="utf-8")
    return found


def read(run: Run) -> dict[str, Any]:
    """What a run's `metrics.json` holds.

    Raises:
        FileNotFoundError: if the run has none.
        ValueError: if the file is not one of ours.
    """
    path = run.path / EVALUATION
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(run.path)!r} has no {EVALUATION}: run ppl-vae evaluate {run.path} first"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(e["group"], str) for e in found["metrics"].values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: remove it and evaluate the run again") from error
    return found


def _entry(name: str, estimate: Estimate, group: str) -> dict[str, Any]:
    entry: dict[str, Any] = dict(estimate.as_dict())
    return entry | {"unit": about(name).unit, "group": group}
