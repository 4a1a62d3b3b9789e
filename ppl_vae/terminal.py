"""What is shown on a terminal: text, and nothing that it would act on.

Words of a run, of a table or of a folder's name may be anybody's, and a terminal obeys some
characters: it clears the screen, renames its window, turns text round.
"""

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

__all__ = ["spelling", "spelt"]


def spelt(text: str) -> str:
    """A text whose characters that are none to read are spelt out, but for ends of lines and tabs.

    Example:
        >>> print(spelt("a\x1b[2Jb"))
        a\\x1b[2Jb
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_spelt, text))


def _spelt(character: str) -> str:
    is_read = character in "\n\t" or unicodedata.category(character) not in _OTHER
    return character if is_read else character.encode("unicode_escape").decode()


# Controls, what is not shown (it turns text round, or joins it), halves, ends of lines and pages.
_OTHER = ("Cc", "Cf", "Cs", "Zl", "Zp")


class _Spelt:
    """A stream that is written to as by `spelt`.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(spelt(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def spelling() -> Iterator[None]:
    """Has all that is printed go through `spelt`; without an output nothing is printed."""
    with redirect_stdout(None if sys.stdout is None else _Spelt(sys.stdout)):
        yield
