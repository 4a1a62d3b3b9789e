"""The steps of a training, what they move, and the terms they leave."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae.data.loaders import Batches
from ppl_vae.program.modules import Program, evaluating, modules_of
from ppl_vae.training import optimizer_state
from ppl_vae.training.checkpoint import count, number
from ppl_vae.training.guard import GuardedOptimizer, NotFinite, first_bad_site, lacks_memory
from ppl_vae.training.history import KINDS
from ppl_vae.training.noise import Noise
from ppl_vae.training.optim import Scheduled
from ppl_vae.training.progress import brief
from ppl_vae.training.svi import SVI
from ppl_vae.training.watch import NoiseWatch
from ppl_vae.training.weights import Snapshot, state
from ppl_vae.world import by_itself, here

__all__ = ["Mean", "Training", "Weights"]


class Weights:
    """All that a training moves, and its last good values."""

    def __init__(
        self, model: Program, guide: Program, objective: ELBO, params: dict[str, Tensor]
    ) -> None:
        self._modules, self._params = modules_of(model, guide, objective), params
        self.good = self.snapshot()

    def snapshot(self) -> Snapshot:
        """A copy of all of it."""
        return Snapshot([*self.all().values()])

    def state(self) -> dict[str, Tensor]:
        """What a run's weights are."""
        return state(self._modules, self._params)

    def all(self) -> dict[str, Tensor]:
        """The same, and the buffers that modules do not count among their state."""
        buffers = {
            f"{k}.{key}": b for k, m in self._modules.items() for key, b in m.named_buffers()
        }
        return buffers | self.state()

    def trained(self) -> dict[str, Tensor]:
        """The parameters that an optimiser may meet, by name, in their unconstrained form."""
        modules = self._modules.items()
        found = {f"{k}.{key}": p for k, m in modules for key, p in m.named_parameters()}
        own = {id(p) for p in found.values()}
        return found | {f"param.{k}": p for k, p in self._params.items() if id(p) not in own}

    def zero_grad(self) -> None:
        for module in self._modules.values():
            module.zero_grad()
        for param in self._params.values():
            param.grad = None


