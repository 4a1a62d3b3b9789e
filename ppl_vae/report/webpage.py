"""`report.html`: several runs side by side on one page that opens from disk."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ppl_vae import files
from ppl_vae.comparison import check_apart
from ppl_vae.experiment import Experiment
from ppl_vae.loading import load
from ppl_vae.plots.palette import CYCLE
from ppl_vae.report import page, results
from ppl_vae.report.evaluation import evaluate_run
from ppl_vae.report.exhibits import SECTIONS, Picture, pictures
from ppl_vae.report.findings import Finding, findings
from ppl_vae.report.metric_table import left_out, table
from ppl_vae.report.pictures import curves
from ppl_vae.training.run import SUMMARY, Run

__all__ = ["render", "report"]


def report(
    runs: Sequence[str],
    out: str = "report.html",
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    data: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes one HTML page that shows runs side by side, and opens from disk.

    A run that has not been evaluated yet is evaluated first.

    Args:
        runs: the folders of the runs.
        out: the file to write, ending in .html; one that is there is replaced.
        seed: of the samples that are drawn.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the runs' configurations.
        data: settings to put over the runs' own data, as dotted names with values.
    """
    path = Path(out)
    if path.suffix != ".html":
        raise ValueError(f"out is {str(path)!r}: its name must end in .html")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out is {str(path)!r}: there is no folder {str(path.parent)!r}")
    folders = [Run(name) for name in runs]
    check_apart([str(folder.path) for folder in folders])
    loaded = [(folder, load(folder, trust, device, data)) for folder in folders]
    for folder in folders:
        _ = folder.history  # a log that is damaged is refused before anything is computed
    for folder, experiment in loaded:
        if not _is_evaluated(folder):
            print(f"{folder.path}: evaluating, which was not done yet")
            evaluate_run(folder, experiment)
    files.write_text(path, render(loaded, seed))
    print(path)


