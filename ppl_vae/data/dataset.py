r"""What a data set is."""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.data.checks import (
    Channels,
    Missing,
    channels_first,
    check_bytes,
    check_covariates,
    check_labels,
    check_none,
    check_rows,
    check_sizes,
    check_values,
    check_weights,
    one_hot,
)
from ppl_vae.data.columns import is_table
from ppl_vae.data.layout import Layout
from ppl_vae.data.loaders import Batches, InMemory
from ppl_vae.data.reader import is_stream
from ppl_vae.data.stream import Stream, Streamed, labels_and_covariates
from ppl_vae.data.tensors import as_tensor
from ppl_vae.data.transform import Normalise, Transform

__all__ = ["Dataset", "Extra", "Part"]

Extra = Literal["", "covariates", "labels"]
"""What of a data set a pair is called with besides its rows."""

Part = Literal["train", "test"]


class Dataset:
    r"""Training rows and held-out rows of one shape, and what else is known of each row.

    A torch `Dataset` or `DataLoader` is streamed: read once through when the data set is made, for
    what must be known of its rows, and then once an epoch, batch by batch. `train` and `test` hold
    a random few of such rows (10,000, or as many as 16 MB hold), for measures and pictures.

    Args:
        train: the training rows, `(n, *size)`: a tensor, a list, or anything with `__array__` or
            `to_numpy`; all numbers are turned into floats of torch's default type, and those of
            a stream on their way into the pair's. Or a torch
            `Dataset` or `DataLoader`, whose items are x, or x and one more: an integer is its
            label, numbers are its covariates.
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

    extra: Extra = ""
    """What `arguments` has besides the rows; see `passing`."""

    layout: Layout | None = None
    """The columns of rows that come from a table."""

    streams: Mapping[str, Stream] = {}
    """The parts that are read batch by batch."""

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
        if train is None:
            raise TypeError(f"{name}: train is None: give the training rows")
        if missing not in get_args(Missing):
            raise ValueError(f"{name}: missing={missing!r}: give 'refuse' or 'mask'")
        self.name, self.missing = name, missing
        self.streams = {}
        if normalise != "bytes" and (layout := Layout.of_numbers(train)) is not None:
            self.layout, train = layout, layout.rows(train)
            test = layout.rows(test) if is_table(test) else test
        extra = [
            [train_labels, train_covariates, train_weights],
            [test_labels, test_covariates, test_weights],
        ]
        given: list[Tensor | None] = []
        for k, (part, x) in enumerate((("train", train), ("test", test))):
            if is_stream(x):
                check_none(extra[k], f"{name}: {part}")
                self.streams[part] = stream = Stream(x, f"{name}: {part}", channels, missing)
                x, *rest = stream.few
                extra[k] = [*labels_and_covariates(rest), None]
            elif x is not None:
                x = channels_first(as_tensor(x, f"{name}: {part}"), channels, name)
            given.append(x)
        train_labels, train_covariates, train_weights = extra[0]
        test_labels, test_covariates, test_weights = extra[1]
        if normalise == "bytes":
            check_bytes(given, name)
        assert given[0] is not None
        for part, x in zip(("train", "test"), given, strict=True):
            if x is not None:
                check_rows(x, f"{name}: {part}")
        check_sizes(given[0], given[1], name)
        known = self.streams["train"].moments if "train" in self.streams else given[0]
        self.transform = Transform.of(normalise, known)
        rows = [
            None
            if x is None
            else check_values(self.transform.apply(x), f"{name}: {part}", missing)
            for part, x in zip(("train", "test"), given, strict=True)
        ]
        assert rows[0] is not None
        self.train, self.test, self.given = rows[0], rows[1], given[0].dtype
        train_labels, test_labels, train_covariates, test_covariates = (
            None if x is None else as_tensor(x, f"{name}: labels or covariates")
            for x in (train_labels, test_labels, train_covariates, test_covariates)
        )
        self.train_weights = check_weights(train_weights, self.train, f"{name}: train_weights")
        self.test_weights = check_weights(test_weights, self.test, f"{name}: test_weights")
        self.train_labels = check_labels(train_labels, self.train, f"{name}: train_labels")
        self.test_labels = check_labels(test_labels, self.test, f"{name}: test_labels")
        covariates = (train_covariates, test_covariates)
        self.train_covariates, self.test_covariates = check_covariates(
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

    def passing(self, what: Extra) -> Self:
        """The same data, whose `arguments` have the covariates or the labels besides the rows.

        Classes stand in for covariates where the data have none: a row's is its class in one-hot
        coding.

        Raises:
            ValueError: if the data have no such thing.

        Example:
            >>> digits = Dataset(torch.rand(3, 64), train_labels=torch.tensor([2, 0, 1]))
            >>> x, c = digits.passing("covariates").arguments("train")
            >>> c.tolist()
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        """
        if what not in get_args(Extra):
            raise ValueError(f"passing({what!r}): give 'covariates', 'labels' or ''")
        passing = copy(self)
        if what == "covariates" and self.train_covariates is None:
            unknown = any(stream.has_unknown for stream in self.streams.values())
            passing.train_covariates, passing.test_covariates = one_hot(
                (self.train_labels, self.test_labels),
                (self.train, self.test),
                self._count(),
                unknown,
                self.name,
            )
        if what == "labels" and self.train_labels is None:
            raise ValueError(f"{self.name} has no labels: give train_labels, negative if unknown")
        passing.extra = what
        return passing

    @property
    def width(self) -> int:
        """How many numbers are known of each row besides: covariates or classes, 0 if none."""
        if self.extra == "labels":
            return self._count()
        covariates = self.train_covariates if self.extra == "covariates" else None
        return 0 if covariates is None else covariates.shape[1]

    def arguments(
        self, part: Part, *, labelled: bool = True, seed: int | None = None
    ) -> tuple[Tensor, ...]:
        """What a pair is called with: the rows, and what comes with them.

        Args:
            part: the training rows or the held-out ones.
            labelled: labels as they are; otherwise, as in evaluation, as unknown.
            seed: of training rows that are drawn anew for each pass, which stand as in one pass
                then; None for what they are drawn from.
        """
        rows = self.train if part == "train" else self.test
        if part == "train" and seed is not None:
            with torch.random.fork_rng():
                torch.manual_seed(checked_seed(seed))
                rows = self.epoch()
        if rows is None:
            raise ValueError(f"{self.name} has no held-out rows")
        covariates = self.train_covariates if part == "train" else self.test_covariates
        return self._handed(rows, self.labels(part) if labelled else None, covariates)

    def batches(self, part: Part, *, labelled: bool = True) -> Batches:
        """All rows of a part as `arguments` are, to be gone through once.

        Args:
            part: the training rows or the held-out ones.
            labelled: as in `arguments`.
        """
        few = self.arguments(part, labelled=labelled)
        if part in self.streams:
            change = partial(self.changed, labelled=labelled)
            return Streamed(self.streams[part], change, few)
        return InMemory((self.epoch(), *few[1:]) if part == "train" else few)

    def changed(self, x: Tensor, *extra: Tensor, labelled: bool = True) -> tuple[Tensor, ...]:
        """What a pair is called with for a batch of a stream.

        Args:
            x: rows as they come.
            *extra: their labels or covariates, if they come.
            labelled: as in `arguments`.
        """
        rows = self.transform.apply(x).to(self.train.dtype)
        labels, covariates = labels_and_covariates(extra)
        if covariates is not None:
            covariates = covariates.reshape(len(x), -1).to(rows)
        elif self.extra == "covariates" and labels is not None:
            covariates = torch.nn.functional.one_hot(labels.long(), self.width).to(rows)
        known = labels.long() if labelled and labels is not None else None
        return self._handed(rows, known, covariates)

    def _handed(
        self, rows: Tensor, labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        if self.extra == "covariates":
            return rows, *([] if covariates is None else [covariates])
        if self.extra == "labels":
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
        streamed = (stream.classes for stream in self.streams.values())
        return max([len(self.classes), *(int(x.max()) + 1 for x in labels), *streamed])

    def __len__(self) -> int:
        return len(self.streams.get("train", self.train))

    def __repr__(self) -> str:
        held = self.streams.get("test", self.test)
        return (
            f"{type(self).__name__}({self.name}: {len(self)} training rows, "
            f"{0 if held is None else len(held)} held out, each of shape {tuple(self.size)}"
            f"{', streamed' if self.streams else ''})"
        )
