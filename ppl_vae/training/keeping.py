"""What a training writes to its folder while it goes on."""

import shlex
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ppl_vae.training import checkpoint
from ppl_vae.training.board import Board
from ppl_vae.training.checkpoint import NotKept
from ppl_vae.training.run import CHECKPOINT, Run

__all__ = ["Keeper", "Kept"]


class Keeper:
    """Writes a training's checkpoints, weights and log, in an order in which they always agree.

    An epoch is over once its checkpoint is on the disk; the weights follow, its row goes to
    TensorBoard, and to the log last. So whatever ends a process, the log has no epoch that the
    rest has not, and what it lacks is in the checkpoint.

    Args:
        run: the folder.
        settings: what another training must have in common with this one to go on from it.
        began: the `origin` of this one.
        board: TensorBoard's copy of the log.
    """

    def __init__(
        self,
        run: Run,
        settings: Mapping[str, Any],
        began: Mapping[str, int],
        board: Board | None = None,
    ) -> None:
        self.run, self._settings, self._began, self._board = run, settings, began, board
        self._is_able = True

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint.

        Warns:
            UserWarning: once, where something in the state cannot be written.
        """
        if not self._is_able:
            return
        whole = {"settings": self._settings, "began": self._began, "state": state}
        try:
            checkpoint.write(self.run.path / CHECKPOINT, whole)
        except NotKept as error:
            self._is_able = False
            warnings.warn(
                f"the run has no checkpoints, and cannot be resumed: {error}", stacklevel=2
            )

    def epoch(
        self, state: Mapping[str, Any], weights: Mapping[str, Tensor] | None, row: dict[str, float]
    ) -> None:
        """Writes what there is after an epoch.

        Args:
            state: of the training.
            weights: those to end with, where they have changed.
            row: of the log.
        """
        self.checkpoint(state)
        if weights is not None:
            self.run.save_weights(weights)
        self.show(row)
        self.run.log(row)

    def show(self, row: Mapping[str, float]) -> None:
        """Gives a row to TensorBoard, where that is wanted and installed."""
        if self._board is not None:
            self._board.add(self.run.path, row)

    def weights(self, weights: Mapping[str, Tensor]) -> None:
        """Writes the weights that a training ends with early."""
        self.run.save_weights(weights)

    def how_to_resume(self, epoch: int, is_exact: bool) -> str:
        """What to type to go on, in an epoch; empty where nothing does."""
        if not self._is_able:
            return ""
        place = str(self.run.path)
        is_experiment = isinstance(self.run.config.get("data"), Mapping)
        line = f"ppl-vae fit --resume {shlex.quote(place)}"
        line = line if is_experiment else f"fit(..., resume={place!r})"
        if is_exact:
            return f"{line} goes on from there"
        return (
            f"{line} goes on from the start of epoch {epoch}, as a loader or an iterable cannot "
            "begin in the middle"
        )


class Kept(Keeper):
    """Of a training that goes over several processes, in those that another one writes for."""

    def __init__(self) -> None: ...

    def checkpoint(self, state: Mapping[str, Any]) -> None: ...

    def epoch(
        self, state: Mapping[str, Any], weights: Mapping[str, Tensor] | None, row: dict[str, float]
    ) -> None: ...

    def weights(self, weights: Mapping[str, Tensor]) -> None: ...

    def how_to_resume(self, epoch: int, is_exact: bool) -> str:
        return ""
