"""`report.html`: several runs side by side on one page that opens from disk."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ppl_vae import __version__, files
from ppl_vae.experiment import Experiment, load
from ppl_vae.plots import charts
from ppl_vae.plots.diagnostics import CYCLE
from ppl_vae.report import page, results
from ppl_vae.report.evaluation import evaluate_run
from ppl_vae.report.exhibits import SECTIONS, Picture, pictures
from ppl_vae.report.findings import Finding, findings
from ppl_vae.report.metric_table import named, table
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
    _once(folders)
    loaded = [(folder, load(folder, trust, device, data)) for folder in folders]
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
    _once([run for run, _ in runs])
    names = _names([run.path for run, _ in runs])
    found = [results.read(run) for run, _ in runs]
    drawn = [pictures(run, experiment, seed) for run, experiment in runs]
    blocks = [
        ("runs", "Runs", _cards(names, runs)),
        ("findings", "Findings", _findings(names, runs, found)),
        ("metrics", "Metrics", table(names, found)),
        ("curves", "Training", _curves(names, [run for run, _ in runs])),
    ]
    for key, title, text, wide in SECTIONS:
        each = [
            _reasoned(p[key], f["skipped"].get(_METRIC.get(key, key)))
            for p, f in zip(drawn, found, strict=True)
        ]
        figures = "\n".join(
            _figure(picture, named(k, name), f"{title} of {name}")
            for k, (name, picture) in enumerate(zip(names, each, strict=True))
        )
        body = f'<div class="columns{" wide" * wide}">\n{figures}\n</div>'
        blocks.append((key, title, f'<p class="text">{escape(text)}</p>\n{body}'))
    return page.fill(
        runs=len(runs),
        title=escape(" · ".join(names) if len(names) < 4 else f"{len(names)} runs"),
        lede=escape(_lede(runs)),
        links="\n".join(
            f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in blocks
        ),
        sections="\n".join(
            f'<section id="{key}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'
            for key, title, body in blocks
        ),
        version=escape(__version__),
    )


# The metrics without which there is no picture.
_METRIC = {"khat": "khat_median"}


def _is_evaluated(run: Run) -> bool:
    """Whether more is known than what follows a training."""
    return files.present(run.path / SUMMARY) and "elbo" in results.read(run)["metrics"]


def _findings(
    names: Sequence[str],
    runs: Sequence[tuple[Run, Experiment]],
    found: Sequence[Mapping[str, Any]],
) -> str:
    cards = []
    for k, (name, (run, experiment)) in enumerate(zip(names, runs, strict=True)):
        told = findings(found[k], run.history, experiment)
        items = "\n".join(map(_told, told)) or "<li>Nothing could be told.</li>"
        cards.append(
            f'<article class="card" style="--run:{CYCLE[k % len(CYCLE)]}">\n'
            f'<h3>{escape(name)}</h3>\n<ul class="findings">\n{items}\n</ul>\n</article>'
        )
    return '<div class="columns">\n' + "\n".join(cards) + "\n</div>"


def _told(finding: Finding) -> str:
    text = finding.text.replace("+-", "±")
    advice = f' <span class="advice">{escape(finding.advice)}</span>' if finding.advice else ""
    return (
        f'<li class="{finding.level}"><a href="#{finding.section}">'
        f"{escape(finding.topic)}</a> {escape(text)}{advice}</li>"
    )


def _once(runs: Sequence[Run]) -> None:
    paths = [run.path.resolve() for run in runs]
    twice = [str(run.path) for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice: name each run once")


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


def _cards(names: Sequence[str], runs: Sequence[tuple[Run, Experiment]]) -> str:
    cards = []
    for k, (name, (run, experiment)) in enumerate(zip(names, runs, strict=True)):
        config, data, history = run.config, experiment.data, run.history
        held = "none" if data.test is None else f"{len(data.test):,}"
        size = "×".join(map(str, data.size))
        facts = [
            ("Data", f"{data.name}: {len(data):,} rows of {size}, held out {held}", False),
            *(
                (name.capitalize(), _part(config.get(name), experiment, name), True)
                for name in ("objective", "prior", "likelihood", "encoder", "optimizer")
            ),
            ("Code", f"d = {', '.join(map(str, experiment.pair.codes.values()))}", False),
            ("Trained", f"{len(history)} epochs, batches of {config.get('batch_size')}, "
             f"seed {config.get('seed')}", False),
        ]  # fmt: skip
        rows = "".join(
            f"<dt>{escape(term)}</dt><dd>{_coded(text) if code else escape(text)}</dd>\n"
            for term, text, code in facts
        )
        cards.append(
            f'<article class="card" style="--run:{CYCLE[k % len(CYCLE)]}">\n'
            f"<h3>{escape(name)}</h3>\n<dl>\n{rows}</dl>\n</article>"
        )
    return '<div class="columns">\n' + "\n".join(cards) + "\n</div>"


def _part(setting: Any, experiment: Experiment, name: str) -> str:
    """A part as it was declared, or by its class where nothing was said of it."""
    if setting is not None:
        return described(setting, name == "objective")
    made = getattr(experiment.pair, name, None) or getattr(experiment, name, None)
    return "-" if made is None else type(made).__name__


def _coded(text: str) -> str:
    return f"<code>{escape(text)}</code>"


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


def _curves(names: Sequence[str], runs: Sequence[Run]) -> str:
    histories = {name: run.history for name, run in zip(names, runs, strict=True)}
    text = (
        "Solid: held-out data; dotted: training batches. Losses and divergences of different "
        "objectives are not in one unit; reconstruction and rate are."
    )
    kept = {name: history for name, history in histories.items() if len(history)}
    if kept:
        picture = Picture.of(charts.curves(kept), "loss and its terms against epochs")
    else:
        picture = Picture(missing="no epoch has been recorded")
    figure = _figure(picture, "All runs" if len(names) > 1 else named(0, names[0]), "Training")
    return f'<p class="text">{escape(text)}</p>\n<div class="columns wide">\n{figure}\n</div>'


def _figure(picture: Picture, caption: str, label: str) -> str:
    """A figure; `caption` is HTML already."""
    if picture.missing:
        inside = f'<p class="missing">Not drawn: {escape(picture.missing)}</p>'
    else:
        kind = picture.kind
        alt = escape(f"{label}: {picture.alt}")
        inside = f'<img class="{kind}" alt="{alt}" src="{picture.uri}">'
        if picture.caption:
            inside += f'\n<p class="under">{escape(picture.caption)}</p>'
    return f"<figure>\n<figcaption>{caption}</figcaption>\n{inside}\n</figure>"
