"""Cells of an experiment, whose measures are kept as JSON and not made again."""

import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ppl_vae import files

__all__ = ["Cell", "Kept", "Measures", "finish", "machine", "read", "today", "write"]

Measures = dict[str, Any]
"""Numbers by name, and the curves and images that pictures are drawn from."""


@dataclass(frozen=True)
class Cell:
    """One piece of work in an experiment, done once for each seed.

    Attributes:
        name: of its row in the table and of its files.
        work: what measures, called with `seed` and the settings.
        settings: plain values. Measures kept under other settings are made again.
    """

    name: str
    work: Callable[..., Measures]
    settings: Mapping[str, Any]

    def path(self, folder: Path, seed: int) -> Path:
        """Where its measures are kept."""
        plain = "".join(c if c.isalnum() or c in "-.=" else "-" for c in self.name)
        return folder / f"{plain}-seed-{seed}.json"


@dataclass(frozen=True)
class Kept:
    """What is kept of a finished cell.

    Attributes:
        measures: what it found.
        seconds: of CPU time that it took.
        date: the day, in UTC.
        machine: see `machine`.
    """

    measures: Measures
    seconds: float
    date: str
    machine: str


def finish(cell: Cell, seed: int, folder: Path) -> Kept:
    """The measures of a cell: those kept, or else made now, and kept.

    Args:
        cell: what to do.
        seed: of all that is drawn.
        folder: that keeps the cells.
    """
    found = read(cell, seed, folder)
    if found is not None:
        return found
    start = time.process_time()
    measures = cell.work(seed=seed, **cell.settings)
    seconds = time.process_time() - start
    content = {
        "measures": measures, "settings": dict(cell.settings), "CPU seconds": round(seconds, 1),
        "date": today(), "machine": machine(),
    }  # fmt: skip
    files.folder(folder)
    write(content, cell.path(folder, seed))
    found = read(cell, seed, folder)
    assert found is not None, f"{cell.name}: settings that JSON does not keep as they are"
    return found


def read(cell: Cell, seed: int, folder: Path) -> Kept | None:
    """What is kept of a cell, or None where there is nothing, or only of other settings.

    Raises:
        ValueError: if the file is no cell's.
    """
    path = cell.path(folder, seed)
    if not files.present(path):
        return None
    try:
        found = json.loads(files.read_text(path))
        if found["settings"] != dict(cell.settings):
            return None
        kept = (found[key] for key in ("measures", "CPU seconds", "date", "machine"))
        return Kept(*kept)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is no cell of an experiment: remove it") from error


def write(value: Any, path: Path) -> None:
    """Writes JSON, a number that is not finite as null."""
    files.write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def today() -> str:
    """The day, in UTC."""
    return datetime.now(UTC).date().isoformat()


@cache
def machine() -> str:
    """The processor, the threads used on it, and the version of torch."""
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [line for line in cpus.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    threads = torch.get_num_threads()
    version = torch.__version__.partition("+")[0]
    return f"{name}, {threads} thread{'s' * (threads > 1)}, torch {version}"
