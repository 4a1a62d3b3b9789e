"""The rows to train on and those held out, each as the tensors a pair is called with."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data.dataset import (
    Channels,
    Dataset,
    Missing,
    channels_first,
    check_bytes,
    check_finite,
    check_weights,
)
from ppl_vae.data.known import Known
from ppl_vae.data.sources import as_dataset
from ppl_vae.data.tensors import arguments_of
from ppl_vae.data.transform import Normalise, Transform
from ppl_vae.pairs.pair import Pair
from ppl_vae.program.missing import with_missing
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.program.running import read
from ppl_vae.program.weighing import Weighted

__all__ = ["TrainingRows"]

Values = tuple[Tensor, ...]


class TrainingRows:
    """The rows to train on and those held out.

    Args:
        data: as `fit` takes it.
        validation: held-out rows; a data set's own by default.
        normalise: what is done to the values of both, by the training rows' statistics.
        channels: of images.
        missing: what is done about NaN.
        weights: of the training rows.

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
        if isinstance(data, DataLoader | TorchDataset):
            settings: dict[str, Any] = {
                "normalise": normalise,
                "channels": channels,
                "missing": missing,
            }
            data = as_dataset(data, train_weights=weights, **settings)
            normalise, channels, missing, weights = "none", None, "refuse", None
        self.data = data if isinstance(data, Dataset) else None
        given = {"normalise": normalise != "none", "channels": channels is not None}
        given |= {"missing": missing != "refuse", "weights": weights is not None}
        if isinstance(data, Dataset):
            if said := [name for name, is_given in given.items() if is_given]:
                raise ValueError(f"{said[0]}= is a data set's own: give it to {data.name!r}")
            self.transform, self.missing = data.transform, data.missing
            self.train, self.weights = data.arguments("train"), data.train_weights
            self.held_out: Values = ()
            if validation is not None:
                self.held_out = self._scaled(validation, channels)
            elif data.test is not None:
                # unlabelled, so that a class is what the pair says it is
                self.held_out = data.arguments("test", labelled=False)
        else:
            self.missing = missing
            x, *rest = arguments_of(data, "data")
            x = channels_first(x, channels, "data")
            if normalise == "bytes":
                check_bytes([x], "data")
            self.transform = Transform.of(normalise, x)
            self.train = self._changed(x, *rest)
            self.held_out = () if validation is None else self._scaled(validation, channels)
            self.weights = check_weights(weights, self.train[0], "weights")
        own = self.data if validation is None else None
        self.held_out_weights = None if own is None else own.test_weights
        for name, parts in (("data", self.train), ("validation", self.held_out)):
            for i, part in enumerate(parts):
                check_finite(part, name, self.missing if i == 0 else "refuse")

    def _scaled(self, validation: Any, channels: Channels | None) -> Values:
        if isinstance(validation, DataLoader | TorchDataset):
            validation = as_dataset(validation, "validation").arguments("train")
        x, *rest = arguments_of(validation, "validation")
        return self._changed(channels_first(x, channels, "validation"), *rest)

    def _changed(self, x: Tensor, *rest: Tensor) -> Values:
        return (x if self.transform.kind == "none" else self.transform.apply(x)), *rest

    @property
    def known(self) -> Known:
        """What is kept of the training rows."""
        return Known.of(self.data, self.train, self.transform, self.missing == "mask")

    def typed(self, model: Program, guide: Program) -> None:
        """Floats in the type of the pair's parameters, where these have one.

        The library's pairs take x as floats.
        """
        modules = modules_of(model, guide).values()
        found = {p.dtype for module in modules for p in module.parameters()}
        kinds = [kind for kind in found if kind.is_floating_point]
        if len(kinds) != 1:
            return
        if self.data is not None and self.data.train.dtype != kinds[0]:
            self.data = self.data.to(kinds[0])
        wants_floats = any(isinstance(module, Pair) for module in modules)

        def typed(parts: Values) -> Values:
            return tuple(
                x.to(kinds[0]) if x.is_floating_point() or (wants_floats and i == 0) else x
                for i, x in enumerate(parts)
            )

        self.train, self.held_out = typed(self.train), typed(self.held_out)

    def to(self, device: torch.device) -> None:
        """Moves all."""
        self.data = None if self.data is None else self.data.to(device)
        self.train = tuple(part.to(device) for part in self.train)
        self.held_out = tuple(part.to(device) for part in self.held_out)

    def epoch(self) -> Values:
        """What the pair is called with in one pass."""
        drawn = self.train if self.data is None else (self.data.epoch(), *self.train[1:])
        return self._with(drawn, self.weights)

    def validation(self) -> Values:
        """The same of the held-out rows."""
        return self.held_out and self._with(self.held_out, self.held_out_weights)

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
    def described(self) -> str:
        """The data in one line."""
        shapes = [tuple(part.shape) for part in self.train]
        return f"rows of shapes {shapes}" if self.data is None else repr(self.data)

    def leaving_out(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """The pair as it takes missing values, if any are to be masked."""
        if self.missing == "refuse":
            return model, guide
        return with_missing(model, guide, self.train[0].nanmean(0).nan_to_num(0.0))

    def weighing(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """The pair with the rows' weights for a last argument, if there are any."""
        if self.weights is None:
            return model, guide
        few = tuple(part[:2] for part in self.train)
        names = read(model, guide, few, complete=False).plates()
        return Weighted(model, names), Weighted(guide, names)
