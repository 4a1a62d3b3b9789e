"""How near critics come to a known divergence, and what they cost: the default and the published.

    python benchmarks/critics.py [--steps 800] [--write docs/performance.md]

For codes of `AggregatePosterior`s whose density is known, a Gaussian near the prior and a mixture
of ten with the prior's mean and about its variance, critics are trained on 100 codes and 100 prior
draws a step, by Adam at 1e-3. Their bound on 100,000 fresh ones of each is printed as a share of
what the logit log p / q has there, the Jensen-Shannon divergence.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pyro.distributions as dist
import torch
from steps import machine, write
from torch import Tensor

from ppl_vae.objectives import Adversarial, AggregatePosterior

PUBLISHED = (512, 512, 512, 512)


def codes(kind: str, dim: int) -> dist.TorchDistribution:
    """The aggregate posterior."""
    if kind == "near":
        return dist.Normal(torch.full((dim,), 0.3), 0.8).to_event(1)
    means = 0.85 * torch.randn(10, dim, generator=torch.Generator().manual_seed(1))
    parts = dist.Normal(means, 0.5).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(10)), parts)


def train(
    hidden: tuple[int, ...] | None, q: dist.TorchDistribution, dim: int, steps: int
) -> tuple[Adversarial, float]:
    """A trained critic, and its milliseconds of CPU a step."""
    torch.manual_seed(0)
    p = dist.Normal(torch.zeros(dim), 1.0).to_event(1)
    critic = Adversarial(dim=dim, hidden=hidden)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, fused=True)
    start = time.process_time()
    for _ in range(steps):
        loss = critic.critic_loss(AggregatePosterior.of(q.sample(torch.Size([100])), p))
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return critic, 1e3 * (time.process_time() - start) / steps


@torch.no_grad()
def share(critic: Adversarial, q: dist.TorchDistribution, dim: int) -> float:
    """The critic's bound on fresh rows, as a share of that of the logit log p / q on them."""
    torch.manual_seed(1)
    p = dist.Normal(torch.zeros(dim), 1.0).to_event(1)
    z, y = (of.sample(torch.Size([100_000])) for of in (q, p))

    def bound(logit: Callable[[Tensor], Tensor]) -> float:
        return float((critic.bound.on_prior(logit(y)) - critic.bound.on_codes(logit(z))).mean())

    best = bound(lambda points: p.log_prob(points) - q.log_prob(points))
    return bound(lambda points: critic.net(points)[:, 0]) / best


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 32])
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = [
        f"{options.steps} steps of 100 rows; {machine()}",
        "",
        "| d | codes | JS, default | JS, 4 x 512 | default's time, of 4 x 512 |",
        "|---|---|---|---|---|",
    ]
    for dim in options.dims:
        for kind in ("near", "mixture"):
            q = codes(kind, dim)
            found = [train(hidden, q, dim, options.steps) for hidden in (None, PUBLISHED)]
            (mine, fast), (published, slow) = found
            shares = [f"{share(critic, q, dim):.2f}" for critic in (mine, published)]
            lines.append(f"| {dim} | {kind} | {' | '.join(shares)} | {fast / slow:.2f} |")
            print(lines[-1], flush=True)
    write(options.write, "critics", "\n".join(lines))


if __name__ == "__main__":
    main()
