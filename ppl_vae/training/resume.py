"""How a training begins in a new folder, and how it goes on in its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro.infer import ELBO

from ppl_vae import files
from ppl_vae.objectives import Objective
from ppl_vae.training import checkpoint
from ppl_vae.training.adapters import AnyOptimizer
from ppl_vae.training.board import board
from ppl_vae.training.keeping import Keeper, Kept
from ppl_vae.training.optim import Scheduled
from ppl_vae.training.run import CHECKPOINT, METRICS, Run
from ppl_vae.training.session import Session
from ppl_vae.world import here

__all__ = ["begin", "go_on", "origin", "reopened", "rewind"]


def origin(objective: ELBO, optimizer: AnyOptimizer | None) -> dict[str, int]:
    """Where schedules stand before a training: an objective may have been trained with before."""
    found = {"calls": int(objective.step) if isinstance(objective, Objective) else 0}
    if isinstance(optimizer, Scheduled):
        found |= {"steps": optimizer.steps, "epochs": optimizer.epochs}
    return found


def rewind(objective: ELBO, optimizer: AnyOptimizer | None, began: Mapping[str, int]) -> None:
    """Sets schedules to where they stood at the `origin` of a training."""
    if isinstance(objective, Objective):
        objective.step.fill_(began["calls"])
    if isinstance(optimizer, Scheduled):
        optimizer.steps, optimizer.epochs = began.get("steps", 0), began.get("epochs", 0)


def reopened(run: Run) -> dict[str, Any]:
    """What the last checkpoint of a run holds.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = run.path / CHECKPOINT
    try:
        found = checkpoint.read(path)
        began = {name: checkpoint.count(n) for name, n in found["began"].items()}
        return {**found, "began": {"calls": 0, **began}}
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(run) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{str(run.path)!r} has no checkpoint to resume: start={str(run.path)!r} begins "
            "another training from its weights"
        ) from error


def begin(
    session: Session,
    out: str | Path,
    config: Mapping[str, Any],
    overwrite: bool,
    began: Mapping[str, int],
    tensorboard: bool,
) -> Run | None:
    """Makes the folder of a training that has not begun, complete at once.

    The first of several processes does, and the others have none.
    """
    settings, state = _settings(session), session.state()
    if here().rank:
        session.keeper = Kept()
        return None

    def fill(run: Run) -> None:
        run.save_data(session.ready.rows.known.plain)
        run.save_weights(session.weights.state())
        session.keeper = Keeper(run, settings, began, board() if tensorboard else None)
        session.keeper.checkpoint(state)

    run = Run.create(out, config, overwrite, fill)
    assert session.keeper is not None
    session.keeper.run = run  # which has its own name now
    return run


def go_on(
    session: Session,
    run: Run,
    kept: Mapping[str, Any],
    began: Mapping[str, int],
    tensorboard: bool,
) -> None:
    """Goes on with a run, from what `reopened` gave, and puts right what its end has left.

    Raises:
        ValueError: if it was begun in another way, or its checkpoint belongs to another pair.
    """
    settings, history = _settings(session), run.history
    try:
        _check_same(run, kept["settings"], settings)
        session.load_state(kept["state"], history)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise _foreign(run) from error
    here().most(0)  # all have read what is written now
    if here().rank:
        session.keeper = Kept()
        return
    files.sweep(run.path)
    keeper = Keeper(run, settings, began, board() if tensorboard else None)
    epochs, watch = len(session.history), session.ready.watch
    is_last = session.best is None or watch.epoch == epochs
    if epochs > len(history) and is_last:
        run.save_weights(session.weights.state())
    if epochs > len(history):
        keeper.show(session.history.last)
    if epochs != len(history) or files.is_shared(run.path / METRICS):
        run.rewrite(session.history)
    if run.config.get("epochs") != session.ready.epochs:
        run.save_config({**run.config, "epochs": session.ready.epochs})
    session.keeper = keeper


def _foreign(run: Run) -> ValueError:
    return ValueError(
        f"{str(run.path / CHECKPOINT)!r} is no checkpoint of such a training: begin another from "
        "the run's weights by start="
    )


def _settings(session: Session) -> dict[str, Any]:
    return {**session.ready.settings, "rows": session.ready.rows.fingerprint}


def _check_same(run: Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on with a run in another way than it was begun.

    Raises:
        ValueError: naming the first setting that differs, with both values.
    """
    for name, value in now.items():
        then = before.get(name, value)
        if then == value or name == "data":  # which may have moved
            continue
        said = f"{name} is {value!r} and was {then!r}"
        if name == "rows":
            said = (
                f"its rows were {before.get('data')} (SHA-256 {then:.8}) and these are "
                f"{now['data']} (SHA-256 {value:.8})"
            )
        raise ValueError(
            f"{str(run.path)!r} cannot be resumed: {said}; give what it was begun with, or begin "
            "another training from its weights by start="
        )
