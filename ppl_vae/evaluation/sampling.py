r"""Draws from a model, and from the chain that encodes and decodes again and again."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.evaluation.programs import arguments_of, evaluating
from ppl_vae.program.handlers import Unobserve
from ppl_vae.program.modules import Program
from ppl_vae.program.plates import data_plates
from ppl_vae.program.rows import by_row
from ppl_vae.program.running import read
from ppl_vae.program.sites import Site, read_sites

__all__ = ["ancestral", "markov_chain"]


def ancestral(
    model: Program,
    n: int,
    *args: Any,
    guide: Program | None = None,
    plate: str | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    r"""Draws of a model's latent and observed sites, $z \sim p(z)$, $x \sim p(x \mid z)$.

    The model runs without its observations, as often as n rows take: what its arguments say of x
    does not matter, only how many rows they make and the covariates among them.

    Args:
        model: the model; modules it calls are in evaluation mode meanwhile.
        n: number of draws.
        *args: the model's arguments, such as a batch of data.
        guide: draws the latent sites outside the data plate, where the model's prior for them is
            not what is wanted.
        plate: the data plate's name, where the model leaves a choice.
        **kwargs: the model's keyword arguments.

    Returns:
        For each site in the data plate, in the order drawn, a tensor `(n, *size)`.

    Raises:
        NoDataPlate: if no plate or more than one could be the data's.

    Warns:
        UserWarning: if the model observes no variable, so that only latent sites can be sampled.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> {name: draw.shape for name, draw in ancestral(model, 5, torch.zeros(3)).items()}
        {'z': torch.Size([5]), 'x': torch.Size([5])}
    """
    if n < 1:
        raise ValueError(f"n={n}: one draw or more")
    programs = (model,) if guide is None else (model, guide)
    runs: list[dict[str, Tensor]] = []
    with evaluating(*programs):
        name = _plate(model, guide, args, kwargs, plate)
        while (missing := n - sum(len(next(iter(run.values()))) for run in runs)) > 0:
            run = Unobserve()(model)
            if guide is not None:
                outside = poutine.trace(guide).get_trace(*args, **kwargs)
                run = poutine.replay(run, trace=_without(outside, name))
            sites = read_sites(poutine.trace(run).get_trace(*args, **kwargs))
            runs.append({k: v[:missing] for k, v in _rows(sites, name).items()})
    return {k: torch.cat([run[k] for run in runs]) for k in runs[0]}


def markov_chain(
    model: Program,
    guide: Program,
    x: Tensor | tuple[Any, ...],
    steps: int,
    *,
    plate: str | None = None,
    arguments: Mapping[str, int] | None = None,
    every: int = 1,
) -> dict[str, Tensor]:
    r"""The chain $z \sim q(z \mid x)$, $x \sim p(x \mid z)$, a row of it for each row of data.

    Where p(x|z) is the posterior of x under the data and q(z|x), as at an unregularised
    auto-encoder's optimum, the data's distribution is stationary: this is how to sample a model
    whose codes do not follow its prior.

    Args:
        model: the model.
        guide: the guide.
        x: where the chain starts: the pair's argument, or the tuple of its arguments.
        steps: number of steps.
        plate: the data plate's name, where the model leaves a choice.
        arguments: by observed site, the place of the argument it replaces; found where the model
            observes an argument as it is, or reshaped.
        every: keep each so-many-th step.

    Returns:
        For each site in the data plate, a tensor `(steps // every, n, *size)`.

    Raises:
        ValueError: if no argument is what a site observes.

    References:
        Bengio, Yao, Alain and Vincent (2013), Generalized denoising auto-encoders as generative
        models, arXiv:1305.6663.
    """
    if steps < 1 or not 1 <= every <= steps:
        raise ValueError(f"steps={steps}, every={every}: one step or more, and at most steps")
    args = arguments_of(x, model, guide)
    kept: list[dict[str, Tensor]] = []
    with evaluating(model, guide):
        reading = read(model, guide, args)
        name = reading.plate(plate)
        if arguments is None:
            places = _places(reading.model_sites, name, args)
        else:
            places = dict(arguments)
            _check_places(places, reading.model_sites, args)
        for step in range(1, steps + 1):
            codes = poutine.trace(guide).get_trace(*args)
            run = Unobserve()(poutine.replay(model, trace=codes))
            sites = read_sites(poutine.trace(run).get_trace(*args))
            state = list(args)
            for site, place in places.items():
                value = sites[site].value
                if value.numel() != args[place].numel():
                    raise ValueError(
                        f"site {site!r} draws {tuple(value.shape)}, which cannot take the place "
                        f"of an argument of shape {tuple(args[place].shape)}: a plate that takes "
                        "a subsample makes no chain"
                    )
                state[place] = value.reshape(args[place].shape).to(args[place])
            args = tuple(state)
            if step % every == 0:
                kept.append(_rows(sites, name))
    return {k: torch.stack([state[k] for state in kept]) for k in kept[0]}


def _plate(
    model: Program,
    guide: Program | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    plate: str | None,
) -> str:
    """The data plate; without a guide, what the model samples counts as sampled by both."""
    if guide is None:
        sites = read_sites(poutine.trace(model).get_trace(*args, **kwargs))
        latent: Mapping[str, Site] = sites
    else:
        reading = read(model, guide, args, kwargs)
        sites, latent = reading.model_sites, reading.guide_sites
    if not any(site.role == "observed" for site in sites.values()):
        warnings.warn(
            "the model observes no variable (its likelihood is a pyro.factor?), so that only its "
            "latent sites can be sampled",
            stacklevel=3,
        )
    held = {name for site in sites.values() if site.is_observed for name in site.dims}
    local = [n for n, site in sites.items() if site.role == "latent" and held & site.dims.keys()]
    if plate is None and not local and len(held) == 1:
        return next(iter(held))  # all latents are global: the rows are those of x
    (name,) = data_plates(sites, latent, plate)
    return name


def _rows(sites: Mapping[str, Site], plate: str) -> dict[str, Tensor]:
    rows = {
        name: by_row(site, [inside.dim])
        for name, site in sites.items()
        if site.role not in ("factor", "deterministic")
        and (inside := site.plate(plate)) is not None
    }
    if not rows:
        raise ValueError(f"the model has no site in plate {plate!r}")
    return rows


def _without(trace: poutine.Trace, plate: str) -> poutine.Trace:
    """The guide's sites outside the plate."""
    kept = trace.copy()
    for name, site in read_sites(trace).items():
        if site.is_observed or site.plate(plate) is not None:
            kept.nodes.pop(name)
    return kept


