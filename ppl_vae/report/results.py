"""What evaluations of a run found, in one file."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from statistics import median
from typing import Any, Literal

from ppl_vae import files
from ppl_vae.documents import conforms, read_json
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import GROUPS, P_VALUE
from ppl_vae.evaluation.registry import Measured, about, metrics
from ppl_vae.records import p_value
from ppl_vae.training.run import SUMMARY, Run

__all__ = ["check", "folded", "known", "lines", "read", "save", "values"]


def save(run: Run, measured: Measured) -> dict[str, Any]:
    """Puts metrics into a run's `summary.json`, and returns what the file holds then.

    Metrics that were not computed this time keep what the file says of them. A number that is not
    finite becomes null, and its note says why.

    Args:
        run: the folder.
        measured: of its experiment.
    """
    subject = measured.subject
    computed = {_metric(name) for name in measured.found} | set(measured.skipped)
    old = check(run) or {"metrics": {}, "skipped": {}}
    kept = {k: v for k, v in old["metrics"].items() if _metric(k) not in computed}
    effort = asdict(subject.effort)
    made = {}
    for name, estimate in measured.found.items():
        metric = about(name)
        assert metric is not None
        made[name] = {
            **estimate.as_dict(),
            "unit": metric.unit,
            "group": metric.group,
            "settings": effort,
        }
    both = kept | made
    found = {
        "rows": len(subject.x),
        "held_out": subject.data.test is not None,
        "metrics": {name: both[name] for name in sorted(both, key=_place)},
        "skipped": {k: v for k, v in old["skipped"].items() if k not in computed}
        | measured.skipped,
    }
    run.save_summary(found)
    return found


def read(run: Run) -> dict[str, Any]:
    """What a run's `summary.json` holds.

    Raises:
        FileNotFoundError: if the run has none.
        ValueError: if the file is not one of ours.
    """
    path = run.path / SUMMARY
    if not files.present(path):
        raise FileNotFoundError(
            f"{str(run.path)!r} has no {SUMMARY}: run ppl-vae evaluate {run.path} first"
        )
    found = read_json(path)
    whole = (
        isinstance(found, dict)
        and conforms(found.get("skipped"), Mapping[str, str])
        and conforms(found.get("metrics"), Mapping[str, Mapping[str, Any]])
        and all(map(_is_entry, found["metrics"].values()))
    )
    if not whole:
        raise ValueError(f"{path} is damaged: remove it and evaluate the run again")
    return dict(found)


def check(run: Run) -> dict[str, Any] | None:
    """What a run's `summary.json` holds; None if it has none yet.

    Raises:
        ValueError: if the file is not one of ours.
    """
    return read(run) if files.present(run.path / SUMMARY) else None


_ENTRY: dict[str, Any] = {
    **dict.fromkeys(("value", "standard_error", "data_error"), float | None),
    **{"bound": Literal["lower", "upper"] | None, "flag": str, "note": str, "unit": str},
    "group": Literal[tuple(GROUPS)],
}


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether one metric's numbers are numbers, and its words words."""
    return all(key in entry and conforms(entry[key], kind) for key, kind in _ENTRY.items())


def known(run: Run) -> set[str]:
    """The metrics that have been tried, with a value or without."""
    found = read(run)
    return {_metric(name) for name in found["metrics"]} | set(found["skipped"])


def values(run: Run) -> dict[str, float | None]:
    """The numbers of a run's `summary.json` by the names of the metrics."""
    return {name: entry["value"] for name, entry in read(run)["metrics"].items()}


def lines(found: Mapping[str, Any]) -> list[str]:
    """What a result file says, a line to a metric and one more to each that is in doubt."""
    told = []
    for name, entry in folded(found["metrics"]).items():
        value = entry["value"]
        shown = entry["note"] or "infinite"
        if value is not None:
            own = {f.name: entry[f.name] for f in fields(Estimate)}
            is_p = entry["unit"] == P_VALUE
            shown = p_value(value) if is_p else str(Estimate(**own))
        told.append(f"{name:28} {shown:24} {entry['unit'] if value is not None else ''}".rstrip())
        if value is not None and entry["flag"]:
            told.append(f"{'':28} {entry['flag']}: {entry['note']}")
    reasons: dict[str, list[str]] = {}
    for name, reason in found["skipped"].items():
        reasons.setdefault(reason, []).append(name)
    return told + [f"no {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def folded(entries: Mapping[str, Any], most: int = 12) -> dict[str, Any]:
    """The entries of a result file as they are shown: of a metric with many members, such as one
    of each column of a wide table, the median with the two at the ends.

    Args:
        entries: by name.
        most: members that are shown one by one.
    """
    families: dict[str, list[str]] = {}
    for name in entries:
        families.setdefault(_metric(name), []).append(name)
    shown: dict[str, Any] = {}
    for family, names in families.items():
        given = sorted((n for n in names if entries[n]["value"] is not None),
                       key=lambda n: entries[n]["value"])  # fmt: skip
        if len(names) <= most or not given:
            shown |= {name: entries[name] for name in names}
            continue
        told = p_value if entries[given[0]]["unit"] == P_VALUE else "{:.4g}".format
        ends = (f"{told(entries[n]['value'])} of {n.removeprefix(f'{family}/')}"
                for n in (given[0], given[-1]))  # fmt: skip
        shown[f"{family}/the median of {len(given)}"] = entries[given[0]] | {
            "value": median(entries[n]["value"] for n in given),
            "standard_error": None,
            "data_error": None,
            "note": f"from {' to '.join(ends)}; each is in {SUMMARY}",
        }
    return shown


def _metric(name: str) -> str:
    metric = about(name)
    return name if metric is None else metric.name


def _place(name: str) -> int:
    every, metric = list(metrics()), _metric(name)
    return every.index(metric) if metric in every else len(every)
