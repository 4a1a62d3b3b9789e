"""What a step over two processes of this machine costs, beside one of one process.

    python benchmarks/devices.py [--batches 128 1024] [--rounds 5] [--write docs/devices.md]

An MLP of 784 - 400 - 10 takes steps on one global batch, eager ones and recorded ones, by one
process while the other waits, and by both; in turn, so that what else the machine does meets both
alike. Prints medians over rounds: milliseconds of the wall, of CPU of the first process, and the
ratio of walls within a round; how many sums over processes a step of two takes; and what one call
of each kind costs.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae import SVI, VAE, Bernoulli, MeanFieldNormal, StandardNormal, processes
from ppl_vae.launching import launch
from ppl_vae.objectives import MMD, Adversarial, BetaVAE, InfoVAE, Objective
from ppl_vae.world import Processes, World, by_itself

SIZE = torch.Size([784])
WARM = 19
"""Steps until a graph is recorded, held against an eager step, and used."""
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "ELBO": BetaVAE,
    "MMD": lambda: InfoVAE(MMD(), scale=100.0),
    "Adversarial": lambda: InfoVAE(Adversarial(dim=10), scale=10.0),
}


def timed(act: Callable[[], Any], times: int) -> tuple[float, float]:
    """Milliseconds of the wall and of this process's CPU, of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        act()
    return tuple(  # type: ignore[return-value]
        1000 * (now - then) / times
        for now, then in ((time.perf_counter(), wall), (time.process_time(), cpu))
    )


def step_of(make: Callable[[], Objective], recorded: bool) -> Callable[[Tensor], float]:
    vae = VAE(StandardNormal(10), Bernoulli(10, SIZE), MeanFieldNormal(SIZE, 10))
    optimizer = pyro.optim.Adam({"lr": 1e-3})
    svi = SVI(vae.model, vae.guide, optimizer, make(), record="auto" if recorded else False)
    step: Callable[[Tensor], float] = svi.step
    return step


def sums(act: Callable[[], Any]) -> int:
    """How many sums over processes a call takes."""
    done, real = 0, torch.distributed.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        return real(*args, **kwargs)

    torch.distributed.all_reduce = counted
    try:
        act()
    finally:
        torch.distributed.all_reduce = real
    return done


def work(batches: list[int], rounds: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    found: list[tuple[str, int, int, list[Any]]] = []
    with processes() as world:
        for batch in batches:
            x = torch.bernoulli(torch.full((batch, *SIZE), 0.3))
            (mine,) = world.shard(x)
            for (name, make), recorded in product(OBJECTIVES.items(), (False, True)):
                pyro.clear_param_store()
                alone, shared = step_of(make, recorded), step_of(make, recorded)
                for k in range(WARM if recorded else 1):
                    if world.rank == 0 or k == 0:  # all have the same parameters
                        with by_itself():
                            alone(x)
                    shared(mine)
                rows, taken = [], sums(partial(shared, mine))
                for _ in range(rounds):
                    one = (0.0, 0.0)
                    if world.rank == 0:
                        with by_itself():
                            one = timed(partial(alone, x), steps)
                    world.number(0)  # the other waits here
                    rows.append((one, timed(partial(shared, mine), steps)))
                found.append((f"{name}, recorded" if recorded else name, batch, taken, rows))
        calls = costs(world, 20)
    if world.rank == 0:
        torch.save((found, calls), f"{folder}/found.pt")


def costs(world: World, times: int) -> dict[str, float]:
    """Milliseconds of the wall of one call of each kind."""
    assert isinstance(world, Processes)
    codes, number = torch.randn(512, 10, requires_grad=True), torch.zeros(())
    weights = {"weights": torch.randn(650_000, requires_grad=True)}
    weights["weights"].grad = torch.randn(650_000)
    acts: dict[str, Callable[[], Any]] = {
        "a count of rows": lambda: world.number(3),
        "the sum of 6 numbers": lambda: world.totals(*[number] * 6),
        "512 codes of 10, gathered and back": lambda: world.gather(codes).sum().backward(),
        "the gradient of 650,000 parameters": lambda: world.reduce(weights),
    }
    return {name: timed(act, times)[0] for name, act in acts.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        launch(work, (options.batches, options.rounds, options.steps, folder), 2)
        found, calls = torch.load(f"{folder}/found.pt")
    lines = [
        f"Two processes, gloo, a thread each; {options.rounds} rounds of {options.steps} "
        f"steps. {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"PyTorch {torch.__version__}.",
        "",
        "| objective | global batch | one process, ms (CPU) | two, ms (CPU of one) | ratio "
        "| sums |",
        "|---|---|---|---|---|---|",
    ]
    for name, batch, taken, rows in found:
        ones, twos = ([row[k] for row in rows] for k in (0, 1))
        wall, cpu = (statistics.median(one[k] for one in ones) for k in (0, 1))
        both, own = (statistics.median(two[k] for two in twos) for k in (0, 1))
        ratio = statistics.median(two[0] / one[0] for one, two in rows)
        lines.append(
            f"| {name} | {batch} | {wall:.0f} ({cpu:.0f}) | {both:.0f} ({own:.0f}) | {ratio:.2f} "
            f"| {taken} |"
        )
    said = ", ".join(f"{name} {ms:.2f}" for name, ms in calls.items())
    lines += ["", f"One call, in ms: {said}."]
    table = "\n".join(lines)
    print(table)
    if options.write is not None:
        start, end = "<!-- figures -->\n", "<!-- end of figures -->"
        before, rest = options.write.read_text().split(start)
        options.write.write_text(f"{before}{start}\n{table}\n\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
