"""The two data sets' models, their training, and what they come to by quadrature."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.bodies import MLP
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Likelihood, Normal
from ppl_vae.objectives import BetaVAE
from ppl_vae.objectives.mutual import MutualAutoencoder
from ppl_vae.objectives.objective import Objective
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import StandardNormal
from ppl_vae.training import SVI
from ppl_vae.training.optim import Adam

__all__ = ["CATEGORICAL", "NORMAL", "VALUES", "train_categorical", "train_normal", "truth"]

VALUES = 10
STEPS = {"categorical": 2000, "normal": 1500, "VAE": 600}
ROWS = 500
CATEGORICAL = (0.8, 1.6, 2.2)
NORMAL = (0.5, 1.0, 1.5, 2.0)


class Values(Likelihood):
    """p(x|z) over ten values."""

    def __init__(self, dim: int, body: Any) -> None:
        super().__init__(dim, (), body, outputs=VALUES)

    def forward(self, z: Tensor) -> Any:
        return dist.Categorical(logits=self.raw(z))


class _OneHot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        # `one_hot` reads the greatest value to the host, which no recorded step can.
        return torch.eye(VALUES)[x]


class Mixture(nn.Module):
    """r(z|x), a mixture of normals with parameters from a network of one-hot x."""

    def __init__(self, components: int = 4) -> None:
        super().__init__()
        self.network = _read_values(torch.Size([]), torch.Size([3 * components]))

    def forward(self, x: Tensor) -> Any:
        logits, loc, log_scale = self.network(x).chunk(3, -1)
        parts = dist.Normal(loc[..., None], log_scale.exp()[..., None]).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)


_two_layers = partial(MLP, hidden=(64,), activation="tanh")


def _read_values(inputs: torch.Size, outputs: torch.Size) -> nn.Module:
    return nn.Sequential(_OneHot(), _two_layers((VALUES,), outputs))


def train_categorical(information: float | None, seed: int = 0, normal_r: bool = False) -> VAE:
    """Trains on ten equally likely values; a VAE where there is no target."""
    pyro.set_rng_seed(seed)
    likelihood = Values(1, _two_layers)
    with torch.no_grad():
        # Starts fine enough that ten intervals of z are within reach of the optimiser.
        for parameter in likelihood.network.layers[1].parameters():  # type: ignore[index, union-attr]
            parameter *= 8
    encoder = MeanFieldNormal((), 1, body=_read_values, initial_scale=1.0)
    vae = VAE(StandardNormal(1), likelihood, encoder)
    r: nn.Module = Mixture()
    if normal_r:
        r = MeanFieldNormal((), 1, body=_read_values, initial_scale=1.0)
    x = torch.arange(ROWS) % VALUES
    steps = STEPS["VAE" if information is None else "categorical"]
    _train(vae, _objective(information, 3.0, r), [x] * steps)
    return vae


def train_normal(information: float | None, seed: int = 0) -> VAE:
    """Trains on x ~ N(0, 1); a VAE where there is no target."""
    pyro.set_rng_seed(seed)
    likelihood = Normal(1, (1,), body=_two_layers, noise="network")
    encoder = MeanFieldNormal((1,), 1, body=_two_layers, initial_scale=1.0)
    vae = VAE(StandardNormal(1), likelihood, encoder)
    r = MeanFieldNormal((1,), 1, body=_two_layers, initial_scale=1.0)
    steps = STEPS["VAE" if information is None else "normal"]
    _train(vae, _objective(information, 0.3, r), torch.randn(steps, ROWS, 1))
    return vae


def _objective(information: float | None, weight: float, r: nn.Module) -> Objective:
    if information is None:
        return BetaVAE(1.0)
    return MutualAutoencoder(information, weight=weight, auxiliary=r)


def _train(vae: VAE, objective: Objective, batches: Sequence[Tensor] | Tensor) -> None:
    optimizer = Adam(1e-2, decay=0.02 ** (1 / len(batches)))
    svi = SVI(vae.model, vae.guide, optimizer, objective)
    for x in batches:
        svi.step(x)
        optimizer.advance(epochs=1)


@torch.no_grad()
def truth(vae: VAE) -> dict[str, float]:
    """The model's I(x, z), mean log-likelihood and mean decoder scale, by quadrature, in nats."""
    z = torch.linspace(-7, 7, 4001)[:, None]
    weight = torch.softmax(-0.5 * z[:, 0].double().square(), 0)[:, None]
    fn = vae.likelihood(z)
    if isinstance(fn, dist.Categorical):
        log_p = fn.logits.double()
        marginal = (weight * log_p.exp()).sum(0)
        information = (weight * log_p.exp() * (log_p - marginal.log())).sum()
        return {"information": float(information), "log_p": float(marginal.log().mean())}
    grid = torch.linspace(-8, 8, 3201).double()
    step = float(grid[1] - grid[0])
    loc, scale = (t.double() for t in (fn.base_dist.loc, fn.base_dist.scale))
    log_p = -0.5 * ((grid - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
    marginal = (weight * log_p.exp()).sum(0)
    log_marginal = marginal.clamp_min(1e-300).log()
    entropy = -(marginal * log_marginal).sum() * step
    given_z = (weight * (scale.log() + 0.5 * math.log(2 * math.pi * math.e))).sum()
    data = torch.exp(-0.5 * grid.square()) / math.sqrt(2 * math.pi)
    return {
        "information": float(entropy - given_z),
        "log_p": float((data * log_marginal).sum()) * step,
        "scale": float((weight * scale).sum()),
    }
