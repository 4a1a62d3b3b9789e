"""The ELBO with a target on its rate, and with a bound on its reconstruction."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ppl_vae.objectives.constrained import ConstrainedObjective, Constraint, Dual
from ppl_vae.objectives.costs import Cost
from ppl_vae.objectives.decomposition import cost_of, decompose
from ppl_vae.objectives.objective import Terms, Weight
from ppl_vae.program.reading import Reading

__all__ = ["GECO", "CapacityVAE"]


class CapacityVAE(ConstrainedObjective):
    r"""The beta-VAE with a controlled capacity: the rate is held at C(t).

    $$-\mathrm{E} \log p(x \mid z) + \gamma\, \lvert \mathrm{KL}(q(z \mid x) \Vert p(z)) - C(t)
      \rvert$$

    with the KL averaged over the batch inside the absolute value. KL of latents outside the data
    plate, and of local sites not selected, keeps weight 1.

    Args:
        capacity: C in nats per datum: a number, or a schedule such as
            `Linear(0.0, 25.0, over=100_000)`.
        gamma: the penalty's weight, or a `Constraint`, such as `Dual()`, that takes its place.
        sites: the latent sites whose KL, summed, is held; all local ones by default.
        plate: the plate whose entries are data, where several are possible.
        **elbo: as in `Objective`.

    Attributes:
        terms: `constraint/rate` is the rate minus C.

    References:
        Burgess, Higgins, Pal, Matthey, Watters, Desjardins and Lerchner (2018), Understanding
        disentangling in beta-VAE, arXiv:1804.03599.

    Example:
        >>> from ppl_vae.objectives import CapacityVAE, Linear
        >>> objective = CapacityVAE(Linear(0.0, 25.0, over=0.8))
    """

    enumerates = True
    quantity = "rate"

    def __init__(
        self,
        capacity: Weight = 25.0,
        gamma: Weight | Constraint = 1000.0,
        *,
        sites: Sequence[str] | None = None,
        plate: str | Sequence[str] | None = None,
        **elbo: Any,
    ):
        if not callable(capacity) and capacity < 0:
            raise ValueError(f"capacity={capacity}: a rate is never below 0")
        super().__init__(capacity, gamma, sites=sites, plate=plate, **elbo)

    def split(self, reading: Reading, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        run = decompose(reading, terms, self.selected(reading), self.plate)
        return run.reconstruction + run.rest, run.rate, run.data


class GECO(ConstrainedObjective):
    r"""The least rate under a bound on the reconstruction.

    $$\min \mathrm{KL}(q(z \mid x) \Vert p(z)) \quad \text{subject to} \quad
      \mathrm{E}_{q(z \mid x)}\, c(x, z) \le \kappa$$

    with $c = -\log p(x \mid z)$, or a cost of x against the mean of p(x|z). The KL is of all
    latent sites, those outside the data plate included.

    Args:
        tolerance: $\kappa$, in nats per datum (or in the cost's unit): a number or a schedule.
        weight: a `Constraint`; the multiplier of the reference by default.
        cost: c, as in `WAE`; minus the log-likelihood by default.
        plate: the plate whose entries are data, where several are possible.
        **elbo: as in `Objective`.

    Attributes:
        terms: `constraint/reconstruction` is the reconstruction minus its bound.

    References:
        Rezende and Viola (2018), Taming VAEs, arXiv:1810.00597.
    """

    enumerates = True
    quantity = "reconstruction"
    at_most = True

    def __init__(
        self,
        tolerance: Weight,
        weight: Weight | Constraint | None = None,
        *,
        cost: Cost | None = None,
        plate: str | Sequence[str] | None = None,
        **elbo: Any,
    ):
        constraint = Dual(average=0.99, damping=0.0) if weight is None else weight
        super().__init__(tolerance, constraint, plate=plate, **elbo)
        self.cost = cost

    def split(self, reading: Reading, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        # The KL of every latent site is free, so none is selected; the rows say what a datum is.
        self.selected(reading)
        run = decompose(reading, terms, (), self.plate, self._reconstruct)
        return run.rest, run.reconstruction, run.data

    def _reconstruct(self, reading: Reading, name: str) -> Tensor:
        if self.cost is None or reading.model_sites[name].role == "factor":
            return -reading.log_prob(name)
        return cost_of(reading, name, self.cost)
