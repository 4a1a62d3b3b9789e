"""From codes to data: what pictures and reports show of any pair."""

from collections.abc import Mapping

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.evaluation.codes import Codes, posterior_codes
from ppl_vae.evaluation.programs import evaluating
from ppl_vae.pairs.pair import Pair
from ppl_vae.program.handlers import AtMean

__all__ = ["decode", "draw", "drawn_as", "latents"]


def latents(pair: Pair, args: tuple[Tensor, ...], codes: Codes | None = None) -> dict[str, Tensor]:
    """Where the guide puts each row: posterior means of codes, the likeliest class.

    Args:
        pair: the pair.
        args: n rows, as the pair is called.
        codes: of these rows and maybe more, if they are at hand.

    Returns:
        For each latent site a tensor `(n, d)`.
    """
    codes = posterior_codes(pair.model, pair.guide, args) if codes is None else codes
    found = {name: codes.mean[: len(args[0]), k] for name, k in codes.slices.items()}
    with torch.random.fork_rng(), evaluating(pair):
        trace = poutine.trace(pair.guide).get_trace(*args)
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and name.endswith("_unobserved"):
            found[name] = _likeliest(site["fn"])
    return found


def decode(pair: Pair, values: Mapping[str, Tensor], args: tuple[Tensor, ...]) -> Tensor:
    """The mean of p(x | z) given latents; a draw where it has no closed mean.

    Args:
        pair: the pair.
        values: for each site a tensor `(n, d)`. Codes below one of several layers may be left
            out: they are then at their means given the layers above.
        args: n rows, as the pair is called; what stands beside x is used.

    Returns:
        Tensor `(n, *size)`.
    """
    with torch.random.fork_rng(), evaluating(pair):
        with AtMean(), poutine.trace() as tracer, poutine.condition(data=dict(values)):
            pair.model(*args)
        return _picture(tracer.trace.nodes["x"]["fn"])


def draw(pair: Pair, args: tuple[Tensor, ...], n: int, seed: int = 0) -> Tensor:
    """Samples of the model as pictures show them: means of p(x | z) at n draws of the prior.

    Args:
        pair: the trained pair.
        args: rows, as the pair is called; covariates are theirs, in turn.
        n: how many.
        seed: of the draws.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    turn = torch.arange(n, device=args[0].device) % len(args[0])
    with torch.random.fork_rng(), evaluating(pair):
        torch.manual_seed(seed)
        trace = poutine.trace(pair.model).get_trace(*(part[turn] for part in args))
        return _picture(trace.nodes["x"]["fn"])


def drawn_as(pair: Pair, args: tuple[Tensor, ...]) -> str:
    """What `draw` gives, in words."""
    with torch.random.fork_rng(), evaluating(pair):
        trace = poutine.trace(pair.model).get_trace(*(part[:1] for part in args))
    try:
        _ = trace.nodes["x"]["fn"].mean
        what = "Means"
    except NotImplementedError:  # pixel by pixel, or channel by channel, there is no mean to show
        what = "Draws"
    return f"{what} of p(x | z) at draws of z from the prior"


def _likeliest(fn: TorchDistribution) -> Tensor:
    try:
        return fn.mode
    except NotImplementedError:  # of a relaxed class, the class
        return torch.nn.functional.one_hot(fn.logits.argmax(-1), fn.event_shape[-1]).to(fn.logits)


def _picture(fn: TorchDistribution) -> Tensor:
    try:
        return fn.mean
    except NotImplementedError:  # an autoregressive likelihood
        return fn.sample()
