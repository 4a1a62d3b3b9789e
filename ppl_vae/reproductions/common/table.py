"""The table of all claims, from what is kept: `ppl-vae reproduce table`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppl_vae.reproductions.common.reproduction import Results, spread
from ppl_vae.reproductions.common.verdicts import Claim

__all__ = ["ROWS", "excerpt", "table"]

ROWS = (
    "VAE (ELBO)", "beta-VAE", "capacity-annealed beta-VAE", "high beta, then low",
    "unregularised auto-encoder", "MMD-VAE", "MMD-VAE tutorial", "general InfoVAE", "Stein-VAE",
    "adversarial (AAE, WAE-GAN)", "f-divergence generalisation", "WAE-MMD, any cost",
    "random against deterministic encoders", "mutual auto-encoder", "ELBO surgery", "beta-TCVAE",
    "two-point variance", "500-image MNIST", "2-D latent map", "information preference",
    "match of q(z)", "class distribution", "training stability", "semi-supervised",
    "log-likelihood", "CIFAR", "WAE figures", "WAE's identity", "disentanglement",
    "collapse under sampled noise", "other divergences on MNIST",
)  # fmt: skip
"""The systems and experiments of the source documents, and our own claims."""

_ORDER = ("contradicted", "not reproduced", "undecided", "reproduced")

_HEAD = """\
# Reproduction

Every claim of the source documents, with the rule that decides it, which was written before the
run. The verdict is the rule's: *reproduced* where all its conditions hold in all seeds,
*contradicted* where an effect goes the other way in every seed, *undecided* where a condition was
not measured or fails within two standard errors, else *not reproduced*. A verdict is of its
command's setting: a `small` run is shorter than the sources' and on smaller data, and what it
contradicts it contradicts there. What is contradicted stands first. Numbers are medians over
seeds with their range; each has its bound behind it. Everything here was written by

    ppl-vae reproduce table --out docs/reproductions

from the measures kept in `docs/reproductions`, which `make reproduce` makes. One experiment is run
by

    ppl-vae reproduce NAME --scale small --seeds 3 --out runs/reproduce

which prints its table and verdicts and leaves them, with the pictures and the measures, in
`runs/reproduce/NAME`; what is finished there is not done again, and `--minutes` says when to stop.
Those on MNIST read it from the folder that `PPL_VAE_DATA` names.

"""


@dataclass(frozen=True)
class _Entry:
    """A claim as a scale of its experiment has decided it."""

    name: str
    scale: str
    claim: Claim
    results: Results

    @property
    def command(self) -> str:
        return f"`reproduce {self.name} --scale {self.scale}`"


def table(experiments: Mapping[str, Any], titles: Mapping[str, str], folder: Path) -> str:
    """The page.

    Args:
        experiments: by name.
        titles: what each shows, by name.
        folder: that keeps their cells, a folder for each.
    """
    found = _entries(experiments, folder)
    counts = [f"{sum(e.claim.verdict == word for e in found)} {word}" for word in _ORDER]
    lines = [_HEAD + f"{len(found)} claims: {', '.join(counts)}.\n"]
    for word in _ORDER:
        entries = [entry for entry in found if entry.claim.verdict == word]
        if entries:
            lines += [f"## {word.capitalize()}\n", _rows(entries)]
    lines += ["## Without a run\n", _without(experiments, {e.claim.row for e in found})]
    lines += ["## Experiments\n", _machines(experiments, titles, folder)]
    return "\n".join(lines)


def excerpt(experiments: Mapping[str, Any], folder: Path) -> str:
    """A table of some experiments' claims, with the verdicts on what is kept.

    Args:
        experiments: by name.
        folder: that keeps their cells, a folder for each.
    """
    lines = _header("claim", "the source's", "ours", "verdict", "seeds", "command")
    entries = _entries(experiments, folder)
    for e in entries:
        cells = (e.claim.text, e.claim.author or "-", _ours(e.claim), f"**{e.claim.verdict}**")
        lines.append(_row([*cells, f"{e.results.seeds}", e.command]))
    there = {e.name for e in entries}
    for name in [name for name in experiments if name not in there]:
        lines.append(_row([f"`ppl-vae reproduce {name}`", "-", "not run yet", "-", "0", "-"]))
    return "\n".join(lines) + "\n"


def _entries(experiments: Mapping[str, Any], folder: Path) -> list[_Entry]:
    """The claims of all that is kept: what is contradicted first, then in the sources' order."""
    found = []
    for name, experiment in experiments.items():
        for scale in experiment.scales:
            results = experiment.results(folder / name, scale)
            if results.rows:
                found += [_Entry(name, scale, claim, results) for claim in results.claims]
    return sorted(found, key=lambda e: (_ORDER.index(e.claim.verdict), _place(e.claim)))