def render(runs: Sequence[tuple[Run, Experiment]], seed: int = 0) -> str:
    """The report of some runs, as the text of an HTML file.

    The file holds everything it shows and loads nothing. Each cell of the metric table carries
    the numbers of `summary.json` as `data-value`, `data-standard-error` and `data-data-error`.

    Args:
        runs: evaluated runs with their trained experiments.
        seed: of the samples that are drawn.

    Raises:
        ValueError: for no run, or one that is given twice.
        FileNotFoundError: for a run without `summary.json`.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    check_apart([str(run.path) for run, _ in runs])
    names = _names([run.path for run, _ in runs])
    found = [results.read(run) for run, _ in runs]
    drawn = [pictures(run, experiment, seed) for run, experiment in runs]
    cards = [
        _Card(
            name,
            CYCLE[k % len(CYCLE)],
            _facts(run, experiment),
            findings(found[k], run.history, experiment),
        )
        for k, (name, (run, experiment)) in enumerate(zip(names, runs, strict=True))
    ]
    blocks = [_curves(cards, [run for run, _ in runs])]
    for section in SECTIONS:
        each = [
            _reasoned(p[section.key], f["skipped"].get(_METRIC.get(section.key, section.key)))
            for p, f in zip(drawn, found, strict=True)
        ]
        if any(picture.apt for picture in each):
            blocks.append(_Block(*section, [*zip(cards, each, strict=True)]))
    tops = (("runs", "Runs"), ("findings", "Findings"), ("metrics", "Metrics"))
    return page.fill(
        runs=cards,
        title=" · ".join(names) if len(names) < 4 else f"{len(names)} runs",
        lede=_lede(runs),
        links=[*tops, *((block.key, block.title) for block in blocks)],
        groups=table([{**f, "metrics": results.folded(f["metrics"])} for f in found]),
        left_out=left_out(names, found),
        sections=blocks,
    )


class _Fact(NamedTuple):
    term: str
    text: str
    code: bool = False


class _Card(NamedTuple):
    """What is said of a run, in its colour."""

    name: str
    colour: str
    facts: Sequence[_Fact]
    findings: Sequence[Finding]


class _Block(NamedTuple):
    """A section with its pictures, each of one run or of all."""

    key: str
    title: str
    text: str
    wide: bool
    figures: Sequence[tuple[_Card | None, Picture]]


# The metrics without which there is no picture.
_METRIC = {"khat": "khat_median"}


def _is_evaluated(run: Run) -> bool:
    """Whether more is known than what follows a training."""
    return files.present(run.path / SUMMARY) and "elbo" in results.read(run)["metrics"]


def _reasoned(picture: Picture, reason: str | None) -> Picture:
    """Why the evaluation left a picture out, instead of that the file is not there."""
    return Picture(missing=reason) if picture.missing and reason else picture


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names


def _lede(runs: Sequence[tuple[Run, Experiment]]) -> str:
    data = list(dict.fromkeys(experiment.data.name for _, experiment in runs))
    number = "One run" if len(runs) == 1 else f"{len(runs)} runs side by side"
    return f"{number} on {', '.join(data)}."


def _facts(run: Run, experiment: Experiment) -> list[_Fact]:
    config, data = run.config, experiment.data
    held = "none" if data.test is None else f"{len(data.test):,}"
    size = "×".join(map(str, data.size))
    parts = ("objective", "prior", "likelihood", "encoder", "optimizer")
    return [
        _Fact("Data", f"{data.name}: {len(data):,} rows of {size}, held out {held}"),
        *(_Fact(n.capitalize(), _part(config.get(n), experiment, n), True) for n in parts),
        _Fact("Code", f"d = {', '.join(map(str, experiment.pair.codes.values()))}"),
        _Fact(
            "Trained",
            f"{len(run.history)} epochs, batches of {config.get('batch_size')}, "
            f"seed {config.get('seed')}",
        ),
    ]


def _part(setting: Any, experiment: Experiment, name: str) -> str:
    """A part as it was declared, or by its class where nothing was said of it."""
    if setting is not None:
        return described(setting, name == "objective")
    made = getattr(experiment.pair, name, None) or getattr(experiment, name, None)
    return "-" if made is None else type(made).__name__


def described(value: Any, numbers: bool = False) -> str:
    """A part of a configuration as an expression, settings that stand at their defaults left out.

    Args:
        value: the part.
        numbers: keep the numbers that the class itself names.

    Example:
        >>> described({"class_path": "ppl_vae.objectives.BetaVAE", "init_args": {"beta": 2.0}})
        'BetaVAE(beta=2)'
    """
    if isinstance(value, Mapping):
        if "class_path" not in value:
            return ", ".join(f"{k}={described(v)}" for k, v in value.items() if v is not None)
        path, settings = str(value["class_path"]), value.get("init_args") or {}
        usual, own = _defaults(path)
        inner = []
        for k, v in settings.items():
            text = described(v)
            kept = numbers and k in own and type(v) in (int, float)
            if v is not None and (kept or text != usual.get(k)):
                inner.append(f"{k}={text}")
        name = path.rpartition(".")[2]
        return f"{name}({', '.join(inner)})" if inner else name
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(described, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _defaults(path: str) -> tuple[dict[str, str], set[str]]:
    """Defaults of a class as expressions, and the settings that it does not inherit.

    The class has been imported with the experiment, if it may be; nothing is imported here.
    """
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    if not inspect.isclass(cls):
        return {}, set()
    usual: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        if "__init__" in vars(base):
            for k, p in inspect.signature(vars(base)["__init__"]).parameters.items():
                default = p.default
                usual[k] = default.__name__ if inspect.isclass(default) else described(default)
    return usual, set(inspect.signature(cls).parameters)


def _curves(cards: Sequence[_Card], runs: Sequence[Run]) -> _Block:
    text = (
        "Solid: held-out data; dotted: training batches; dashed: the target of a constraint. "
        "Losses and divergences of different objectives are not in one unit; reconstruction and "
        "rate are."
    )
    one = len(cards) == 1
    kept = {c.name: run for c, run in zip(cards, runs, strict=True) if len(run.history)}
    if kept:
        figure = curves({"": next(iter(kept.values()))} if one else kept)
        picture = Picture.of(figure, "loss and its terms against epochs")
    else:
        picture = Picture(missing="no epoch has been recorded")
    return _Block("curves", "Training", text, True, [(cards[0] if one else None, picture)])
