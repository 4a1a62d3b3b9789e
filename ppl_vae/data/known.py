"""What is kept of a data set once its rows are gone: enough to read new rows and to sample."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ppl_vae.data.checks import first_marked
from ppl_vae.data.columns import is_table
from ppl_vae.data.dataset import Dataset, Extra
from ppl_vae.data.layout import Layout
from ppl_vae.data.tensors import arguments_of
from ppl_vae.data.transform import Transform
from ppl_vae.documents import record

__all__ = ["Known"]

# So many rows of covariates are kept to sample with.
_COVARIATES = 1000
# So many numbers a row may have.
_LARGEST = 2**26
_FILE = "data.json"


@dataclass(frozen=True)
class Known:
    """What a run knows of the rows it was trained on, as plain values.

    Attributes:
        sizes: the shape of a row of each argument that the pair is called with, x first.
        types: their types, such as `float32`.
        low: the least value of x: of each column where rows are vectors, else of all.
        high: the largest.
        mean: the mean.
        name: the data set's name.
        classes: the names of its classes.
        extra: what the pair is called with besides x.
        width: how many covariates or classes that is.
        covariates: those of up to 1000 training rows.
        transform: what was done to the values of x, as `Transform.plain`.
        missing: whether values of x may be missing, as NaN.
        table: the columns of a table, as `Layout.plain`.
        crop: of images from a folder, see `Folder`.
    """

    sizes: Sequence[Sequence[int]]
    types: Sequence[str]
    low: Sequence[float]
    high: Sequence[float]
    mean: Sequence[float]
    name: str = "data"
    classes: Sequence[str] = ()
    extra: Extra = ""
    width: int = 0
    covariates: Sequence[Sequence[float]] | None = None
    transform: Mapping[str, Any] | None = None
    missing: bool = False
    table: Mapping[str, Any] | None = None
    crop: int | None = None

    @classmethod
    def of(
        cls,
        data: Dataset | None,
        args: Sequence[Tensor],
        transform: Transform | None = None,
        missing: bool = False,
    ) -> Self:
        """What is kept of a data set, or of the arguments a pair is called with in training.

        Args:
            data: the data set, if there is one.
            args: those arguments.
            transform: what was done to their x, where no data set says so.
            missing: whether values of x may be missing though none is.
        """
        x = args[0]
        flat = _floats(x.reshape(len(x), -1) if x.dim() == 2 else x.reshape(-1, 1))
        absent = flat.isnan()
        if data is not None and "train" in data.streams:
            columns = data.streams["train"].moments.columns()[:3]
            found = tuple(data.transform.redo(each) for each in columns)
        else:
            found = (
                flat.masked_fill(absent, torch.inf).amin(0),
                flat.masked_fill(absent, -torch.inf).amax(0),
                flat.nanmean(0),
            )
        # of a column of nothing but NaN nothing is known
        seen = found[0].isfinite()
        low, high, mean = (each.where(seen, 0).double().tolist() for each in found)
        shapes = [list(part.shape[1:]) for part in args]
        types = [str(part.dtype).removeprefix("torch.") for part in args]
        missing = missing or bool(absent.any())
        if data is None:
            plain = None if transform is None else transform.plain
            return cls(shapes, types, low, high, mean, transform=plain, missing=missing)
        covariates = None
        if data.extra == "covariates":
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
            covariates = args[1][order[:_COVARIATES].to(args[1].device)].tolist()
        named = (data.name, [*data.classes], data.extra, data.width, covariates)
        missing = missing or data.missing == "mask"
        table = None if data.layout is None else data.layout.plain
        told = (data.transform.plain, missing, table, getattr(data, "crop", None))
        return cls(shapes, types, low, high, mean, *named, *told)

    @classmethod
    def of_run(cls, kept: Mapping[str, Any]) -> Self:
        """What a run's `data.json` says.

        Raises:
            ValueError: if it is no such thing.
        """
        found = record(cls, kept, _FILE)
        every = [n for size in found.sizes for n in size]
        if not found.sizes or len(found.types) != len(found.sizes) or min(every, default=1) < 1:
            raise ValueError(f"{_FILE} is damaged: its sizes are none of rows")
        if max(map(math.prod, found.sizes)) > _LARGEST:
            raise ValueError(f"{_FILE} is damaged: a row has more than {_LARGEST:,} numbers")
        if not all(isinstance(getattr(torch, name, None), torch.dtype) for name in found.types):
            raise ValueError(f"{_FILE} is damaged: a type in {found.types} is none of tensors")
        if not len(found.low) == len(found.high) == len(found.mean) > 0:
            raise ValueError(f"{_FILE} is damaged: low, high and mean are of several lengths")
        if len({len(row) for row in found.covariates or ()}) > 1:
            raise ValueError(f"{_FILE} is damaged: its covariates are of several lengths")
        widths = [len(row) for row in (found.covariates or ())[:1]]
        if found.covariates is not None and widths != [math.prod(s) for s in found.sizes[1:2]]:
            raise ValueError(f"{_FILE} is damaged: its covariates are not those of its rows")
        if found.covariates == [] or found.width < 0 or (found.crop or 1) < 1:
            raise ValueError(f"{_FILE} is damaged: a size in it is none")
        Transform.of_plain(found.transform)
        layout = found.layout
        if layout is not None and [len(layout.names)] != [*found.sizes[0]]:
            raise ValueError(f"{_FILE} is damaged: its columns are not those of its rows")
        return found

    @property
    def plain(self) -> dict[str, Any]:
        """As mappings, lists and numbers."""
        return asdict(self)

    @property
    def layout(self) -> Layout | None:
        """The columns, where rows come from a table."""
        return Layout.of_plain(self.table)

    def arguments(self, rows: Any, name: str = "rows") -> tuple[Tensor, ...]:
        """New rows in any form as arguments of the pair, x in the units of the data.

        Args:
            rows: as `arguments_of` takes them; of a pair that was trained on a table also a table
                with its columns, in which covariates and labels are looked for.
            name: what messages call them.

        Raises:
            ValueError: if they are not numbers, or a table lacks a column.
        """
        layout = self.layout
        first, *rest = rows if isinstance(rows, tuple) and rows else (rows,)
        if layout is None or not is_table(first):
            return arguments_of(rows, name)
        if not len(first):
            raise ValueError(f"{name} has no rows: give one or more")
        x = layout.rows(first, self.missing)
        layout.check(x)
        if rest:
            return arguments_of((x, *rest), name)
        return x, *layout.given(first, self.extra, self.missing)

    def given(self, given: Any) -> tuple[Tensor, ...]:
        """What a model is conditioned on, in any form; a table's columns of it."""
        layout = self.layout
        if layout is None or not is_table(given) or not self.extra:
            return arguments_of(given)
        return layout.given(given, self.extra, self.missing)

    def scaled(self, args: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Arguments whose x has had done to it what was done to the training's."""
        return Transform.of_plain(self.transform).apply(args[0]), *args[1:]

    def undone(self, rows: Tensor) -> Tensor:
        """Rows of the pair in the units of the data."""
        return Transform.of_plain(self.transform).undo(rows)

    def shown(self, rows: Tensor) -> Tensor:
        """Rows in the units of the data as the pair has them, for pictures."""
        return Transform.of_plain(self.transform).redo(rows)

    def example(self, n: int = 1) -> tuple[Tensor, ...]:
        """Rows that stand for the data's where only their number, shape and covariates count."""
        zeros = [self.blank(n), *(torch.zeros(n, *size) for size in self.sizes[1:])]
        if self.extra == "labels":
            zeros[1] = torch.full((n,), -1)
        if self.covariates is not None:
            zeros[1] = torch.tensor(self.covariates)[torch.arange(n) % len(self.covariates)]
        return self.typed(zeros)

    def blank(self, n: int) -> Tensor:
        """Values of x that stand for any."""
        layout = self.layout
        return torch.zeros(n, *self.sizes[0]) if layout is None else layout.blank(n)

    def typed(self, args: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Arguments in the types of the training's."""
        types = [getattr(torch, name) for name in self.types]
        return tuple(part.to(kind) for part, kind in zip(args, types, strict=True))

    def check(self, args: Sequence[Tensor], missing: bool = False) -> str:
        """Holds new rows against those of the training.

        Args:
            args: the pair's arguments.
            missing: whether values may be missing, as NaN.

        Returns:
            A warning, of values far outside the training's; else nothing.

        Raises:
            ValueError: for another number of arguments, another shape, a value that is infinite
                or, where none may be missing, NaN, or rows most of which lie further outside the
                training's range than it is wide.
        """
        if len(args) != len(self.sizes):
            what = {"covariates": ", x and its covariates", "labels": ", x and its labels"}
            raise ValueError(
                f"{len(args)} arguments are given where the training had {len(self.sizes)}"
                f"{what.get(self.extra, '')}: give them as a tuple"
            )
        for part, size in zip(args, self.sizes, strict=True):
            if list(part.shape[1:]) != list(size):
                raise ValueError(
                    f"rows of shape {tuple(part.shape[1:])} are given where the training's had "
                    f"{tuple(size)}: reshape or cut them to that"
                )
        x = _floats(args[0])
        if not len(x):
            raise ValueError("there are no rows: give one or more")
        if self.table is not None and not (missing or self.missing) and x.isnan().any():
            _, place = self._marked(x, x.isnan())
            raise ValueError(
                f"{place} is missing, as are values in {int(x.isnan().any(1).sum())} of {len(x)} "
                'rows: impute fills them in, and missing="mask" trains a pair that takes them'
            )
        check_present(args, missing or self.missing)
        low, high = x.new_tensor(self.low), x.new_tensor(self.high)
        # a column that was constant has no width of its own
        width = torch.where(high > low, high - low, high.max() - low.min())
        flat = x.reshape(len(x), -1)
        far = (flat < low - width) | (flat > high + width)
        rows = far.any(1)
        if not rows.any():
            return ""
        value, place = self._marked(flat, far)
        column = int(far.nonzero()[0, 1]) % len(self.low)
        said = (
            f"{place} is {value:g} where the training's values lie between "
            f"{self.low[column]:g} and {self.high[column]:g}"
        )
        if 2 * int(rows.sum()) > len(rows):
            raise ValueError(
                f"{said}, and so in {int(rows.sum())} of {len(rows)} rows: prepare them as the "
                "training's rows were"
            )
        return said

    def _marked(self, x: Tensor, wrong: Tensor) -> tuple[float, str]:
        """The first marked value in the units of the pair, and its place."""
        value, place = first_marked(x, wrong)
        layout = self.layout
        return value, place if layout is None else layout.place(wrong.nonzero()[0].tolist())


def _floats(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def check_present(args: Sequence[Tensor], missing: bool = False) -> None:
    """Refuses values that are infinite or, where none may be missing, NaN.

    Raises:
        ValueError: naming the first.
    """
    for i, part in enumerate(args):
        wrong = part.isinf() | (part.isnan() & (not missing or i > 0))
        if wrong.any():
            value, place = first_marked(part, wrong)
            where = place if i == 0 else f"argument {i} at {place}"
            remedy = "drop those rows"
            if value != value and i == 0:
                remedy = 'impute fills them in, and missing="mask" trains a pair that takes them'
            raise ValueError(f"{where} is {value} ({int(wrong.sum())} such values): {remedy}")
