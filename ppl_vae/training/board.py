"""TensorBoard's copy of a training's log."""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae import files
from ppl_vae.training.run import BOARD

__all__ = ["Board", "board"]


class Board:
    """A file of events in a run's folder.

    torch's `SummaryWriter` writes in a thread of its own, which prints a traceback where a disk is
    full; here a row is on the disk, or is not there and that is said.

    Raises:
        ImportError: without TensorBoard.
    """

    def __init__(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._writer = Event, Summary, RecordWriter
        self._session = SessionLog(status=SessionLog.START)
        self._name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._is_new = True

    def add(self, folder: Path, row: Mapping[str, float]) -> None:
        """Adds the numbers of an epoch, in place of those that are there of it or of later ones.

        Args:
            folder: the run's.
            row: of the log.

        Raises:
            OSError: if it cannot be written.
        """
        step = int(row["step"])
        numbers = {name: x for name, x in row.items() if name not in ("epoch", "step")}
        values = [self._summary.Value(tag=name, simple_value=x) for name, x in numbers.items()]
        events = [{"step": step, "summary": self._summary(value=values)}]
        if self._is_new:
            begins = {"step": step, "session_log": self._session}
            events = [{"file_version": "brain.Event:2"}, begins, *events]
        place = files.folder(folder / BOARD) / self._name
        files.append(place, b"".join(map(self._record, events)))
        self._is_new = False

    def _record(self, parts: Mapping[str, Any]) -> bytes:
        event, record = self._event(wall_time=time.time(), **parts), io.BytesIO()
        self._writer(record).write(event.SerializeToString())
        return record.getvalue()


def board() -> Board | None:
    """TensorBoard's copy of a log; None where TensorBoard is not installed."""
    try:
        return Board()
    except ImportError:
        return None
