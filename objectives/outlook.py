"""What the objectives would make of a pair, without training it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.infer import ELBO

from ppl_vae.objectives.betavae import BetaVAE
from ppl_vae.objectives.capacity import CapacityVAE
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.divergences.mmd import MMD
from ppl_vae.objectives.divergences.stein import Stein
from ppl_vae.objectives.infovae import InfoVAE
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.objective import Objective
from ppl_vae.objectives.tcvae import TCVAE
from ppl_vae.objectives.wae import WAE
from ppl_vae.program.describe import describe
from ppl_vae.program.modules import Program, evaluating
from ppl_vae.program.plates import NoDataPlate
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read as read_pair

__all__ = ["Outlook", "read"]

_OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "InfoVAE(alpha=0)": lambda: InfoVAE(alpha=0),
    "InfoVAE(MMD())": lambda: InfoVAE(MMD()),
    "InfoVAE(Stein())": lambda: InfoVAE(Stein()),
    "WAE(MMD())": lambda: WAE(MMD()),
    "BetaVAE(4)": lambda: BetaVAE(4.0),
    "CapacityVAE(5)": lambda: CapacityVAE(5.0),
    "TCVAE()": lambda: TCVAE(),
    "IWAE(5)": lambda: IWAE(5),
}


@dataclass(frozen=True)
class Outlook:
    """A pair as it is read, and what each objective would do; print it.

    Attributes:
        reading: the sites with roles, plates and rows.
        objectives: for each objective, its loss, rows and estimator in words, or its refusal.
    """

    reading: Reading = field(repr=False)
    objectives: Mapping[str, str]

    def __str__(self) -> str:
        width = max(map(len, self.objectives), default=0)
        lines = [f"{name:<{width}}  {said}" for name, said in self.objectives.items()]
        return "\n".join([describe(self.reading), "", *lines])

    __repr__ = __str__


def read(
    model: Program,
    guide: Program,
    *args: Any,
    objectives: Mapping[str, ELBO] | None = None,
    **kwargs: Any,
) -> Outlook:
    """Reads a pair and says what each objective would do with it; nothing is trained.

    Model and guide are run in evaluation mode; torch's generators are left where they were.
    Parameters that they make at their first call exist from here on.

    Args:
        model: the model; any Pyro callable.
        guide: the guide.
        *args: a batch, as both are called with.
        objectives: by name, those to try, with `plate=` or `sites=` where the rule leaves a
            choice; a selection of the library's by default.
        **kwargs: keyword arguments for both.

    Returns:
        What prints as a table of sites (roles, plates, distributions, shapes, supports, weights),
        the data plate and why it is that, and a line for each objective: its loss in nats, summed
        over data, its rows, its terms in nats per datum, or why it refuses the pair.

    Raises:
        ValueError: for a pair that no objective could read, such as one with a latent site that
            is missing from the guide.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> import ppl_vae
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))
        >>> print(ppl_vae.read(model, guide, torch.zeros(3, 2), objectives={}))
        site  role      plates  model   guide   shape   support  weight
        z     latent    data    Normal  Normal  (3, 2)  Real     1
        x     observed  data    Normal  -       (3, 2)  Real     1
        <BLANKLINE>
        data plate: 'data', 3 rows of z; it alone holds a latent site and an observation
        <BLANKLINE>
    """
    made = {n: make() for n, make in _OBJECTIVES.items()} if objectives is None else objectives
    with torch.random.fork_rng(), evaluating(model, guide):
        with torch.no_grad(), pyro.validation_enabled(False):
            reading = read_pair(model, guide, args, kwargs, check_shapes=True)
        said = {
            name: _said(objective, reading, model, guide, args, kwargs)
            for name, objective in made.items()
        }
    return Outlook(reading, said)


def _said(
    objective: ELBO,
    reading: Reading,
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str:
    try:
        loss = objective.loss(model, guide, *args, **kwargs)
    except (ValueError, NotImplementedError, FloatingPointError) as error:
        if str(error) == _no_plate(reading):
            return "refused: no data plate, as above"
        return "refused: " + " ".join(str(error).split())
    words = [f"loss {float(loss):.6g} nats"]
    if isinstance(objective, Objective):
        words += _rows(objective, reading)
        for part in objective.modules():
            estimator = getattr(part, "estimator", None)
            if isinstance(part, Divergence) and isinstance(estimator, dict):
                words += [f"{names}: {how}" for names, how in estimator.items()]
        words += [f"lambda of {n} {v:.4g}" for n, v in getattr(objective, "scales", {}).items()]
        kinds = ("rate", "divergence", "bound")
        words += [
            f"{name} {float(value):.4g}"
            for name, value in objective.terms.items()
            if name.split("/")[0] in kinds
        ]
    return "; ".join(words)


def _no_plate(reading: Reading) -> str | None:
    """What the table of sites says already where there is no data plate."""
    try:
        reading.plates()
    except NoDataPlate as error:
        return str(error)
    return None


def _rows(objective: Objective, reading: Reading) -> list[str]:
    """The rows of the sites that each divergence compares."""
    joints: dict[Divergence, list[str]] = {}
    for name, divergence in objective.matched(reading).items():
        joints.setdefault(divergence, []).append(name)
    words = []
    for names in joints.values():
        joint, rows = reading.rows(getattr(objective, "plate", None), names)
        sites = [reading.guide_sites[name] for name in joint]
        width = sum(rows.width(s.value.shape, s.value.dim() - s.event_dim) for s in sites)
        words.append(f"{len(rows)} rows of {', '.join(joint)}, d = {width}")
    return words
