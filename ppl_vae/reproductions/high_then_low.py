"""A beta that starts high and is then lowered ends as a VAE, its rate rising along the way.

A VAE on scikit-learn's digits whose beta is 16 for the first third of 1,500 steps and falls to 1
along a line over the next third; one at beta = 1 throughout and one at 16 are compared with it: d
= 10, one hidden layer of 128, Bernoulli likelihood, batches of 128, Adam at 1e-3. The rate on the
training batch is followed over the steps; reported at the end are rate, reconstruction and the NLL
of 100 held-out digits by 100 draws from fitted proposals, in nats, with the latents in use.

The sources give no figure: "start with very high beta and slowly decrease during training"
(lecture 3 on VAE, MMD and beta-VAE, after Burgess et al., 2018, arXiv:1804.03599).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyro
import torch
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae.data import Digits
from ppl_vae.objectives import BetaVAE, HighThenLow
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import fitted
from ppl_vae.reproductions.common.pictures import curves, lines
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, paired, value
from ppl_vae.reproductions.common.training import batches, pair_of, train
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT"]

HIGH = 16.0
NAMES = ("high, then low", "beta = 1", "beta = 16")


def measure(seed: int, schedule: str, steps: int) -> Measures:
    """Trains under one schedule and measures."""
    pyro.set_rng_seed(seed)
    data = Digits(seed=seed)
    assert data.test is not None
    vae = pair_of(data.size, 10, hidden=(128,))
    betas: dict[str, float | HighThenLow] = {
        "high, then low": HighThenLow(HIGH, 1.0, hold=1 / 3, over=1 / 3),
        "beta = 1": 1.0,
        "beta = 16": HIGH,
    }
    objective = BetaVAE(betas[schedule])

    def rate(step: int, x: Tensor) -> list[float]:
        with torch.no_grad():
            q = vae.encoder(x)
            p = vae.prior().expand(q.batch_shape)
            return [step, float(torch.distributions.kl_divergence(q, p).mean())]

    state = train(vae, objective, batches(data.train, 128), steps, watch=rate, every=steps // 30)
    pair = vae.model, vae.guide
    codes = ev.posterior_codes(*pair, data.test)
    return {
        "rate": ev.rate(*pair, data.test).value,
        "reconstruction": ev.distortion(*pair, data.test).value,
        "active": int((codes.mean.var(0) > 0.01).sum()),
        **fitted(vae, data.test[:100]),
        "curve": state["curves"],
    }


def cells(steps: int) -> Sequence[Cell]:
    """One for each schedule."""
    return [Cell(name, measure, {"schedule": name, "steps": steps}) for name in NAMES]


def claims(found: Found) -> Sequence[Claim]:
    """That the rate starts low and ends as the VAE's, at its likelihood."""

    def conditions(run: Mapping[str, Measures]) -> list[Condition]:
        lowered, plain, high = NAMES
        curve = run.get(lowered, {}).get("curve", [])
        third = [rate for _, rate in curve[: len(curve) // 3]]
        early = third[-1] if third else float("nan")
        last = value(run, lowered, "rate")
        gap, error = paired(run, lowered, plain)
        return [
            Condition("rate when high, over the last", early / last, at_most=0.5, nothing=1.0),
            Condition("rate over beta = 1's", last / value(run, plain, "rate"), at_least=0.8),
            Condition("NLL to beta = 1's", gap, at_most=0.3, error=error),
            Condition(
                "NLL of beta = 16 to it", value(run, high, "NLL") - value(run, lowered, "NLL"),
                at_least=0.3, nothing=0.0,
            ),
        ]  # fmt: skip

    return [
        Claim(
            "a",
            "A beta lowered from 16 to 1 holds the code small at first and ends as a VAE.",
            "the rate under beta = 16 is at most half the last; at the end the rate is at least "
            ".8 of that of beta = 1 and the fitted NLL at most .3 nats above; staying at 16 costs "
            ".3 nats or more",
            by_seed(found, conditions),
            "high beta, then low",
        )
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """The rate over the steps."""
    series = curves(found, dict(zip(NAMES, NAMES, strict=True)))
    title = "A high beta, then lowered (digits)"
    return [lines(folder / "rate.png", {"rate, nats": series}, "step", title=title)]


EXPERIMENT = Reproduction(
    scales={"small": {"steps": 1500}, "medium": {"steps": 15_000}},
    cells=cells,
    columns=("rate", "reconstruction", "active", "NLL", "size"),
    claims=claims,
    draw=draw,
)
