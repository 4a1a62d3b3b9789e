r"""One mechanism for a target on an estimated quantity, by a penalty or by a dual variable.

With the gap $g = \pm(v - t)$ between a quantity v, in nats per datum, and its target t, an
objective minimises its free part plus N times what a `Constraint` makes of g.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.arguments import of_step
from ppl_vae.objectives.objective import Objective, Terms, Weight
from ppl_vae.program.reading import Reading
from ppl_vae.world import here

__all__ = ["ConstrainedObjective", "Constraint", "Dual", "Penalty"]


class Constraint(nn.Module, ABC):
    """What a gap adds to the loss.

    Args:
        average: decay a in [0, 1) of the moving average of gaps that steers: the gradient then
            follows the sign or size of the average and not of one noisy batch. 0 for none.
    """

    mean: Tensor
    count: Tensor

    def __init__(self, average: float = 0.0):
        super().__init__()
        if not 0 <= average < 1:
            raise ValueError(f"average={average}: a decay in [0, 1)")
        self.average = average
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))

    @abstractmethod
    def forward(
        self, gap: Tensor, step: Tensor, at_most: bool = False, moving: bool = False
    ) -> Tensor:
        """The term of the loss, in nats per datum.

        Its value depends on this gap alone; what the moving average changes is the gradient.

        Args:
            gap: the gap, a scalar that passes gradients.
            step: the step, for scheduled weights.
            at_most: whether a negative gap is as good as none.
            moving: whether the average may move.
        """

    def steering(self, gap: Tensor, moving: bool) -> Tensor:
        """The detached average of gaps, this one included."""
        now = gap.detach()
        if not self.average:
            return now
        mean = self.average * self.mean + (1 - self.average) * now
        count = self.count + 1
        if moving:
            self.mean.copy_(mean)
            self.count.copy_(count)
        # Undoes the start at zero.
        return mean / (1 - self.average**count)


class Penalty(Constraint):
    r"""A penalty $C\,\lvert g \rvert$, or $C \max(g, 0)$ for an upper bound.

    The absolute value, not the square: at a weight C above the multiplier that the constraint
    needs, the target is met exactly and not only approached.

    Noise in the estimate biases the penalty upwards, $\mathrm{E} \lvert \hat g \rvert \ge
    \lvert \mathrm{E}\, \hat g \rvert$, and rewards a quantity that is easy to estimate. More draws
    make that less; so does `average`, by which the gradient becomes $C \operatorname{sign}(\bar g)
    \nabla \hat g$, free of the bias as far as $\bar g$ does not hang on this batch.

    Args:
        weight: C, in nats per nat; a number or a function of the step.
        average: see `Constraint`.
    """

    def __init__(self, weight: Weight = 100.0, average: float = 0.0):
        super().__init__(average)
        of_step(self, weight=weight)
        if not callable(weight) and weight <= 0:
            raise ValueError(f"weight={weight}: a penalty's weight is above 0")
        self.weight = weight

    def forward(
        self, gap: Tensor, step: Tensor, at_most: bool = False, moving: bool = False
    ) -> Tensor:
        weight = self.weight(step) if callable(self.weight) else self.weight
        value = gap.clamp_min(0) if at_most else gap.abs()
        if self.average:
            steer = self.steering(gap, moving)
            slope = (steer > 0).to(gap) if at_most else steer.sign()
            value = slope * gap + (value - slope * gap).detach()
        return weight * value


class Dual(Constraint):
    r"""A Lagrange multiplier $\lambda$: the term $\lambda g$, whose gradient $\lambda$ climbs.

    Encoder and decoder descend while $\lambda$ ascends in the same backward pass, by the user's
    optimiser. $\lambda$ is signed for an equality and a softplus, so positive, for an upper bound.

    Args:
        initial: $\lambda$ at the start; above 0 for an upper bound.
        speed: how much faster than the optimiser's learning rate $\lambda$ moves: with Adam at a
            learning rate of 1e-3, about `1e-3 * speed` a step. A multiplier that outruns the pair
            overshoots: take less, or more damping, at learning rates of 1e-2 and above.
        damping: $\rho$ of an augmented Lagrangian, which acts on the pair by $\lambda + \rho g$
            in place of $\lambda$ and keeps the two from circling each other. It does not move the
            solution, where g is 0.
        average: see `Constraint`; 0.99 in the reference.

    References:
        Platt and Barr (1988), Constrained differential optimization, NeurIPS.
        Rezende and Viola (2018), Taming VAEs, arXiv:1810.00597.
    """

    def __init__(
        self,
        initial: float = 1.0,
        speed: float = 10.0,
        damping: float = 1.0,
        average: float = 0.0,
    ):
        super().__init__(average)
        if speed <= 0 or damping < 0:
            raise ValueError(f"speed={speed}, damping={damping}: above 0, and 0 or more")
        self.initial, self.speed, self.damping = initial, speed, damping
        self.raw = nn.Parameter(torch.zeros(()))

    def multiplier(self, at_most: bool = False) -> Tensor:
        """The multiplier."""
        if not at_most:
            return self.initial + self.speed * self.raw
        if self.initial <= 0:
            raise ValueError(f"initial={self.initial}: above 0 for an upper bound")
        start = self.initial + math.log(-math.expm1(-self.initial))
        return nn.functional.softplus(start + self.speed * self.raw)

    def forward(
        self, gap: Tensor, step: Tensor, at_most: bool = False, moving: bool = False
    ) -> Tensor:
        multiplier = self.multiplier(at_most)
        steer = self.steering(gap, moving)
        slope = multiplier.detach() + self.damping * steer
        if at_most:
            slope = slope.clamp_min(0)
        value = (multiplier * gap).detach()
        # Descent in the gap and ascent in the multiplier, neither of which changes the value.
        return value + _gradient(slope * gap) - _gradient(multiplier * steer)


class ConstrainedObjective(Objective):
    """An objective with a target on a quantity that it estimates.

    A subclass writes `split` and names the quantity.

    Args:
        target: the quantity's target in nats per datum; a number or a function of the step.
        weight: a `Constraint`, or the weight of a `Penalty`.
        sites: the local latent sites meant; all by default.
        plate: as in `InfoVAE`.
        **elbo: as in `Objective`.

    Attributes:
        terms: besides the ELBO's, `target/<quantity>`, and `constraint/<quantity>`, the quantity
            minus its target.
    """

    quantity: str
    at_most = False
    sign = 1.0
    """-1 where a positive multiplier raises the quantity."""

    def __init__(
        self,
        target: Weight,
        weight: Weight | Constraint,
        *,
        sites: Sequence[str] | None = None,
        plate: str | Sequence[str] | None = None,
        **elbo: Any,
    ):
        super().__init__(**elbo)
        if isinstance(sites, str):
            raise ValueError(f"sites={sites!r}: give a list, [{sites!r}]")
        of_step(self, target=target)
        self.target = target
        self.constraint = weight if isinstance(weight, Constraint) else Penalty(weight)
        self.sites, self.plate = sites, plate

    @abstractmethod
    def split(self, reading: Reading, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """One particle's free loss and quantity, summed over data, and the number of data."""

    def selected(self, reading: Reading) -> list[str]:
        """The latent sites meant, in the model's order."""
        # Their plate, and not their rows: a KL needs no mask in common.
        reading.plates(self.plate, self.sites)
        chosen = reading.local(self.plate) if self.sites is None else self.sites
        return [name for name in reading.latent if name in chosen]

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        terms = Terms()
        runs = self._get_traces(model, guide, args, kwargs)
        parts = [self.split(reading, terms) for reading in runs]
        free, quantity, data = (torch.stack(column).sum() for column in zip(*parts, strict=True))
        # The mean over particles first: the gap's noise is what the penalty is biased by.
        target = quantity.new_zeros(()) + self.at_step(self.target)
        whole, every = here().total(quantity), here().total(data)
        gap = whole / torch.where(every > 0, every, 1) - target
        terms.add_mean(f"target/{self.quantity}", target * self.num_particles)
        terms.add_mean(f"constraint/{self.quantity}", gap * self.num_particles)
        # A copy of the step, which moves on in place before the backward pass.
        step = self.step.clone()
        term = self.constraint(self.sign * gap, step, self.at_most, self.is_moving)
        return self._finish(free + data * term, terms)


def _gradient(term: Tensor) -> Tensor:
    """A term of value 0 that passes the gradient of another."""
    return term - term.detach()
