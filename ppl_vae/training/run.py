"""A run's folder: what a training leaves behind, and how it is read again."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ppl_vae import files
from ppl_vae.documents import conforms, parse_json, read_json, read_yaml
from ppl_vae.training import folder
from ppl_vae.training.history import History
from ppl_vae.training.lock import Lock

__all__ = ["Run"]

CONFIG, METRICS, WEIGHTS = "config.yaml", "metrics.jsonl", "weights.safetensors"
CHECKPOINT, SUMMARY, DATA = "checkpoint.safetensors", "summary.json", "data.json"
BOARD = "tensorboard"
PICTURES = ("reconstructions.png", "samples.png", "latent.png", "curves.png")
FURTHER = ("noise.png", "rows.png", "columns.png", "counts.png", "moved.png")
DIAGNOSTICS = ("khat.svg", "sbc.svg", "coverage.svg")
# How many bytes the log and the weights may have.
_LOG, _WEIGHTS = 2**25, 2**37
# What a run writes, and so all that overwriting one may remove; in the order in which it appears.
_OWN = (
    *(CONFIG, METRICS, DATA, WEIGHTS, CHECKPOINT),
    *(SUMMARY, *PICTURES, *FURTHER, *DIAGNOSTICS, BOARD),
)


class Run:
    """The folder of one run.

    It holds `config.yaml`, `metrics.jsonl` (one line an epoch), `weights.safetensors`,
    `checkpoint.safetensors` (what a training goes on from), `data.json` (what is kept of the data,
    and where they are from here) and, once the run has been evaluated, `summary.json` and its
    pictures.

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
                if name == BOARD and files.present(self.path / name):
                    raise NotADirectoryError(f"{str(self.path / name)!r} is a file: remove it")
            elif name != BOARD:
                raise IsADirectoryError(f"{str(self.path / name)!r} is a folder: remove it")
        self._lock: Lock | None = None

    @classmethod
    def check(cls, path: str | Path, overwrite: bool = False) -> None:
        """Says whether a run may be written at `path`, before any work is done.

        Raises:
            FileExistsError: if it is a file, holds a run and `overwrite` is off, or holds
                anything else.
        """
        folder.check(path, CONFIG, overwrite)

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        overwrite: bool = False,
        fill: Callable[[Self], None] | None = None,
    ) -> Self:
        """Makes the folder of a new run with its `config.yaml`.

        All is written next to it and renamed, so that a folder is never half a run.

        Args:
            path: the folder, which must not exist, be empty, or hold a run to overwrite.
            config: what `config.yaml` holds.
            overwrite: replace a run in that place; files that no run writes are left alone.
            fill: writes more into it; the run is then locked, see `lock`.

        Raises:
            FileExistsError: as `check` does.
            BlockingIOError: if another training writes to the run.
        """

        def write(staged: Path) -> None:
            _write_config(staged, config)
            files.write_text(staged / METRICS, "")
            if fill is not None:
                fill(cls(staged))

        lock = folder.make(path, _OWN, overwrite, write)
        run = cls(path)
        if fill is None:
            lock.release()
        else:
            run._lock = lock
        return run

    def lock(self) -> None:
        """Keeps other trainings from writing to the folder, until `unlock` or the process's end.

        Raises:
            BlockingIOError: if one does.
        """
        self._lock = Lock(self.path)

    def unlock(self) -> None:
        """Lets other trainings write to the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def config(self) -> dict[str, Any]:
        """What `config.yaml` says, as plain values; nothing is imported or built."""
        return read_yaml(self.path / CONFIG)

    @property
    def settings(self) -> dict[str, Any]:
        """What an experiment is made of, its data where they are now.

        Raises:
            ValueError: if the run is of a model and a guide that were given to `ppl_vae.fit`.
        """
        config = self.config
        if not isinstance(config.get("data"), Mapping):
            raise ValueError(
                f"{str(self.path)!r} was not made by ppl-vae fit: give its model and guide to "
                "Trained.load, or to ppl_vae.fit with resume= to train on"
            )
        return {**config, "data": _offline(self.found(config["data"]))}

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
        if not files.present(self.path / METRICS):
            return History()
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
        files.append(self.path / METRICS, _line(row).encode())

    def rewrite(self, history: History) -> None:
        """Writes `metrics.jsonl` anew."""
        files.write_text(self.path / METRICS, "".join(map(_line, history)))

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Writes `config.yaml`, whole or not at all."""
        _write_config(self.path, config)

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


def _offline(settings: Any) -> Any:
    """Settings of data that fetch nothing: a run's folder may be anybody's."""
    if not isinstance(settings, Mapping):
        return settings
    return {k: False if k == "download" else _offline(v) for k, v in settings.items()}


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


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(_plain(row), allow_nan=False) + "\n"


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    import yaml

    files.write_text(path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
