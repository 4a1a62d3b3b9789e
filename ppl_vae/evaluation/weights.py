"""Importance weights of rows of data: their sums, and how heavy their tails are."""

import math
from collections.abc import Iterable
from functools import cached_property

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

__all__ = ["HIGHEST_USABLE", "UNSEEN", "Weights", "khat", "tail_length", "threshold", "unseen"]

HIGHEST_USABLE = 0.7
"""The largest k-hat that is usable at any number of draws."""

UNSEEN = 0.1
"""The largest `unseen` at which estimates made with the weights of a data set are usable."""


class Weights:
    """What is kept of the K log-weights of each of n rows, which come in chunks.

    Args:
        chunks: log-weights `(n, k)` that sum to K.
        count: K.

    Attributes:
        log_sum: of the weights, `(n,)`.
        log_squares: log-sums of their squares, `(n,)`.
        tail: the largest of them, `(n, t)`.
        least: the smallest, `(n,)`.
    """

    def __init__(self, chunks: Iterable[Tensor], count: int) -> None:
        self.count = count
        kept = min(tail_length(count) + 1, count)
        log_sum = log_squares = torch.tensor(-math.inf)
        tail: Tensor | None = None
        least = torch.tensor(math.inf)
        for chunk in chunks:
            log_sum = torch.logaddexp(log_sum.to(chunk), chunk.logsumexp(1))
            log_squares = torch.logaddexp(log_squares.to(chunk), (2 * chunk).logsumexp(1))
            tail = chunk if tail is None else torch.cat([tail, chunk], 1)
            tail = tail.topk(min(kept, tail.shape[1]), 1).values
            least = torch.minimum(least.to(chunk), chunk.amin(1))
        assert tail is not None
        self.log_sum, self.log_squares = log_sum, log_squares
        self.tail, self.least = tail, least

    @classmethod
    def cat(cls, parts: "list[Weights]") -> "Weights":
        """Those of the rows of several, one after the other."""
        joined = cls.__new__(cls)
        joined.count = parts[0].count
        for name in ("log_sum", "log_squares", "tail", "least"):
            setattr(joined, name, torch.cat([getattr(part, name) for part in parts]))
        return joined

    @property
    def size(self) -> Tensor:
        """The effective size of each row, `(n,)`."""
        return torch.exp(2 * self.log_sum - self.log_squares)

    @property
    def log_mean(self) -> Tensor:
        """The log of the mean weight of each row, `(n,)`."""
        return self.log_sum - math.log(self.count)

    @property
    def constant(self) -> Tensor:
        """Whether a row's weights are equal to the rounding of single precision, `(n,)`."""
        largest = self.tail.amax(1)
        return largest - self.least <= 64 * torch.finfo(torch.float).eps * (1 + largest.abs())

    @property
    def typical_size(self) -> float:
        """The harmonic mean of the rows' effective sizes, which the bias of log p(x) goes with."""
        return float(1 / (1 / self.size).mean())

    @property
    def enough(self) -> Tensor:
        """Whether a row's effective size is 30 and 5% of K or more, or its weights constant."""
        least = (1 - 1e-6) * self.count
        return (self.size >= max(30, 0.05 * self.count)) | (self.size >= least)

    @cached_property
    def khats(self) -> Tensor:
        """Pareto k-hat of each row, `(n,)`; NaN for fewer than 25 draws, whose tail tells none."""
        if self.count < 25:
            return torch.full((len(self.tail),), math.nan)
        return torch.tensor([khat(row, self.count) for row in self.tail.cpu()])

    @property
    def unseen(self) -> float:
        """About the share of the weight that the draws leave unmet; NaN where k-hat is."""
        return unseen(self.khats.double(), self.count)

    @property
    def met(self) -> bool:
        """Whether the draws have met the weight: `enough` of them in every row, and a tenth of it
        at most unseen. (Of a guide that is much too narrow near half of the rows look even.)"""
        return bool(self.enough.all()) and not self.unseen > UNSEEN


def tail_length(count: int) -> int:
    """How many of K weights are the tail that k-hat is fitted to."""
    return math.ceil(min(count / 5, 3 * math.sqrt(count)))


def threshold(count: int) -> float:
    r"""The largest $\hat k$ at which K draws give a usable estimate."""
    return min(1 - 1 / math.log10(count), HIGHEST_USABLE)


def unseen(khats: Tensor, count: int) -> float:
    r"""About the share of the weight that K draws leave unmet, averaged over data but NaN ones.

    A Pareto tail of shape k leaves $K^{k - 1}$ of its mean above the largest of K draws;
    the threshold t of k-hat is where that is a tenth, so that it is
    $10^{(k - 1) / (1 - t)}$. In this unit a datum counts by what it may be off.
    """
    return float((10 ** ((khats - 1) / (1 - threshold(count)))).nanmean())


def khat(log_weights: Tensor, count: int | None = None) -> float:
    r"""Pareto $\hat k$ of one vector of log-weights, in any unit of weight.

    Equal to what `arviz.psislw(log_weights)` reports in ArviZ 0.23. (`psislw` of 1.x negates its
    argument, so that it wants `-log_weights`.)

    Args:
        log_weights: (S,), or as many of the largest of S as `tail_length` says, and one more.
        count: S, where not all are given.

    Returns:
        The shape; 0 if the tail is a plateau of ties or all weights are equal to the rounding of
        single precision, inf if fewer than five draws stand above the others or a weight is not
        a number.
    """
    if not bool(torch.isfinite(log_weights.max())):
        return math.inf
    count = len(log_weights) if count is None else count
    x = (log_weights.double() - log_weights.max()).sort().values
    cut = float(x[-tail_length(count) - 1])
    # Below this the weight is 0 in double precision.
    cut = max(cut, math.log(torch.finfo(torch.double).tiny))
    # Equal to rounding, as from the exact guide: those that stand above the others are noise.
    rounding = 64 * torch.finfo(torch.float).eps * (1 + float(log_weights.max().abs()))
    if cut == 0.0 or float(x[0]) >= -rounding:
        return 0.0
    tail = x[x > cut]
    if len(tail) < 5:
        return math.inf
    return float(fit_generalized_pareto(tail.exp() - math.exp(cut))[0])
