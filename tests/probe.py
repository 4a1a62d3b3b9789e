"""A small pair, and a divergence that keeps what it is shown."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import Pair
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives import (
    MMD,
    Divergence,
    InfoVAE,
)
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior

N, D = 8, 2


def data() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(5))


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    a = pyro.param("a", torch.tensor(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(a * x, 0.4).to_event(1))


def model_only(model: Callable[..., None]) -> Callable[..., None]:
    """The model's own latents as a guide."""
    return poutine.block(
        model, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"]
    )


class Probe(Divergence):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[AggregatePosterior] = []

    def forward(self, q: AggregatePosterior) -> Tensor:
        self.seen.append(q)
        return q.codes.square().mean()


def shown(pair: Pair, *args: Any, **options: Any) -> list[AggregatePosterior]:
    probe = Probe()
    InfoVAE(probe, **options).differentiable_loss(pair.model, pair.guide, *(args or pair.args))
    return probe.seen


def refuse(model: Any, guide: Any, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        InfoVAE(MMD(), **{"scale": 2.0} | options).differentiable_loss(model, guide, data())
