"""A prior fitted to the codes of a trained pair: the second stage of a two-stage VAE."""

import math
from dataclasses import replace

import torch

from ppl_vae.data.loaders import batches
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.priors import GaussianMixture, Prior
from ppl_vae.program.handlers import Replace
from ppl_vae.state import ready_optimizers
from ppl_vae.using.codes import posterior_draws

__all__ = ["fit_prior", "top_site", "with_prior"]


def fit_prior(
    prior: Prior,
    model: Program,
    guide: Program,
    x: Data,
    site: str | None = None,
    epochs: int = 50,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    plate: str | None = None,
    block: int | None = 8192,
) -> list[float]:
    r"""Fits a prior to the aggregate posterior by maximum likelihood: what was a loose end of
    training, $\mathrm{KL}(q(z) \Vert p(z))$, is closed as far as the prior can bend.

    $$\max_\psi \frac{1}{n} \sum_i \mathrm{E}_{q(z | x_i)} \log p_\psi(z)$$

    The codes are drawn anew for each epoch. A `GaussianMixture` starts from expectation
    maximisation on a first draw. Neither model nor guide is moved.

    Args:
        prior: the prior, whose parameters are moved.
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        site: the latent site; the first of the model's by default.
        epochs: passes through the rows.
        batch_size: rows to a step of Adam.
        learning_rate: of Adam.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows held at once.

    Returns:
        The mean of $-\log p_\psi(z)$ in nats of each epoch.

    Raises:
        ValueError: if the prior is over other dimensions, has nothing to learn, or the site's own
            prior differs from row to row.
        ArithmeticError: if the likelihood of the codes becomes NaN.

    References:
        Dai and Wipf (2019), Diagnosing and enhancing VAE models, arXiv:1903.05789.
    """
    check_positive(epochs=epochs, batch_size=batch_size)
    pair = Pair(model, guide, x, plate, block)
    site = top_site(pair, site)
    columns = pair.slices[site]
    if prior.dim != pair.sizes[site]:
        raise ValueError(
            f"{type(prior).__name__} is over {prior.dim} dimensions, the codes of {site!r} over "
            f"{pair.sizes[site]}"
        )
    parameters = [p for p in prior.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            f"{type(prior).__name__} has nothing to fit: use GaussianMixture or FlowPrior"
        )
    ready_optimizers()
    optimizer, losses = torch.optim.Adam(parameters, lr=learning_rate), list[float]()
    for epoch in range(epochs):
        codes = posterior_draws(model, guide, x, 1, plate=plate, block=block).codes[:, 0, columns]
        if epoch == 0:
            prior.to(codes)
            if isinstance(prior, GaussianMixture):
                prior.initialise(codes)
        total = 0.0
        for (batch,) in batches([codes], batch_size):
            loss = -prior().log_prob(batch).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(codes))
        if not math.isfinite(losses[-1]):
            raise ArithmeticError(
                f"epoch {epoch + 1}: -log p of the codes is {losses[-1]}; a lower learning_rate "
                "may help"
            )
    return losses


def top_site(pair: Pair, asked: str | None = None) -> str:
    """The latent whose prior is replaced: the first of the model's codes.

    Raises:
        ValueError: if there is no such code, or its prior differs from row to row.
    """
    order = [name for name in pair.blocks.reading.model_sites if name in pair.codes]
    if asked is not None and asked not in order:
        raise ValueError(f"site is {asked!r}: choose one of the codes {order}")
    name = asked or order[0]
    with evaluating(pair.blocks.model, pair.blocks.guide):
        runs = [pair.run_prior(pair.sample)[name] for _ in range(2)]
    # the density of one value, in two rows and given two draws of all else
    value = pair.flatten(runs[0])
    value = pair.shaped(name, value[:1].expand(value.shape))
    found = torch.cat([pair.log_prob(replace(run, value=value)) for run in runs])
    if not torch.allclose(found, found[0].expand_as(found), rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"the prior of {name!r} depends on covariates or on other latents: there is no one "
            "prior to put in its place"
        )
    return name


def with_prior(model: Program, site: str, prior: Prior) -> Program:
    """The model with a latent site drawn from another prior.

    Args:
        model: the model.
        site: the latent site.
        prior: its new prior, over as many dimensions.
    """
    replaced: Program = Replace([site], lambda _: prior())(model)
    return replaced
