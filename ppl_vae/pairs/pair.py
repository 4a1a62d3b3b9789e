"""What the library's pairs of a model and a guide have in common."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.data.dataset import Extra
from ppl_vae.guides import Encoder, Ladder
from ppl_vae.likelihoods import Likelihood
from ppl_vae.priors import ConditionalNormal, Prior
from ppl_vae.program.missing import Marginalised
from ppl_vae.program.modules import Portable, Program, float_type, modules_of

__all__ = ["Pair", "check_encoder", "check_parts", "part_name", "typed_for"]


class Pair(Portable):
    """A model and a guide over the same data, made of parts: the base class of `VAE` and its kin.

    A subclass is built as `cls(prior, likelihood, encoder, ...)` and has two methods, `model` and
    `guide`, of the same arguments: a batch of data and, besides it, what `extra` names. Its
    observed site is `x` and its plate `data`. It serves `Experiment`, the command line and the
    reports; objectives and `fit` take any model and guide.

    Attributes:
        extra: what of a data set both are called with besides the rows.
        missing: whether NaN in x are left out of the likelihood; the encoder has to take them,
            as one with a body `Masked` does.
        model: the generative program.
        guide: the encoder program.
    """

    extra: ClassVar[Extra] = ""
    missing: bool = False
    model: Callable[..., Any]
    guide: Callable[..., Any]
    prior: Any
    likelihood: Any
    encoder: Any

    @property
    def codes(self) -> dict[str, int]:
        """The latent sites that are codes, and their dimensions."""
        return {"z": self.prior.dim}

    def observe(self, fn: TorchDistribution, x: Tensor) -> Tensor:
        """Observes x, leaving NaN out where `missing` is set; returns x."""
        with Marginalised() if self.missing else nullcontext():
            return pyro.sample("x", fn, obs=x)

    def part(self, site: str, of_guide: bool = False) -> nn.Module:
        """The part that a site's distribution comes from, for messages."""
        found: nn.Module = self.likelihood if site == "x" else self.prior
        return self.encoder if of_guide else found


def check_parts(pair: object, prior: object, likelihood: object, encoder: object) -> None:
    """Refuses classes in place of parts, and parts in each other's places.

    Raises:
        TypeError: saying what to write.
    """
    kinds = {
        "prior": (Prior, ConditionalNormal),
        "likelihood": (Likelihood,),
        "encoder": (Encoder, Ladder),
    }
    for name, part in (("prior", prior), ("likelihood", likelihood), ("encoder", encoder)):
        if isinstance(part, type) or not isinstance(part, nn.Module):
            what = f"the class {part.__name__}" if isinstance(part, type) else repr(part)
            raise TypeError(
                f"{type(pair).__name__}: {name} is {what}: make the part first, as in "
                "VAE(StandardNormal(2), Normal(2, size), MeanFieldNormal(size, 2))"
            )
        other = next((k for k, v in kinds.items() if k != name and isinstance(part, v)), None)
        if other is not None and not isinstance(part, kinds[name]):
            raise TypeError(
                f"{type(pair).__name__}: the {name} given is {part_name(part)}, which is for the "
                f"{other}: write {type(pair).__name__}(prior, likelihood, encoder)"
            )


def check_encoder(encoder: nn.Module) -> None:
    """Refuses an encoder of several layers of codes where one is wanted.

    Raises:
        ValueError: saying which pair takes it.
    """
    if not isinstance(encoder, Encoder):
        raise ValueError(
            f"{part_name(encoder)} is no encoder of one layer of codes: use a HierarchicalVAE "
            "for a Ladder, or an encoder such as MeanFieldNormal"
        )


def part_name(module: nn.Module) -> str:
    """The name of a part of a pair, for messages."""
    return type(module).__name__


def typed_for(parts: Sequence[Any], model: Program, guide: Program) -> tuple[Any, ...]:
    """A pair's arguments with floats in the type of its parameters, where these have one.

    The library's pairs take the first, x, as floats. What is no tensor stays as it is.

    Args:
        parts: the arguments.
        model: the model.
        guide: the guide.
    """
    kind = float_type(model, guide)
    if kind is None:
        return tuple(parts)
    wants_floats = any(isinstance(m, Pair) for m in modules_of(model, guide).values())
    return tuple(
        part.to(kind)
        if isinstance(part, Tensor) and (part.is_floating_point() or (wants_floats and i == 0))
        else part
        for i, part in enumerate(parts)
    )
