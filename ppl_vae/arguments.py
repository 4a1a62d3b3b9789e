"""Checks of the numbers that parts are made with."""

__all__ = ["above_zero"]


def above_zero(owner: object, **numbers: float) -> None:
    """Refuses numbers that are not above zero, naming the part and the argument.

    Args:
        owner: the part that is being made.
        **numbers: its arguments by name.

    Raises:
        ValueError: for the first that is zero, negative or NaN.
    """
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{type(owner).__name__}: {name} must be above 0, got {number:g}")
