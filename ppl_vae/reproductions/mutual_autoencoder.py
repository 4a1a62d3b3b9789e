r"""The mutual auto-encoder learns a code of chosen information where the VAE learns none.

Both data sets of the poster can be modelled without a code, and the VAE does just that.
Categorical: x uniform on ten values, p(x|z) a network with a softmax. Splitting the normal:
x ~ N(0, 1), p(x|z) normal with mean and scale from a network. z ~ N(0, 1); p, q and r are
two-layer networks. For each target M the table holds the true I(x, z) of the trained model and the
mean log-likelihood under the data's law, both by quadrature; and for the normal the decoder's
standard deviation, whose value in an exact split is e^-M. The pictures are the poster's figures 5
and 6.

q(z|x) is normal, as in the poster. For ten values so is r(z|x) there, but it need not be: ten
values cut the line into intervals, inside which z is far from normal, so that with a normal r no
model's bound exceeds 2.1045 (the maximum over all cuts). M = 2.2 is then out of reach, and what
comes out depends on when training stops. r is a mixture of four normals here; the last row of the
categorical data has the normal.

Bui, Kushman, Nowozin, Tomioka and Welling (2017), The mutual autoencoder: controlling information
in latent code representations.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import plots
from ppl_vae.bodies import MLP
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Likelihood, Normal
from ppl_vae.objectives import BetaVAE
from ppl_vae.objectives.mutual import MutualAutoencoder
from ppl_vae.objectives.objective import Objective
from ppl_vae.pairs.vae import VAE
from ppl_vae.plots.palette import CLASSES, SCALE, Drawing, styled
from ppl_vae.priors import StandardNormal
from ppl_vae.training import SVI
from ppl_vae.training.optim import Adam

__all__ = ["categorical", "normal", "run", "train_categorical", "train_normal", "truth"]

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


def categorical(seed: int = 0) -> dict[str, VAE]:
    """The models of the first data set, by label."""
    models = {"VAE": train_categorical(None, seed)}
    models |= {f"M = {m}": train_categorical(m, seed) for m in CATEGORICAL}
    return models


def normal(seed: int = 0) -> dict[str, VAE]:
    """The models of the second data set, by label."""
    models = {"VAE": train_normal(None, seed)}
    models |= {f"M = {m}": train_normal(m, seed) for m in NORMAL}
    return models


def run(out: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Trains both data sets at each M, and the VAE; a row for each model."""
    ten, line = categorical(seed), normal(seed)
    worse = {f"M = {CATEGORICAL[-1]}, normal r": train_categorical(CATEGORICAL[-1], seed, True)}
    rows = []
    for name, models, best in (
        ("categorical", ten | worse, -math.log(VALUES)),
        ("normal", line, -0.5 * math.log(2 * math.pi * math.e)),
    ):
        for label, vae in models.items():
            found = truth(vae)
            rows.append([name, label, found["information"], found["log_p"], best])
            rows[-1].append(found.get("scale", ""))
    pictures = []
    if out is not None:
        pictures = [
            _draw_categorical(ten, out / "categorical.png"),
            _draw_normal(line, out / "normal.png"),
        ]
    return {
        "columns": ["data", "model", "true I(x, z)", "E log p(x)", "best", "decoder sd"],
        "rows": rows,
        "pictures": pictures,
    }


@styled
def _draw_categorical(models: dict[str, VAE], path: Path) -> Path:
    """The poster's figure 5: p(x|z) as a function of z, a row for each model."""
    z = torch.linspace(-3, 3, 601)
    figure = Drawing(7, 1.5 * len(models))
    axes = figure.subplots(len(models), sharex=True)
    for axis, (label, vae) in zip(axes, models.items(), strict=True):
        with torch.no_grad():
            probs = vae.likelihood(z[:, None]).probs.numpy()
        axis.stackplot(z.numpy(), probs.T, colors=CLASSES, labels=range(VALUES))
        axis.set(ylim=(0, 1), xlim=(-3, 3), ylabel="p(x | z)")
        axis.set_title(f"{label}: I = {truth(vae)['information']:.2f} nats")
    axes[-1].set_xlabel("z")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="x")
    plots.save(figure, path)
    return path


@styled
def _draw_normal(models: dict[str, VAE], path: Path) -> Path:
    """The poster's figure 6: p(x|z) p(z) for a grid of z, a row for each model."""
    import matplotlib

    x, codes = torch.linspace(-4, 4, 801), torch.linspace(-2.5, 2.5, 21)
    figure = Drawing(7, 1.5 * len(models))
    axes = figure.subplots(len(models), sharex=True)
    colours = matplotlib.colormaps[SCALE](codes.sub(-2.5).div(5).numpy())
    for axis, (label, vae) in zip(axes, models.items(), strict=True):
        with torch.no_grad():
            fn = vae.likelihood(codes[:, None, None].expand(-1, len(x), 1))
            prior = dist.Normal(0.0, 1.0).log_prob(codes)[:, None]
            joint = (fn.log_prob(x[:, None]) + prior).exp().numpy()
        for row, colour in zip(joint, colours, strict=True):
            axis.plot(x.numpy(), row, color=colour, linewidth=1)
        axis.set(xlim=(-4, 4), ylim=(0, None), ylabel="p(x | z) p(z)")
        axis.set_title(f"{label}: I = {truth(vae)['information']:.2f} nats")
    axes[-1].set_xlabel("x")
    scale = matplotlib.colors.Normalize(-2.5, 2.5)
    figure.colorbar(matplotlib.cm.ScalarMappable(scale, SCALE), ax=list(axes), label="z")
    plots.save(figure, path)
    return path
