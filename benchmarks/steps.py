"""A training step's time as a ratio to one written by hand in PyTorch.

    python benchmarks/steps.py [--steps 30] [--rounds 15] [--batch 100] [--sizes 784 400 10]
                               [--only AggregateKL TCVAE] [--write docs/performance.md]

The hand-written step is the ELBO of the same MLP with fused Adam. All contenders take their steps
in turn, in one process and on one thread, so that what else the machine does meets all alike;
times are of the process, and ratios are taken within a round: their median and quartiles. With
`--write` the table of these sizes and this batch in the page is replaced.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

from ppl_vae import SVI, VAE
from ppl_vae.bodies import MLP
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import (
    IWAE,
    MMD,
    TCVAE,
    WAE,
    Adversarial,
    AggregateKL,
    BetaVAE,
    CramerWold,
    Energy,
    InfoVAE,
    MultiScale,
    Objective,
)
from ppl_vae.priors import StandardNormal

Step = Callable[[Tensor], object]

# Compiling takes half a minute each.
_COMPILED = ("ELBO", "MMD, shifts", "MMD, all pairs")


def by_hand(size: int, hidden: int, dim: int) -> Step:
    """The ELBO in plain PyTorch."""
    encode = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * dim))
    decode = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, size))
    parameters = [*encode.parameters(), *decode.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step(x: Tensor) -> float:
        loc, log_sd = encode(x).chunk(2, -1)
        z = loc + log_sd.exp() * torch.randn_like(loc)
        missing = nn.functional.binary_cross_entropy_with_logits(decode(z), x, reduction="sum")
        rate = 0.5 * (loc.square() + (2 * log_sd).exp() - 1 - 2 * log_sd).sum()
        loss = missing + rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def of_pair(size: int, hidden: int, dim: int, loss: object, kind: Callable[..., PyroSVI]) -> Step:
    shape = torch.Size([size])
    body = partial(MLP, hidden=(hidden,))
    vae = VAE(StandardNormal(dim), Bernoulli(dim, shape, body), MeanFieldNormal(shape, dim, body))
    optimizer = pyro.optim.Adam({"lr": 1e-3})
    step: Step = kind(vae.model, vae.guide, optimizer, loss).step
    return step


def contenders(
    size: int, hidden: int, dim: int, only: Sequence[str] | None = None
) -> dict[str, Step]:
    ours: dict[str, Callable[[], Objective]] = {
        "ELBO": BetaVAE,
        "MMD, shifts": lambda: InfoVAE(MMD(pairs=16), scale=10.0),
        "MMD, all pairs": lambda: InfoVAE(MMD(pairs="all"), scale=10.0),
        "WAE, many scales": lambda: WAE(MMD(MultiScale())),
        "AggregateKL": lambda: InfoVAE(AggregateKL(), scale=2.0),
        "TCVAE": TCVAE,
        "IWAE, 10 particles": IWAE,
        "Adversarial": lambda: InfoVAE(Adversarial(dim=dim), scale=10.0),
        "Energy": lambda: InfoVAE(Energy(), scale=10.0),
        "CramerWold": lambda: InfoVAE(CramerWold(), scale=10.0),
    }
    made: dict[str, Step] = {"ELBO by hand": by_hand(size, hidden, dim)}
    made["ELBO, Pyro"] = of_pair(size, hidden, dim, TraceMeanField_ELBO(), PyroSVI)
    for name, make in ours.items():
        if only is not None and name not in only:
            continue
        made[f"{name}, eager"] = of_pair(size, hidden, dim, make(), PyroSVI)
        made[f"{name}, recorded"] = of_pair(size, hidden, dim, make(), SVI)
        if name in _COMPILED:
            kind = partial(SVI, compile=True)
            made[f"{name}, compiled"] = of_pair(size, hidden, dim, make(), kind)
        own = list((loss := make()).parameters())
        if own:
            kind = partial(SVI, only=own)
            made[f"{name}, its critic alone"] = of_pair(size, hidden, dim, loss, kind)
    return made


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs=3, default=(784, 400, 10))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="AggregateKL, say")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((options.batch, options.sizes[0]), 0.3))
    steps = contenders(*options.sizes, options.only)
    for step in steps.values():
        for _ in range(20):  # past the eager steps before a recording
            step(x)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(options.steps):
                step(x)
            times[name].append((time.process_time() - start) / options.steps)
    base = times["ELBO by hand"]
    lines = [
        f"Sizes {' - '.join(map(str, options.sizes))}, batch {options.batch}, one thread; "
        f"{options.rounds} rounds of {options.steps} steps. {machine()}",
        "",
        "| step | ms of CPU | ratio | quartiles |",
        "|---|---|---|---|",
    ]
    medians = {}
    for name, found in times.items():
        ratios = [t / b for t, b in zip(found, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        medians[name] = middle
        ms = 1e3 * statistics.median(found)
        lines.append(f"| {name} | {ms:.2f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    table = "\n".join(lines)
    print(table)
    name = "-".join(map(str, options.sizes))
    write(options.write, name + (f" batch {options.batch}" * (options.batch != 100)), table)
    return medians


def machine() -> str:
    """What the figures are of."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}, Pyro {pyro.__version__}."
    )


def write(page: Path | None, name: str, table: str) -> None:
    """Puts a table between its two marks on a page, if there is one."""
    if page is None:
        return
    start, end = f"<!-- steps {name} -->\n", f"<!-- end of steps {name} -->"
    text = page.read_text()
    if start not in text or end not in text:
        raise SystemExit(f"{page} has no marks {start.strip()} and {end}: add them")
    before, rest = text.split(start)
    page.write_text(f"{before}{start}\n{table}\n\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
