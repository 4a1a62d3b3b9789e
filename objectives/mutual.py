"""The mutual auto-encoder: the ELBO with a target on the model's own mutual information."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.objectives.constrained import ConstrainedObjective, Constraint, Penalty
from ppl_vae.objectives.decomposition import decompose
from ppl_vae.objectives.factories import Unbuilt
from ppl_vae.objectives.infomax import Dream, Estimator, check_estimator
from ppl_vae.objectives.objective import Terms, Weight
from ppl_vae.program.reading import Reading
from ppl_vae.world import here

__all__ = ["MutualAutoencoder"]

logger = logging.getLogger(__name__)

Factory = Callable[[torch.Size, int], nn.Module]


class MutualAutoencoder(ConstrainedObjective):
    r"""The ELBO subject to $I_p(x, z) = M$ in the model's own joint p(z) p(x|z).

    The information is held through the variational infomax bound, which an auxiliary r(z|x) makes
    from draws of the model,

    $$\hat I = H(z) + \mathrm{E}_{z \sim p(z),\, x \sim p(x \mid z)} \log r(z \mid x)
      \;\le\; I_p(x, z),$$

    as minus the ELBO plus $N C\,\lvert \hat I - M \rvert$. Two players share the one scalar: model
    and prior see r fixed, and r is always fitted to the model's draws by maximum likelihood, also
    where the information is above M. (Left to the penalty alone it would then loosen the bound and
    leave the information as it is.) With covariates in the model the information is conditional
    on them; with globals, on the guide's draw of them.

    The x are drawn by running the model without its observations, rows, globals and subsample
    indices as they are: one pair (z, x) for each row of the batch and each of `draws` runs, which
    a batch norm in the decoder sees too. The gradient through x ~ p(x|z) is taken as

    * "reparameterised", pathwise, where every observed site has it (Normal);
    * "enumerate", the exact sum over the values of a single observed site of one element and at
      most 256 values (Categorical, Bernoulli);
    * "score", the score function with the mean of the other draws as its baseline, unbiased
      (Bernoulli images, autoregressive decoders; sites that are reparameterised stay so);
    * "relaxed", opt-in and biased: straight-through draws of a relaxed Bernoulli or one-hot
      categorical site.

    "auto" takes the first of the first three that is possible, and the log says once which.

    $\lvert \hat I - M \rvert$ is biased upwards by the draws' noise, which pulls $\hat I$ below M
    or prefers models whose bound is easy to estimate. The default penalty follows a moving average
    instead (see `Penalty`); larger batches and `draws` make the noise less.

    Args:
        information: M in nats; a number or a function of the step.
        weight: the penalty's weight C, or a `Constraint`, such as `Dual()`, that takes its place.
        auxiliary: r, a module called with the observed sites' values, each `(n, *size)`, that
            returns a distribution of batch shape `(n,)` over z, or over the flattened joint
            `(n, d)` of the selected sites: any encoder of `ppl_vae.guides`, or the user's own; or
            a factory of it, called with the shape of x and d, which an `Experiment` does.
        estimator: how the gradient passes x.
        draws: runs of the model to draw from, each step.
        temperature: of "relaxed" draws.
        sites: the latent sites whose information is held; all local ones by default.
        plate: the plate whose entries are data, where several are possible.
        **elbo: as in `Objective`.

    Attributes:
        terms: `information/<sites>` is the bound in nats, `constraint/information` the bound
            minus M.
        taken: the estimator that is used, once known.

    Raises:
        ValueError: for an estimator that the model's observed sites do not allow, or an r whose
            shape is not z's.

    References:
        Barber and Agakov (2003), The IM algorithm, NeurIPS.
        Bui, Kushman, Nowozin, Tomioka and Welling (2017), The mutual autoencoder: controlling
        information in latent code representations.
    """

    quantity = "information"
    # A positive multiplier raises the information.
    sign = -1.0

    def __init__(
        self,
        information: Weight,
        weight: Weight | Constraint = 1.0,
        auxiliary: nn.Module | Factory | None = None,
        *,
        estimator: Estimator = "auto",
        draws: int = 1,
        temperature: float = 0.5,
        sites: Sequence[str] | None = None,
        plate: str | Sequence[str] | None = None,
        **elbo: Any,
    ):
        if not callable(auxiliary):
            raise ValueError(
                "give auxiliary=, the module r(z|x): an encoder of ppl_vae.guides, such as "
                "MeanFieldNormal, or your own"
            )
        if not callable(information) and information < 0:
            raise ValueError(f"information={information}: mutual information is never below 0")
        if draws < 1 or temperature <= 0:
            raise ValueError(f"draws={draws}, temperature={temperature}: 1 or more, and above 0")
        constraint = weight if isinstance(weight, Constraint) else Penalty(weight, average=0.9)
        super().__init__(information, constraint, sites=sites, plate=plate, **elbo)
        made = isinstance(auxiliary, nn.Module)
        self._factory = None if made else auxiliary
        self.auxiliary = (
            auxiliary if isinstance(auxiliary, nn.Module) else Unbuilt("r(z|x)", "a module")
        )
        self.estimator = check_estimator(estimator)
        self.draws, self.temperature = draws, temperature
        self.taken: str | None = None

    def build(self, size: Sequence[int], dims: Mapping[str, int]) -> None:
        picked = [name for name in (self.sites or dims) if name in dims]
        if self._factory is not None and picked:
            self.auxiliary = self._factory(torch.Size(size), sum(dims[name] for name in picked))

    def split(self, reading: Reading, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        selected = self.selected(reading)
        run = decompose(reading, terms, selected, self.plate)
        dream = Dream(reading, selected, self.plate, self.estimator, self.temperature)
        if self.taken is None:
            dream.check(self.auxiliary)
            self.taken = dream.estimator
            logger.info(
                "the gradient of I(x, z) passes %s by: %s", ", ".join(dream.names), self.taken
            )
        bounds, fits = zip(*(dream.bound(self.auxiliary) for _ in range(self.draws)), strict=True)
        bound, fit = torch.stack(bounds).mean(), torch.stack(fits).mean()
        (mean,) = here().totals(here().portion(bound, run.data))
        terms.add_mean(f"information/{'+'.join(selected)}", mean * dream.rows.particles)
        fit = here().portion(fit, run.data)
        free = run.reconstruction + run.rate + run.rest + (fit - fit.detach())
        return free, run.data * bound, run.data
