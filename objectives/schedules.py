r"""Coefficients that change over a run, as functions of the step.

Each is a `Weight`: it takes the place of a number, as in `BetaVAE(Linear(over=0.3))`. Lengths are
stated in steps (a whole number) or as a fraction of the run (a float in (0, 1]); a fraction, and
the warning for a schedule longer than the run, need the run's length, which `ppl_vae.fit` tells
every schedule of an objective by `Objective.plan(total_steps)`.

A value is a tensor computed from the step's tensor with no read-back to the host, so a recorded or
compiled step sees it change.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = [
    "Cosine",
    "Cyclical",
    "HighThenLow",
    "Length",
    "Linear",
    "Piecewise",
    "Schedule",
    "schedules_of",
]

Length = int | float
"""A number of steps (int), or a fraction of the run (float in (0, 1], or 0.0 for none)."""


class Schedule(ABC):
    """A coefficient as a function of the step.

    A subclass writes `__call__` with lengths read through `steps`, and `end`.
    """

    total: int | None = None

    @abstractmethod
    def __call__(self, step: Tensor) -> Tensor:
        """The value at a step: a 0-dim tensor from a 0-dim tensor."""

    @property
    @abstractmethod
    def end(self) -> float:
        """The step from which on the value, or its cycle, has been gone through."""

    def steps(self, length: Length) -> float:
        """A length in steps.

        Raises:
            ValueError: for a fraction of a run whose length is not known.
        """
        if isinstance(length, int):
            return length
        if self.total is None:
            raise ValueError(
                f"{self} is stated as a fraction of the run, whose length is not known: call "
                "objective.plan(total_steps) before the first step, as ppl_vae.fit does, or state "
                "it in steps (a whole number)"
            )
        return length * self.total

    def plan(self, total_steps: int) -> None:
        """Tells the length of the run.

        Args:
            total_steps: the training steps at the end of the run, those before it included.

        Warns:
            UserWarning: if the schedule is longer than the run.
        """
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps}: a run has one step or more")
        self.total = total_steps
        # Fractions that add up to 1 may come to a little more in steps.
        if self.end > total_steps * (1 + 1e-9):
            last = float(self(torch.tensor(total_steps)))
            warnings.warn(
                f"{self} takes {self.end:g} steps and the run ends after {total_steps}, at the "
                f"value {last:.4g}: shorten it, train longer, or state it as a fraction of the "
                "run (a float)",
                stacklevel=2,
            )


@dataclass(repr=False)
class _Valued(Schedule):
    """What the schedules here share: a repr of the values given, and the run's length."""

    total: int | None = field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        given = ((n, v) for n, v in vars(self).items() if n != "total")
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in given)})"


@dataclass(repr=False)
class Linear(_Valued):
    r"""From one value to another along a line; by default a warm-up.

    $$w(t) = a + (b - a) \min(1, \max(0, (t - t_0) / T))$$

    Args:
        start: the value a until step $t_0$.
        stop: the value b from step $t_0 + T$ on.
        over: T, the length of the line.
        after: $t_0$, how long `start` is held.

    References:
        Sønderby, Raiko, Maaløe, Sønderby and Winther (2016), Ladder variational autoencoders,
        arXiv:1602.02282.

    Example:
        >>> warm_up = Linear(over=100)
        >>> warm_up(torch.tensor(25))
        tensor(0.2500)
    """

    start: float = 0.0
    stop: float = 1.0
    over: Length = 0.5
    after: Length = 0

    def __post_init__(self) -> None:
        _check(self, "over", self.over, positive=True)
        _check(self, "after", self.after)

    @property
    def end(self) -> float:
        return self.steps(self.after) + self.steps(self.over)

    def __call__(self, step: Tensor) -> Tensor:
        return self.start + (self.stop - self.start) * _ramp(
            step, self.steps(self.after), self.steps(self.over)
        )


@dataclass(repr=False)
class Cosine(Linear):
    r"""From one value to another along half a cosine; by default a learning rate's way to nothing.

    With $r = \min(1, \max(0, (t - t_0) / T))$ the value is $a + (b - a) (1 - \cos \pi r) / 2$.

    Args:
        start: the value a until step $t_0$.
        stop: the value b from step $t_0 + T$ on.
        over: T, the length of the way.
        after: $t_0$, how long `start` is held.

    References:
        Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm restarts,
        arXiv:1608.03983.

    Example:
        >>> Cosine(over=100)(torch.tensor(50))
        tensor(0.5000)
    """

    start: float = 1.0
    stop: float = 0.0
    over: Length = 1.0

    def __call__(self, step: Tensor) -> Tensor:
        along = _ramp(step, self.steps(self.after), self.steps(self.over))
        return self.start + (self.stop - self.start) * (1 - (math.pi * along).cos()) / 2


