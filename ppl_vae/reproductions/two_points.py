"""On two data points the ELBO overshoots the variance of q(z); MMD does not.

Data {-1, 1}, one latent, a decoder of fixed standard deviation 0.2 and a q(z|x) flexible enough to
be each point's half of the prior (a spline for each). While the decoder is still smooth, the ELBO
gains more by pushing the two codes apart than their KL costs, so E z^2 under q(z) passes 2 before
it comes back to the prior's 1; with MMD on q(z) it stays near 1 throughout. E z^2 is measured on
40,000 draws every 25 steps. Adam at 5e-3 falling to 1e-3, batches of 512; MMD with lambda = 2000.
The pictures are E z^2 over the steps, and the two q(z|x) where E z^2 is highest and at the end,
against the prior.

Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262 (the example of two data points).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ConditionalSpline
from torch import Tensor, nn

from ppl_vae import plots
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE, Objective
from ppl_vae.plots.palette import BLUE, ORANGE, SHADE, Drawing, styled
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.measures import packed, unpacked
from ppl_vae.reproductions.common.pictures import curves, lines
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, value
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["EXPERIMENT", "TwoPoints", "train"]

BINS = 16
LR = 5e-3
SCALE = 2000.0
NAMES = ("ELBO", "MMD")


class TwoPoints(nn.Module):
    """The pair: p(x|z) with a small network, q(z|x) a spline of its own for either x."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
        self.table = _Table()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.2).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encoder(x))

    def encoder(self, x: Tensor) -> Any:
        spline = ConditionalSpline(self.table, 1, count_bins=BINS, bound=5.0)
        base = dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1)
        return dist.TransformedDistribution(base, [spline.condition(x)])


class _Table(nn.Module):
    """Spline parameters looked up by the sign of x; at zero the spline is the identity."""

    def __init__(self) -> None:
        super().__init__()
        knots = [BINS, BINS, BINS - 1, BINS]
        self.parts = nn.ParameterList([nn.Parameter(torch.zeros(2, n)) for n in knots])

    def forward(self, x: Tensor) -> list[Tensor]:
        row = (x[:, 0] > 0).long()
        widths, heights, slopes, weights = (part[row] for part in self.parts)
        unit_slope = 0.5413  # its softplus is 1
        return [widths, heights, slopes + unit_slope, weights]


def train(
    objective: Objective, steps: int, seed: int = 0
) -> tuple[list[tuple[int, float]], float, dict[str, Tensor]]:
    """Trains the pair.

    Returns:
        E z^2 under q(z) by step; the last error of x; and draws of either x's q(z|x),
        `(2, 2000)`, where E z^2 was highest and at the end.
    """
    pyro.set_rng_seed(seed)
    pair = TwoPoints()
    points = torch.tensor([[-1.0], [1.0]])
    x, many = points.repeat(256, 1), points.repeat(20_000, 1)
    loss = objective(pair.model, pair.guide)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(loss.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.2 ** (1 / steps))
    found: list[tuple[int, float]] = []
    codes: dict[str, Tensor] = {}
    for step in range(steps + 1):
        if step % 25 == 0:
            with torch.no_grad():
                z = pair.encoder(many).sample()
            found.append((step, float(z.square().mean())))
            shown = z[:4000].reshape(-1, 2).T
            codes["last"] = shown
            if found[-1][1] == max(value for _, value in found):
                codes["highest"] = shown
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        error = (pair.decoder(pair.encoder(many).sample()) - many).square().mean()
    return found, float(error), codes


def measure(seed: int, objective: str, steps: int) -> Measures:
    """Trains one objective."""
    made = BetaVAE(1.0) if objective == "ELBO" else InfoVAE(MMD(), scale=SCALE)
    curve, error, codes = train(made, steps, seed)
    values = [value for _, value in curve]
    return {
        "highest E z^2": max(values),
        "lowest": min(values),
        "last": sum(values[-10:]) / len(values[-10:]),
        "squared error of x": error,
        "curve": curve,
        **{f"codes, {name}": packed(z) for name, z in codes.items()},
    }


