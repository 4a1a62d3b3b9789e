"""The interface every divergence of the aggregate posterior implements."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior

__all__ = ["Counted", "Divergence", "Reads", "critics"]

Reads = Literal["draws", "density", "score"]
"""What is read of a prior."""


class Counted(nn.Module):
    """A divergence or an objective that depends on the number of data.

    Attributes:
        rows: how many there are, where `Objective.plan` has said.
    """

    rows: int | None = None


class Divergence(nn.Module, ABC):
    r"""A divergence $D(q_w(z) \,\Vert\, p(z))$ between the aggregate posterior and the prior.

    A subclass writes `forward`. It reads from the `AggregatePosterior` what it needs (codes, the
    conditionals, prior draws, the prior's density or score), and only that is computed.
    """

    reads_past = False
    """Whether `forward` pairs the batch with `q.past`; for others `Memory` pools the rows."""

    out_of_reach: Mapping[str, Tensor] = MappingProxyType({})
    """By sites, whether the last call met codes so far out that nothing pulls them back: 0-dim
    booleans that stay on the device. `Objective.loss_and_grads` warns of the first."""

    @property
    def reads(self) -> Reads:
        """What it reads of the prior at the codes: nothing there, but draws; its density, which
        must be positive there; or the gradient of its log-density, for which the prior must live
        on all vectors.
        """
        return "draws"

    @abstractmethod
    def forward(self, q: AggregatePosterior) -> Tensor:
        """The divergence, a scalar whose gradient trains the encoder (and a learnable prior)."""

    def critic_loss(self, q: AggregatePosterior) -> Tensor | None:
        """The loss of the divergence's own parameters; None where it has none.

        It must not reach the encoder. The objective adds its gradient, and nothing to its value.
        """
        return None

    def of_unit_shift(self, dim: int) -> float | None:
        r"""$D(N(m, I) \,\Vert\, N(0, I))$ at $\lVert m \rVert = 1$ in `dim` dimensions.

        What it costs to move all codes by one standard deviation of the prior, from which
        `InfoVAE(..., scale="auto")` makes its lambda; None where there is no closed form.
        """
        return None

    def build(self, dim: int) -> None:
        """Makes anew the networks that were given as factories, for codes of `dim` numbers."""

    def state(self) -> dict[str, Any]:
        """What it has gathered over the steps besides parameters and buffers, for a checkpoint.

        Tensors, numbers and text, in lists, tuples and mappings.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave; tensors lie on the device of the training."""

    def advance(self) -> None:
        """Moves queues on by what `forward` saw under `q.moving`.

        The objective calls it once a training step, after the loss, so that all particles of a
        step meet the same queue.
        """


def critics(module: nn.Module) -> list[Divergence]:
    """The divergences in a module that train parameters of their own against the encoder."""
    return [
        part
        for part in module.modules()
        if isinstance(part, Divergence)
        and type(part).critic_loss is not Divergence.critic_loss
        and next(part.parameters(), None) is not None
    ]