@dataclass(repr=False)
class HighThenLow(_Valued):
    """A high value held, then lowered along a line: codes are tidied first, detail comes after.

    Args:
        high: the value at first.
        low: the value at last.
        hold: how long the high value is held.
        over: the length of the way down.
    """

    high: float
    low: float = 1.0
    hold: Length = 0.3
    over: Length = 0.3

    def __post_init__(self) -> None:
        if not self.high > self.low:
            raise ValueError(f"{self}: high must be above low")
        _check(self, "hold", self.hold)
        _check(self, "over", self.over, positive=True)

    @property
    def end(self) -> float:
        return self.steps(self.hold) + self.steps(self.over)

    def __call__(self, step: Tensor) -> Tensor:
        down = _ramp(step, self.steps(self.hold), self.steps(self.over))
        return self.high + (self.low - self.high) * down


@dataclass(repr=False)
class Cyclical(_Valued):
    r"""A line from one value to another, then held, again and again.

    With phase $\tau = (t \bmod P) / P$ the value is $a + (b - a) \min(1, \tau / R)$.

    Args:
        start: the value a at the beginning of each cycle.
        stop: the value b that is held at its end.
        period: P, the length of a cycle; a quarter of the run by default.
        rise: R, the share of a cycle that the line takes, in (0, 1].

    References:
        Fu, Li, Liu, Gao, Celikyilmaz and Carin (2019), Cyclical annealing schedule,
        arXiv:1903.10145.
    """

    start: float = 0.0
    stop: float = 1.0
    period: Length = 0.25
    rise: float = 0.5

    def __post_init__(self) -> None:
        _check(self, "period", self.period, positive=True)
        if not 0 < self.rise <= 1:
            raise ValueError(f"{self}: rise is a share of the cycle, in (0, 1]")

    @property
    def end(self) -> float:
        return self.steps(self.period)

    def __call__(self, step: Tensor) -> Tensor:
        period = self.steps(self.period)
        return self.start + (self.stop - self.start) * _ramp(
            step % period, 0.0, self.rise * period
        )


@dataclass(repr=False)
class Piecewise(_Valued):
    """Values at given times, with lines between them or steps from each to the next.

    Args:
        points: pairs of time and value in the order of time, all in steps or all fractions; the
            first value holds before its time and the last after.
        between: "linear" for lines, "constant" to hold each value until the next time.

    Example:
        >>> Piecewise([(0, 4.0), (100, 4.0), (200, 1.0)])(torch.tensor(150))
        tensor(2.5000)
    """

    points: Sequence[tuple[Length, float]]
    between: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        times = [time for time, _ in self.points]
        if not times or any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"{self}: give one point or more, in the order of time")
        if len({isinstance(time, int) for time in times if time != 0}) > 1:
            raise ValueError(f"{self}: give all times in steps or all as fractions of the run")
        if self.between not in ("linear", "constant"):
            raise ValueError(f"{self}: between is 'linear' or 'constant'")
        for time in times:
            _check(self, "time", time)

    @property
    def end(self) -> float:
        return self.steps(self.points[-1][0])

    def __call__(self, step: Tensor) -> Tensor:
        # A sum of ramps or jumps, so that no table is indexed by data.
        (time, value), *rest = self.points
        total = torch.full_like(step, value, dtype=torch.get_default_dtype())
        for later, level in rest:
            start, stop = self.steps(time), self.steps(later)
            if self.between == "linear":
                total = total + (level - value) * _ramp(step, start, stop - start)
            else:
                total = total + (level - value) * (step >= stop)
            time, value = later, level
        return total


def schedules_of(module: nn.Module) -> list[Schedule]:
    """The schedules that a module and its parts hold as attributes, each once.

    Seen are attributes and what lists, tuples and mappings among them hold; a schedule that only
    a function of the user's own refers to is not.
    """
    found: dict[int, Schedule] = {}
    for part in module.modules():
        for value in vars(part).values():
            found |= {id(s): s for s in _within(value)}
    return list(found.values())


def _within(value: Any) -> Iterator[Schedule]:
    if isinstance(value, Schedule):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _within(entry)


def _ramp(step: Tensor, start: float, length: float) -> Tensor:
    return ((step - start) / length).clamp(0, 1)


def _check(schedule: Schedule, name: str, length: Length, positive: bool = False) -> None:
    if length < 0 or (positive and length == 0):
        raise ValueError(f"{schedule}: {name} must be {'above 0' if positive else '0 or more'}")
    if isinstance(length, float) and length > 1:
        raise ValueError(
            f"{schedule}: {name}={length} is a float, so a fraction of the run, and above 1: "
            f"write {round(length)} for steps"
        )
