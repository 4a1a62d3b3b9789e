"""The base of every loss: a `pyro.infer.ELBO` that is a module too."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro
import torch
from pyro.infer.elbo import ELBO, ELBOModule
from torch import Tensor, nn

from ppl_vae.objectives.divergences.divergence import Counted, Divergence
from ppl_vae.objectives.divergences.reach import warn_out_of_reach
from ppl_vae.objectives.schedules import schedules_of
from ppl_vae.objectives.trainable import check_trainable
from ppl_vae.program.modules import Portable, rehearse
from ppl_vae.program.plates import PlateName
from ppl_vae.program.reading import Reading
from ppl_vae.program.registration import Misplaced, register, settle
from ppl_vae.program.running import read
from ppl_vae.program.shared import Alike, meet, spread
from ppl_vae.world import Processes, here

__all__ = ["Objective", "Terms", "Weight"]

# How many pairs several processes keep in mind at once.
_MET = 16

Weight = float | Callable[[Tensor], Tensor]
"""A coefficient: a number, or a function of the step (a 0-dim tensor that counts up)."""


class Terms:
    """Sums of detached terms over particles and data, read per datum at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._data: Tensor | float = 0.0
        self._own: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor) -> None:
        """Adds a term summed over data, in nats."""
        self._sums[name] = self._sums.get(name, 0) + total.detach()

    def add_mean(self, name: str, value: Tensor) -> None:
        """Adds one particle's value of a term that is per datum already."""
        self._own[name] = self._own.get(name, 0) + value.detach()

    def add_data(self, weight: Tensor | float) -> None:
        """Adds a particle's sum of row weights, the number of data it stands for."""
        self._data = self._data + (weight.detach() if isinstance(weight, Tensor) else weight)

    def joined(self, world: Processes, loss: Tensor) -> Tensor:
        """Makes the terms those of all processes, and a loss one whose value is that of all.

        Its gradient stays this process's part.
        """
        data = torch.as_tensor(self._data).to(loss)
        own = [world.portion(mean) for mean in self._own.values()]
        value, self._data, *found = world.totals(loss, data, *self._sums.values(), *own)
        self._sums = dict(zip(self._sums, found, strict=False))
        self._own = dict(zip(self._own, found[len(self._sums) :], strict=True))
        return value + (loss - loss.detach())

    def per_datum(self, num_particles: int) -> dict[str, Tensor]:
        # With every row masked the sums are zero, and stay so.
        data = torch.as_tensor(self._data)
        data = torch.where(data > 0, data, 1)
        sums = {name: total / data for name, total in self._sums.items()}
        return sums | {name: total / num_particles for name, total in self._own.items()}


