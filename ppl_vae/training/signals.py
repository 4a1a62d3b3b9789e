"""Signals that ask a training to end, answered between two steps."""

import signal
import threading
from types import FrameType, TracebackType

from ppl_vae.world import here

__all__ = ["Asked", "Interrupted", "Terminated"]


class Interrupted(KeyboardInterrupt):
    """A training was interrupted (SIGINT, Ctrl-C) and has ended between two steps."""


class Terminated(SystemExit):
    """A training was asked to end (SIGTERM) and has done so between two steps; the code is 143."""

    def __init__(self, said: str = "") -> None:
        super().__init__(128 + signal.SIGTERM)
        self.said = said

    def __str__(self) -> str:
        return self.said


class Asked:
    """Context in which the first SIGINT or SIGTERM is noted, and the second acts at once.

    A signal for which something else has been set up already is left to that. Only the main
    thread can take signals: in another this does nothing.

    A terminal, or a service that is stopped, sends the signal to the workers of a `DataLoader`
    too, and torch raises an error wherever this process is when one of them is killed. From the
    first signal to `close` it does not.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}
        self._of_workers: object = None

    def __enter__(self) -> "Asked":
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        if threading.current_thread() is threading.main_thread():
            for number, handler in usual.items():
                if signal.getsignal(number) is handler:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._leave()
        if hasattr(signal, "SIGCHLD"):  # not there on Windows
            self._of_workers = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def close(self) -> None:
        """Puts all back, once what the training leaves is written."""
        if self._of_workers is not None:
            signal.signal(signal.SIGCHLD, self._of_workers)  # type: ignore[arg-type]
            self._of_workers = None

    def _leave(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def check(self) -> None:
        """Ends the training if that has been asked of this process, or of one that trains along.

        Raises:
            Interrupted: after a SIGINT.
            Terminated: after a SIGTERM.
        """
        asked = here().most(self.signal or 0)
        if asked:
            raise Interrupted if asked == signal.SIGINT else Terminated
