"""What belongs to the process and not to this library, left as it is."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["ready_optimizers", "same_environment"]


@contextmanager
def same_environment() -> Iterator[None]:
    """Takes out of the environment what has come into it, which processes started later inherit.

    Torch sets `TORCHINDUCTOR_CACHE_DIR` with its first optimiser, and again where it needs it.
    """
    before = set(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def ready_optimizers() -> None:
    """Imports what torch imports with its first optimiser, and keeps the environment as it is."""
    if "torch._dynamo" not in sys.modules:
        with same_environment():
            import_module("torch._dynamo")
