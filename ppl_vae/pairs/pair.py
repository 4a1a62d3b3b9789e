"""What the library's pairs of a model and a guide have in common."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from ppl_vae.data.dataset import Beside
from ppl_vae.guides.encoder import Encoder
from ppl_vae.program.modules import Program, modules_of

__all__ = ["Pair", "check_encoder", "distribution_name", "name_at", "part_name"]


class Pair(nn.Module):
    """A model and a guide over the same data, made of parts: the base class of `VAE` and its kin.

    A subclass is built as `cls(prior, likelihood, encoder, ...)` and has two methods, `model` and
    `guide`, of the same arguments: a batch of data and, beside it, what `beside` names. Its
    observed site is `x` and its plate `data`. It serves `Experiment`, the command line and the
    reports; objectives and `fit` take any model and guide.

    Attributes:
        beside: what of a data set both are called with beside the rows.
        model: the generative program.
        guide: the encoder program.
    """

    beside: ClassVar[Beside] = ""
    model: Callable[..., Any]
    guide: Callable[..., Any]
    prior: Any
    likelihood: Any
    encoder: Any

    @property
    def codes(self) -> dict[str, int]:
        """The latent sites that are codes, and their dimensions."""
        return {"z": self.prior.dim}

    def part(self, site: str, of_guide: bool = False) -> nn.Module:
        """The part that a site's distribution comes from, for messages."""
        found: nn.Module = self.likelihood if site == "x" else self.prior
        return self.encoder if of_guide else found


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


def name_at(program: Program, site: Any, of_guide: bool = False) -> str:
    """What a site is drawn from: the part, where the program is a `Pair`'s, or a distribution."""
    pair = next(iter(modules_of(program).values()), None)
    if isinstance(pair, Pair):
        return part_name(pair.part(site["name"], of_guide))
    return distribution_name(site["fn"])


def distribution_name(fn: Any) -> str:
    """The public name of a distribution, inside any `to_event`, `expand` and mask."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in ("Independent", "MaskedDistribution"):
        fn = fn.base_dist
    names = (cls.__name__ for cls in type(fn).__mro__)
    return next(name for name in names if not name.startswith("_"))
