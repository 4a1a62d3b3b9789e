"""Checks of what parts are made with."""

import math
from collections.abc import Collection
from numbers import Integral

__all__ = ["above_zero", "chosen", "whole"]


def above_zero(owner: object, **numbers: float) -> None:
    """Refuses numbers that are not finite and above zero, naming the part and the argument.

    Args:
        owner: the part that is being made.
        **numbers: its arguments by name.

    Raises:
        ValueError: for the first that is zero, negative, infinite or NaN.
    """
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(
                f"{type(owner).__name__}: {name} must be above 0 and finite, got {number:g}"
            )


def whole(owner: object, least: int = 1, **numbers: int) -> None:
    """Refuses numbers that are not whole or below the least, naming the part and the argument.

    Args:
        owner: the part that is being made.
        least: the smallest number admitted.
        **numbers: its arguments by name.

    Raises:
        ValueError: for the first that is not.
    """
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number < least:
            raise ValueError(
                f"{type(owner).__name__}: {name} must be a whole number of at least {least}, "
                f"got {number}"
            )


def chosen(owner: object, choices: Collection[str], **words: str) -> None:
    """Refuses words that are none of the choices, naming the part and the argument.

    Args:
        owner: the part that is being made.
        choices: what may be said.
        **words: its arguments by name.

    Raises:
        ValueError: for the first that is no choice.
    """
    for name, word in words.items():
        if word not in choices:
            raise ValueError(
                f"{type(owner).__name__}: {name} is {word!r}, which is none of "
                f"{', '.join(choices)}"
            )
