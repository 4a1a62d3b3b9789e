"""A training under way, which can be kept between any two steps and gone on with bit for bit."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ppl_vae.data.loaders import InMemory
from ppl_vae.objectives import Divergence, Objective
from ppl_vae.training.adapters import end_epoch
from ppl_vae.training.checkpoint import count, number
from ppl_vae.training.guard import NotFinite
from ppl_vae.training.history import History
from ppl_vae.training.keeping import Keeper
from ppl_vae.training.loop import Training, Weights
from ppl_vae.training.noise import put_back, streams
from ppl_vae.training.prepare import Prepared
from ppl_vae.training.progress import Progress
from ppl_vae.training.signals import Asked, Interrupted, Terminated
from ppl_vae.training.spread import spreads, warn_of_collapse
from ppl_vae.training.stopping import Callback, asks_to_stop
from ppl_vae.training.weights import fill
from ppl_vae.world import Processes, by_itself, here

__all__ = ["Session"]

# Pyro keeps the running means that its `TraceGraph_ELBO` takes for baselines among the parameters.
_BASELINE = "__baseline_avg_downstream_cost_"


class Session:
    """A training under way.

    What it starts from is made by `prepare`. All that its steps move is its `state`: weights,
    buffers, optimiser, learning rates, the objective's own (critic, multipliers, queues, step),
    random streams, the place in the data, and the sums of the epoch's row.

    Args:
        ready: the training.
        checkpoint_steps: steps between checkpoints, besides that after each epoch.

    Attributes:
        history: a row for each epoch that is over.
        keeper: what writes it to a folder, where there is one.
    """

    def __init__(self, ready: Prepared, checkpoint_steps: int | None = None) -> None:
        self.ready, self._every = ready, checkpoint_steps
        self.history, self._asked = History(), Asked()
        self.weights = Weights(ready.model, ready.guide, ready.objective, ready.params)
        self.training = Training(
            ready.model,
            ready.guide,
            ready.objective,
            ready.optimizer,
            self.weights,
            ready.critic_steps,
            ready.own,
            ready.frozen.parameters,
        )
        self.best = self.weights.snapshot() if ready.watch.keep == "best" else None
        self.keeper: Keeper | None = None
        # without held-out rows, a batch shows whether the last step left sound weights
        self._checked = ready.held_out or InMemory(ready.first)
        self._looked_at = (ready.held_out or ready.drawn).few
        self._start = self._own = streams()
        """The random streams at the start of the epoch, by which its order is drawn."""
        self._now: dict[str, Any] | None = None
        """The random streams after the last step, where something has moved them since."""

    @property
    def is_over(self) -> bool:
        """Whether no epoch is left to train."""
        epochs = len(self.history)
        return epochs >= self.ready.epochs or (epochs > 0 and self.ready.watch.is_over)

    def state(self) -> dict[str, Any]:
        """All that its steps have moved."""
        store = pyro.get_param_store()
        here().adopt(self.weights.all().values())
        now = self._now or streams()
        return {
            "epochs": len(self.history),
            "row": self.history.last if self.history.rows else None,
            "weights": self.weights.all(),
            "best": None if self.best is None else self.best.state(),
            "training": self.training.state(),
            "objective": {name: part.state() for name, part in self._gathering()},
            "baselines": {name: store[name] for name in store if name.startswith(_BASELINE)},
            "watch": self.ready.watch.state(),
            "streams": {"start": self._start, "now": now, **self._of_all(now)},
        }

    def load_state(self, state: Mapping[str, Any], history: History) -> None:
        """Goes on from what `state` gave.

        Args:
            state: the state.
            history: of the log, which has its epochs, or all but the last.

        Raises:
            ValueError: if it belongs to another training.
        """
        device = self.ready.first[0].device
        state = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, dict(state))
        over, row = count(state["epochs"]), state["row"]
        if (over > 0) != (row is not None):
            raise TypeError(f"the row of {over} epochs is {row!r}")
        if row is not None:
            _ = [number(x) for x in row.values()], count(row["epoch"]), count(row["step"])
        if len(history) < over - 1:
            raise ValueError(f"the log has {len(history)} epochs and the checkpoint {over}")
        begun = over + (state["training"]["done"] > 0)
        if begun > self.ready.epochs:
            raise ValueError(
                f"epochs={self.ready.epochs} is the number of all epochs, and {begun} are begun"
            )
        fill(self.weights.all(), state["weights"])
        self.weights.good.take()
        self.history = History([*history.rows[: max(over - 1, 0)], *[row] * (over > 0)])
        if self.best is not None:
            self.best.load_state(state["best"])
        self.training.load_state(state["training"])
        for name, part in self._gathering():
            part.load_state(state["objective"][name])
        for name, value in state["baselines"].items():
            if not name.startswith(_BASELINE):
                raise TypeError(f"{name!r} is no baseline")
            pyro.get_param_store()[name] = value
        self.ready.watch.load_state(state["watch"])
        kept = state["streams"]
        # one process draws the order of rows from what several drew alike from
        self._start, self._now = kept["start"], {**kept["now"], "torch": _alike(kept)}
        for states in (self._start, self._now):  # what is not one is refused here
            put_back(states)
        here().over(None, lambda world: self._take_up(world, kept))

    def _of_all(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """The streams of several processes: each one's own, and what all draw alike."""
        nothing: dict[str, Any] = {}
        return here().over(
            nothing, lambda world: {"common": world.common, "each": world.each(now)}
        )

    def _take_up(self, world: Processes, kept: Mapping[str, Any]) -> None:
        """Goes on with streams that as many processes had, or begins new ones.

        The order of rows goes on in either case.
        """
        world.common = _alike(kept)
        each = kept.get("each", [])
        if len(each) == world.size:
            self._now = each[world.rank]
        else:
            with world.alike(moving=False):
                seed = int(torch.randint(2**31, ()))
            world.seed(seed)
            self._now = streams()

    def _gathering(self) -> Iterator[tuple[str, Divergence | Objective]]:
        if isinstance(self.ready.objective, nn.Module):
            for name, part in self.ready.objective.named_modules():
                if isinstance(part, Divergence | Objective):
                    yield name, part

    def train(self, shown: Progress, callbacks: Sequence[Callback]) -> None:
        """Trains to the end, which a signal may ask for between any two steps.

        Raises:
            NotFinite: as `ppl_vae.fit` does.
            Interrupted: by SIGINT.
            Terminated: by SIGTERM.
        """
        if self._now is not None:
            put_back(self._now)
        self._shown, self._now = shown, None
        try:
            with self._asked:
                while not self.is_over:
                    if self._told(self._epoch(), callbacks):
                        break
        except (Interrupted, Terminated) as stop:
            said = self._stopped()
            self._end_early()
            raise type(stop)(said) from None
        except (NotFinite, KeyboardInterrupt):
            self._end_early()
            raise
        finally:
            self._asked.close()
        if self.best is not None:
            self.best.restore()

    def _epoch(self) -> dict[str, float]:
        """Trains what is left of an epoch, and logs and saves it."""
        ready, training = self.ready, self.training
        row = training.epoch(self._given(self._batches()), self._shown.bar, self._between)
        self._now = streams()
        validated = training.validate(
            self._checked, ready.batch_size, ready.seed, self._asked.check
        )
        row = {"epoch": len(self.history) + 1, "step": training.step, **row}
        if ready.held_out is not None:
            row |= validated
        with here().alike(), by_itself():
            row |= spreads(ready.model, ready.guide, self._looked_at, ready.batch_size)
        self.history.rows.append(row)
        end_epoch(ready.optimizer, row.get("validation/loss", row["loss"]))
        if (is_best := ready.watch.is_best(row)) and self.best is not None:
            self.best.take()
        training.end_epoch()
        self._begin_order()
        if self.keeper is not None:
            is_kept = self.best is None or is_best
            self.keeper.epoch(self.state(), self.weights.state() if is_kept else None, row)
        return row

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches of the epoch that have not been trained on, in its order."""
        now, done = streams(), self.training.done
        if done:
            put_back(here().over(self._start, lambda world: self._again(world, now)))
        else:
            self._begin_order()
        with here().alike():  # rows that are drawn anew each epoch
            rows = self.ready.rows.epoch()
        batches = here().drawn(rows.batches(self.ready.batch_size, done))
        if not done:
            return batches
        first = [*islice(batches, 1)]  # the order is drawn with it
        put_back(now)
        return chain(first, batches)

    def _given(self, batches: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
        """The batches; the signal that asks for the end may have ended a loader's workers too."""
        try:
            yield from batches
        except RuntimeError:
            if self._asked.signal is not None and here().size == 1:
                self._asked.check()
            raise

    def _begin_order(self) -> None:
        """Notes the streams as they are, from which the order of an epoch is drawn."""
        self._own, self._now = streams(), None
        self._start = here().over(self._own, lambda world: {**self._own, "torch": world.common})

    def _again(self, world: Processes, now: dict[str, Any]) -> dict[str, Any]:
        """Has all processes draw the order of the epoch under way again."""
        world.common = self._start["torch"]
        return now

    def _between(self) -> None:
        """What there is to do between two steps."""
        is_due = self._every is not None and self.training.step % self._every == 0
        if is_due and self.keeper is not None and self.ready.drawn.seekable:
            self.keeper.checkpoint(self.state())
        self._asked.check()

    def _told(self, row: dict[str, float], callbacks: Sequence[Callback]) -> bool:
        """Shows the row of an epoch, and says whether a callback asks for the end."""
        self._shown.epoch(row)
        asks = asks_to_stop(callbacks, row)
        put_back(self._own)  # whatever callbacks draw, the training is the same
        asks = here().most(int(asks)) > 0
        warn_of_collapse(self.history, asks or self.is_over)
        self._asked.check()
        return asks

    def _stopped(self) -> str:
        """Keeps what there is between two steps, and says how to go on."""
        step, epoch = self.training.step, len(self.history) + 1
        said = f"stopped after step {step}"
        if self.keeper is None:
            return said
        is_exact = self.ready.drawn.seekable or not self.training.done
        if is_exact:
            self.keeper.checkpoint(self.state())
        return "; ".join(filter(None, (said, self.keeper.how_to_resume(epoch, is_exact))))

    def _end_early(self) -> None:
        """Leaves the weights to end with, in the pair and in the folder."""
        if self.best is not None and self.history.rows:
            self.best.restore()
        if self.keeper is not None:
            self.keeper.weights(self.weights.state())


def _alike(kept: Mapping[str, Any]) -> Tensor:
    """The state of what all draw alike, which in one process is what it draws from."""
    common: Tensor = kept.get("common", kept["now"]["torch"])
    return common
