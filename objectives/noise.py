r"""The noise of a penalty's gradient, held against the pull of the data.

On one batch, over independent runs k of guide and model (the encoder's noise, the prior's draws,
whatever else the divergence draws), with $\theta$ the codes' own parameters (the means of a
Gaussian $q(z \mid x)$, else the codes),

$$g_k = \nabla_\theta\, (\alpha + \lambda - 1)\, W D, \qquad
  r_k = -\nabla_\theta \sum \log p(x \mid z_k),$$

$$\text{noise} = \mathrm{E} \lVert g - \mathrm{E} g \rVert^2, \quad
  \text{signal} = \lVert \mathrm{E} g \rVert^2, \quad
  \text{pull} = \mathrm{E} \lVert r \rVert^2.$$

**Which noise.** That of the draws, on a given batch: it is what integrating the encoder's noise
takes away, and what hides the pull of the data on the means while a code has collapsed. The noise
of the batch itself is every objective's.

**Against what.** Not against the penalty's own signal, nor against that of the whole loss: at the
optimum q(z) = p(z) each code is at rest between data and prior, both come to nothing and any noise
is more. The pull's mean square does not: where a code is used the likelihood's gradient at
$z = \mu + s \epsilon$ is about $-\epsilon / s$, and it comes to nothing only where the decoder
ignores the code. So `noise / pull` above 1 says that in one step the penalty's chance moves the
codes by more than all that the data do, signal and noise alike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives.divergences.gaussians import moments
from ppl_vae.objectives.infovae import InfoVAE
from ppl_vae.objectives.objective import Terms
from ppl_vae.program.modules import evaluating, modules_of
from ppl_vae.program.reading import Reading
from ppl_vae.program.replays import indices
from ppl_vae.program.sites import Site
from ppl_vae.world import here

__all__ = ["PenaltyNoise", "penalty_noise"]


@dataclass(frozen=True)
class PenaltyNoise:
    """The gradients of a penalty and of the data on a batch's codes; see the module's text.

    Attributes:
        noise: of the penalty's gradient, in squared nats per unit of the code, a mean over data.
        signal: the penalty's squared mean gradient, in the same unit; unbiased, so it may be
            negative.
        pull: the mean square of the data's gradient, in the same unit.
        pull_error: its standard error, by the spread between rows.
        ratio: noise / pull.
        log_error: the standard error of the ratio's logarithm, by the jackknife over draws; 0
            where there is no noise.
    """

    noise: float
    signal: float
    pull: float
    pull_error: float
    ratio: float
    log_error: float

    @property
    def exceeds(self) -> bool:
        """Whether the ratio is above 1 by three standard errors, in logs."""
        if self.pull == 0:  # the data do not pull at all, as under a decoder deaf to z
            return self.noise > 0
        return self.ratio > 1 and math.log(self.ratio) > 3 * self.log_error

    def __str__(self) -> str:
        error = self.ratio * self.log_error
        return (
            f"noise {self.noise:.3g}, signal {self.signal:.3g}, pull of the data {self.pull:.3g}; "
            f"noise / pull {self.ratio:.3g} +- {error:.2g}"
        )


def penalty_noise(
    objective: InfoVAE,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    draws: int = 16,
    **kwargs: Any,
) -> dict[str, PenaltyNoise]:
    r"""How noisy a penalty's gradient is on a batch, for each joint of sites that it compares.

    Model and guide are run in evaluation mode, without moving anything; torch's generators are
    left where they were; plates that sample keep the first run's rows. The cost is `draws` forward
    passes, and as many backward passes of likelihood and divergence down to the codes.

    Args:
        objective: an `InfoVAE` or `WAE` with a divergence.
        model: the model.
        guide: the guide.
        *args: a batch, as both are called with.
        draws: K, independent runs, three or more.
        **kwargs: keyword arguments for both.

    Returns:
        By joint ("z", or "z1+z2"); a joint whose codes need no gradient is left out.

    Raises:
        ValueError: for an objective without a divergence, or fewer than three draws.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from ppl_vae.objectives import MMD, InfoVAE, penalty_noise
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     gain = pyro.param("gain", torch.tensor(0.5))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(gain * x, 0.7).to_event(1))
        >>> objective = InfoVAE(MMD(), scale="auto")
        >>> penalty_noise(objective, model, guide, torch.randn(32, 2))["z"].noise
        0.0
    """
    if draws < 3:
        raise ValueError(f"draws={draws}: three or more, for an error")
    if not len(objective.divergences):
        raise ValueError(f"{type(objective).__name__} has no divergence, so no penalty to measure")
    programs = modules_of(model, guide).values()
    cuda = {x.device for x in args if isinstance(x, Tensor) and x.is_cuda}
    runs: list[dict[str, tuple[Tensor, Tensor]]] = []
    with torch.random.fork_rng(cuda), torch.enable_grad(), objective._still():
        for _ in range(draws):
            # The divergences stay in training mode: a Memory sees its past.
            with evaluating(*programs):
                readings = list(objective._get_traces(model, guide, args, kwargs))
            if not runs and indices(readings[0]).nodes:  # plates that sample: on the same rows
                model, guide = (
                    poutine.replay(p, trace=indices(readings[0])) for p in (model, guide)
                )
            runs.append(_gradients(objective, readings))
    return {
        name: _statistics(*(torch.stack([run[name][i] for run in runs]) for i in (0, 1)))
        for name in runs[0]
    }


def _gradients(objective: InfoVAE, readings: list[Reading]) -> dict[str, tuple[Tensor, Tensor]]:
    """By joint, the penalty's and the data's gradient, each `(n, d)` and per datum."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for reading in readings:
        matched = objective.matched(reading)
        penalty = torch.as_tensor(objective._penalties(reading, Terms(), []))
        data = torch.stack([objective.reconstruction(reading, n) for n in reading.observed]).sum()
        for names, *_ in objective.joints:
            joint, rows = reading.rows(objective.plate, names)
            sites = [reading.guide_sites[name] for name in joint]
            at = [_parameter(site) for site in sites]
            if joint[0] not in matched or not all(parameter.requires_grad for parameter in at):
                continue
            squares = rows.weights(sites[0], at[0].detach())[0].square().sum()
            weights = here().total(squares).sqrt()
            pair = []
            for term in (penalty, data):
                slopes = _grad(term, at)
                cut = [
                    rows.cut(slope, slope.dim() - site.event_dim).sum(0)
                    for slope, site in zip(slopes, sites, strict=True)
                ]
                total = torch.cat(cut, -1) / weights.clamp_min(1e-30) / objective.num_particles
                pair.append(here().gather(total.double()))
            name = "+".join(joint)
            before = found.get(name)
            if before is not None:
                pair = [a + b for a, b in zip(before, pair, strict=True)]
            found[name] = (pair[0], pair[1])
    return found


