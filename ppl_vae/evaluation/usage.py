"""Whether the decoder uses the code, and how much of it its data show."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ppl_vae.bodies import MLP
from ppl_vae.evaluation.estimate import Estimate, mean_of
from ppl_vae.evaluation.metric import NATS, Metric
from ppl_vae.evaluation.pair import Pair, Terms, with_values
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.samples import observed_variables
from ppl_vae.guides import Encoder, MeanFieldNormal
from ppl_vae.program.handlers import Unobserve
from ppl_vae.program.sites import Site
from ppl_vae.state import ready_optimizers

__all__ = ["METRICS", "model_information", "usage"]


def usage(
    model: Program,
    guide: Program,
    x: Data,
    block: int | None = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""What a datum's own code is worth to the decoder, in nats per datum.

    $$\mathrm{E}_x \big[\mathrm{E}_{q(z \mid x)} \log p(x \mid z)
      - \mathrm{E}_{q(z)} \log p(x \mid z)\big]$$

    the NLL of x under the codes of other rows less that under its own, with one draw of each
    code. It is 0 for a decoder that ignores z, whatever the encoder says: a code may hold log n
    nats about its datum, and the rate be high, while a strong decoder models x without it. It is
    no bound of an information: a decoder that is sure of what it is given exceeds all of them.

    Rows are taken in random order and each gets the code of the one before it in its block, in a
    cycle: no row gets its own. Neighbours of the cycle share a code, and the standard error
    $\sqrt{(\gamma_0 + 2 \gamma_1) / n}$ counts that, with $\gamma_k$ the covariance of
    differences k steps apart.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments; 2 rows or more.
        block: rows held at once.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: for a single row, or a model that observes nothing in the plate.
    """
    check_positive(block=block)
    pair = Pair(model, guide, x, plate, block)
    pair.require_observed()
    n = len(pair)
    if n < 2:
        raise ValueError(f"usage needs 2 rows or more, whose codes are exchanged; got {n}")
    gaps, neighbours = [], []
    with evaluating(model, guide):
        # Whole rows of blocks: one row by itself has no other to exchange with.
        count = -(-n // max(2, block or n)) if pair.sliced else 1
        blocks = torch.randperm(n).tensor_split(max(1, min(count, n // 2)))
        for rows in blocks if pair.sliced else (None,):
            terms = pair.run(None if rows is None else pair.index[rows])
            rolled = {
                name: site.value.expand(site.shape).roll(1, pair.dim_of(site) - site.event_dim)
                for name, site in terms.latents.items()
            }
            other = Terms(pair, terms.rows, with_values(terms.guide, rolled))
            gap = (terms.log_likelihood - other.log_likelihood).double()
            gaps.append(gap)
            neighbours.append(torch.stack([gap, gap.roll(1)]))
    gap, both = torch.cat(gaps), torch.cat(neighbours, 1)
    centred = both - gap.mean()
    variance = centred[0].square().sum() / (n - 1) + 2 * (centred[0] * centred[1]).sum() / (n - 1)
    error = float(variance.clamp_min(0).sqrt()) / math.sqrt(n)
    return Estimate(
        float(gap.mean()), error, error, note=f"one draw of {n} codes, each given on once"
    )


def model_information(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4000,
    steps: int = 1000,
    auxiliary: Callable[[torch.Size, int], Encoder] | None = None,
    block: int | None = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""A lower bound of the information that the model's own data hold of their codes, in nats.

    $$I_p(x; z) = \mathrm{H}(z) - \mathrm{H}(z \mid x)
      \ge \mathrm{E}_{p(z) p(x \mid z)} \big[\log r(z \mid x) - \log p(z)\big]$$

    for any r, with equality at the model's posterior. r is fitted to half of the draws from the
    model, and the bound is taken over the other half, so that it is a lower bound in expectation
    however r was fitted; its gap is $\mathrm{E}\, \mathrm{KL}(p(z \mid x) \Vert r(z \mid x))$.
    Unlike the information under the encoder it is a property of prior and decoder alone.

    Args:
        model: the generative program.
        guide: the encoder program, from which latents outside the data plate are drawn once.
        x: rows of data; only their number and shape are used, and any covariates, in turn.
        num_samples: draws from the model.
        steps: of Adam at a learning rate of 1e-3, in batches of 128.
        auxiliary: factory of r, called with the shape of x, flat where there are several observed
            sites, and the dimension of z; a mean-field normal of two layers of 128 by default.
        block: draws held at once by the model.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: for a model whose likelihood is a factor, which cannot be sampled.

    References:
        Barber and Agakov (2003), The IM algorithm, NeurIPS.
        Phuong, Welling, Kushman, Tomioka and Nowozin (2018), The mutual autoencoder, OpenReview
        HkbmWqxCZ.
    """
    check_positive(num_samples=num_samples, steps=steps, block=block)
    if num_samples < 8:
        raise ValueError(f"num_samples is {num_samples}: half of 8 or more are fitted to")
    pair = Pair(model, guide, x, plate, block)
    names = observed_variables(pair)
    with evaluating(model, guide):
        parts = [_joint(pair, names, start, num_samples) for start in _starts(pair, num_samples)]
    seen, codes, log_p = (torch.cat(column)[:num_samples] for column in zip(*parts, strict=True))
    make = auxiliary or partial(
        MeanFieldNormal, body=partial(MLP, hidden=(128, 128)), initial_scale=1.0
    )
    half = num_samples // 2
    with torch.random.fork_rng():
        r = make(seen.shape[1:], codes.shape[1]).to(seen)
        ready_optimizers()
        adam = torch.optim.Adam(r.parameters(), lr=1e-3)
        with torch.enable_grad():
            for _ in range(steps):
                rows = torch.randint(half, (min(128, half),))
                adam.zero_grad()
                (-r(seen[rows]).log_prob(codes[rows]).mean()).backward()
                adam.step()
    with torch.no_grad():
        r.eval()
        log_r = torch.cat([r(a).log_prob(z) for a, z in _halves(seen, codes, half)])
    found = mean_of(log_r.double() - log_p[half:])
    note = f"r(z|x) fitted to {half} draws of the model, over {num_samples - half} others"
    return Estimate(found.value, found.standard_error, found.data_error, "lower", note)


def _halves(seen: Tensor, codes: Tensor, half: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(seen[half:].split(1024), codes[half:].split(1024), strict=True))


def _starts(pair: Pair, count: int) -> range:
    sliced = pair.blocks.how_model == "sliced"
    return range(0, count, (pair.block or len(pair)) if sliced else len(pair))


def _joint(pair: Pair, names: list[str], start: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Data, codes and log p(z) of a block of draws from the model."""
    rows = None
    if pair.blocks.how_model == "sliced":
        size = min(pair.block or len(pair), count - start)
        rows = pair.index[(torch.arange(size) + start) % len(pair)]
    with Unobserve(names):
        sites = pair.blocks.model_run(pair.held, rows)
    log_p = sum((pair.log_prob(sites[n]).double() for n in pair.latents), torch.zeros(()))
    return _seen(pair, [sites[name] for name in names]), pair.joint(sites), log_p


def _seen(pair: Pair, sites: list[Site]) -> Tensor:
    if len(sites) > 1:
        return torch.cat([pair.flatten(site).float() for site in sites], 1)
    (site,) = sites
    value = site.value.expand(torch.broadcast_shapes(site.value.shape, site.shape))
    rows = value.movedim(pair.dim_of(site) - site.event_dim, 0)
    return rows if rows.dim() > 1 else rows[:, None]


METRICS = (
    Metric(
        "usage",
        "Usage of the code by the decoder",
        NATS,
        "what another datum's code costs; 0 where the code is ignored",
        "information",
        lambda s: usage(*s.pair, s.args),
    ),
    Metric(
        "model_information",
        "Information under the model",
        "nats",
        "I(x; z) of data the model draws",
        "information",
        lambda s: model_information(*s.pair, s.args),
        when="asked",
    ),
)
