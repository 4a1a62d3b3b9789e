"""The rate falls as beta rises, down to no code at all.

A beta-VAE on scikit-learn's digits at beta = 1, 2, 4, 6, 8 and 16: d = 10, one hidden layer of
128, Bernoulli likelihood, batches of 128, Adam at 1e-3. Reported on the 360 held-out digits are
the rate and the reconstruction in nats, the number of latents in use (variance of the mean above
.01) and the accuracy of a linear probe on posterior means; the pictures are the curve of rate and
reconstruction, and the means of p(x|z) at posterior means.

The sources give no figure: beta multiplies the KL, which "prioritises" a simple code over a good
reconstruction (lecture 3 on VAE, MMD and beta-VAE; Higgins et al., 2017, ICLR).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pyro
import torch

from ppl_vae import evaluation as ev
from ppl_vae.data import Digits
from ppl_vae.objectives import BetaVAE
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import packed, unpacked
from ppl_vae.reproductions.common.pictures import images, lines
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, most, value
from ppl_vae.reproductions.common.training import batches, pair_of, train
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT"]

BETAS = (1, 2, 4, 6, 8, 16)


def measure(seed: int, beta: float, steps: int) -> Measures:
    """Trains at one beta and measures."""
    pyro.set_rng_seed(seed)
    data = Digits(seed=seed)
    assert data.test is not None
    vae = pair_of(data.size, 10, hidden=(128,))
    train(vae, BetaVAE(beta), batches(data.train, 128), steps)
    pair = vae.model, vae.guide
    codes, seen = (ev.posterior_codes(*pair, x) for x in (data.test, data.train))
    rate = ev.rate(*pair, data.test)
    probe = ev.linear_probe(seen.mean, data.train_labels, codes.mean, data.test_labels)
    with torch.no_grad():
        means = vae.likelihood(codes.mean[:10]).mean
    return {
        "rate": rate.value,
        "rate error": rate.data_error,
        "reconstruction": ev.distortion(*pair, data.test).value,
        "active": int((codes.mean.var(0) > 0.01).sum()),
        "probe": probe.value,
        "means": packed(means),
        "data": packed(data.test[:10]),
    }


def cells(steps: int) -> Sequence[Cell]:
    """One for each beta."""
    return [Cell(f"beta = {b}", measure, {"beta": b, "steps": steps}) for b in BETAS]


def claims(found: Found) -> Sequence[Claim]:
    """That the rate is monotone, and how far it falls."""

    def conditions(run: Mapping[str, Measures]) -> list[Condition]:
        rates = [value(run, f"beta = {b}", "rate") for b in BETAS]
        rise = most([b - a for a, b in pairwise(rates)])
        return [
            Condition("largest rise of the rate", rise, at_most=0.01, nothing=1.0),
            Condition(
                "rate at beta 1 over 16", rates[0] / rates[-1] if rates[-1] else 1e9,
                at_least=2.0, nothing=1.0,
            ),
        ]  # fmt: skip

    return [
        Claim(
            "a",
            "The rate falls monotonically with beta.",
            "from one beta to the next the held-out rate rises by .01 nats at most, and it at "
            "least halves from 1 to 16",
            by_seed(found, conditions),
            "beta-VAE",
        )
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """Rate and reconstruction over beta, and reconstructions."""
    panels = {
        name: {
            "": [
                (BETAS, [value(run, f"beta = {b}", name) for b in BETAS]) for run in found.values()
            ]
        }
        for name in ("rate", "reconstruction", "probe")
    }
    curve = lines(
        folder / "rate.png", panels, "beta", title="beta-VAE on held-out digits",
        log=dict.fromkeys(panels, "x"), ticks=BETAS,
    )  # fmt: skip
    seed, run = next(iter(found.items()))
    there = [f"beta = {b}" for b in BETAS if f"beta = {b}" in run]
    rows = [unpacked(run[there[0]]["data"]), *(unpacked(run[name]["means"]) for name in there)]
    title = f"data, then {', '.join(there)} (seed {seed})"
    return [curve, images(folder / "reconstructions.png", rows, title)]


EXPERIMENT = Reproduction(
    scales={"small": {"steps": 800}, "medium": {"steps": 10_000}},
    cells=cells,
    columns=("rate", "reconstruction", "active", "probe"),
    claims=claims,
    draw=draw,
)
