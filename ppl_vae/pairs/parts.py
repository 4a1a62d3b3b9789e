"""Priors, likelihoods and encoders by name or factory, as an experiment makes them."""

import functools
import inspect
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ppl_vae.bodies import Masked
from ppl_vae.data.dataset import Dataset
from ppl_vae.likelihoods import Columns
from ppl_vae.priors import ConditionalNormal, Prior

__all__ = ["made", "masked", "of_table", "prior_of"]


def _named(place: str, name: str) -> Any:
    """The library's class of this name, in any case."""
    home = import_module(f"ppl_vae.{'guides' if place == 'encoder' else place + 's'}")
    known = {k.lower(): k for k in home.__all__ if not inspect.isabstract(getattr(home, k))}
    key = name.lower().replace("_", "")
    if key not in known:
        raise ValueError(f"{place} is {name!r}: known are {', '.join(sorted(known.values()))}")
    return getattr(home, known[key])


def made(place: str, part: Any, *args: Any) -> Any:
    """A part: one that is made already, or what its name or factory makes."""
    if isinstance(part, nn.Module):
        return part
    factory = _named(place, part) if isinstance(part, str) else part
    if not callable(factory):
        raise TypeError(f"{place} is {part!r}: give a part, or a class that it is made by")
    return factory(*args)


def of_table(likelihood: Any, data: Dataset) -> Any:
    """`Columns` as it is made of a table's columns; other likelihoods as they are."""
    likelihood = _named("likelihood", likelihood) if isinstance(likelihood, str) else likelihood
    if getattr(likelihood, "func", likelihood) is Columns:
        likelihood = likelihood()
    if not isinstance(likelihood, Columns) or likelihood.columns:
        return likelihood
    if data.layout is None:
        raise ValueError(f"Columns is the likelihood of a table: give {data.name} as Table(...)")
    columns = data.layout.x
    return lambda dim, _: likelihood.build(dim, columns)


def masked(place: str, factory: Any) -> Any:
    """A factory of the same part whose network reads rows with missing values.

    A part that is made already is left as it is.
    """
    factory = _named(place, factory) if isinstance(factory, str) else factory
    if isinstance(factory, nn.Module):
        return factory
    body = inspect.signature(factory).parameters.get("body")
    if body is None:
        raise ValueError(
            f"{place} is {factory!r}, which takes no body=: make one that reads NaN, or leave "
            'missing="mask"'
        )
    return functools.partial(factory, body=functools.partial(Masked, body=body.default))


def prior_of(factory: Any, encoder: nn.Module, dim: int, extra: int) -> Prior | ConditionalNormal:
    """A prior: one that is made already, or what its name or factory makes.

    Args:
        factory: called with `dim`; with `dim` and the covariates' shape if its second argument is
            `size`; with the encoder if its first is `encoder`.
        encoder: the pair's.
        dim: of its code.
        extra: how many covariates there are.

    Raises:
        ValueError: for one of covariates, where there are none.
    """
    if isinstance(factory, nn.Module):
        return factory  # type: ignore[return-value]
    factory = _named("prior", factory) if isinstance(factory, str) else factory
    names = [*inspect.signature(factory).parameters]
    if names[1:2] == ["size"]:
        if not extra:
            name = getattr(getattr(factory, "func", factory), "__name__", "the prior")
            raise ValueError(
                f"{name} is conditioned on covariates, and this pair has none: use a "
                "ConditionalVAE, or a prior such as StandardNormal"
            )
        return factory(dim, torch.Size([extra]))
    return factory(encoder if names[:1] == ["encoder"] else dim)