class Mean:
    """Running means over rows, kept on the device until they are read.

    Attributes:
        rows: how many there have been.
    """

    def __init__(self) -> None:
        self._loss, self.rows = 0.0, 0
        self._sums: dict[str, Tensor] = {}

    def state(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint."""
        return {"loss": self._loss, "rows": self.rows, "sums": self._sums}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self._loss, self.rows = number(state["loss"]), count(state["rows"])
        self._sums = {name: x.to(torch.float64).reshape(()) for name, x in state["sums"].items()}

    def add(self, loss: float, terms: Mapping[str, Tensor], rows: int) -> None:
        self._loss += loss
        self.rows += rows
        for name, term in terms.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(term, dtype=torch.float64)
            self._sums[name].add_(term, alpha=rows)

    def read(self) -> dict[str, float]:
        found = {"loss": self._loss / self.rows}
        if self._sums:
            # one transfer for all
            values = (torch.stack(list(self._sums.values())) / self.rows).tolist()
            found |= dict(zip(self._sums, values, strict=True))
        for kind in KINDS:
            parts = [v for name, v in found.items() if name.startswith(f"{kind}/")]
            if parts:
                found[kind] = sum(parts)
        return found


class Training:
    """The steps of a training and the terms they leave.

    Attributes:
        step: how many there have been.
        done: how many of the epoch under way.
        mean: over these.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: ELBO,
        optimizer: PyroOptim,
        weights: Weights,
        critic_steps: int,
        own: Sequence[Tensor],
        frozen: Collection[int] = (),
    ) -> None:
        self.model, self.guide, self.objective, self.weights = model, guide, objective, weights
        self.modules = list(modules_of(model, guide, objective).values())
        self.optimizer, self.critic_steps = optimizer, critic_steps
        self.watch = NoiseWatch(model, guide, objective)
        self.step, self.done, self.mean = 0, 0, Mean()

        def svi(only: Sequence[Tensor] | None, before: Any = lambda: None) -> SVI:
            guarded = GuardedOptimizer(optimizer, frozen, before)
            made = SVI(model, guide, guarded, objective, only=only)
            made.loss_and_grads = partial(_loss_and_grads, objective)
            return made

        # One optimiser: its state is kept by parameter, so the critic's further steps continue
        # the very Adam that the main step uses.
        self.main, self.critic = svi(None, weights.good.take), svi(own or None)

    def epoch(
        self, batches: Iterable[Sequence[Tensor]], bar: Any, between: Callable[[], None]
    ) -> dict[str, float]:
        """Takes the steps of an epoch that are not done yet, and returns its row.

        Args:
            batches: of these steps.
            bar: of `tqdm`.
            between: called after each step.
        """
        for module in self.modules:
            module.train()
        mean = self.mean
        for batch in batches:
            self.step += 1
            for _ in range(self.critic_steps):
                self._run(self.critic.step, batch)
            loss = self._run(self.main.step, batch)
            if isinstance(self.optimizer, Scheduled):
                self.optimizer.advance()
            mean.add(loss, getattr(self.objective, "terms", {}), here().number(len(batch[0])))
            self.watch.after(self.step, batch)
            self.done += 1
            if bar.update():  # it was drawn: read the terms for the next time
                bar.set_postfix_str(brief(mean.read()), refresh=False)
            between()
        row = mean.read()
        bar.set_postfix_str(brief(row))
        return row

    def end_epoch(self) -> None:
        """Begins another epoch."""
        self.done, self.mean = 0, Mean()

    def state(self) -> dict[str, Any]:
        """What the steps have moved besides weights and objective, for a checkpoint."""
        params = self.weights.trained()
        return {
            "step": self.step,
            "done": self.done,
            "mean": self.mean.state(),
            "watch": self.watch.state(),
            "moved": [svi.moved(params) for svi in (self.main, self.critic)],
            "optimizer": optimizer_state.state(self.optimizer, params),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        params = self.weights.trained()
        self.step, self.done = count(state["step"]), count(state["done"])
        self.mean.load_state(state["mean"])
        if (self.done > 0) != (self.mean.rows > 0):
            raise TypeError(f"{self.done} steps of an epoch were on {self.mean.rows} rows")
        self.watch.load_state(state["watch"])
        for svi, moved in zip((self.main, self.critic), state["moved"], strict=True):
            svi.set_moved(params[name] for name in moved)
        optimizer_state.load_state(self.optimizer, state["optimizer"], params)

    def _run(self, call: Callable[..., float], batch: Sequence[Tensor]) -> float:
        """A call of an SVI, whose errors are explained."""
        noise = Noise(batch[0].device)
        try:
            return call(*batch)
        except (FloatingPointError, ValueError, RuntimeError) as error:
            raise self._explained(error, batch, noise) from error

    def _evaluate(self, *batch: Tensor) -> float:
        loss: float = self.main.evaluate_loss(*batch)
        if math.isnan(loss):  # an infinite one may be of a datum that the model rules out
            raise NotFinite("the loss after it is nan")
        return loss

    def _explained(self, error: Exception, batch: Sequence[Tensor], noise: Noise) -> Exception:
        """The error that names step and site, with the last good weights put back.

        An error that has nothing to do with numbers that are not finite is returned as it is.

        Args:
            error: what a call raised.
            batch: the batch it was made with.
            noise: the generators as they were before that very call.
        """
        if lacks_memory(error):
            return error
        with torch.random.fork_rng(noise.devices), by_itself():
            noise.restore()
            site = first_bad_site(self.model, self.guide, batch)
        numeric = isinstance(error, FloatingPointError)
        if numeric:  # which is of numbers that all processes have
            site = here().first(site)
        if site is None and not numeric:
            return error
        self.weights.good.restore()
        self.weights.zero_grad()
        # an objective says its own step and advice, which are given below
        what = str(error).splitlines()[0].split(" at step ")[0].rstrip(":")
        where = f", first at {site}" if site is not None else ""
        return NotFinite(
            f"step {self.step}: {what}{where}; the optimiser has not acted on it, the weights "
            "are the last at which all was finite (a lower learning rate or clipped gradients may "
            "help)"
        )

    def validate(
        self, rows: Batches, batch_size: int, seed: int, between: Callable[[], None]
    ) -> dict[str, float]:
        """The means over held-out rows; nothing moves.

        Args:
            rows: the held-out rows.
            batch_size: rows to a batch.
            seed: of the noise, the same each time.
            between: called after each batch.
        """
        mean = Mean()
        with here().seeded(seed), evaluating(*self.modules):
            # in a random order, the same each time: neighbouring rows may resemble each other,
            # and a batch of such is far from the prior however well all rows match it
            for batch in here().drawn(rows.batches(batch_size)):
                loss = self._run(self._evaluate, batch)
                mean.add(loss, getattr(self.objective, "terms", {}), here().number(len(batch[0])))
                between()
        return {f"validation/{name}": value for name, value in mean.read().items()}


def _loss_and_grads(objective: ELBO, *args: Any) -> float:
    loss: float = objective.loss_and_grads(*args)
    if not math.isfinite(loss):
        raise NotFinite(f"the loss is {loss}")
    return loss