def _places(sites: Mapping[str, Site], plate: str, args: tuple[Any, ...]) -> dict[str, int]:
    """Which argument each observed site of the plate observes."""
    places: dict[str, int] = {}
    for name, site in sites.items():
        if site.role != "observed" or site.plate(plate) is None:
            continue
        value = site.value
        match = [
            i
            for i, arg in enumerate(args)
            if isinstance(arg, Tensor)
            and arg.numel() == value.numel()
            and torch.equal(arg.to(value), value.reshape(arg.shape))
        ]
        same = [i for i in match if args[i] is value]
        if len(same or match) != 1:
            raise ValueError(
                f"site {name!r} observes {'several' if match else 'none'} of the arguments as "
                f"they are: say which with arguments={{{name!r}: 0}}"
                + ("" if match else ", and make it one if model and guide read x from elsewhere")
            )
        places[name] = (same or match)[0]
    if not places:
        raise ValueError(f"the model observes nothing in plate {plate!r}")
    return places


def _check_places(
    places: Mapping[str, int], sites: Mapping[str, Site], args: tuple[Any, ...]
) -> None:
    observed = [name for name, site in sites.items() if site.role == "observed"]
    tensors = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
    for name, place in places.items():
        if name not in observed or place not in tensors:
            raise ValueError(
                f"arguments={{{name!r}: {place}}}: give an observed site, of {observed}, and the "
                f"place of an argument that is a tensor, of {tensors}"
            )
