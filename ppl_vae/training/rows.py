"""The rows to train on and those held out, each as the tensors a pair is called with."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data.checks import (
    Channels,
    Missing,
    channels_first,
    check_bytes,
    check_finite,
    check_weights,
)
from ppl_vae.data.columns import is_table
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.known import Known
from ppl_vae.data.loaders import Batches, InMemory
from ppl_vae.data.reader import is_stream
from ppl_vae.data.stream import Stream, Streamed
from ppl_vae.data.tensors import arguments_of
from ppl_vae.data.transform import Normalise, Transform
from ppl_vae.pairs.pair import typed_for
from ppl_vae.program.missing import with_missing
from ppl_vae.program.modules import Program, evaluating, float_type
from ppl_vae.program.running import check_takes, read
from ppl_vae.program.weighing import Weighted

__all__ = ["TrainingRows"]

Values = tuple[Tensor, ...]

_BATCH = 128
"""Rows to a step where nothing is said."""


class TrainingRows:
    """The rows to train on and those held out.

    Args:
        data: as `fit` takes it.
        validation: held-out rows; a data set's own by default.
        normalise: what is done to the values of both, by the training rows' statistics.
        channels: of images.
        missing: what is done about NaN.
        weights: of the training rows.

    Attributes:
        train: the training rows that are in memory, all of them or a few of a stream.
        held_out: the same of the held-out rows; empty if there are none.

    Raises:
        ValueError: for what is no rows of numbers, and for settings that a data set has itself.
    """

    def __init__(
        self,
        data: Any,
        validation: Any = None,
        normalise: Normalise = "none",
        channels: Channels | None = None,
        missing: Missing = "refuse",
        weights: Any = None,
    ) -> None:
        kept_channels = channels
        self._table: Callable[[], Dataset] | None = None
        if is_stream(data) or is_table(data):
            settings: dict[str, Any] = {"normalise": normalise, "missing": missing}
            settings |= {"channels": channels, "train_weights": weights}
            self._table = partial(Dataset, data, **settings) if is_table(data) else None
            data = Dataset(data, **settings)
            normalise, channels, missing, weights = "none", None, "refuse", None
        self.data = data if isinstance(data, Dataset) else None
        given = {"normalise": normalise != "none", "channels": channels is not None}
        given |= {"missing": missing != "refuse", "weights": weights is not None}
        self.held_out: Values = ()
        self._validation: Stream | None = None
        if isinstance(data, Dataset):
            if said := [name for name, is_given in given.items() if is_given]:
                raise ValueError(f"{said[0]}= is a data set's own: give it to {data.name!r}")
            self.transform, self.missing = data.transform, data.missing
            self.train, self.weights = data.arguments("train"), data.train_weights
            if validation is None and data.test is not None:
                # unlabelled, so that a class is what the pair says it is
                self.held_out = data.arguments("test", labelled=False)
                self._validation = data.streams.get("test")
        else:
            self.missing = missing
            x, *rest = arguments_of(data, "data")
            x = channels_first(x, channels, "data")
            if normalise == "bytes":
                check_bytes([x], "data")
            self.transform = Transform.of(normalise, x)
            self.train = self._changed(x, *rest)
            self.weights = check_weights(weights, self.train[0], "weights")
        if is_stream(validation):
            self._validation = Stream(validation, "validation", kept_channels, self.missing)
            self.held_out = self._of_stream(*self._validation.few)
        elif validation is not None:
            x, *rest = self.known.arguments(validation, "validation")
            x = channels_first(x, kept_channels, "validation")
            self.held_out = self._changed(x, *rest)
        own = self.data if validation is None else None
        self.held_out_weights = None if own is None else own.test_weights
        for name, parts in (("data", self.train), ("validation", self.held_out)):
            for i, part in enumerate(parts):
                check_finite(part, name, self.missing if i == 0 else "refuse")

    def _changed(self, x: Tensor, *rest: Tensor) -> Values:
        return (x if self.transform.kind == "none" else self.transform.apply(x)), *rest

    def _of_stream(self, x: Tensor, *extra: Tensor) -> Values:
        """The arguments of a batch of streamed held-out rows."""
        if self.data is not None:
            return self.data.changed(x, *extra, labelled=False)
        if len(self.train) != 1 + len(extra[: len(self.train) - 1]):
            raise ValueError(
                f"validation gives x alone, and the pair is called with {len(self.train)} "
                "arguments: let its items be x and the other"
            )
        rows = self.transform.apply(x).to(self.train[0].dtype)
        more = zip(extra, self.train[1:], strict=False)
        return rows, *(part.to(like.dtype) for part, like in more)

    @property
    def known(self) -> Known:
        """What is kept of the training rows."""
        return Known.of(self.data, self.train, self.transform, self.missing == "mask")

    @property
    def _stream(self) -> Stream | None:
        return None if self.data is None else self.data.streams.get("train")

    def batch_size(self, wanted: int) -> int:
        """Rows to a step: those wanted, or a loader's own where nothing was said.

        Raises:
            ValueError: for another number than the loader's.
        """
        own = None if self._stream is None else self._stream.batch_size
        if own is None or own == wanted:
            return wanted
        if wanted != _BATCH:
            raise ValueError(
                f"batch_size is {wanted} and the DataLoader's is {own}: leave it to the loader, "
                "or give the loader's dataset"
            )
        return own

    def typed(self, model: Program, guide: Program) -> None:
        """Floats in the type of the pair's parameters, where these have one.

        The library's pairs take x as floats.

        Raises:
            ValueError: for a data set that has rounded what the pair has the precision for, or
                another number of arguments than the pair is called with.
        """
        check_takes(self.train, model, guide)
        kind = float_type(model, guide)
        if kind is None:
            return
        if self.data is not None and self.data.train.dtype != kind:
            if kind == torch.double and self._table is not None:
                with _default(torch.double):
                    self.data = self._table()
                self.train = self.data.arguments("train")
            elif kind == torch.double == self.data.given and self._stream is None:
                raise ValueError(
                    f"{self.data.name} was given as float64 and is held as float32, and the pair "
                    "is float64: set torch.set_default_dtype(torch.float64) before the data set "
                    "is made, or give fit the rows themselves, or pair.float()"
                )
            self.data = self.data.to(kind)

        def typed(parts: Values, name: str) -> Values:
            for i, x in enumerate(parts):
                if x.dtype == torch.double != kind:
                    check_finite(x, name, self.missing if i == 0 else "refuse", kind)
            return typed_for(parts, model, guide)

        self.train = typed(self.train, "data")
        self.held_out = typed(self.held_out, "validation")

    def to(self, device: torch.device) -> None:
        """Moves all."""
        self.data = None if self.data is None else self.data.to(device)
        self.train = tuple(part.to(device) for part in self.train)
        self.held_out = tuple(part.to(device) for part in self.held_out)

    def epoch(self) -> Batches:
        """What the pair is called with in one pass."""
        if self.data is None:
            return InMemory(self._with(self.train, self.weights))
        rows = self.data.batches("train")
        return rows if self.weights is None else InMemory(self._with(rows.few, self.weights))

    def validation(self) -> Batches | None:
        """The same of the held-out rows, if there are any."""
        if not self.held_out:
            return None
        few = self._with(self.held_out, self.held_out_weights)
        if self._validation is None:
            return InMemory(few)
        return Streamed(
            self._validation, lambda *given: self._with(self._of_stream(*given), None), few
        )

    def _with(self, parts: Values, weights: Tensor | None) -> Values:
        if self.weights is None:
            return parts
        ones = parts[0].new_ones(len(parts[0]), dtype=self.weights.dtype)
        return *parts, ones if weights is None else weights.to(parts[0].device)

    def stand_ins(self, drawn: Values) -> Values:
        """Rows without their weights, with another row's value wherever one is missing."""
        x, *rest = drawn[: len(self.train)]
        if self.missing == "mask":
            place = (~x.isnan()).to(torch.uint8).argmax(0, keepdim=True)
            x = torch.where(x.isnan(), x.gather(0, place).nan_to_num(0.0), x)
        return x, *rest

    @property
    def extremes(self) -> Tensor | None:
        """Rows of the extremes of a stream, as the pair takes them; None of rows in memory."""
        if self._stream is None:
            return None
        return self.transform.redo(self._stream.moments.extremes).to(self.train[0])

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all rows, as the pair is called with them; of a stream, of its few and of
        what is known of the rest."""
        found = hashlib.sha256()
        parts = [*self.train, *self.held_out]
        parts += [w for w in (self.weights, self.held_out_weights) if w is not None]
        if self._stream is not None:
            parts += [*self._stream.moments.columns(), torch.tensor(len(self._stream))]
        for part in parts:
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            plain = part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            found.update(plain.data)
        return found.hexdigest()

    @property
    def described(self) -> str:
        """The data in one line."""
        shapes = [tuple(part.shape) for part in self.train]
        return f"rows of shapes {shapes}" if self.data is None else repr(self.data)

    def leaving_out(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """The pair as it takes missing values, if any are to be masked."""
        if self.missing == "refuse":
            return model, guide
        fill = self.train[0].nanmean(0)
        if self._stream is not None:
            fill = self.transform.redo(self._stream.moments.mean).to(fill)
        return with_missing(model, guide, fill.nan_to_num(0.0))

    def weighing(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """The pair with the rows' weights for a last argument, if there are any."""
        if self.weights is None:
            return model, guide
        few = tuple(part[:2] for part in self.train)
        with torch.random.fork_rng(), torch.no_grad(), evaluating(model, guide):
            names = read(model, guide, few, complete=False).plates()
        return Weighted(model, names), Weighted(guide, names)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Floats of a type where none is given."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
