"""From codes to data, and from data to codes and back, for any pair of a model and a guide."""

from collections.abc import Mapping

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.evaluation.codes import Codes, posterior_codes
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.samples import draws, has_mean
from ppl_vae.program.handlers import AtMean
from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import has_moments

__all__ = ["decode", "latents"]


def latents(
    model: Program,
    guide: Program,
    x: Data,
    codes: Codes | None = None,
    plate: str | None = None,
    block: int | None = 1024,
) -> dict[str, Tensor]:
    """Where the guide puts each row: posterior means of codes, the likeliest of what is discrete.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: n rows of data, or the tuple of the programs' positional arguments.
        codes: of these rows and maybe more, if they are at hand.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows held at once.

    Returns:
        For each latent site a tensor `(n, size)`.
    """
    pair = Pair(model, guide, x, plate, block)
    if codes is None:
        codes = posterior_codes(model, guide, x, block=block, plate=plate)
    found = {name: codes.mean[: len(pair), k] for name, k in codes.slices.items()}
    sites = pair.blocks.reading.guide_sites
    discrete = [n for n in pair.latents if n not in found or _is_discrete(sites[n].fn)]
    if discrete:
        with evaluating(model, guide):
            runs = [terms.guide for terms in pair.runs()]
        for name in discrete:
            parts = [pair.flatten(run[name], _likeliest(run[name])) for run in runs]
            found[name] = torch.cat(parts)
    return found


def decode(
    model: Program,
    guide: Program,
    x: Data,
    values: Mapping[str, Tensor],
    mean: bool = True,
    site: str | None = None,
    plate: str | None = None,
    block: int | None = 1024,
    rows: Tensor | None = None,
) -> Tensor:
    """The mean of p(x | z) given latents; a draw where it has no closed mean.

    Args:
        model: the generative program.
        guide: the encoder program, from which latents outside the data plate are drawn once.
        x: rows of data; only their number and shape are used, and any covariates, in turn.
        values: for each latent site a tensor `(m, size)`. Those left out are at their means given
            the others, or sampled where they have none or a draw of x is asked for.
        mean: the mean and not a draw of x.
        site: the observed site, where the model has several.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows held at once.
        rows: which datum's covariates each has, `(m,)`, where not all in turn.

    Returns:
        Tensor `(m, *size)`.
    """
    check_positive(block=block)
    pair = Pair(model, guide, x, plate, block)
    count = len(next(iter(values.values())))
    with evaluating(model, guide):
        mean = mean and has_mean(pair, site)
        rest = [name for name in pair.shared if name not in values] if mean else []
        with AtMean(rest):
            return torch.cat(list(draws(pair, count, mean, site, values, rows)))


def _is_discrete(fn: TorchDistribution) -> bool:
    try:
        return bool(fn.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def _likeliest(site: Site) -> Tensor:
    fn = site.fn
    try:
        mode: Tensor = fn.mode
        return mode
    except NotImplementedError:
        pass
    logits = getattr(fn, "logits", None)
    if logits is not None and fn.event_shape == logits.shape[-1:]:  # of a relaxed class, the class
        return torch.nn.functional.one_hot(logits.argmax(-1), fn.event_shape[-1]).to(logits)
    if has_moments(fn):
        try:
            mean: Tensor = fn.mean
            return mean
        except NotImplementedError:
            pass
    return site.value
