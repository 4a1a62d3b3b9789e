"""What a metric is, and what it is computed of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ppl_vae.data.dataset import Dataset, Part
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.programs import Program, seeded
from ppl_vae.program.modules import modules_of

__all__ = ["GROUPS", "NATS", "P_VALUE", "Effort", "Inapplicable", "Metric", "Subject", "When"]

When = Literal["fit", "evaluate", "asked"]
"""Whether a metric is computed after each training, by each evaluation, or by name alone."""

GROUPS = {
    "fit": "Fit",
    "information": "Information in the code",
    "match": "Aggregate posterior against the prior",
    "labels": "Labels read from posterior means",
    "samples": "Data and samples",
    "factors": "Disentanglement",
    "posterior": "Posterior diagnostics",
}
"""The headings that metrics stand under, by the name they are asked for together."""

NATS = "nats per datum"
P_VALUE = "p-value"

T = TypeVar("T")


class Inapplicable(ValueError):
    """Says that a metric is of another kind of pair or data, and would never be missed here."""


@dataclass(frozen=True)
class Metric:
    """A measure of a pair on data, under the name by which it is asked for.

    Attributes:
        name: in files and on the command line. Where `compute` returns several numbers by member,
            each is called `name/member`.
        title: for a reader, with `{}` where a member's name belongs.
        unit: of the value and its errors; empty for a pure number.
        reading: what a good value is, or what it is a value of.
        group: a key of `GROUPS`.
        compute: the value, of a `Subject`. A ValueError or NotImplementedError says why there is
            none.
        when: it is computed.
        label: what a member is called in the title.
    """

    name: str
    title: str
    unit: str
    reading: str
    group: str
    compute: Callable[["Subject"], Estimate | Mapping[str, Estimate]]
    when: When = "evaluate"
    label: Callable[[str], str] = str


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        samples: draws of z for each datum in importance sampling, K.
        rows: held-out data that importance sampling, information, calibration and predictive
            checks take at most, a random choice, and ten times as many that disentanglement
            draws; the others take all.
        simulations: of simulation-based calibration.
        seed: of the draws.
    """

    samples: int = 1000
    rows: int = 1000
    simulations: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 25), ("rows", 2), ("simulations", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {least} or more")

    def quick(self) -> "Effort":
        """The same, or less where it would take long."""
        return replace(
            self,
            samples=min(self.samples, 100),
            rows=min(self.rows, 200),
            simulations=min(self.simulations, 200),
        )


class Subject:
    """A pair and its data, with what several metrics share computed once.

    Args:
        model: the generative program.
        guide: the encoder program.
        data: its held-out rows are looked at, or all where it has none; `passing` says what the
            pair is called with.
        effort: how much to compute.
    """

    def __init__(
        self, model: Program, guide: Program, data: Dataset, effort: Effort | None = None
    ) -> None:
        self.pair, self.data, self.effort = (model, guide), data, effort or Effort()
        self.modules = tuple(modules_of(model, guide).values())
        self._made: dict[Callable[[Subject], Any], Any] = {}

    def arguments(self, part: Part) -> tuple[Tensor, ...]:
        """What the pair is called with: rows, where its parameters lie, without their classes."""
        device = next((p.device for module in self.modules for p in module.parameters()), None)
        rows = self.data.arguments(part, labelled=False, seed=self.effort.seed)
        return tuple(x.to(device) for x in rows)

    @cached_property
    def args(self) -> tuple[Tensor, ...]:
        """The rows looked at."""
        return self.arguments(self.data.held_out)

    @property
    def x(self) -> Tensor:
        """The data among `args`."""
        return self.args[0]

    @cached_property
    def few(self) -> tuple[Tensor, ...]:
        """At most `effort.rows` of them, the same ones whoever asks."""
        if len(self.x) <= self.effort.rows:
            return self.args
        order = torch.randperm(
            len(self.x), generator=torch.Generator().manual_seed(self.effort.seed)
        )
        chosen = order[: self.effort.rows].to(self.x.device)
        return tuple(part[chosen] for part in self.args)

    def known(self, part: Part) -> tuple[Tensor, Tensor]:
        """The rows of known class among the training or the held-out ones, and the classes.

        Raises:
            ValueError: if there are none.
        """
        labels = self.data.labels(part)
        if labels is None or not bool((labels >= 0).any()):
            rows = "" if self.data.train_labels is None else f" for their {part} rows"
            raise ValueError(f"labels are needed, and these data have none{rows}")
        told = (labels >= 0).nonzero()[:, 0]
        return told, labels[told]

    def once(self, compute: Callable[["Subject"], T]) -> T:
        """`compute` of this subject, however often it is asked for.

        Its draws follow the seed by themselves, so that they are the same whatever else is asked.
        """
        if compute not in self._made:
            try:
                with seeded(self.effort.seed):
                    self._made[compute] = compute(self)
            except (ValueError, NotImplementedError) as error:
                self._made[compute] = error
        made = self._made[compute]
        if isinstance(made, Exception):
            raise made
        found: T = made
        return found

    def made(self, compute: Callable[["Subject"], T]) -> T | None:
        """What `once` has computed, if it has."""
        found: T | None = self._made.get(compute)
        return None if isinstance(found, Exception) else found
