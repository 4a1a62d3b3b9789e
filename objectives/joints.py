"""The joints of sites that a loss compares: each with a divergence and a weight of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ppl_vae.arguments import instance, of_step
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.objective import Objective, Weight

__all__ = ["Joint", "OneMinus", "Scale", "Sites", "check_joint", "joints_of"]

Scale = Weight | Literal["auto"]
Sites = Sequence[str] | Mapping[str | tuple[str, ...], tuple[Divergence, Scale]]


class Joint(NamedTuple):
    """Sites whose codes are compared with the prior together."""

    names: tuple[str, ...] | None
    """None for all local ones."""
    divergence: Divergence | None
    scale: Scale


@dataclass
class OneMinus:
    """A class and not a closure, so that copies of an objective have copies of its schedule."""

    weight: Callable[[Tensor], Tensor]

    def __call__(self, step: Tensor) -> Tensor:
        return 1 - self.weight(step)


def joints_of(divergence: Divergence | None, scale: Scale, sites: Sites | None) -> list[Joint]:
    """The joints that the arguments of an objective name.

    Raises:
        ValueError: for one site that is no list, or divergences given twice.
    """
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r}: give a list, [{sites!r}]")
    if not isinstance(sites, Mapping):
        return [Joint(None if sites is None else tuple(sites), divergence, scale)]
    if divergence is not None:
        raise ValueError(
            "give a divergence, or sites as a mapping to divergences and no divergence "
            "(null) next to it: not both"
        )
    return [
        Joint((key,) if isinstance(key, str) else tuple(key), d, weight)
        for key, (d, weight) in sites.items()
    ]


def check_joint(owner: Objective, joint: Joint, alpha: Weight, pool: bool) -> None:
    """Refuses weights that a joint cannot have.

    Args:
        owner: the objective, for messages.
        joint: the joint.
        alpha: the weight on mutual information.
        pool: whether rows are steps.

    Raises:
        TypeError: for what is no divergence or no weight.
        ValueError: for a divergence that is missing or rewarded, or a scale that "auto" has no
            number for.
    """
    names, divergence, scale = joint
    if divergence is not None:
        instance("divergence", divergence, Divergence, "MMD()")
    of_step(owner, alpha=alpha, scale=scale)
    for name, weight in (("alpha", alpha), ("scale", scale)):
        if isinstance(weight, Divergence | type):
            raise TypeError(
                f"{type(owner).__name__}: {name} is {weight!r}: give a number, or a schedule "
                "such as Linear(0.0, 1.0)"
            )
    if isinstance(scale, str):
        _check_auto(scale, divergence, pool)
    elif callable(alpha) or callable(scale):
        cancels = isinstance(alpha, OneMinus) and alpha.weight is scale
        if divergence is None and not cancels:
            raise ValueError("a scheduled alpha or scale needs a divergence, such as MMD()")
    elif alpha + scale - 1 < 0:
        raise ValueError(
            f"alpha={alpha} and scale={scale} add up to less than 1, which would reward "
            "divergence from the prior: raise scale"
        )
    elif alpha + scale - 1 != 0 and divergence is None:
        where = "" if names is None else f" for sites {names}"
        raise ValueError(
            f"alpha={alpha}, scale={scale} weigh a divergence{where} and none is given: "
            "pass one, such as MMD()"
        )


def _check_auto(scale: str, divergence: Divergence | None, pool: bool) -> None:
    if scale != "auto":
        raise ValueError(f"scale={scale!r}: use 'auto', a number or a schedule")
    if divergence is None:
        raise ValueError("scale='auto' needs a divergence, such as MMD()")
    if pool:
        raise ValueError("scale='auto' is per datum, pool=True per step: give a number")
    if divergence.of_unit_shift(2) is None:
        raise ValueError(
            f"scale='auto' goes by what {type(divergence).__name__} is between two "
            "normals, which has no closed form here (of_unit_shift gives none): give "
            "scale a number"
        )
