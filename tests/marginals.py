"""Pairs whose models sum over discrete sites, with the density of x given z by hand."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

EVERY = {"enumerate": "parallel"}
N = 5


@dataclass
class Marginal:
    """A pair, and what of it is known.

    Attributes:
        conditional: log p(x | z) in nats, summed over data, of all of x.
        local: whether the prior of z depends on what is summed over.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    conditional: Callable[[Tensor], Tensor]
    mixed: bool = False
    nesting: int = 1


def data() -> Tensor:
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(3)).to(
        torch.get_default_dtype()
    )


def centres() -> Tensor:
    return pyro.param("centres", torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, -1.2]]))


def weights() -> Tensor:
    return pyro.param("weights", torch.tensor([0.2, 0.5, 0.3]), constraints.simplex)


def guide(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.6))
    scale = pyro.param("scale", torch.tensor(0.7), constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, scale).to_event(1))


def normal(loc: Tensor | float, scale: float) -> Any:
    loc = loc if isinstance(loc, Tensor) else torch.full((2,), loc)
    return dist.Normal(loc, scale).to_event(1)


def mixture_prior() -> Marginal:
    """k, then z given k, then x given z."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights()), infer=EVERY)
            z = pyro.sample("z", normal(centres()[k], 0.8))
            pyro.sample("x", normal(z, 0.6), obs=x)

    def conditional(z: Tensor) -> Tensor:
        return normal(z, 0.6).log_prob(data()).sum()

    return Marginal(model, guide, (data(),), conditional, mixed=True)


def as_one_distribution(x: Tensor) -> None:
    """The model of `mixture_prior` with k summed out by hand."""
    with pyro.plate("data", len(x)):
        parts = dist.Independent(dist.Normal(centres(), 0.8), 1)
        z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(weights()), parts))
        pyro.sample("x", normal(z, 0.6), obs=x)


def mixture_likelihood() -> Marginal:
    """z, then k given z, then x given both; the whole scaled."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0, 1.0))
            k = pyro.sample("k", dist.Categorical(logits=z @ centres().T), infer=EVERY)
            pyro.sample("x", normal(centres()[k] + z, 0.6), obs=x)

    def conditional(z: Tensor) -> Tensor:
        log_k = (z @ centres().T).log_softmax(-1)
        each = normal(centres() + z[:, None], 0.6).log_prob(data()[:, None])
        return (log_k + each).logsumexp(-1).sum()

    return Marginal(model, guide, (data(),), conditional)


def topics() -> Marginal:
    """A logistic normal over topics, and a topic for each word."""
    words = torch.arange(4 * N).reshape(4, N) % 7

    def table() -> Tensor:
        start = torch.ones(2, 7) + torch.arange(14.0).reshape(2, 7) % 5
        return pyro.param("topics", start / start.sum(-1, keepdim=True), constraints.simplex)

    def model(x: Tensor) -> None:
        with pyro.plate("documents", x.shape[1]):
            z = pyro.sample("z", normal(0.0, 1.0))
            with pyro.plate("words", len(x)):
                k = pyro.sample("k", dist.Categorical(logits=z), infer=EVERY)
                pyro.sample("w", dist.Categorical(table()[k]), obs=x)

    def encode(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.6))
        with pyro.plate("documents", x.shape[1]):
            loc = torch.stack([(x < 3).sum(0) - 2.0, (x > 4).sum(0) - 1.0], -1)
            pyro.sample("z", normal(slope * loc, 0.7))

    def conditional(z: Tensor) -> Tensor:
        return (z.softmax(-1) @ table()).log().T.gather(0, words).sum()

    return Marginal(model, encode, (words,), conditional, nesting=2)


def hidden_markov() -> Marginal:
    """A code z for each sequence, and a chain of states that emits it."""
    steps, states = 4, 2

    def chain() -> tuple[Tensor, Tensor]:
        start = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
        return pyro.param("moves", start, constraints.simplex), centres()[:states, 0]

    def model(x: Tensor) -> None:
        moves, levels = chain()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0, 1.0))
            k: Any = 0
            for t in pyro.markov(range(steps)):
                k = pyro.sample(f"k_{t}", dist.Categorical(moves[k]), infer=EVERY)
                loc = levels[k] + z[..., t % 2]
                pyro.sample(f"x_{t}", dist.Normal(loc, 0.6), obs=x[:, t % 2])

    def conditional(z: Tensor) -> Tensor:
        moves, levels = chain()
        x, paths = data(), []
        for path in itertools.product(range(states), repeat=steps):
            log_p = torch.zeros(N)
            for t, (before, k) in enumerate(zip((0, *path), path, strict=False)):
                emission = dist.Normal(levels[k] + z[:, t % 2], 0.6)
                log_p = log_p + moves[before, k].log() + emission.log_prob(x[:, t % 2])
            paths.append(log_p)
        return torch.stack(paths).logsumexp(0).sum()

    return Marginal(model, guide, (data(),), conditional)


MARGINALS: dict[str, Callable[[], Marginal]] = {
    build.__name__: build for build in (mixture_prior, mixture_likelihood, topics, hidden_markov)
}
"""Builders by name."""
