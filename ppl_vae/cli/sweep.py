"""The command that trains a grid of runs and compares them."""

import math
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from ppl_vae import files

__all__ = ["sweep"]

# A sweep of more is a slip; each run has a folder and a process.
_RUNS = 10_000

_OPTIONS = (
    ("--vary NAME=A,B", "an option of fit and its values; several of these make a grid."),
    ("--seeds INTEGER", "seeds 0 ... K - 1 of each combination. Default: 1."),
    ("--jobs INTEGER", "trainings at a time. Default: 1."),
    ("--out FOLDER", "a folder for each run, the table and the picture. Default: runs/sweep."),
    ("--dry-run", "print the commands and run nothing."),
    ("--NAME VALUE", "any option of fit, for all runs."),
)

_TAKEN = {
    "seed": "say how many with --seeds",
    "out": "each run has a folder of its own in that of --out",
    "resume": "the same call goes on with what was interrupted",
}
"""What cannot be varied, and why."""

_COLUMNS = {
    "log_likelihood": "log p(x)",
    "distortion": "distortion",
    "rate": "rate",
    "usage": "usage",
    "mmd_u": "MMD^2",
    "log_det": "log-det/d",
    "probe_linear": "probe",
}
"""What is compared: metrics, and their headings."""


@dataclass(frozen=True)
class _Cell:
    """One run: its name, the combination it belongs to, and its options."""

    name: str
    group: str
    options: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """What its commands printed."""
        return self.folder.with_suffix(".log")

    @property
    def is_done(self) -> bool:
        """Whether it is trained and evaluated."""
        from ppl_vae.report import results
        from ppl_vae.training.run import Run

        try:
            return "log_likelihood" in results.known(Run(self.folder))
        except (OSError, ValueError):
            return False

    @property
    def settings(self) -> dict[str, Any]:
        """What its options make of a configuration; bad values are refused."""
        from ppl_vae.cli.commandline import configured

        read = configured([*self.options], "fit")
        assert read is not None  # no help is asked for
        return read[1]

    @property
    def is_begun(self) -> bool:
        """Whether there is a training of the same settings to go on with."""
        from ppl_vae.training.run import CHECKPOINT, Run

        try:
            run = Run(self.folder)
            return files.present(run.path / CHECKPOINT) and _same(self.settings, run.config)
        except (OSError, ValueError):
            return False

    @property
    def commands(self) -> list[list[str]]:
        """What trains and what evaluates it, as words of `ppl-vae`."""
        again = ["--overwrite"] if (self.folder / "config.yaml").exists() else []
        trust = ["--trust"] if "--trust" in self.options else []
        fit = ["fit", *self.options, "--out", str(self.folder), *again]
        if self.is_begun:
            fit = ["fit", "--resume", str(self.folder), *trust]
        asked = "log_likelihood,usage"
        return [fit, ["evaluate", str(self.folder), "--quick", "--metrics", asked, *trust]]


def sweep(words: list[str]) -> None:
    """Trains a run for each combination of values and each seed, and compares them.

    Each is trained and evaluated. Runs that are there and evaluated are left alone, and one that
    was interrupted goes on from its checkpoint; so the same call goes on where it was interrupted,
    and repeats what failed.
    """
    if {"--help", "-h"} & set(words):
        from ppl_vae.config.help import page

        usage = "sweep --vary NAME=A,B [--vary ...] [--OPTION VALUE ...]"
        print(page(usage, sweep.__doc__ or "", {"options": _OPTIONS}))
        return
    cells, out, jobs, is_dry = _read(words)
    for cell in cells:  # bad values are said before the first training
        cell.settings  # noqa: B018
    todo = [cell for cell in cells if not cell.is_done]
    if is_dry:
        for cell in todo:
            print(" && ".join(shlex.join(["ppl-vae", *words]) for words in cell.commands))
        return
    files.folder(out)
    if todo:
        epochs = sorted({cell.settings["epochs"] for cell in todo})
        there = f", {len(cells) - len(todo)} more are there" if len(todo) < len(cells) else ""
        print(
            f"{len(todo)} runs of {' or '.join(map(str, epochs))} epochs{there}; logs in {out}",
            flush=True,
        )
    failed = _run(todo, jobs)
    done = [cell for cell in cells if cell not in failed]
    if done:
        _compare(done, out)
    if failed:
        names = ", ".join(f"{cell.name} ({_last(cell.log)})" for cell in failed)
        raise RuntimeError(
            f"{len(failed)} of {len(cells)} runs failed: {names}; the same call repeats them"
        )


