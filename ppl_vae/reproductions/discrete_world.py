r"""An unregularised auto-encoder's optimum is $I_q - H$, and its chain draws the data.

A world of seven states, where everything can be added up. Its data are 28 rows, of which state k
has k + 1; q(z|x) and p(x|z) are tables. For a given q the best decoder is the posterior of x under
data and q, at which the auto-encoder's mean log-likelihood is $I_q(x, z) - H(\text{data})$, and
the chain z ~ q(z|x), x ~ p(x|z) leaves the distribution of the data as it is, although the prior
of z never entered.

The decoder is trained by L-BFGS under `Autoencoder`, with the codes summed over, for three
encoders: a fixed noisy one; seven codes trained along; and three codes trained along behind a
channel that replaces one code in ten by any. Reported are the value found, I_q - H added up from
the tables, their difference, and the largest difference between the data's distribution and the
law the transition matrix leads to from the rarest state. `markov_chain` is then run on 20,000 rows
that all start there; the last column is its largest distance from the data's distribution in
standard errors. A chain of codes that tell states apart for certain never leaves a group of
states: it starts in the data, and need only keep its law.

Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262, section 4; the chain is that of Bengio,
Yao, Alain and Vincent (2013), arXiv:1305.6663.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import plots
from ppl_vae.evaluation.sampling import markov_chain
from ppl_vae.objectives import Autoencoder
from ppl_vae.plots.palette import CYCLE, SHADE, Drawing, styled
from ppl_vae.reproductions.common.kept import Cell, Measures
from ppl_vae.reproductions.common.reproduction import Found, Reproduction, by_seed, most, value
from ppl_vae.reproductions.common.verdicts import Claim, Condition

__all__ = ["ENCODERS", "EXPERIMENT", "STATES", "World", "largest_error", "measure", "simulate"]

STATES = 7
"""The number of states."""

ENCODERS: dict[str, dict[str, Any]] = {
    "noisy, fixed": {"codes": 5, "fixed": True},
    "7 codes": {"codes": 7},
    "3 codes, noise 0.1": {"codes": 3, "noise": 0.1},
}
"""The encoders that are compared, as arguments of `World`."""


class World(nn.Module):
    """A pair on states and codes that are whole numbers.

    Args:
        codes: the number of codes.
        noise: the probability that a code is replaced by one drawn from all with equal odds.
        fixed: whether the encoder is left as it is drawn.
        seed: of the tables at the start.
    """

    def __init__(self, codes: int, noise: float = 0.0, fixed: bool = False, seed: int = 0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        like: dict[str, Any] = {"generator": g, "dtype": torch.float64}
        self.encoder = nn.Parameter(torch.randn(STATES, codes, **like), requires_grad=not fixed)
        self.decoder = nn.Parameter(torch.randn(codes, STATES, **like))
        self.noise = noise

    @property
    def data(self) -> Tensor:
        """The data, `(28,)`: state k as often as k + 1."""
        return torch.arange(STATES).repeat_interleave(torch.arange(1, STATES + 1))

    @property
    def law(self) -> Tensor:
        """The data's distribution over states."""
        counts = torch.bincount(self.data, minlength=STATES).double()
        return counts / counts.sum()

    @property
    def q(self) -> Tensor:
        """q(z|x), `(states, codes)`."""
        clean = self.encoder.softmax(-1)
        return (1 - self.noise) * clean + self.noise / clean.shape[1]

    @property
    def p(self) -> Tensor:
        """p(x|z), `(codes, states)`."""
        return self.decoder.softmax(-1)

    @property
    def posterior(self) -> Tensor:
        """The decoder that is best for q: x given z under the data and q, `(codes, states)`."""
        joint = self.law[:, None] * self.q
        return (joint / joint.sum(0)).T.detach()

    @property
    def optimum(self) -> float:
        """I_q(x, z) - H(data), in nats."""
        joint = self.law[:, None] * self.q
        information = torch.xlogy(joint, joint / (self.law[:, None] * joint.sum(0))).sum()
        return float(information.detach() + torch.xlogy(self.law, self.law).sum())

    @property
    def transition(self) -> Tensor:
        """The chain's transition matrix: the probability of state j after state i, `(i, j)`."""
        return (self.q @ self.p).detach()

    @property
    def mixes(self) -> bool:
        """Whether the chain forgets its start, so that it has one stationary law only."""
        sizes = torch.linalg.eigvals(self.transition).abs().sort(descending=True).values
        return bool(sizes[1] < 0.99)

    def limit(self, start: Tensor) -> Tensor:
        """The law of the chain after many steps from a law to start in."""
        return start @ torch.linalg.matrix_power(self.transition, 4096)

    def model(self, x: Tensor) -> None:
        codes, _ = self.decoder.shape
        prior = torch.full((codes,), 1 / codes, dtype=torch.float64)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(prior))
            pyro.sample("x", dist.Categorical(logits=self.decoder[z]), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(self.q[x]), infer={"enumerate": "parallel"})

    def value(self) -> float:
        """The auto-encoder's mean log-likelihood of the data, in nats per datum."""
        loss = Autoencoder(max_plate_nesting=1).loss(self.model, self.guide, self.data)
        return -loss / len(self.data)

    def train_tables(self, steps: int = 400) -> None:
        """Trains what is not fixed by L-BFGS."""
        tables = [table for table in (self.encoder, self.decoder) if table.requires_grad]
        objective = Autoencoder(max_plate_nesting=1)
        optimizer = torch.optim.LBFGS(
            tables,
            max_iter=steps,
            tolerance_grad=1e-12,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> float:
            optimizer.zero_grad()
            value = objective.differentiable_loss(self.model, self.guide, self.data)
            value.backward()
            return float(value.detach())

        optimizer.step(loss)


def simulate(world: World, start: Tensor, steps: int) -> Tensor:
    """The share of each state after so many steps of the chain."""
    x = markov_chain(world.model, world.guide, start, steps, every=steps)["x"][0]
    return torch.bincount(x, minlength=STATES).double() / len(x)


def largest_error(share: Tensor, expected: Tensor, rows: int) -> float:
    """The largest distance of shares from probabilities, in standard errors."""
    error = (expected * (1 - expected) / rows).sqrt()
    return float(((share - expected) / error).abs().max())


def measure(seed: int, encoder: str, rows: int, steps: int) -> Measures:
    """Trains one world and runs its chain."""
    pyro.set_rng_seed(seed)
    world = World(**ENCODERS[encoder], seed=seed)
    world.train_tables()
    law = world.law
    if world.mixes:
        law = torch.eye(STATES, dtype=law.dtype)[0]
    start = torch.arange(STATES).repeat_interleave(law.mul(rows).round().long())
    share = simulate(world, start, steps)
    found, optimum = world.value(), world.optimum
    return {
        "log p(x|z)": found,
        "I_q - H(data)": optimum,
        "difference": found - optimum,
        "limit off by": float((world.limit(law) - world.law).abs().max()),
        "chain, errors": largest_error(share, world.law, len(start)),
        "share": share.tolist(),
    }


def cells(rows: int, steps: int) -> Sequence[Cell]:
    """One for each encoder."""
    return [
        Cell(name, measure, {"encoder": name, "rows": rows, "steps": steps}) for name in ENCODERS
    ]


def claims(found: Found) -> Sequence[Claim]:
    """The optimum, and the chain's law."""

    def optimum(run: Mapping[str, Measures]) -> list[Condition]:
        off = [abs(value(run, name, "difference")) for name in ENCODERS]
        return [Condition("largest difference", most(off), at_most=1e-6)]

    def chain(run: Mapping[str, Measures]) -> list[Condition]:
        limits = [value(run, name, "limit off by") for name in ENCODERS]
        errors = [value(run, name, "chain, errors") for name in ENCODERS]
        return [
            Condition("the transition matrix's limit off by", most(limits), at_most=1e-6),
            Condition("the simulated chain, errors", most(errors), at_most=4.5),
        ]

    row = "unregularised auto-encoder"
    return [
        Claim(
            "a",
            "The auto-encoder's optimum is I_q - H(data).",
            "within 1e-6 nats for three encoders",
            by_seed(found, optimum),
            row,
            "exact (InfoVAE, section 4)",
        ),
        Claim(
            "b",
            "The chain of encoder and decoder has the data's law.",
            "the limit of the transition matrix within 1e-6, the simulated shares within 4.5 "
            "standard errors",
            by_seed(found, chain),
            row,
            "exact (InfoVAE, section 4)",
        ),
    ]


@styled
def draw(found: Found, folder: Path) -> Sequence[Path]:
    """What the chains draw, over the data's law."""
    run = next(iter(found.values()))
    figure = Drawing(6.4, 3.6)
    axes = figure.subplots()
    states = torch.arange(STATES).numpy()
    axes.bar(states, World(STATES).law.numpy(), width=0.8, label="data", **SHADE)
    for i, (name, colour) in enumerate(zip(ENCODERS, CYCLE, strict=False)):
        if name in run:
            axes.plot(
                states + (i - 1) * 0.2, run[name]["share"], "o", color=colour,
                label=f"chain: {name}",
            )  # fmt: skip
    axes.set(xlabel="state", ylabel="share", title="What the chain of encoder and decoder draws")
    axes.legend()
    path = folder / "chain.png"
    plots.save(figure, path)
    return [path]


EXPERIMENT = Reproduction(
    scales={"small": {"rows": 20_000, "steps": 60}},
    cells=cells,
    columns=("log p(x|z)", "I_q - H(data)", "difference", "limit off by", "chain, errors"),
    claims=claims,
    draw=draw,
)
