r"""What a data set is."""

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from ppl_vae.data.columns import is_table
from ppl_vae.data.layout import Layout
from ppl_vae.data.tensors import as_tensor
from ppl_vae.data.transform import Normalise, Transform

__all__ = [
    "Beside",
    "Channels",
    "Dataset",
    "Missing",
    "channels_first",
    "check_bytes",
    "check_finite",
    "check_values",
    "first_marked",
]

Beside = Literal["", "covariates", "labels"]
"""What of a data set a pair is called with beside its rows."""

Part = Literal["train", "test"]

Channels = Literal["first", "last"]

Missing = Literal["refuse", "mask"]
"""What is done about NaN."""


class Dataset:
    r"""Training rows and held-out rows of one shape, and what else is known of each row.

    Args:
        train: the training rows, `(n, *size)`: a tensor, a list, or anything with `__array__` or
            `to_numpy`; all numbers are turned into floats of torch's default type.
        test: the held-out rows, `(m, *size)`, or None.
        train_labels: the class of each training row as an integer, `(n,)`, or None; negative
            where it is not known.
        test_labels: the same of the held-out rows.
        train_covariates: what each training row is conditioned on, `(n, k)` or `(n,)`, or None.
        test_covariates: the same of the held-out rows.
        name: what pictures and messages call it.
        classes: the names of the classes.
        normalise: what is done to the rows, held-out ones as training rows, by the training rows'
            statistics; kept as `transform`. "bytes" divides integers by 255.
        channels: of images: "first", or "last", which are moved to the front.
        missing: what is done about NaN in the rows: "refuse", or "mask", which leaves them out of
            the likelihood (see `ppl_vae.fit`).
        train_weights: how much each training row counts, `(n,)`, 0 or more; their mean is set to
            1, so that a loss stays one of a row.
        test_weights: the same of the held-out rows.

    Raises:
        ValueError: if a value is NaN or infinite (its place is named), if a row has another shape
            than the rest, or if there is not one label, weight and covariate for each row.

    Example:
        >>> data = Dataset(torch.zeros(6, 2), test=torch.ones(3, 2), name="toy")
        >>> data
        Dataset(toy: 6 training rows, 3 held out, each of shape (2,))
    """

    beside: Beside = ""
    """What `arguments` hands beside the rows; see `handing`."""

    layout: Layout | None = None
    """The columns of rows that come from a table."""

    def __init__(
        self,
        train: Any,
        test: Any = None,
        train_labels: Any = None,
        test_labels: Any = None,
        *,
        train_covariates: Any = None,
        test_covariates: Any = None,
        name: str = "data",
        classes: Sequence[str] = (),
        normalise: Normalise = "none",
        channels: Channels | None = None,
        missing: Missing = "refuse",
        train_weights: Any = None,
        test_weights: Any = None,
    ) -> None:
        if missing not in get_args(Missing):
            raise ValueError(f"{name}: missing={missing!r}: give 'refuse' or 'mask'")
        self.name, self.missing = name, missing
        if normalise != "bytes" and (layout := Layout.of_numbers(train)) is not None:
            self.layout, train = layout, layout.rows(train)
            test = layout.rows(test) if is_table(test) else test
        given = [
            None if x is None else as_tensor(x, f"{name}: {part}")
            for part, x in (("train", train), ("test", test))
        ]
        given = [None if x is None else channels_first(x, channels, name) for x in given]
        if normalise == "bytes":
            check_bytes(given, name)
        assert given[0] is not None
        self.transform = Transform.of(normalise, given[0])
        rows = [
            None
            if x is None
            else check_values(self.transform.apply(x), f"{name}: {part}", missing)
            for part, x in zip(("train", "test"), given, strict=True)
        ]
        assert rows[0] is not None
        self.train, self.test = rows[0], rows[1]
        if self.test is not None and self.test.shape[1:] != self.size:
            raise ValueError(
                f"{name}: held-out rows have shape {tuple(self.test.shape[1:])} where training "
                f"rows have {tuple(self.size)}: reshape them to one shape"
            )
        train_labels, test_labels, train_covariates, test_covariates = (
            None if x is None else as_tensor(x, f"{name}: labels or covariates")
            for x in (train_labels, test_labels, train_covariates, test_covariates)
        )
        self.train_weights = check_weights(train_weights, self.train, f"{name}: train_weights")
        self.test_weights = check_weights(test_weights, self.test, f"{name}: test_weights")
        self.train_labels = _check_labels(train_labels, self.train, f"{name}: train_labels")
        self.test_labels = _check_labels(test_labels, self.test, f"{name}: test_labels")
        covariates = (train_covariates, test_covariates)
        self.train_covariates, self.test_covariates = _check_covariates(
            covariates, (self.train, self.test), name
        )
        self.classes = tuple(classes)

    @property
    def size(self) -> torch.Size:
        """The shape of one row."""
        return self.train.shape[1:]

    @property
    def held_out(self) -> Part:
        """The rows to evaluate on: `test`, or `train` where no rows are held out."""
        return "train" if self.test is None else "test"

    def labels(self, part: Part) -> Tensor | None:
        """The classes of the training rows or of the held-out rows."""
        return self.train_labels if part == "train" else self.test_labels

    def weights(self, part: Part) -> Tensor | None:
        """How much each of the training rows or of the held-out rows counts."""
        return self.train_weights if part == "train" else self.test_weights

    def epoch(self) -> Tensor:
        """The training rows as they stand for one pass, `(n, *size)`."""
        return self.train

    def handing(self, what: Beside) -> Self:
        """The same data, whose `arguments` have the covariates or the labels beside the rows.

        Classes stand in for covariates where the data have none: a row's is its class in one-hot
        coding.

        Raises:
            ValueError: if the data have no such thing.

        Example:
            >>> digits = Dataset(torch.rand(3, 64), train_labels=torch.tensor([2, 0, 1]))
            >>> x, c = digits.handing("covariates").arguments("train")
            >>> c.tolist()
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        """
        if what not in get_args(Beside):
            raise ValueError(f"handing({what!r}): give 'covariates', 'labels' or ''")
        handing = copy(self)
        if what == "covariates" and self.train_covariates is None:
            handing.train_covariates, handing.test_covariates = self._one_hot()
        if what == "labels" and self.train_labels is None:
            raise ValueError(f"{self.name} has no labels: give train_labels, negative if unknown")
        handing.beside = what
        return handing

    @property
    def width(self) -> int:
        """How many numbers are known beside each row: covariates or classes, 0 if none."""
        if self.beside == "labels":
            return self._count()
        covariates = self.train_covariates if self.beside == "covariates" else None
        return 0 if covariates is None else covariates.shape[1]

    def arguments(self, part: Part, *, labelled: bool = True) -> tuple[Tensor, ...]:
        """What a pair is called with: the rows, and what is handed beside them.

        Args:
            part: the training rows or the held-out ones.
            labelled: hand labels as they are; otherwise, as in evaluation, as unknown.
        """
        rows = self.train if part == "train" else self.test
        if rows is None:
            raise ValueError(f"{self.name} has no held-out rows")
        if self.beside == "covariates":
            beside = self.train_covariates if part == "train" else self.test_covariates
            return rows, *([] if beside is None else [beside])
        if self.beside == "labels":
            labels = self.labels(part) if labelled else None
            unknown = torch.full((len(rows),), -1, device=rows.device)
            return rows, unknown if labels is None else labels
        return (rows,)

    def to(self, target: torch.device | str | torch.dtype) -> Self:
        """The same data on a device, or with its floats of a type."""
        moved = copy(self)
        floats = isinstance(target, torch.dtype)
        for key, value in vars(self).items():
            if isinstance(value, Dataset) or (
                isinstance(value, Tensor) and (not floats or value.is_floating_point())
            ):
                setattr(moved, key, value.to(target))
        return moved

    def _count(self) -> int:
        """The number of classes."""
        labels = [x for x in (self.train_labels, self.test_labels) if x is not None]
        return max([len(self.classes), *(int(x.max()) + 1 for x in labels)])

    def _one_hot(self) -> tuple[Tensor, Tensor | None]:
        parts: list[Tensor | None] = []
        for part in (self.train_labels, self.test_labels):
            if part is not None and bool((part < 0).any()):
                raise ValueError(f"{self.name} has rows of unknown class and no covariates")
            one_hot = None if part is None else torch.nn.functional.one_hot(part, self._count())
            parts.append(None if one_hot is None else one_hot.to(self.train))
        train, test = parts
        if train is None or (test is None and self.test is not None):
            raise ValueError(
                f"{self.name} has neither covariates nor a class for every row: give "
                "train_covariates and test_covariates"
            )
        return train, test

    def __len__(self) -> int:
        return len(self.train)

    def __repr__(self) -> str:
        held = 0 if self.test is None else len(self.test)
        return (
            f"{type(self).__name__}({self.name}: {len(self)} training rows, {held} held out, "
            f"each of shape {tuple(self.size)})"
        )


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