def cells(elbo: int, mmd: int) -> Sequence[Cell]:
    """One for each objective, with its steps."""
    steps = {"ELBO": elbo, "MMD": mmd}
    return [Cell(n, measure, {"objective": n, "steps": steps[n]}) for n in NAMES]


def claims(found: Found) -> Sequence[Claim]:
    """That the ELBO overshoots and returns, and MMD does neither."""

    def overshoots(run: Mapping[str, Measures]) -> list[Condition]:
        return [
            Condition(
                "highest E z^2", value(run, "ELBO", "highest E z^2"), at_least=1.3, nothing=1.0
            ),
            Condition(
                "highest less MMD's",
                value(run, "ELBO", "highest E z^2") - value(run, "MMD", "highest E z^2"),
                at_least=0.2,
                nothing=0.0,
            ),
        ]

    def grows(run: Mapping[str, Measures]) -> list[Condition]:
        last = value(run, "ELBO", "last") / value(run, "ELBO", "highest E z^2")
        return [Condition("last E z^2 over the highest", last, at_least=0.95, nothing=0.8)]

    def stays(run: Mapping[str, Measures]) -> list[Condition]:
        return [
            Condition("highest E z^2", value(run, "MMD", "highest E z^2"), at_most=1.15),
            Condition("last", abs(value(run, "MMD", "last") - 1), at_most=0.1),
            Condition("squared error of x", value(run, "MMD", "squared error of x"), at_most=0.1),
        ]

    row, paper = "two-point variance", "InfoVAE, the example of two data points"
    return [
        Claim(
            "a",
            "The ELBO overshoots the variance of q(z).",
            "E z^2 passes 1.3 under the ELBO, and .2 above MMD's highest",
            by_seed(found, overshoots),
            row,
            paper,
        ),
        Claim(
            "b",
            "Under the ELBO the variance grows without end.",
            "the last E z^2 is at least .95 of the highest; it is contradicted where it has "
            "fallen below .8 of it in every seed",
            by_seed(found, grows),
            row,
            f'"variance tends to infinity" ({paper})',
        ),
        Claim(
            "c",
            "MMD keeps the variance, with x told apart.",
            "E z^2 never passes 1.15 and ends within .1 of 1; the squared error of x is below .1",
            by_seed(found, stays),
            row,
            paper,
        ),
    ]


def draw(found: Found, folder: Path) -> Sequence[Path]:
    """E z^2 over the steps, and the codes of the two points."""
    series = curves(found, dict(zip(NAMES, NAMES, strict=True)))
    panel = "E z² under q(z)"
    curve = lines(folder / "two_points.png", {panel: series}, "step", marks={panel: 1.0})
    return [curve, _codes(next(iter(found.values())), folder / "codes.png")]


@styled
def _codes(run: Mapping[str, Measures], path: Path) -> Path:
    there = [name for name in NAMES if name in run]
    figure = Drawing(7, 2.3 * len(there) + 0.4)
    z = torch.linspace(-4, 4, 401)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).exp()
    for name, row in zip(there, figure.subplots(len(there), 2, squeeze=False), strict=True):
        for when, axes in zip(("highest", "last"), row, strict=True):
            codes = unpacked(run[name][f"codes, {when}"]).numpy()
            axes.fill_between(z.numpy(), prior.numpy(), label="prior", **SHADE)
            half = [60 / 16 / codes.shape[1]] * codes.shape[1]  # of a density, by 60 bins over 8
            for own, x, colour in zip(codes, ("-1", "1"), (BLUE, ORANGE), strict=True):
                axes.hist(
                    own, bins=60, range=(-4, 4), weights=half, histtype="step", color=colour,
                    label=f"q(z | x = {x}) / 2",
                )  # fmt: skip
            words = "where E z² is highest" if when == "highest" else "at the end"
            axes.set(title=f"{name}, {words}", xlabel="z")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    plots.save(figure, path)
    return path


EXPERIMENT = Reproduction(
    scales={"small": {"elbo": 3000, "mmd": 2000}},
    cells=cells,
    columns=("highest E z^2", "lowest", "last", "squared error of x"),
    claims=claims,
    draw=draw,
)