def _grad(term: Tensor, at: list[Tensor]) -> tuple[Tensor, ...]:
    if not term.requires_grad:
        return tuple(map(torch.zeros_like, at))
    return torch.autograd.grad(term, at, retain_graph=True, materialize_grads=True)


def _parameter(site: Site) -> Tensor:
    """The tensor that places a site's codes: the mean of a Gaussian, else the codes."""
    gaussian = moments(site.fn)
    return site.value if gaussian is None or gaussian[1] is None else gaussian[0]


def _statistics(penalty: Tensor, data: Tensor) -> PenaltyNoise:
    """From gradients `(K, n, d)` whose sums of squares over rows are means over data."""
    k = len(penalty)
    deviations = penalty - penalty.mean(0)
    own, pulls = deviations.square().sum((1, 2)), data.square().sum((1, 2))
    noise, pull = own.sum() / (k - 1), pulls.mean()
    signal = penalty.mean(0).square().sum() - noise / k
    # Both without one draw: squares about the others' mean, and a mean. The jackknife's variance
    # of a normal sample's variance is too large by (k - 1) / (k - 2), which is taken off.
    noises = ((own.sum() - own * k / (k - 1)) / (k - 2)).log() * math.sqrt((k - 2) / (k - 1))
    logs = noises - ((pulls.sum() - pulls) / (k - 1)).log()
    error = ((k - 1) / k * (logs - logs.mean()).square().sum()).sqrt()
    rows = data.square().sum(2).mean(0)
    pull_error = (rows.var() * len(rows)).sqrt() if len(rows) > 1 else rows.new_tensor(math.nan)
    size = penalty.square().sum() / k
    found = torch.stack([noise, signal, pull, pull_error, noise / pull, error, size]).tolist()
    # Where all is in closed form only rounding differs from draw to draw.
    if not found[0] > 1e-12 * found[-1]:
        found = [0.0, *found[1:4], 0.0, 0.0, found[-1]]
    return PenaltyNoise(*found[:-1])
