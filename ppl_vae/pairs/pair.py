"""What the library's pairs of a model and a guide have in common."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from ppl_vae.data.dataset import Beside
from ppl_vae.guides.encoder import Encoder

__all__ = ["Pair", "check_encoder", "part_name"]


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
