"""One training at a time in a process."""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import ParamSpec, TypeVar

__all__ = ["alone"]

P = ParamSpec("P")
R = TypeVar("R")

_RUNNING = RLock()


def alone(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refused while another thread is in one of its kind.

    Pyro's parameter store and its stack of effect handlers, torch's generators and the seed belong
    to the process: two threads would write into each other's traces.

    Raises:
        RuntimeError: when called, if another thread trains.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _RUNNING.acquire(blocking=False):
            raise RuntimeError(
                "another thread is training, and Pyro's parameters and handlers and torch's "
                "generators are one for the process: train one after the other, or in processes"
            )
        try:
            return function(*args, **kwargs)
        finally:
            _RUNNING.release()

    return called
