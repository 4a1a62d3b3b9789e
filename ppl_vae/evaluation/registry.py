"""Every metric by its name.

A metric is a `Metric` in the `METRICS` of one of `MODULES`, which may stand in evaluation or in
diagnostics: they are imported when the first of them is asked for. The command line, the result
file, the report and the table in the docs are views of this.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import GROUPS, Inapplicable, Metric, Subject, When

__all__ = [
    "MODULES",
    "Measured",
    "about",
    "asked",
    "due",
    "markdown",
    "measure",
    "metrics",
    "title",
]

MODULES: tuple[str, ...] = (
    "ppl_vae.evaluation.terms",
    "ppl_vae.evaluation.likelihood",
    "ppl_vae.evaluation.annealing",
    "ppl_vae.evaluation.usage",
    "ppl_vae.evaluation.information",
    "ppl_vae.evaluation.codes",
    "ppl_vae.evaluation.matching",
    "ppl_vae.evaluation.probes",
    "ppl_vae.evaluation.classifier",
    "ppl_vae.evaluation.samples",
    "ppl_vae.evaluation.columns",
    "ppl_vae.evaluation.distances",
    "ppl_vae.evaluation.geometry",
    "ppl_vae.evaluation.disentanglement",
    "ppl_vae.diagnostics.importance",
    "ppl_vae.diagnostics.calibration",
    "ppl_vae.diagnostics.predictive",
    "ppl_vae.diagnostics.nuts",
)
"""The modules that hold metrics, in the order that these are shown in within their groups."""


def metrics() -> Mapping[str, Metric]:
    """All of them by name, group by group."""
    return _read(MODULES)


@cache
def _read(modules: tuple[str, ...]) -> Mapping[str, Metric]:
    every: list[Metric] = [m for name in modules for m in import_module(name).METRICS]
    order = list(GROUPS)
    return {m.name: m for m in sorted(every, key=lambda m: order.index(m.group))}


def about(name: str) -> Metric | None:
    """The metric that a number in a result file is of; None for none that is known."""
    every = metrics()
    return every.get(name) or every.get(name.partition("/")[0])


def title(name: str) -> str:
    """What a number is called for a reader, or all that a metric gives by member.

    Example:
        >>> title("coverage/90")
        'Coverage of 90 % intervals'
    """
    metric = about(name)
    if metric is None:
        return name
    member = name.removeprefix(f"{metric.name}/")
    return metric.title.format("..." if member == name else metric.label(member))


def asked(names: Sequence[str]) -> list[Metric]:
    """The metrics that names of metrics or of groups, or "all", stand for.

    A group stands for those of it that do not wait to be asked for by name.

    Raises:
        ValueError: for a name that none has.
    """
    every = metrics()
    unknown = sorted(set(names) - {"all", *every, *GROUPS})
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*every, *GROUPS], 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"there is no metric {unknown[0]!r}{hint}: take {', '.join(every)}; or a group of "
            f"them: {', '.join(GROUPS)}; or all"
        )
    groups = {m.group for m in every.values()} & set(names)
    return [
        m
        for m in every.values()
        if "all" in names or m.name in names or (m.group in groups and m.when != "asked")
    ]


def due(*when: When) -> list[Metric]:
    """The metrics that are computed at some occasions."""
    return [m for m in metrics().values() if m.when in when]


@dataclass
class Measured:
    """What `measure` found.

    Attributes:
        subject: of whom.
        found: the estimates by name.
        skipped: why a metric has none, by its name.
    """

    subject: Subject
    found: dict[str, Estimate] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(subject: Subject, chosen: Iterable[Metric], must: Sequence[str] = ()) -> Measured:
    """Computes metrics; each starts from the seed, so that it is the same whatever else is asked.

    Args:
        subject: a pair and its data.
        chosen: the metrics.
        must: names that were asked for: these say why they have no value, whatever the pair.

    Raises:
        ValueError: if something was asked for and nothing of it has a value.
    """
    result = Measured(subject)
    for metric in chosen:
        try:
            value = subject.once(metric.compute)
        except (ValueError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if metric.name in must or not isinstance(error, Inapplicable):
                result.skipped[metric.name] = reason
            continue
        if isinstance(value, Estimate):
            result.found[metric.name] = value
        else:
            result.found |= {f"{metric.name}/{member}": v for member, v in value.items()}
    if must and not result.found:
        names, reasons = ", ".join(must), dict.fromkeys(result.skipped.values())
        raise ValueError(f"{names}: {'; '.join(reasons) or 'nothing that applies to this pair'}")
    return result


def markdown() -> str:
    """The table of all metrics that stands in the docs."""
    when = {"fit": "after each `fit`", "evaluate": "`evaluate`", "asked": "by name"}
    rows = ["| name | what | reading | computed |", "|---|---|---|---|"]
    group = ""
    for metric in metrics().values():
        if metric.group != group:
            group = metric.group
            rows.append(f"| **{group}** | **{GROUPS[group]}** | | |")
        name = f"{metric.name}/..." if "{}" in metric.title else metric.name
        what = ", ".join(filter(None, (title(metric.name), metric.unit)))
        rows.append(f"| `{name}` | {what} | {metric.reading} | {when[metric.when]} |")
    return "\n".join(rows).replace("(z|x)", "(z\\|x)").replace("(x|z)", "(x\\|z)")
