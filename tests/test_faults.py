"""Whatever ends a training, and whenever: what its folder holds agrees, and is gone on with."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import SIGNALS, Kills
from trainings import ROWS, TRAININGS, Made, contents, train

from ppl_vae.training import checkpoint
from ppl_vae.training.run import BOARD, CHECKPOINT, CONFIG, WEIGHTS, Run

EPOCHS = 2

# What puts bytes, names and folders on the disk: by module, and the method of its name.
_ACTS = ((os, "write"), (os, "fsync"), (os, "replace"), (os, "rename"), (Path, "write_bytes"))


def small() -> Made:
    pair, _, objective, _, _ = TRAININGS["elbo"]()
    return pair, ROWS[:20], objective, torch.optim.SGD, {}


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, at: int, late: bool = False) -> Iterator[list[str]]:
    """Has the act of a number fail, before or after it is done; yields the names of those done."""
    done: list[str] = []

    def faulty(act: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) == at and not late:
                raise OSError(5, "a fault")
            result = act(*args, **kwargs)
            if len(done) == at:
                raise OSError(5, "a fault")
            return result

        return call

    with monkeypatch.context() as patch:
        for module, name in _ACTS:
            patch.setattr(module, name, faulty(getattr(module, name), name))
        yield done


def _shown(folder: Path) -> tuple[list[int], list[float]]:
    """The steps and losses that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / BOARD))
    events.Reload()
    seen = events.Scalars("loss")
    return [event.step for event in seen], [event.value for event in seen]


def _whole(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[list[bytes], list[str]]:
    """The weights before the first epoch and after each, and all acts of a training."""
    weights: list[bytes] = []
    save = Run.save_weights

    def saved(run: Run, state: Any) -> None:
        save(run, state)
        weights.append((run.path / WEIGHTS).read_bytes())

    with monkeypatch.context() as patch, failing(monkeypatch, 0) as acts:
        patch.setattr(Run, "save_weights", saved)
        train(small, out=folder, epochs=EPOCHS, tensorboard=True)
    return weights, acts


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fault_at_every_act(late: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights, acts = _whole(monkeypatch, tmp_path / "whole")
    assert len(weights) == EPOCHS + 1
    assert set(acts) == {name for _, name in _ACTS}
    whole, shown = contents(tmp_path / "whole"), _shown(tmp_path / "whole")
    history = Run(tmp_path / "whole").history
    assert shown == (history["step"], pytest.approx(history["loss"]))
    for k in range(1, len(acts) + 1):
        place = tmp_path / str(k)
        place.mkdir()
        folder = place / "run"
        where = f"act {k}, {acts[k - 1]}"
        # that a folder's names are not synced ends nothing, as some file systems cannot
        is_said = acts[k - 1] != "fsync"
        expected = pytest.raises(OSError, match="disk") if is_said else suppress(OSError)
        with failing(monkeypatch, k, late), expected:
            train(small, out=folder, epochs=EPOCHS, tensorboard=True)
        # nothing is left next to the folder, and no draft in it
        assert {file.name for file in place.iterdir()} <= {"run"}, where
        assert {file.name for file in folder.glob("*")} <= {*whole, BOARD}, where
        if not folder.exists():
            train(small, out=folder, epochs=EPOCHS, tensorboard=True)
        else:
            assert (folder / CONFIG).read_bytes() == whole[CONFIG]
            run = Run(folder)
            epochs = len(run.history)
            kept = checkpoint.read(folder / CHECKPOINT)["state"]
            assert kept["epochs"] in (epochs, epochs + 1), where
            assert (folder / WEIGHTS).read_bytes() in weights[epochs : kept["epochs"] + 1], where
            train(small, resume=run, epochs=EPOCHS, tensorboard=True)
        assert contents(folder) == whole, where
        assert _shown(folder) == shown, where


def test_a_fault_leaves_the_run_that_was_to_be_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A disk that is full says so before anything of the older run is touched."""
    folder = tmp_path / "run"
    train(small, out=folder, epochs=1)
    before = contents(folder)
    with failing(monkeypatch, 10), pytest.raises(OSError, match="disk"):
        train(small, out=folder, epochs=EPOCHS, overwrite=True)
    assert contents(folder) == before
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_fault_while_a_run_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Never the files of two runs: what is there loads, and is replaced by the next call."""
    train(small, out=tmp_path / "whole", epochs=1)
    folder, moves = tmp_path / "run", 5
    train(small, out=folder, epochs=EPOCHS)
    older = contents(folder)
    for k in (1, 3, moves):
        with failing(monkeypatch, 0) as acts:
            train(small, out=folder, epochs=1, overwrite=True)
        first = len(acts) - 10 - moves  # an epoch has ten acts
        assert acts[first : first + moves] == ["replace"] * moves
        with failing(monkeypatch, first + k), pytest.raises(OSError, match="disk"):
            train(small, out=folder, epochs=1, overwrite=True)
        left = contents(folder)
        assert all(left.get(name) != older[name] for name in (WEIGHTS, CHECKPOINT))
        assert not Run(folder).history.rows
    train(small, out=folder, epochs=1, overwrite=True)
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_kills(tmp_path: Path) -> None:
    """One by each signal; `make kills` has thirty."""
    kills = Kills(tmp_path)
    for name, number in zip(("binarized", "schedule", "mutual"), SIGNALS, strict=True):
        kills.kill(name, number)
