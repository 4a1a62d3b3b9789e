"""Claims, the rules written next to them, and the word a rule comes to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Claim", "Condition", "Verdict"]

Verdict = Literal["reproduced", "not reproduced", "contradicted", "undecided"]


@dataclass(frozen=True)
class Condition:
    """One comparison of a rule, in one seed.

    Attributes:
        name: what is compared.
        value: what was measured; NaN where it has not been yet.
        at_least: the bound it has to reach, or None.
        at_most: the bound it may not pass, or None.
        error: the standard error of the value, 0 where it has none.
        nothing: the value that would say that there is no such effect; None where the condition
            is of no effect itself ("at no cost").
    """

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    error: float = 0.0
    nothing: float | None = None

    @property
    def margin(self) -> float:
        """By how much the bound is kept; negative where it is passed."""
        if self.at_least is not None:
            return self.value - self.at_least
        assert self.at_most is not None
        return self.at_most - self.value

    @property
    def opposite(self) -> bool:
        """Whether the effect goes the other way, by more than two standard errors."""
        if self.nothing is None:
            return False
        sign = 1 if self.at_least is not None else -1
        return sign * (self.value - self.nothing) < -2 * self.error

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"{self.name}: not measured"
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        error = f" +- {self.error:.2g}" if self.error else ""
        return (
            f"{self.name} {self.value:.3g}{error} ({bound}: {'yes' if self.margin >= 0 else 'no'})"
        )


@dataclass(frozen=True)
class Claim:
    """A claim, its rule in words, and the rule's conditions by seed.

    The word is `undecided` while a condition has not been measured, or where the only conditions
    that fail do so by less than two standard errors; `reproduced` where all hold in all seeds;
    `contradicted` where an effect goes the other way in every seed; else `not reproduced`.

    Attributes:
        name: a letter, or whatever names it among its experiment's.
        text: what is said.
        rule: what decides it, in words, written before the run.
        seeds: the rule's conditions in each seed.
        row: the row of the table of claims that it belongs to, see `table.ROWS`; empty where
            the claim is not of the sources.
        author: the figure that the source gives, with the source; empty where it is ours.
    """

    name: str
    text: str
    rule: str
    seeds: Mapping[int, Sequence[Condition]]
    row: str = ""
    author: str = ""

    @property
    def verdict(self) -> Verdict:
        runs = [run for run in self.seeds.values() if run]
        every = [condition for run in runs for condition in run]
        if not every or any(math.isnan(condition.value) for condition in every):
            return "undecided"
        failed = [condition for condition in every if condition.margin < 0]
        if not failed:
            return "reproduced"
        if all(any(condition.opposite for condition in run) for run in runs):
            return "contradicted"
        close = all(-condition.margin < 2 * condition.error for condition in failed)
        return "undecided" if close else "not reproduced"

    def lines(self) -> list[str]:
        """The claim, its rule, its conditions and its verdict, a line each."""
        found = [f"{self.name}. {self.text}", f"   rule: {self.rule}"]
        if self.author:
            found.append(f"   source: {self.author}")
        for seed, run in self.seeds.items():
            found.append(f"   seed {seed}: " + "; ".join(map(str, run)))
        return [*found, f"   {self.verdict}"]
