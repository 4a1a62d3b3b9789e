"""What the InfoVAE family shares: a loss of three parts, by itself or through one of Pyro's."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, TraceMeanField_ELBO
from pyro.infer.util import zero_grads
from pyro.ops.provenance import detach_provenance
from torch import Tensor

from ppl_vae.objectives.decomposition import decompose
from ppl_vae.objectives.objective import Objective, Terms, Weight
from ppl_vae.objectives.through import check_credited, through
from ppl_vae.objectives.trainable import untrained, warn_untrained
from ppl_vae.program.agreement import check_match
from ppl_vae.program.reading import Reading
from ppl_vae.world import here

__all__ = ["Composed", "is_zero"]


class Composed(Objective):
    r"""Reconstruction, the KL of selected sites times $1 - \alpha$, that of the others, penalties.

    A subclass says which sites are selected and what the penalties are.

    Attributes:
        alpha: by how much the KL is taken out.
        elbo: the loss of Pyro's to go through, if any.
        free_bits: nats per datum of each selected site's KL that are free.
    """

    alpha: Weight
    elbo: ELBO | None
    free_bits: float

    @abstractmethod
    def _weighed(self, reading: Reading) -> set[str]:
        """The sites whose KL has another weight than 1, or free bits."""

    @abstractmethod
    def _penalties(self, reading: Reading, terms: Terms, critics: list[Tensor]) -> Tensor | float:
        """The penalties by their coefficients; what critics minimise is added to a list."""

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        if self.elbo is not None:
            return self._composed(self.elbo, "differentiable_loss", model, guide, args, kwargs)
        terms = Terms()
        loss: Tensor | float = 0.0
        for reading in self._get_traces(model, guide, args, kwargs):
            loss = loss + self._particle(reading, terms)
        return self._finish(torch.as_tensor(loss), terms)

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        if self.elbo is None:
            return super().loss(model, guide, *args, **kwargs)
        with torch.enable_grad(), self._still():
            return float(self._composed(self.elbo, "loss", model, guide, args, kwargs).detach())

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        with poutine.trace(param_only=True) as seen:
            try:
                return super().loss_and_grads(model, guide, *args, **kwargs)
            except FloatingPointError:  # a loss of Pyro's may have added its gradients by itself
                nodes = seen.trace.nodes.values()
                zero_grads([node["value"].unconstrained() for node in nodes])
                raise

    def _loss_for_gradients(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        if self.elbo is None or hasattr(self.elbo, "differentiable_loss"):
            return super()._loss_for_gradients(model, guide, args, kwargs)
        return self._composed(self.elbo, "loss_and_grads", model, guide, args, kwargs)

    def _composed(
        self,
        elbo: ELBO,
        how: str,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """The loss through one of Pyro's. A critic's own is added outside, credited to no draw."""
        here().refuse(
            f"elbo={type(elbo).__name__}(...)", "leave elbo out, or train in one process"
        )
        terms, critics = Terms(), list[Tensor]()

        def cost(reading: Reading) -> Tensor:
            selected, alpha = self._weighed(reading), self.at_step(self.alpha)
            for name in selected:
                check_match(reading.model_sites[name], reading.guide_sites[name])
            sampled = not isinstance(elbo, TraceMeanField_ELBO)
            run = decompose(
                reading, terms, selected, self.plate, self.reconstruction, sampled=sampled
            )
            self._check_reconstruction(reading, run.reconstruction)
            added = torch.zeros_like(run.rate)
            if type(self).reconstruction is not Composed.reconstruction:  # in place of the loss's
                added = run.reconstruction + sum(reading.log_prob(n) for n in reading.observed)
            if not is_zero(alpha):
                added = added - alpha * run.rate
            if self.matched(reading):
                check_credited(elbo, reading)
                added = added + self._penalties(reading, terms, critics)
            return added

        loss = through(elbo, how, cost, model, guide, args, kwargs)
        loss = self.num_particles * loss + sum(c - c.detach() for c in critics)
        loss = self._finish(loss, terms)
        self.terms = detach_provenance(self.terms)
        return loss

    def reconstruction(self, reading: Reading, name: str) -> Tensor:
        """What an observed site adds to the loss, in nats summed over data."""
        return -reading.log_prob(name)

    def _check_reconstruction(self, reading: Reading, reconstruction: Tensor) -> None:
        """Refuses a reconstruction that trains no encoder."""

    def _particle(self, reading: Reading, terms: Terms) -> Tensor | float:
        selected, weight = self._weighed(reading), 1 - self.at_step(self.alpha)
        weighs = not is_zero(weight)
        free = self.free_bits
        run = decompose(reading, terms, selected, self.plate, self.reconstruction, weighs, free)
        self._check_reconstruction(reading, run.reconstruction)
        loss = run.reconstruction + run.rest
        if weighs:
            loss = loss + weight * run.rate
        elif self.is_moving:
            self._warn_untrained(reading)
        critics = list[Tensor]()
        loss = loss + self._penalties(reading, terms, critics)
        for critic in critics:
            loss = loss + (critic - critic.detach())
        return loss

    def _warn_untrained(self, reading: Reading) -> None:
        """Warns once a site of a discrete prior to learn, which draws of it do not train."""
        by_draws = {k: d for k, d in self.matched(reading).items() if d.reads == "draws"}
        for name in untrained(reading, [n for n in by_draws if n not in self._warned]):
            self._warned.add(name)
            warn_untrained(reading, name, type(by_draws[name]).__name__)


def is_zero(coefficient: Tensor | float) -> bool:
    """Whether a coefficient is the number 0, so that its term need not be computed."""
    return not isinstance(coefficient, Tensor) and coefficient == 0
