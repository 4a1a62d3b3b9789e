"""A run's folder: what a training leaves behind, and how it is read again."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ppl_vae import files
from ppl_vae.documents import conforms, parse_json, read_json, read_yaml
from ppl_vae.records import table

if TYPE_CHECKING:
    import pandas

__all__ = ["History", "Run"]

CONFIG, METRICS, WEIGHTS = "config.yaml", "metrics.jsonl", "weights.safetensors"
SUMMARY, DATA, BOARD = "summary.json", "data.json", "tensorboard"
PICTURES = ("reconstructions.png", "samples.png", "latent.png", "curves.png")
DIAGNOSTICS = ("khat.svg", "sbc.svg", "coverage.svg")
# How many bytes the log and the weights may have.
_LOG, _WEIGHTS = 2**25, 2**37
# What a run writes, and so all that overwriting one may remove.
_OWN = (
    *(CONFIG, METRICS, WEIGHTS, SUMMARY, DATA),
    *(*PICTURES, *DIAGNOSTICS, BOARD),
)


KINDS = ("reconstruction", "rate", "divergence", "global")
"""The kinds of terms an objective leaves, as `kind/site`."""


class History:
    """One row of named numbers for each epoch, all but the counts in nats per datum.

    Names are `epoch`, `step`, `loss`, the objective's terms (`reconstruction/x`, `rate/z`,
    `divergence/z`), the sums over sites (`reconstruction`, `rate`, `divergence`), the same under
    `validation/`, and of each code its noise and the spread of its means (`sd/z[0]`,
    `spread/z[0]`).

    Example:
        >>> history = History([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}])
        >>> history["loss"], history.last["epoch"]
        ([3.0, 2.0], 2)
    """

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = [] if rows is None else rows

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each epoch."""
        columns = {name: self[name] for name in self.names if name != "epoch"}
        return table(columns, self["epoch"] if self.rows else None, "epoch")

    @property
    def names(self) -> list[str]:
        """The names that stand in any row, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def last(self) -> dict[str, float]:
        """The last row."""
        return self.rows[-1]

    def __getitem__(self, name: str) -> list[float]:
        """The column `name`, NaN where a row lacks it; KeyError if every row does."""
        if name not in self.names:
            raise KeyError(f"no {name!r} among {', '.join(self.names)}")
        return [row.get(name, float("nan")) for row in self.rows]

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        shown = ("loss", *KINDS, "validation/loss")
        last = [f"{k}={self.last[k]:.4g}" for k in shown if self.rows and k in self.last]
        return f"History({len(self)} epochs{'; ' * bool(last)}{', '.join(last)})"


class Run:
    """The folder of one run.

    It holds `config.yaml`, `metrics.jsonl` (one line an epoch), `weights.safetensors`,
    `data.json` (what is kept of the data, and where they are from here) and, once the run has
    been evaluated, `summary.json` and its pictures.

    Args:
        path: an existing run's folder; `Run.create` makes a new one.

    Raises:
        FileNotFoundError: if the folder holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not files.present(self.path / CONFIG):
            raise FileNotFoundError(f"{str(path)!r} holds no run: there is no {CONFIG} in it")
        for name in _OWN:  # said at once, and not when it is reached
            if not (self.path / name).is_dir() or (self.path / name).is_symlink():
                files.plain(self.path / name)
            elif name != BOARD:
                raise IsADirectoryError(f"{str(self.path / name)!r} is a folder: remove it")

    @classmethod
    def check(cls, path: str | Path, overwrite: bool = False) -> None:
        """Says whether a run may be written at `path`, before any work is done.

        Raises:
            FileExistsError: if it is a file, holds a run and `overwrite` is off, or holds
                anything else.
        """
        path = files.check(path)
        with files.telling(path):
            there = files.present(path)
            if there and not path.is_dir():
                raise FileExistsError(f"{str(path)!r} is no folder: name one for the run")
            within = {file.name for file in path.iterdir()} if there else set()
        if CONFIG in within:
            if not overwrite:
                raise FileExistsError(
                    f"{str(path)!r} already holds a run: choose another folder or overwrite it"
                )
        elif within:
            raise FileExistsError(
                f"{str(path)!r} is not empty and holds no run: choose another folder"
            )

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], overwrite: bool = False) -> Self:
        """Makes the folder of a new run with its `config.yaml`.

        All is written beside it and renamed, so that a folder is never half a run.

        Args:
            path: the folder, which must not exist, be empty, or hold a run to overwrite.
            config: what `config.yaml` shall hold.
            overwrite: replace a run in that place; files that no run writes are left alone.

        Raises:
            FileExistsError: as `check` does.
        """
        import yaml

        cls.check(path, overwrite)
        path = Path(path)
        text = yaml.safe_dump(dict(config), sort_keys=False)
        staged = files.folder(path.parent) / f".run-{secrets.token_hex(8)}"
        try:
            files.folder(staged)
            files.write_text(staged / CONFIG, text)
            files.write_text(staged / METRICS, "")
            with files.telling(path):
                if not path.exists():
                    staged.rename(path)
                else:
                    files.sweep(path)
                    for name in _OWN:
                        _remove(path / name)
                    for file in staged.iterdir():
                        file.rename(path / file.name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """What `config.yaml` says, as plain values; nothing is imported or built."""
        return read_yaml(self.path / CONFIG)

    @property
    def data(self) -> dict[str, Any] | None:
        """What `data.json` keeps of the data: see `ppl_vae.data.known`; None where there is none.

        Raises:
            ValueError: if the file is damaged.
        """
        if not files.present(self.path / DATA):
            return None
        found = read_json(self.path / DATA)
        places = found.get("places", {}) if isinstance(found, dict) else None
        if not conforms(places, Mapping[str, str]):
            raise ValueError(f"{self.path / DATA} is damaged: it, or its places, are no mapping")
        return dict(found)

    def save_data(self, known: Mapping[str, Any]) -> None:
        """Writes `data.json`, with the way from this folder to the files `config.yaml` names."""
        places = {
            place: os.path.relpath(place, self.path)
            for place in _places(self.config.get("data"))
            if os.path.exists(place)
        }
        text = json.dumps({**known, "places": places}, allow_nan=False)
        files.write_text(self.path / DATA, text + "\n")

    def found(self, settings: Any) -> Any:
        """Settings of data, with files that are not where they were looked for from this folder.

        Args:
            settings: as `config.yaml` has them.
        """
        places = (self.data or {}).get("places", {})
        for place in _places(settings):
            there = os.path.normpath(self.path / places.get(place, place))
            if not os.path.exists(place) and place in places and os.path.exists(there):
                settings = _replaced(settings, place, there)
        return settings

    @property
    def history(self) -> History:
        """The epochs so far."""
        rows = list[dict[str, float]]()
        with files.opened(self.path / METRICS, _LOG) as file:
            for line in file:
                where = f"{self.path / METRICS}, line {len(rows) + 1},"
                row = parse_json(line, where)
                if not conforms(row, Mapping[str, float | None]) or "epoch" not in row:
                    raise ValueError(f"{where} is no mapping of names to numbers of an epoch")
                rows.append({k: _number(v) for k, v in row.items()})
        return History(rows)

    @property
    def summary(self) -> dict[str, Any]:
        """What evaluations found: see `ppl_vae.report.results`."""
        return dict(read_json(self.path / SUMMARY))

    def log(self, row: Mapping[str, float]) -> None:
        """Adds one epoch to `metrics.jsonl`."""
        files.append(self.path / METRICS, json.dumps(_plain(row), allow_nan=False) + "\n")

    def save_weights(self, state: Mapping[str, Tensor]) -> None:
        """Writes `weights.safetensors`, whole or not at all."""
        from safetensors.torch import save

        # clones, as two names may share memory and a slice may not be contiguous
        tensors = {
            name: x.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, x in state.items()
        }
        files.write_bytes(self.path / WEIGHTS, save(tensors))

    def load_weights(self) -> dict[str, Tensor]:
        """The saved tensors by name, on the CPU; nothing is unpickled.

        Raises:
            FileNotFoundError: if the run has saved none yet.
            ValueError: if the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / WEIGHTS
        if not files.present(path):
            raise FileNotFoundError(f"{str(self.path)!r} has no weights: its training wrote none")
        try:
            with files.opened(path, _WEIGHTS):
                return load_file(path)
        except (SafetensorError, RuntimeError, MemoryError) as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error})") from error

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes `summary.json`, whole or not at all; numbers that are not finite become null."""
        text = json.dumps(_plain(summary), indent=2, allow_nan=False)
        files.write_text(self.path / SUMMARY, text + "\n")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def _places(settings: Any) -> Iterator[str]:
    """The files and folders that settings of data name."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key in ("path", "root", "folder") and isinstance(value, str):
                yield value
            yield from _places(value)


def _replaced(settings: Any, old: str, new: str) -> Any:
    if isinstance(settings, Mapping):
        return {key: _replaced(value, old, new) for key, value in settings.items()}
    return new if settings == old else settings


def _plain(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _number(value: Any) -> float:
    return float("nan") if value is None else value


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
