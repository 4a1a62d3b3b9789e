"""TensorBoard's copy of a training's log."""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ppl_vae import files
from ppl_vae.training.run import BOARD, Run

__all__ = ["Board", "board"]


class Board:
    """A file of events in a run's folder.

    torch's `SummaryWriter` writes in a thread of its own, which prints a traceback where a disk is
    full; here what cannot be written is said where it is written.

    Args:
        run: the folder.
        done: the steps before now; what was logged of later ones is not shown.

    Raises:
        ImportError: without TensorBoard.
        OSError: if the file cannot be made.
    """

    def __init__(self, run: Run, done: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = files.folder(run.path / BOARD) / name
        with files.telling(self._path):
            self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if done:
            self._write(step=done + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, row: Mapping[str, float], step: int) -> None:
        """Adds the numbers of an epoch, which is over after a step."""
        values = [self._summary.Value(tag=name, simple_value=x) for name, x in row.items()]
        self._write(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _write(self, **parts: Any) -> None:
        event = self._event(wall_time=time.time(), **parts)
        with files.telling(self._path):
            self._records.write(event.SerializeToString())


@contextmanager
def board(run: Run | None, wanted: bool, done: int = 0) -> Iterator[Board | None]:
    """TensorBoard's log in a run's folder; None where it is not wanted or not installed.

    Args:
        run: the folder.
        wanted: whether to log there.
        done: the steps before now; what was logged of later ones is not shown.
    """
    made = None
    if run is not None and wanted:
        try:
            made = Board(run, done)
        except ImportError:
            made = None
    try:
        yield made
    finally:
        if made is not None:
            made.close()
