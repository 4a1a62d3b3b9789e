"""A memory of past codes, for divergences that a small batch biases."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.arguments import instance
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior, Prior
from ppl_vae.objectives.divergences.divergence import Divergence, Reads
from ppl_vae.objectives.divergences.gaussians import Gaussians

__all__ = ["Memory"]


class Memory(Divergence):
    r"""A divergence of the batch together with the last codes of earlier batches.

    With a batch B of n rows and a queue Q of M detached rows, the divergence is estimated on
    $B \cup Q$, and its gradient with respect to the batch is that of the population: each row of B
    stands for all rows, so that the weight of the penalty means the same with and without memory.

    * **Bias.** What is biased by about 1/n (the V-statistic of `MMD`, `SlicedWasserstein`,
      `Sinkhorn`) is biased by about $1 / (n + M)$ instead. Past codes are stale by up to M/n
      steps; where the encoder moves a great deal in that time the estimate lags behind, and a
      datum that is met again meets its own past, which biases by about 1/N over N data.
    * **Variance.** `MMD` and what is built on it pair each row of B with all of $B \cup Q$: the
      variance that comes from the partners falls by about $n / (n + M)$.
    * **Cost.** $n (n + M)$ pairs where the divergence is `MMD`, `Energy` or `CramerWold`, M more
      rows in `FourierMMD`; that of a batch of n + M rows, as many prior draws included, for any
      other, whose gradient is then scaled row by row.

    The queue moves once a training step and holds still in `loss` and in evaluation; in eval mode
    the divergence sees the batch alone. A checkpoint keeps it; the weights of a run do not.

    Args:
        divergence: the divergence to estimate.
        size: M, the number of past rows kept.

    Shape:
        codes `(n, d)`; the result is a scalar in the divergence's unit.

    Raises:
        ValueError: if size is less than 1, or the divergence has a memory already.

    References:
        Wang, Zhang, Huang and Scott (2020), Cross-batch memory for embedding learning,
        arXiv:1912.06798.

    Example:
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> from ppl_vae.objectives.divergences.memory import Memory
        >>> objective = InfoVAE(Memory(MMD(), size=2000), scale=100.0)
    """

    def __init__(self, divergence: Divergence, size: int = 1000):
        super().__init__()
        instance("divergence", divergence, Divergence, "MMD()")
        if size < 1:
            raise ValueError(f"Memory size={size}: one past row or more")
        if isinstance(divergence, Memory):
            raise ValueError("a Memory of a Memory: give one, of the larger size")
        self.divergence = divergence
        self.size = size
        self._queues: dict[str, _Queue] = {}
        self._seen: list[tuple[str, _Rows]] = []

    def forward(self, q: AggregatePosterior) -> Tensor:
        if self.training and q.moving:
            self._seen.append((q.name, _Rows.of(q)))
        return self.divergence(self._with_past(q))

    def critic_loss(self, q: AggregatePosterior) -> Tensor | None:
        return self.divergence.critic_loss(self._with_past(q))

    @property
    def reads(self) -> Reads:
        return self.divergence.reads

    def of_unit_shift(self, dim: int) -> float | None:
        return self.divergence.of_unit_shift(dim)

    def build(self, dim: int) -> None:
        self.divergence.build(dim)

    def advance(self) -> None:
        seen, self._seen = self._seen, []
        for name, rows in seen:
            self._put(name, rows)

    def state(self) -> dict[str, Any]:
        return {name: queue.state() for name, queue in self._queues.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._queues = {name: _Queue.of(parts) for name, parts in state.items()}
        self._seen = []  # what `forward` saw in a step that was given up

    def remember(self, q: AggregatePosterior) -> None:
        """Puts a batch into the queue, for use outside an objective."""
        self._put(q.name, _Rows.of(q))

    def _put(self, name: str, rows: "_Rows") -> None:
        if name not in self._queues:
            self._queues[name] = _Queue.like(rows, self.size)
        self._queues[name].put(rows)

    def _with_past(self, q: AggregatePosterior) -> AggregatePosterior:
        if not self.training or q.name not in self._queues:
            return q
        past = self._queues[q.name].rows.posterior(q.prior, q.name)
        return replace(q, past=past) if self.divergence.reads_past else _pooled(q, past)


@dataclass
class _Rows:
    """Detached rows."""

    codes: Tensor
    weights: Tensor
    mean: Tensor | None = None
    covariance: Tensor | None = None

    @classmethod
    def of(cls, q: AggregatePosterior) -> "_Rows":
        rows = cls(q.codes.detach().clone(), q.weights.detach().clone())
        if q.conditional is not None:
            rows.mean = q.conditional.mean.detach().clone()
            if q.conditional.covariance is not None:
                rows.covariance = q.conditional.covariance.detach().clone()
        return rows

    @property
    def tensors(self) -> list[Tensor]:
        every = (self.codes, self.weights, self.mean, self.covariance)
        return [tensor for tensor in every if tensor is not None]

    def each(self, change: Callable[[Tensor], Tensor]) -> "_Rows":
        mean, covariance = self.mean, self.covariance
        return _Rows(
            change(self.codes),
            change(self.weights),
            None if mean is None else change(mean),
            None if covariance is None else change(covariance),
        )

    def posterior(self, prior: Prior, name: str) -> AggregatePosterior:
        # Copies: the ring moves on before the backward pass that still reads these.
        rows = self.each(Tensor.clone)
        conditional = None if rows.mean is None else Gaussians(rows.mean, rows.covariance)
        return AggregatePosterior(
            rows.codes, prior, rows.weights, name=name, conditional_of=lambda: conditional
        )


class _Queue:
    """The last rows put in, in a ring whose tensors stay where they are."""

    def __init__(self, rows: _Rows):
        self.rows = rows
        self.next = torch.zeros((), dtype=torch.long, device=rows.codes.device)

    @classmethod
    def like(cls, rows: _Rows, size: int) -> "_Queue":
        # Places not filled yet have weight zero, and their rows are never looked at.
        index = torch.zeros(size, dtype=torch.long, device=rows.codes.device)
        ring = rows.each(lambda tensor: tensor[index])
        ring.weights = torch.zeros_like(ring.weights)
        return cls(ring)

    def state(self) -> dict[str, Any]:
        return {**vars(self.rows), "next": self.next}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "_Queue":
        rows = {name: part for name, part in state.items() if name != "next"}
        made = cls(_Rows(**rows))
        made.next = state["next"]
        return made

    def put(self, rows: _Rows) -> None:
        """Puts in the rows that have weight, in their order; how many is not asked."""
        size = len(self.rows.codes)
        alive = rows.weights > 0
        living = alive.sum()
        order = (~alive).to(torch.uint8).argsort(stable=True)
        # Of the rows that fall on a place, counted from the next, the last stays.
        places = (torch.arange(size, device=living.device) - self.next) % size
        rounds = torch.div(living - 1 - places, size, rounding_mode="floor")
        index = order[(places + size * rounds).clamp(0, len(alive) - 1)]
        is_new = places < living
        for ring, new in zip(self.rows.tensors, rows.tensors, strict=True):
            shape = (-1,) + (1,) * (ring.dim() - 1)
            ring.copy_(torch.where(is_new.reshape(shape), new[index], ring))
        self.next.add_(living).remainder_(size)


def _pooled(q: AggregatePosterior, past: AggregatePosterior) -> AggregatePosterior:
    """The rows of both; a row of the batch passes its gradient as if the batch were all rows."""
    total = q.weights.detach().sum()
    ratio = (total + past.weights.sum()) / torch.where(total > 0, total, 1)

    def pool(now: Tensor, before: Tensor) -> Tensor:
        return torch.cat([now.detach() + ratio * (now - now.detach()), before])

    def conditional() -> Gaussians | None:
        now, before = q.conditional, past.conditional
        if now is None or before is None:
            return None
        mean = pool(now.mean, before.mean)
        if now.covariance is None or before.covariance is None:
            return Gaussians(mean)
        return Gaussians(mean, pool(now.covariance, before.covariance), now.points)

    groups = None
    if q.groups is not None:
        # A past row is a datum of its own.
        groups = torch.arange(len(past), device=q.groups.device) + len(q)
        groups = torch.cat([q.groups, groups])
    return replace(
        q,
        codes=pool(q.codes, past.codes),
        prior=_InBlocks(q.prior, len(q)),
        weights=pool(q.weights, past.weights),
        groups=groups,
        data=None,
        masked=True,
        aligned=False,
        conditional_of=conditional,
    )


class _InBlocks(Prior):
    """A prior whose density is asked for as many rows at a time as the model's plate has."""

    def __init__(self, prior: Prior, rows: int):
        self.prior = prior
        self.rows = rows
        self.is_fixed = prior.is_fixed

    @property
    def gaussian(self) -> Gaussians | None:
        return self.prior.gaussian

    def sample(self, draws: int) -> Tensor:
        return self.prior.sample(draws)

    def log_prob(self, codes: Tensor) -> Tensor:
        whole = torch.arange(-(-len(codes) // self.rows) * self.rows, device=codes.device)
        blocks = codes[whole % len(codes)].split(self.rows)
        return torch.cat([self.prior.log_prob(block) for block in blocks])[: len(codes)]