def _read(words: Sequence[str]) -> tuple[list[_Cell], Path, int, bool]:
    """The runs that a command line asks for, their folder, how many at a time, and whether to
    print alone."""
    from ppl_vae.config.options import split_options

    switches, options, rest = split_options(words, ("dry_run", "trust", "overwrite"))
    if rest:
        raise ValueError(f"{rest[0]!r} is not an option: options look like --vary dim=2,10")
    if "overwrite" in switches:
        raise ValueError("a sweep goes on with what is there: remove the folder, or give --out")
    varied: dict[str, list[str]] = {}
    plain = {"seeds": "1", "jobs": "1", "out": "runs/sweep"}
    kept: list[str] = ["--trust"] * ("trust" in switches)
    for key, value in options:
        if key == "vary":
            name, equals, listed = value.partition("=")
            if not equals or not all(listed.split(",")):
                raise ValueError(f"--vary is {value!r}: write --vary objective.scale=1,4,16")
            name = name.removeprefix("--").replace("-", "_")
            if name in varied:
                raise ValueError(f"--vary {name} is given twice: put all its values into one list")
            if name in _TAKEN:
                raise ValueError(f"--vary {name}: {_TAKEN[name]}")
            varied[name] = listed.split(",")
        elif key in plain:
            plain[key] = value
        elif key.endswith(".help"):
            raise ValueError(f"--{key}: ask ppl-vae fit --{key}")
        else:
            kept += [f"--{key}", value]
    if not varied:
        raise ValueError("nothing varies: write --vary objective.scale=1,4,16")
    seeds, jobs = (_count(name, plain[name]) for name in ("seeds", "jobs"))
    count = math.prod(map(len, varied.values())) * seeds
    if count > _RUNS:
        raise ValueError(f"{count} runs: a sweep has {_RUNS} at most, so fewer values or --seeds")
    out, cells = Path(plain["out"]), []
    for values in product(*varied.values()):
        pairs = list(zip(varied, values, strict=True))
        group = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in pairs)
        chosen = [word for name, value in pairs for word in (f"--{name}", value)]
        for seed in range(seeds):
            name = f"{group} seed={seed}".replace(" ", "-").replace("/", "_")
            whole = (*kept, *chosen, "--seed", str(seed))
            cells.append(_Cell(name, group, whole, out / name))
    names = Counter(cell.name for cell in cells)
    if (again := names.most_common(1)[0])[1] > 1:
        raise ValueError(
            f"{again[1]} runs would share the folder {again[0]!r}: vary each value once"
        )
    return cells, out, jobs, "dry_run" in switches


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 30 or int(text) < 1:
        raise ValueError(f"--{name} is {text!r}: give a whole number of 1 or more")
    return int(text)


def _run(cells: Sequence[_Cell], jobs: int) -> list[_Cell]:
    """Runs the commands of each, so many at a time, and returns those that failed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    failed, running, queue = list[_Cell](), dict[subprocess.Popen[bytes], _Cell](), [*cells]
    try:
        while queue or running:
            while queue and len(running) < jobs:
                cell = queue.pop(0)
                with cell.log.open("wb") as log:
                    script = [sys.executable, "-c", _BOTH, repr(cell.commands)]
                    process = subprocess.Popen(
                        script, stdout=log, stderr=subprocess.STDOUT, env=environment
                    )
                running[process] = cell
            ended = next(iter(running))
            try:
                ended.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if len(running) > 1:  # look at the next one
                    running[ended] = running.pop(ended)
                continue
            cell = running.pop(ended)
            if ended.returncode or not cell.is_done:
                failed.append(cell)
            state = "failed" if cell in failed else "done"
            ended_so_far = len(cells) - len(queue) - len(running)
            print(f"{ended_so_far}/{len(cells)} {cell.name}: {state}", flush=True)
    finally:
        for process in running:
            process.terminate()
    return failed


# A training and its evaluation share a process, and so what it costs to start one.
_BOTH = """
import ast, sys
from ppl_vae.cli import main
for words in ast.literal_eval(sys.argv[1]):
    if code := main(words):
        sys.exit(code)
"""


def _compare(cells: Sequence[_Cell], out: Path) -> None:
    """Prints the medians over seeds, and draws rate against distortion."""
    from ppl_vae import plots
    from ppl_vae.report import results
    from ppl_vae.training.run import Run

    groups: dict[str, list[dict[str, float | None]]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(results.values(Run(cell.folder)))
    width = max(map(len, groups))
    lines = [f"{'':{width}} {'runs':>5}" + "".join(f"{h:>12}" for h in _COLUMNS.values())]
    for group, found in groups.items():
        cells_of = []
        for name in _COLUMNS:
            known = [value for each in found if (value := each.get(name)) is not None]
            cells_of.append(f"{median(known):12.4g}" if known else f"{'-':>12}")
        lines.append(f"{group:{width}} {len(found):5}" + "".join(cells_of))
    text = "\n".join(lines)
    files.write_text(out / "table.txt", text + "\n")
    picture = out / "rate_distortion.png"
    drawn = plots.rate_distortion(groups)
    if drawn is not None:
        plots.save(drawn, picture, "Rate and distortion, held out, nats per datum")
    print(f"\nmedians over seeds; nats per datum\n\n{text}\n")
    print(picture if drawn is not None else "no picture: no run has a rate and a distortion")


def _same(asked: Any, kept: Any) -> bool:
    """Whether a run's configuration is what is asked for, with numbers in place of "auto"."""
    if isinstance(asked, dict) and isinstance(kept, dict):
        return asked.keys() == kept.keys() and all(_same(asked[k], kept[k]) for k in asked)
    return asked in ("auto", kept)


def _last(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.removeprefix("ppl-vae: ") for line in lines if line.strip()]
    return said[-1][:120] if said else "it said nothing"
