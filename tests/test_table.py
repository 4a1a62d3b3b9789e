"""Every objective over every model shape: one loss by three ways, gradients where they belong."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, Pair
from pyro.infer import SVI
from syncs import no_waiting
from torch import Tensor, nn

from ppl_vae.objectives import (
    GECO,
    IMQ,
    IWAE,
    MMD,
    TCVAE,
    WAE,
    Adversarial,
    AggregateKL,
    Autoencoder,
    BetaVAE,
    CapacityVAE,
    CramerWold,
    Dual,
    Energy,
    FourierMMD,
    InfoVAE,
    Linear,
    Memory,
    MutualAutoencoder,
    Objective,
    Sinkhorn,
    SlicedWasserstein,
    Stein,
)

DIMS = {
    "two_latents": 4,
    "chain_top_down": 6,
    "chain_bottom_up": 6,
    "nested_plates": 4,
}


class Auxiliary(nn.Module):
    """r(z|x) for the joint of any pair: a linear normal of the first observed site."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Linear(3, dim)

    def forward(self, x: Tensor, *_: Tensor) -> Any:
        return dist.Normal(self.net(x.reshape(-1, 3)), 0.8).to_event(1)


def critic(dim: int, bound: str) -> Adversarial:
    return Adversarial(dim=dim, hidden=(8,), bound=bound)  # type: ignore[arg-type]


# Each takes the joint's dimension and what the pair needs to be told.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "infovae": lambda d, **k: InfoVAE(MMD(), alpha=0.5, scale=9.0, **k),
    "mmd-vae": lambda d, **k: InfoVAE(MMD(), scale=9.0, **k),
    "mmd-vae, sampled": lambda d, **k: InfoVAE(
        MMD(IMQ(), prior="sampled", noise="sampled"), scale=9.0, **k
    ),
    "stein-vae": lambda d, **k: InfoVAE(Stein(), scale=9.0, **k),
    "aae": lambda d, **k: InfoVAE(critic(d, "JS"), scale=3.0, **k),
    "f-divergence": lambda d, **k: InfoVAE(critic(d, "chi-squared"), scale=3.0, **k),
    "wgan": lambda d, **k: InfoVAE(critic(d, "WGAN-GP"), scale=3.0, **k),
    "sliced": lambda d, **k: InfoVAE(SlicedWasserstein(), scale=3.0, **k),
    "cramer-wold": lambda d, **k: InfoVAE(CramerWold(), scale=3.0, **k),
    "energy": lambda d, **k: InfoVAE(Energy(), scale=3.0, **k),
    "sinkhorn": lambda d, **k: InfoVAE(Sinkhorn(), scale=3.0, **k),
    "aggregate kl": lambda d, **k: InfoVAE(AggregateKL(), scale=3.0, **k),
    "features": lambda d, **k: InfoVAE(FourierMMD(), scale=9.0, **k),
    "memory": lambda d, **k: InfoVAE(Memory(MMD(), size=30), scale=9.0, **k),
    "scheduled": lambda d, **k: InfoVAE(MMD(), scale=Linear(1.0, 9.0, 10), **k),
    "beta-vae": lambda d, **k: BetaVAE(4.0, **k),
    "autoencoder": lambda d, **k: Autoencoder(**k),
    "wae": lambda d, **k: WAE(MMD(), scale=9.0, **k),
    "capacity": lambda d, **k: CapacityVAE(2.0, **k),
    "capacity, dual": lambda d, **k: CapacityVAE(2.0, Dual(), **k),
    "geco": lambda d, **k: GECO(5.0, **k),
    "tcvae": lambda d, **k: TCVAE(**k),
    "iwae": lambda d, **k: IWAE(5, **k),
    "iwae, dreg": lambda d, **k: IWAE(5, gradient="dreg", **k),
    "mutual": lambda d, **k: MutualAutoencoder(1.0, auxiliary=Auxiliary(d), **k),
}

# Combinations that have no meaning, and the one line that says so.
_DENSITY = "needs the density of q"
REFUSED: dict[tuple[str, str], str] = {
    (name, pair): message
    for names, pairs, message in [
        (("aggregate kl", "tcvae"), ("chain_top_down", "chain_bottom_up"), _DENSITY),
    ]
    for name in names
    for pair in pairs
}

# Parameters that an objective leaves out by what it is: without a KL, a chain's upper layer and
# the prior of the lower one do not enter the loss.
UNREACHED = {
    ("autoencoder", "chain_top_down"): {"v"},
    ("autoencoder", "chain_bottom_up"): {"v", "b"},
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_over_every_shape(name: str, pair: str) -> None:
    it = PAIRS[pair]()
    keywords = dict(it.keywords)
    objective = OBJECTIVES[name](DIMS.get(pair, 3), **keywords)
    if (name, pair) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, pair]) as caught:
            objective.differentiable_loss(it.model, it.guide, *it.args)
        assert "\n" not in str(caught.value)
        return
    agree(objective, it)
    reach(objective, it, UNREACHED.get((name, pair), set()))
    if name != "sinkhorn":  # the library behind it checks its arguments on the host
        no_waiting(objective, it)
    step(objective, it)


def agree(objective: Objective, pair: Pair) -> None:
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    values = []
    for call in ("loss", "differentiable_loss", "loss_and_grads"):
        pyro.set_rng_seed(1)
        loss = getattr(copy.deepcopy(objective), call)(pair.model, pair.guide, *pair.args)
        values.append(loss.item() if isinstance(loss, Tensor) else loss)
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert values[1] == pytest.approx(values[2], rel=1e-6)
    pyro.clear_param_store()


def reach(objective: Objective, pair: Pair, left_out: set[str]) -> None:
    """Gradients are finite and reach model, guide and objective."""
    loss = objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    stored = {n: v.unconstrained() for n, v in pyro.get_param_store().items()}
    leaves = stored | {f"objective.{n}": p for n, p in objective.named_parameters()}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for key, gradient in zip(leaves, gradients, strict=True):
        assert (gradient is None) == (key in left_out), key
        assert gradient is None or gradient.isfinite().all(), key


def step(objective: Objective, pair: Pair) -> None:
    """SVI moves the objective's parameters with the pair's; so does a torch optimiser."""
    before = [p.detach().clone() for p in objective.parameters()]
    SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), objective).step(*pair.args)
    moved = [not torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True)]
    assert any(moved) or not moved  # a critic's last bias may cancel from its loss
    module = objective(pair.model, pair.guide)
    owned = {id(p) for p in objective.parameters()}
    assert owned <= {id(p) for p in module.parameters()}
    if list(module.parameters()):
        optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
        optimiser.zero_grad()
        module(*pair.args).backward()
        optimiser.step()


def test_the_table_names_every_public_objective() -> None:
    from ppl_vae import objectives

    text = re.sub(r"\s", "", Path(__file__).read_text())
    for public in objectives.__all__:
        cls = getattr(objectives, public)
        if isinstance(cls, type) and issubclass(cls, Objective) and cls is not Objective:
            assert f"{public}(" in text or f",{public}" in text, public
