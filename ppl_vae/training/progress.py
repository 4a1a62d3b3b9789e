"""What a training shows while it runs."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ppl_vae.terminal import spelt
from ppl_vae.training.history import KINDS

__all__ = ["Progress", "brief", "showing"]


class Progress:
    """A bar with the terms, or a line an epoch.

    Args:
        bar: of `tqdm`, moved by the step; one that is disabled where lines are shown.
        lines: whether to show lines.
        epochs: how many there will be at most.
    """

    def __init__(self, bar: Any, lines: bool, epochs: int) -> None:
        self.bar, self._lines, self._epochs = bar, lines, epochs

    def epoch(self, row: Mapping[str, float]) -> None:
        """Shows the row of an epoch."""
        if self._lines:
            said = f"epoch {row['epoch']}/{self._epochs}: {brief(row)}"
            if "validation/loss" in row:
                said += f"; held out {brief(row, 'validation/')}"
            print(spelt(said), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Shows a line of text."""
        text = spelt(text)
        if self._lines:
            print(text, file=sys.stderr, flush=True)
        elif not self.bar.disable:
            self.bar.write(text, file=self.bar.fp)


def brief(row: Mapping[str, float], part: str = "") -> str:
    """The terms of a row, or its loss where it has none.

    Args:
        row: of a history.
        part: what stands before their names.
    """
    names = [name for name in KINDS if part + name in row] or ["loss"]
    return ", ".join(f"{name} {row[part + name]:.4g}" for name in names) + " nats"


@contextmanager
def showing(steps: int, done: int, epochs: int, wanted: bool) -> Iterator[Progress]:
    """Shows how a training goes: a bar on a terminal and in a notebook, elsewhere lines.

    Args:
        steps: of the training.
        done: those before now.
        epochs: of the training.
        wanted: whether to show anything.
    """
    # the bar made of text: it needs no widgets, and notebooks follow its carriage returns
    from tqdm import tqdm

    where = sys.stdout if _in_notebook() else sys.stderr
    lines = wanted and where is sys.stderr and not where.isatty()
    with tqdm(
        total=steps, initial=done, unit="step", file=where, disable=not wanted or lines
    ) as bar:
        yield Progress(bar, lines, epochs)


def _in_notebook() -> bool:
    """Whether cells of a notebook are run: by IPython, and not in a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
