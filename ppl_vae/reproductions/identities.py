r"""The ELBO is Pyro's, named objectives are limits of one, and the TCVAE's parts are the data's.

A VAE on 500 of scikit-learn's digits in double precision (d = 4, one hidden layer of 32, Gaussian
decoder of sd .25), after 300 steps of the ELBO. Two objectives that should be one are run on the
same draws, and compared in value and in the gradient of every parameter, the largest difference
over the largest entry: `BetaVAE()`, `InfoVAE(alpha=0)` and the `TCVAE` of equal weights with
Pyro's `TraceMeanField_ELBO`; `InfoVAE(alpha=-3, scale=4)` with the beta-VAE of beta = 4;
`InfoVAE(alpha=1, scale=0)` with the auto-encoder; and the MMD-VAE with the Wasserstein
auto-encoder of cost $r^2 / 2 s^2$, which the constant $\frac{D}{2} \log 2 \pi s^2$ is added to.

The three parts of the rate under the `TCVAE`'s estimates (MSS and MWS) are averaged over draws, of
all rows and of batches of 100, and held against those of `surgery`, which adds up $\log q(z)$ over
all rows. In nats.

Derived. Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
autoencoders, arXiv:1802.04942.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae import likelihoods
from ppl_vae.data import Digits
from ppl_vae.objectives import MMD, TCVAE, WAE, Autoencoder, BetaVAE, InfoVAE, SquaredError
from ppl_vae.pairs.vae import VAE
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.pictures import bars
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, most, value
from ppl_vae.reproductions.common.training import batches, pair_of, train
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT"]

ROWS, SD, BATCH = 500, 0.25, 100
KINDS = ("mutual_information", "total_correlation", "dimension_wise")
ELBOS = ("BetaVAE", "InfoVAE, alpha = 0", "TCVAE, equal weights")
LIMITS = ("beta-VAE", "auto-encoder", "WAE-MMD")
SPLITS = {"MSS, all rows": ("MSS", ROWS), "MSS": ("MSS", BATCH), "MWS": ("MWS", BATCH)}

Loss = Callable[[], Any]

ONE: dict[str, tuple[Loss, Loss]] = {
    ELBOS[0]: (BetaVAE, TraceMeanField_ELBO),
    ELBOS[1]: (lambda: InfoVAE(MMD(), alpha=0, scale=1), TraceMeanField_ELBO),
    ELBOS[2]: (lambda: TCVAE(1.0, 1.0, 1.0), TraceMeanField_ELBO),
    LIMITS[0]: (lambda: InfoVAE(alpha=-3.0, scale=4.0), lambda: BetaVAE(4.0)),
    LIMITS[1]: (lambda: InfoVAE(alpha=1, scale=0), Autoencoder),
    LIMITS[2]: (
        lambda: InfoVAE(MMD(), scale=64.0),
        lambda: WAE(MMD(), scale=64.0, cost=SquaredError(0.5 / SD**2)),
    ),
}
"""Pairs of objectives that are one."""


def trained(seed: int, steps: int) -> tuple[VAE, Tensor]:
    """The pair and its rows."""
    pyro.set_rng_seed(seed)
    data = Digits(seed=seed)
    x = data.train[:ROWS].double()
    likelihood = partial(likelihoods.Normal, scale=SD)
    vae = pair_of(data.size, 4, hidden=(32,), likelihood=likelihood).double()
    train(vae, BetaVAE(), batches(x, 100), steps, lr=2e-3)
    return vae, x


def one(seed: int, objective: str, steps: int) -> Measures:
    """Compares an objective with the one that it should be."""
    vae, x = trained(seed, steps)
    found = []
    for make in ONE[objective]:
        vae.zero_grad()
        pyro.set_rng_seed(seed)
        loss = make().differentiable_loss(vae.model, vae.guide, x)
        loss.backward()
        gradients = [p.grad.clone() for p in vae.parameters() if p.grad is not None]
        found.append((float(loss.detach()), gradients))
    (ours, mine), (theirs, other) = found
    if objective == "WAE-MMD":
        theirs += 0.5 * x.numel() * math.log(2 * math.pi * SD**2)
    largest = max(float(g.abs().max()) for g in other)
    gaps = [float((a - b).abs().max()) for a, b in zip(mine, other, strict=True)]
    return {"value off": abs(ours / theirs - 1), "gradient off": max(gaps) / largest}


def split(seed: int, estimator: Any, size: int, steps: int, draws: int) -> Measures:
    """The parts by an estimator, and those of all data."""
    vae, x = trained(seed, steps)
    pair = vae.model, vae.guide
    objective = TCVAE(estimator=estimator, size=ROWS)
    parts, whole = [], []
    for draw in range(draws):
        pyro.set_rng_seed(1000 * seed + draw)
        objective.loss(*pair, x[torch.randperm(ROWS)[:size]])
        parts.append([float(objective.terms[f"{kind}/z"]) for kind in KINDS])
        pyro.set_rng_seed(1000 * seed + 500 + draw)
        full = ev.surgery(*pair, x)
        whole.append([getattr(full, kind).value for kind in KINDS])
    ours, theirs = torch.tensor(parts), torch.tensor(whole)
    errors = (ours.var(0) + theirs.var(0)).div(draws).sqrt()
    off = ours.mean(0) - theirs.mean(0)
    return {
        **{kind: float(number) for kind, number in zip(KINDS, ours.mean(0), strict=True)},
        **{f"{kind} of all": float(n) for kind, n in zip(KINDS, theirs.mean(0), strict=True)},
        "largest error": float((off / errors).abs().max()),
        "highest information": float(ours[:, 0].max()),
    }


def cells(steps: int, draws: int) -> Sequence[Cell]:
    """One for each pair of objectives and for each estimator."""
    return [
        *(Cell(name, one, {"objective": name, "steps": steps}) for name in ONE),
        *(
            Cell(name, split, {"estimator": e, "size": n, "steps": steps, "draws": draws})
            for name, (e, n) in SPLITS.items()
        ),
    ]


def claims(found: Found) -> Sequence[Claim]:
    """That what should be one is one."""

    def same(run: Mapping[str, Measures], names: Sequence[str]) -> list[Condition]:
        return [
            Condition(f"{kind}, largest", most([value(run, n, kind) for n in names]), at_most=1e-9)
            for kind in ("value off", "gradient off")
        ]

    def parts(run: Mapping[str, Measures]) -> list[Condition]:
        highest = most([value(run, name, "highest information") for name in SPLITS])
        return [
            Condition("MSS of all rows, errors", value(run, "MSS, all rows", "largest error"),
                      at_most=4.5),
            Condition("highest information less log N", highest - math.log(ROWS), at_most=1e-6),
        ]  # fmt: skip

    return [
        Claim(
            "a",
            "The ELBO of this library is Pyro's.",
            "by each of three names, value and gradients within 1e-9",
            by_seed(found, lambda run: same(run, ELBOS)),
            "VAE (ELBO)",
            "exact (derived)",
        ),
        Claim(
            "b",
            "The beta-VAE, the auto-encoder and WAE-MMD are limits of InfoVAE.",
            "values and gradients within 1e-9",
            by_seed(found, lambda run: same(run, LIMITS)),
            "general InfoVAE",
            "exact (derived)",
        ),
        Claim(
            "c",
            "The beta-TCVAE's parts by MSS on all rows are those of the data.",
            "each within 4.5 standard errors of surgery's, and no information above log N",
            by_seed(found, parts),
            "beta-TCVAE",
            "exact for a batch of all rows (derived)",
        ),
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """The parts by MSS, and of all data; MWS has its information at the limit of log N."""
    seed, run = next(iter(found.items()))
    there = {name: run[name] for name in SPLITS if name in run and "MSS" in name}
    if not there:
        return []
    words = [kind.replace("_", " ") for kind in KINDS]
    shown = {
        name: dict(zip(words, (m[k] for k in KINDS), strict=True)) for name, m in there.items()
    }
    last = next(iter(there.values()))
    shown["all data"] = dict(zip(words, (last[f"{k} of all"] for k in KINDS), strict=True))
    path = folder / "parts.png"
    title = f"The rate's parts; batches of {BATCH} where not said (seed {seed})"
    return [bars(path, shown, "nats", title)]


EXPERIMENT = Reproduction(
    scales={"small": {"steps": 300, "draws": 40}},
    cells=cells,
    columns=("value off", "gradient off", *KINDS, "largest error"),
    claims=claims,
    draw=draw,
)
