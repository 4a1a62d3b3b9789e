"""A run's folder: what a training leaves behind, and how it is read again."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ppl_vae.records import table

if TYPE_CHECKING:
    import pandas

__all__ = ["History", "Run"]

CONFIG, METRICS, WEIGHTS = "config.yaml", "metrics.jsonl", "weights.safetensors"
SUMMARY, DATA = "summary.json", "data.json"
PICTURES = ("reconstructions.png", "samples.png", "latent.png", "curves.png")
FURTHER = ("noise.png", "rows.png", "columns.png", "counts.png", "moved.png")
DIAGNOSTICS = ("khat.svg", "sbc.svg", "coverage.svg")
# What a run writes, and so all that overwriting one may remove.
_OWN = (
    *(CONFIG, METRICS, WEIGHTS, SUMMARY, DATA),
    *(*PICTURES, *FURTHER, *DIAGNOSTICS, "tensorboard"),
)


KINDS = (
    "bound",
    "reconstruction",
    "rate",
    "mutual_information",
    "total_correlation",
    "dimension_wise",
    "divergence",
    "information",
    "target",
    "global",
)
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
        if not (self.path / CONFIG).is_file():
            raise FileNotFoundError(f"{str(path)!r} holds no run: there is no {CONFIG} in it")

    @classmethod
    def check(cls, path: str | Path, overwrite: bool = False) -> None:
        """Says whether a run may be written at `path`, before any work is done.

        Raises:
            FileExistsError: if it is a file, holds a run and `overwrite` is off, or holds
                anything else.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{str(path)!r} is a file: name a folder for the run")
        if (path / CONFIG).exists():
            if not overwrite:
                raise FileExistsError(
                    f"{str(path)!r} already holds a run: choose another folder or overwrite it"
                )
        elif path.exists() and any(path.iterdir()):
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
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            # mkdtemp keeps others out; a run is as readable as any folder made here
            mask = os.umask(0)
            os.umask(mask)
            staged.chmod(0o777 & ~mask)
            (staged / CONFIG).write_text(text, encoding="utf-8")
            (staged / METRICS).touch()
            if not path.exists():
                staged.rename(path)
            else:
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
        import yaml

        try:
            config = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{self.path / CONFIG} is not YAML of plain values") from error
        if not isinstance(config, dict):
            raise ValueError(f"{self.path / CONFIG} is not a mapping")
        return config

    @property
    def data(self) -> dict[str, Any] | None:
        """What `data.json` keeps of the data: see `ppl_vae.data.known`; None where there is none.

        Raises:
            ValueError: if the file is damaged.
        """
        if not (self.path / DATA).is_file():
            return None
        try:
            found = json.loads((self.path / DATA).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path / DATA} is not a whole JSON file") from error
        return dict(found)

    def save_data(self, known: Mapping[str, Any]) -> None:
        """Writes `data.json`, with the way from this folder to the files `config.yaml` names."""
        places = {
            place: os.path.relpath(place, self.path)
            for place in _places(self.config.get("data"))
            if os.path.exists(place)
        }
        text = json.dumps({**known, "places": places}, allow_nan=False)
        (self.path / DATA).write_text(text + "\n", encoding="utf-8")

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
        with (self.path / METRICS).open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return History([{k: _number(v) for k, v in row.items()} for row in rows])

    @property
    def summary(self) -> dict[str, Any]:
        """What evaluations found: see `ppl_vae.report.results`."""
        return json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))

    def log(self, row: Mapping[str, float]) -> None:
        """Adds one epoch to `metrics.jsonl`."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(row), allow_nan=False) + "\n")

    def save_weights(self, state: Mapping[str, Tensor]) -> None:
        """Writes `weights.safetensors`, whole or not at all."""
        from safetensors.torch import save_file

        new = self.path / f".{WEIGHTS}.new"
        # clones, as two names may share memory and a slice may not be contiguous
        tensors = {
            name: x.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, x in state.items()
        }
        save_file(tensors, new)
        new.replace(self.path / WEIGHTS)

    def load_weights(self) -> dict[str, Tensor]:
        """The saved tensors by name, on the CPU; nothing is unpickled.

        Raises:
            FileNotFoundError: if the run has saved none yet.
            ValueError: if the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"{str(self.path)!r} has no weights: its training wrote none")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error})") from error

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes `summary.json`, whole or not at all; numbers that are not finite become null."""
        text = json.dumps(_plain(summary), indent=2, allow_nan=False)
        draft = self.path / f".{SUMMARY}.new"
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(self.path / SUMMARY)

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