def check_finite(x: Tensor, name: str, missing: Missing = "refuse") -> None:
    """Refuses values that are infinite or, unless they are to be masked, NaN.

    Raises:
        ValueError: naming the first, how many there are and what to do.
    """
    wrong = x.isinf() if missing == "mask" else ~torch.isfinite(x)
    if wrong.any():
        value, place = first_marked(x, wrong)
        mask = ', or give missing="mask", which leaves NaN out' if value != value else ""
        raise ValueError(
            f"{name}{place} is {value} ({int(wrong.sum())} such values): drop those rows or fill "
            f"them in{mask}"
        )


def check_values(x: Tensor, name: str, missing: Missing = "refuse") -> Tensor:
    """`x` as floats, held to be rows of finite values, or of NaN where these are to be masked."""
    if x.ndim and not len(x):
        raise ValueError(f"{name} has no rows: give some, or leave it out")
    if x.ndim < 2 or not x.numel():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, not (rows, *shape of one row): reshape it, a "
            "single number per row being (n, 1)"
        )
    check_finite(x, name, missing)
    return x.to(torch.get_default_dtype())


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


def _check_labels(labels: Tensor | None, rows: Tensor | None, name: str) -> Tensor | None:
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


def _check_covariates(
    covariates: tuple[Tensor | None, Tensor | None], parts: tuple[Tensor, Tensor | None], name: str
) -> tuple[Tensor | None, Tensor | None]:
    checked: list[Tensor | None] = []
    for key, value, rows in zip(("train", "test"), covariates, parts, strict=True):
        if value is None:
            checked.append(None)
            continue
        if rows is None or len(value) != len(rows):
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


def first_marked(x: Tensor, wrong: Tensor) -> tuple[float, str]:
    """The first marked value of `x`, and its place as `[i, j]`."""
    place = wrong.nonzero()[0].tolist()
    return float(x[tuple(place)]), str(place)
