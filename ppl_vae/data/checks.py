"""What the rows of a data set, and what belongs to them, are held to."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ppl_vae.data.tensors import as_tensor

__all__ = [
    "MASK",
    "Channels",
    "Missing",
    "channels_first",
    "check_bytes",
    "check_covariates",
    "check_finite",
    "check_labels",
    "check_none",
    "check_rows",
    "check_sizes",
    "check_values",
    "check_weights",
    "first_marked",
    "one_hot",
]

Channels = Literal["first", "last"]

Missing = Literal["refuse", "mask"]
"""What is done about NaN."""

MASK = 'missing="mask" (--data.missing mask)'
"""What a refusal of missing values names."""


def channels_first(x: Tensor, channels: Channels | None, name: str) -> Tensor:
    """Images with their channels in front.

    Raises:
        ValueError: if they look as if these came last, and nothing was said.
    """
    if channels not in (None, *get_args(Channels)):
        raise ValueError(f"{name}: channels={channels!r}: give 'first' or 'last'")
    if channels == "last":
        return x.movedim(-1, 1) if x.ndim == 4 else x
    if channels is None and x.ndim == 4 and x.shape[3] in (1, 3, 4) and min(x.shape[1:3]) > 4:
        raise ValueError(
            f"{name}: rows of shape {tuple(x.shape[1:])} look like images with the channels last: "
            'give channels="last" to move them, or channels="first" if they are not'
        )
    return x


def check_bytes(parts: Sequence[Tensor | None], name: str) -> None:
    """Holds the parts of one data set to one type, so that they are scaled alike.

    Raises:
        ValueError: naming the types.
    """
    types = {x.dtype for x in parts if x is not None}
    if any(x.is_floating_point() for x in parts if x is not None):
        kinds = " and ".join(sorted(map(str, types)))
        raise ValueError(
            f'{name} holds {kinds}, and normalise="bytes" divides integers by 255: give all parts '
            'as bytes, or scale them alike and give normalise="none"'
        )


def check_finite(
    x: Tensor, name: str, missing: Missing = "refuse", dtype: torch.dtype | None = None
) -> None:
    """Refuses values that are infinite or, unless they are to be masked, NaN.

    Args:
        x: the values.
        name: what messages call them.
        missing: what is done about NaN.
        dtype: what they become, whose range they must not leave.

    Raises:
        ValueError: naming the first, how many there are and what to do.
    """
    wrong = x.isinf() if missing == "mask" else ~torch.isfinite(x)
    if wrong.any():
        value, place = first_marked(x, wrong)
        mask = f", or give {MASK}, which leaves NaN out" if value != value else ""
        raise ValueError(
            f"{name}{place} is {value} ({int(wrong.sum())} such values): drop those rows or fill "
            f"them in{mask}"
        )
    if dtype is not None and (beyond := x.to(dtype).isinf()).any():
        value, place = first_marked(x, beyond)
        raise ValueError(f"{name}{place} is {value:g}, beyond what {dtype} holds: rescale them")


def check_none(extra: Sequence[Any], name: str) -> None:
    """Refuses what is given besides rows that are streamed."""
    if any(each is not None for each in extra):
        raise ValueError(
            f"{name} is streamed, and labels, covariates and weights in memory do not follow its "
            "order: let its items be x and its label or covariates"
        )


def check_sizes(train: Tensor, test: Tensor | None, name: str) -> None:
    """Holds training rows and held-out rows to one shape."""
    if test is not None and test.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"{name}: held-out rows have shape {tuple(test.shape[1:])} where training rows have "
            f"{tuple(train.shape[1:])}: reshape them to one shape"
        )


def check_rows(x: Tensor, name: str) -> None:
    """Holds `x` to be rows, one or more, of numbers."""
    if x.ndim and not len(x):
        raise ValueError(f"{name} has no rows: give some, or leave it out")
    if x.ndim < 2 or not x.numel():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, not (rows, *shape of one row): reshape it, a "
            "single number per row being (n, 1)"
        )


def check_values(x: Tensor, name: str, missing: Missing = "refuse") -> Tensor:
    """`x` as floats, held to be rows of finite values, or of NaN where these are to be masked."""
    check_rows(x, name)
    dtype = torch.get_default_dtype()
    check_finite(x, name, missing, dtype)
    return x.to(dtype)


def check_weights(weights: Any, rows: Tensor | None, name: str) -> Tensor | None:
    """Weights of rows as floats of mean 1.

    Raises:
        ValueError: if there is not one of 0 or more for each row, or all are 0.
    """
    if weights is None:
        return None
    found = as_tensor(weights, name)
    held = 0 if rows is None else len(rows)
    if found.shape != (held,):
        raise ValueError(f"{name} has shape {tuple(found.shape)}, not one for each of {held} rows")
    found = found.to(torch.get_default_dtype())
    wrong = ~(found >= 0) | found.isinf()
    if wrong.any():
        value, place = first_marked(found, wrong)
        raise ValueError(f"{name}{place} is {value:g}: give numbers of 0 or more")
    if not found.any():
        raise ValueError(f"{name} are all 0: nothing is left to train on")
    return found / found.mean()


def check_labels(labels: Tensor | None, rows: Tensor | None, name: str) -> Tensor | None:
    if labels is None:
        return None
    if rows is None or labels.shape != (len(rows),):
        held = 0 if rows is None else len(rows)
        raise ValueError(
            f"{name} has shape {tuple(labels.shape)}, not one for each of {held} rows"
        )
    if labels.is_floating_point():
        raise ValueError(f"{name} are {labels.dtype}, not integers")
    return labels.long()


def check_covariates(
    covariates: tuple[Tensor | None, Tensor | None], parts: tuple[Tensor, Tensor | None], name: str
) -> tuple[Tensor | None, Tensor | None]:
    checked: list[Tensor | None] = []
    for key, value, rows in zip(("train", "test"), covariates, parts, strict=True):
        if value is None:
            checked.append(None)
            continue
        if rows is None or value.shape[:1] != rows.shape[:1]:
            held = 0 if rows is None else len(rows)
            raise ValueError(
                f"{name}: {key}_covariates has shape {tuple(value.shape)}, not one row for each "
                f"of {held} rows"
            )
        checked.append(check_values(value.reshape(len(value), -1), f"{name}: {key}_covariates"))
    train, test = checked
    if parts[1] is not None and (train is None) != (test is None):
        missing = "train_covariates" if train is None else "test_covariates"
        raise ValueError(f"{name} has no {missing}: give both or neither")
    if train is not None and test is not None and train.shape[1] != test.shape[1]:
        raise ValueError(
            f"{name}: covariates of {train.shape[1]} numbers in train, of {test.shape[1]} in test"
        )
    return train, test


def one_hot(
    labels: tuple[Tensor | None, Tensor | None],
    parts: tuple[Tensor, Tensor | None],
    count: int,
    unknown: bool,
    name: str,
) -> tuple[Tensor, Tensor | None]:
    """The classes of training and held-out rows as covariates.

    Args:
        labels: the classes.
        parts: the rows.
        count: the number of classes.
        unknown: whether there are rows of unknown class that are not at hand.
        name: of the data.

    Raises:
        ValueError: if a class is missing or unknown.
    """
    if unknown or any(each is not None and bool((each < 0).any()) for each in labels):
        raise ValueError(f"{name} has rows of unknown class and no covariates")
    train, test = (
        None if each is None else torch.nn.functional.one_hot(each, count).to(parts[0])
        for each in labels
    )
    if train is None or (test is None and parts[1] is not None):
        raise ValueError(
            f"{name} has neither covariates nor a class for every row: give train_covariates and "
            "test_covariates"
        )
    return train, test


def first_marked(x: Tensor, wrong: Tensor) -> tuple[float, str]:
    """The first marked value of `x`, and its place as `[i, j]`."""
    place = wrong.nonzero()[0].tolist()
    return float(x[tuple(place)]), str(place)
