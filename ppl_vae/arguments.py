"""Checks of what parts are made with."""

import inspect
import math
from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any

__all__ = ["above_zero", "checked_seed", "chosen", "instance", "of_step", "shape", "whole"]


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


def checked_seed(seed: int) -> int:
    """A seed that all generators take, torch's and NumPy's.

    Raises:
        ValueError: for any other.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie between 0 and {2**32 - 1}, got {seed}")
    return seed


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


def instance(name: str, value: object, kind: type, such_as: str) -> None:
    """Refuses what is not an instance of a class.

    Args:
        name: of the argument.
        value: what was given.
        kind: the class.
        such_as: one to write instead.

    Raises:
        TypeError: saying what to write.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type):
        write = f"{value.__name__}(...)" if issubclass(value, kind) else such_as
        raise TypeError(f"{name} is the class {value.__name__}: write {write}, an instance of it")
    raise TypeError(f"{name} is {value!r}: give a {kind.__name__}, such as {such_as}")


def of_step(owner: object, **weights: object) -> None:
    """Refuses functions that cannot be called with the step alone, as those of schedules are.

    Args:
        owner: the part that is being made.
        **weights: its coefficients by name, numbers among them.

    Raises:
        TypeError: naming the first that is none.
    """
    for name, weight in weights.items():
        if not callable(weight):
            continue
        try:
            inspect.signature(weight).bind(0)
        except TypeError as error:
            raise TypeError(
                f"{type(owner).__name__}: {name} is {weight!r}: give a number, a schedule such as "
                "Linear(), or a function of the step"
            ) from error
        except ValueError:  # a built-in one does not say what it takes
            continue


def shape(owner: object, size: int | Sequence[int], dim: object = 1) -> tuple[int, ...]:
    """The shape of x, where `300` stands for `(300,)`.

    Args:
        owner: the part that is being made.
        size: the shape, or the number of entries of a vector.
        dim: what was given for the dimension of z.

    Raises:
        ValueError: if it is no shape, or the two seem to have changed places.
    """
    sizes: Any = (size,) if isinstance(size, Integral) else size
    name = type(owner).__name__
    if isinstance(size, Integral) and isinstance(dim, Sequence) and not isinstance(dim, str):
        raise ValueError(
            f"{name}: x has the shape {size} and z the dimension {dim}, as if they had changed "
            "places: likelihoods take (dim, size), encoders (size, dim)"
        )
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise ValueError(f"{name}: size is {size!r}: give the shape of x, such as (1, 28, 28)")
    if not all(isinstance(n, Integral) and int(n) > 0 for n in sizes):
        raise ValueError(f"{name}: size is {size!r}, and a shape has whole numbers of at least 1")
    return tuple(int(n) for n in sizes)
