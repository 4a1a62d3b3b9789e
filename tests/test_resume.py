"""Checkpoints: a run that is gone on with becomes what it would have been, bit for bit."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainings import BATCHES, TRAININGS, contents, train

from ppl_vae.training.session import Session


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Has a training get a signal in a step."""
    between = Session._between

    def at(step: int, number: int = signal.SIGINT) -> None:
        def then(session: Session) -> None:
            if session.training.step == step:
                signal.raise_signal(number)
            between(session)

        monkeypatch.setattr(Session, "_between", then)

    return at


def interrupted(make: Any, stop_at: Any, step: int, folder: Path, **options: Any) -> str:
    """Trains until a step, and returns what the interruption says."""
    stop_at(step)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(make, out=folder, **options)
    stop_at(-1)
    return str(stop.value)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, stop_at: Any, tmp_path: Path) -> None:
    make = TRAININGS[name]
    whole = train(make, out=tmp_path / "whole", epochs=2)
    for step in (1, BATCHES + 3):
        folder = tmp_path / str(step)
        said = interrupted(make, stop_at, step, folder, epochs=2)
        assert said == (
            f"stopped after step {step}; fit(..., resume={str(folder)!r}) goes on after step {step}"
        )
        found = train(make, resume=folder, epochs=2)
        assert found.rows == whole.rows
        assert contents(folder) == contents(tmp_path / "whole")