def _place(claim: Claim) -> int:
    return ROWS.index(claim.row) if claim.row in ROWS else len(ROWS)


def _rows(entries: Sequence[_Entry]) -> str:
    lines = _header(
        "row", "claim and rule", "the source's", "ours", "seeds", "CPU s a seed", "date",
        "machine", "command",
    )  # fmt: skip
    for e in entries:
        cells = (
            e.claim.row or "ours",
            f"{e.claim.text} *Rule: {e.claim.rule}.*",
            e.claim.author or "-",
            _ours(e.claim),
            f"{e.results.seeds}",
            f"{e.results.seconds:.0f}",
            _range(e.results.dates),
            "; ".join(e.results.machines) or "-",
            e.command,
        )
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _range(dates: Sequence[str]) -> str:
    """The first and the last of days in order."""
    return " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "-"


def _ours(claim: Claim) -> str:
    """Each condition's values over the seeds, with the bound."""
    by_name: dict[str, list[Any]] = {}
    for run in claim.seeds.values():
        for condition in run:
            by_name.setdefault(condition.name, []).append(condition)
    words = []
    for name, conditions in by_name.items():
        measured = [c for c in conditions if not math.isnan(c.value)]
        first = conditions[0]
        sign, bound = ("≥", first.at_least) if first.at_least is not None else ("≤", first.at_most)
        there = spread([c.value for c in measured]) if measured else "not measured"
        words.append(f"{name}: {there} [{sign} {bound:g}]")
    return "; ".join(words)


def _without(experiments: Mapping[str, Any], shown: set[str]) -> str:
    """Rows that nothing has been run for, and what there is of them."""
    commands: dict[str, list[str]] = {}
    for name, experiment in experiments.items():
        for claim in experiment.results(
            Path("/nonexistent"), next(iter(experiment.scales))
        ).claims:
            commands.setdefault(claim.row, []).append(name)
    lines = []
    for row in ROWS:
        if row not in shown:
            there = "no experiment yet"
            if row in commands:
                there = f"`ppl-vae reproduce {commands[row][0]}`, not run yet"
            lines.append(f"* {row}: {there}.")
    return "\n".join(lines) + "\n"


def _machines(experiments: Mapping[str, Any], titles: Mapping[str, str], folder: Path) -> str:
    lines = _header("experiment", "what it shows", "scales", "run", "machine", "pictures")
    for name, experiment in experiments.items():
        runs, machines, pictures = [], set[str](), sorted((folder / name).glob("*.png"))
        for scale in experiment.scales:
            found = experiment.results(folder / name, scale)
            if found.rows:
                day = f", {_range(found.dates)}" if found.dates else ""
                seeds = f"{found.seeds} seed{'s' * (found.seeds > 1)}"
                runs.append(f"{scale}: {found.seconds:.0f} CPU s a seed, {seeds}{day}")
                machines |= set(found.machines)
                pictures += sorted((folder / name / scale).glob("*.png"))
        links = " ".join(
            f"[{p.stem}](reproductions/{p.relative_to(folder).as_posix()})" for p in pictures
        )
        cells = (
            f"`{name}`", titles[name], ", ".join(experiment.scales), "; ".join(runs) or "-",
            "; ".join(sorted(machines)) or "-", links or "-",
        )  # fmt: skip
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _header(*columns: str) -> list[str]:
    return [_row(columns), "|---" * len(columns) + "|"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
