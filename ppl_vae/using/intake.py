"""What goes into a trained pair and what comes out: arguments, names, forms."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ppl_vae.data.checks import check_finite
from ppl_vae.data.columns import is_table
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.folder import Images
from ppl_vae.data.known import Known, check_present
from ppl_vae.data.layout import Layout
from ppl_vae.data.reader import Reader, is_stream
from ppl_vae.data.remembered import Remembered
from ppl_vae.data.stream import labels_and_covariates
from ppl_vae.data.tensors import arguments_of, as_tensor
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.samples import has_mean
from ppl_vae.program.missing import with_missing
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.using.decoding import decode
from ppl_vae.using.forms import Form

__all__ = ["Intake"]


class Intake:
    """A model and a guide with what is known of their rows; the base of `Trained`, which see."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        data: Any = None,
        *,
        plate: str | None = None,
        site: str | None = None,
    ) -> None:
        self._programs, self._plate, self._site = (model, guide), plate, site
        if is_table(data):
            data = Dataset(data, missing="mask")
            data.missing = "mask" if data.train.isnan().any() else "refuse"
        self._data = data if isinstance(data, Dataset) else None
        self._known = data if isinstance(data, Known) else None
        if isinstance(data, Remembered):
            self._known = data.known
        rows = data is not None and not isinstance(data, Dataset | Known)
        self._args = arguments_of(data) if rows else None
        absent = self._args is not None and bool(self._args[0].isnan().any())
        absent = absent or getattr(self._known or self._data, "missing", False) in (True, "mask")
        if absent and (known := self.known) is not None:
            fill = torch.tensor(known.mean).expand(*known.sizes[0])
            self._programs = with_missing(model, guide, fill)

    # What goes in

    @property
    def known(self) -> Known | None:
        """What new rows are held against."""
        if self._known is None and (self._data is not None or self._args is not None):
            args = self._args or self._data.arguments("train")  # type: ignore[union-attr]
            self._known = Known.of(self._data, args)
        return self._known

    def _read(self, rows: Any, missing: bool = False) -> tuple[Tensor, ...]:
        """New rows as the arguments of the pair, held against what is known."""
        args, known = self._given(rows), self.known
        if known is None:
            check_present(args, missing)
        else:
            if known.extra == "labels" and len(args) == 1:
                args = (*args, torch.full((len(args[0]),), -1))
            args = known.scaled(args)
            if said := known.check(args, missing):
                warnings.warn(said, stacklevel=3)
            args = known.typed(args)
        return self._placed(args)

    def images(self, path: str | Path) -> Tensor:
        """The images of a folder as bytes, scaled and cut as those of the training were.

        Args:
            path: the folder; its sub-folders, if there are any, tell no classes here.

        Raises:
            FileNotFoundError: if there is none, or no image in it.
            ValueError: if the training's rows were no images.
        """
        size = [] if self.known is None else [*self.known.sizes[0]]
        if len(size) != 3 or size[0] not in (1, 3):
            raise ValueError(
                f"{str(path)!r} is a path, which is for images, and the training's rows had shape "
                f"{tuple(size)}: give rows"
            )
        assert self.known is not None
        return Images(path, size[1:], self.known.crop, grey=size[0] == 1).whole()[0]

    def _given(self, rows: Any) -> tuple[Tensor, ...]:
        """New rows in any form as arguments, as they come."""
        if isinstance(rows, str | Path):
            return (self.images(rows),)
        known = self.known
        if not is_stream(rows):
            return arguments_of(rows) if known is None else known.arguments(rows)
        parts = Reader(rows, "rows").whole()
        if known is None:
            return parts
        if (
            known.extra == "covariates"
            and (labels := labels_and_covariates(parts[1:])[0]) is not None
        ):
            parts = parts[0], one_hot(labels.long(), known.width).to(parts[0])
        return parts[: len(known.sizes)]

    def _placed(self, args: Sequence[Tensor]) -> tuple[Tensor, ...]:
        modules = modules_of(*self._programs).values()
        device = next((p.device for module in modules for p in module.parameters()), None)
        return tuple(part if device is None else part.to(device) for part in args)

    def _example(self, given: Any, n: int) -> tuple[Tensor, ...]:
        """Arguments whose number, shape and covariates count: those given, else known ones."""
        if given is not None:
            known = self.known
            args = arguments_of(given) if known is None else known.given(given)
            if known is not None and len(args) < len(known.sizes):  # covariates or labels alone
                args = known.typed((known.blank(len(args[0])), *args))
            return self._placed(args)
        if self._args is not None:
            return self._placed(self._args)
        if self._known is not None and (self._data is None or isinstance(self._data, Remembered)):
            return self._placed(self._known.example(n))
        if self._data is None:
            raise ValueError(
                "the model takes rows, of which none are known: give some, whose number and "
                "covariates alone are used, as given="
            )
        return self._placed(self._data.arguments(self._data.held_out, labelled=False))

    # What comes out

    @property
    def layout(self) -> Layout | None:
        """The columns of the data, where they are a table's."""
        return None if self.known is None else self.known.layout

    @property
    def code_names(self) -> list[str]:
        """What each column of a code is called: by its latent site and its place there."""
        return self._names(self._example(None, 2))

    @property
    def data_names(self) -> list[str]:
        """What each column of the data is called."""
        if self.layout is not None:
            return self.layout.names
        size = [] if self.known is None else self.known.sizes[0]
        return [f"x[{i}]" for i in range(size[0])] if len(size) == 1 else []

    def drawn_as(self, mean: bool) -> str:
        """What `sample` gives, in words."""
        pair = Pair(*self._programs, self._example(None, 2), self._plate)
        return f"{'Means' if mean and has_mean(pair, self._site) else 'Draws'} of p(x | z)"

    def _names(self, args: tuple[Tensor, ...]) -> list[str]:
        pair = Pair(*self._programs, args, self._plate)
        sizes = {name: pair.sizes[name] for name in pair.codes}
        return [f"{name}[{i}]" for name, size in sizes.items() for i in range(size)]

    def _data_rows(
        self, form: Form, values: Tensor, within: str = "draw", kept: Any = None
    ) -> Any:
        """Data in its own units; where `kept` has a value, just that one."""
        if self.known is not None:
            values = self.known.undone(values)
        if kept is not None:
            raw = arguments_of(kept) if self.known is None else self.known.arguments(kept)
            there = raw[0].to(values)
            there = there if there.dim() == values.dim() else there[:, None]
            values = torch.where(there.isnan(), values, there)
        if self.layout is not None and form.kind in ("pandas", "polars"):
            columns = self.layout.columns(values)
            return form.table([*columns], [*columns.values()], within)
        return form.give(values, form.columns or self.data_names, within)

    def _training(self) -> tuple[Tensor, ...]:
        """The rows of the training."""
        if self._args is not None:
            return self._placed(self._args)
        data = self._data.rows() if isinstance(self._data, Remembered) else self._data
        if data is None:
            raise ValueError("the rows of the training are not known here: give some as rows=")
        return self._placed(data.arguments("train", seed=0))

    def _codes(self, codes: Any) -> Tensor:
        found = as_tensor(codes, "codes")
        if not (found.ndim and found.numel()):
            raise ValueError("codes has no rows: give a tensor, an array or a table of codes")
        modules = modules_of(*self._programs).values()
        kinds = (p.dtype for module in modules for p in module.parameters())
        check_finite(found, "codes at ", dtype=next(kinds, None))
        return self._placed([found])[0]

    def _decoded(self, z: Tensor, args: tuple[Tensor, ...], mean: bool) -> Tensor:
        """Data at codes `(m, d)` or `(m, k, d)`, whose k have their row's covariates."""
        pair = Pair(*self._programs, args, self._plate)
        sizes = [pair.sizes[name] for name in pair.codes]
        if z.dim() not in (2, 3) or z.shape[-1] != sum(sizes):
            raise ValueError(
                f"codes of shape {tuple(z.shape)}: (rows, {sum(sizes)}) are needed, or "
                f"(rows, draws, {sum(sizes)})"
            )
        # one code of each row after the other, as a model that runs whole has them
        turns = z[None] if z.dim() == 2 else z.movedim(1, 0)
        columns = turns.flatten(0, 1).split(sizes, -1)
        values = dict(zip(pair.codes, columns, strict=True))
        rows = (torch.arange(len(z)) % len(pair)).repeat(len(turns))
        found = decode(*self._programs, args, values, mean, self._site, self._plate, rows=rows)
        found = found.unflatten(0, turns.shape[:2])
        return found[0] if z.dim() == 2 else found.movedim(0, 1)