class Objective(ELBO, Portable):
    r"""A loss for `pyro.infer.SVI` over a model and a guide, to be minimised.

    A subclass writes `differentiable_loss`. The sign, the sum over data and the scales are Pyro's:
    with local latents in a data plate of N, the loss is N times a mean over data.

    Being a module, it can own parameters (a critic, an auxiliary r(z|x)). In SVI it registers them
    itself; `objective(model, guide)` is a module whose parameters hold them besides those of model
    and guide, for a torch optimiser.

    Args:
        num_particles: draws from the guide to average over.
        vectorize_particles: whether to draw them in one vectorised run.
        max_plate_nesting: the number of nested plates; found by a trial run if infinite.

    Attributes:
        terms: after each call, the detached terms in nats per datum, by `kind/site`:
            `reconstruction/x`, $-\mathrm{E} \log p(x \mid z)$ (or the cost);
            `rate/z`, $\mathrm{KL}(q(z \mid x) \Vert p(z))$;
            `divergence/z`; `global/w`, the KL of a latent outside the data plate; `guide/y`, the
            log-density of what the guide observes.
        step: training calls so far, a 0-dim tensor that schedules read.
    """

    enumerates: ClassVar[bool] = False
    """Whether guide sites marked `infer={"enumerate": "parallel"}` are summed over."""

    step: Tensor
    num_particles: int
    vectorize_particles: bool
    max_plate_nesting: float
    plate: PlateName | None = None

    def __init__(
        self,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: float = float("inf"),
    ):
        nn.Module.__init__(self)
        if num_particles < 1:
            raise ValueError(f"num_particles={num_particles}: one particle or more")
        ELBO.__init__(
            self,
            num_particles=num_particles,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.terms: dict[str, Tensor] = {}
        self._evaluating = False
        self._warned: set[str] = set()

    @abstractmethod
    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss as a scalar to differentiate, in nats summed over data."""

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The loss as a number; nothing moves.

        A penalty may differentiate inside, so gradients are enabled even under `torch.no_grad`.
        """
        with torch.enable_grad(), self._still():
            return float(self.differentiable_loss(model, guide, *args, **kwargs).detach())

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Adds the loss's gradients to the parameters and returns it as a number.

        A module that the pair registers under a name of an earlier module takes the name over,
        so that it is trained.

        Raises:
            FloatingPointError: if a term is NaN or infinite, naming the first, before any
                gradient is computed.
            ValueError: if two modules of the pair share a name, or a parameter stands in Pyro's
                store with another shape or without the constraint it is asked for with.

        Warns:
            UserWarning: once a site, when its codes are beyond the reach of a divergence.
        """
        register(self)
        with Misplaced() as names:
            loss = self._loss_for_gradients(model, guide, args, kwargs)
        if names.found:
            used = names.used_by(loss)
            names.check(used)
            settle(lambda: rehearse(model, guide, *args, **kwargs), used)
        value = self.read(loss)
        here().backward(loss, pyro.get_param_store().named_parameters())
        return value

    def read(self, loss: Tensor) -> float:
        """The loss of a step as a number, with what the host looks at besides it.

        Raises:
            FloatingPointError: if it or a term is NaN or infinite, naming the first.

        Warns:
            UserWarning: once a site, when its codes are beyond the reach of a divergence.
        """
        names, flags = list(self.terms), self.flags()
        # One transfer from the device for all.
        read = [self.terms[n] for n in names] + [part.out_of_reach[site] for part, site in flags]
        values = torch.stack([loss.detach(), *(value.to(loss) for value in read)]).tolist()
        for (part, site), is_far in zip(flags, values[1 + len(names) :], strict=True):
            if is_far and site not in self._warned:
                self._warned.add(site)
                warn_out_of_reach(part, site)
        for name, value in zip(["loss", *names], values, strict=False):
            if name != "loss" and not abs(value) < float("inf"):
                raise FloatingPointError(
                    f"term {name!r} is {value} at step {int(self.step)}: look at the "
                    "distribution's parameters there, the data, or the learning rate"
                )
        if not abs(values[0]) < float("inf"):
            raise FloatingPointError(f"the loss is {values[0]} at step {int(self.step)}")
        return values[0]

    def flags(self) -> list[tuple[Divergence, str]]:
        """The divergences and sites of which the last call said whether codes are out of reach."""
        parts = [part for part in self.modules() if isinstance(part, Divergence)]
        return [(part, site) for part in parts for site in part.out_of_reach]

    def _loss_for_gradients(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """The loss whose backward pass adds the gradients that are not there yet."""
        return self.differentiable_loss(model, guide, *args, **kwargs)

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """A module that computes the loss of a pair, holding the parameters of all three.

        A model or guide given as a module's method brings that module's parameters.
        """
        pair = ELBOModule(model, guide, self)
        for name, part in (("model_owner", model), ("guide_owner", guide)):
            if inspect.ismethod(part) and isinstance(part.__self__, nn.Module):
                setattr(pair, name, part.__self__)
        return pair

    @property
    def is_moving(self) -> bool:
        """Whether queues, schedules and running statistics move at this call."""
        return self.training and torch.is_grad_enabled() and not self._evaluating

    def compared(self, reading: Reading) -> list[str]:
        """The latent sites whose densities under guide and model the loss holds together."""
        return reading.latent

    def matched(self, reading: Reading) -> dict[str, Divergence]:
        """The latent sites that a divergence holds against the prior, and which divergence."""
        return {}

    def at_step(self, weight: Weight) -> Tensor | float:
        """A coefficient at this step."""
        # A copy: the step moves on in place before the backward pass.
        return weight(self.step.clone()) if callable(weight) else weight

    def build(self, size: Sequence[int], dims: Mapping[str, int]) -> None:
        """Makes anew the networks that were given as factories; `ppl_vae.Experiment` does it.

        Args:
            size: event shape of x.
            dims: the dimension of each latent site that is a code.
        """

    def plan(self, total_steps: int, rows: int | None = None) -> None:
        """Tells the objective's parts how long the run is, and on how much; `ppl_vae.fit` does it.

        Args:
            total_steps: training calls at the end of the run: `step` now, and those to come.
            rows: the number of training data, for estimators that depend on it, where batches
                come in plates of their own size.

        Warns:
            UserWarning: for each schedule that is longer than the run.
        """
        for schedule in schedules_of(self):
            schedule.plan(total_steps)
        for part in self.modules():
            if isinstance(part, Counted):
                part.rows = rows

    def state(self) -> dict[str, Any]:
        """What it has gathered over the steps besides parameters and buffers, for a checkpoint.

        Tensors, numbers and text, in lists, tuples and mappings.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave; tensors lie on the device of the training."""

    def _finish(self, loss: Tensor, terms: Terms) -> Tensor:
        """Averages over particles, publishes the terms and moves the step and queues on."""
        loss = here().over(loss, lambda world: terms.joined(world, loss))
        self.terms = terms.per_datum(self.num_particles)
        if self.is_moving:
            self.step += 1
            for part in self.modules():
                if isinstance(part, Divergence):
                    part.advance()
        return loss / self.num_particles

    def _get_traces(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Iterator[Reading]:
        guide = here().over(guide, lambda world: self._met(world, model, guide, args, kwargs))
        yield from super()._get_traces(model, guide, args, kwargs)

    def _met(
        self,
        world: Processes,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Callable[..., Any]:
        """The guide as several processes run it, once all start from the same weights."""
        key = (model, guide, self)
        found = world.met.pop(key, None)
        if found is None or not found.holds:
            register(self)
            own = [*self.modules()]
            parts = {p for d in own if isinstance(d, Divergence) for p in d.modules()}
            local = [module for module in own if module not in parts]
            found = meet(world, model, guide, args, kwargs, self.plate, own=own, local=local)
        world.met[key] = found
        if len(world.met) > _MET:
            del world.met[next(iter(world.met))]
        return Alike(world.alike, found.plate)(guide)  # type: ignore[no-any-return]

    def _get_trace(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Reading:
        reading = read(model, guide, args, kwargs, self.max_plate_nesting)
        check_trainable(reading)
        for name in reading.enumerated:
            if not self.enumerates:
                raise ValueError(
                    f"site {name!r} is enumerated, which {type(self).__name__} does not do: mark "
                    "it so in the model alone, which sums it out, draw it from a relaxed "
                    "distribution, or use InfoVAE, BetaVAE or WAE"
                )
        self.max_plate_nesting = reading.max_plate_nesting
        return here().over(reading, lambda world: spread(reading, world, self.plate))

    @contextmanager
    def _still(self) -> Iterator[None]:
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before
