"""The Wasserstein auto-encoder."""

from typing import Any

from torch import Tensor

from ppl_vae.objectives.costs import Cost, SquaredError
from ppl_vae.objectives.decomposition import cost_of
from ppl_vae.objectives.divergences.divergence import Divergence
from ppl_vae.objectives.infovae import InfoVAE
from ppl_vae.objectives.joints import Scale
from ppl_vae.objectives.trainable import check_mean_moves
from ppl_vae.program.reading import Reading

__all__ = ["WAE"]


class WAE(InfoVAE):
    r"""The Wasserstein auto-encoder: a cost in place of the log-likelihood.

    $$\mathrm{E}_{q(z \mid x)}\, c(x, G(z)) + \lambda\, D(q(z) \Vert p(z))$$

    with G(z) the mean of the observed site's distribution, whose density is not evaluated: a
    deterministic decoder (a `Delta` likelihood) is legal, and so is a deterministic encoder.

    Args:
        divergence: D, such as `MMD(MultiScale())`.
        scale: lambda, in units of the cost; "auto" as in `InfoVAE`, a number observed counting 1.
        cost: c, `(x, mean) -> cost per datum`; by default the squared Euclidean distance.
        **infovae: `sites`, `plate`, `given` and the rest, as in `InfoVAE`.

    References:
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558.
    """

    def __init__(
        self,
        divergence: Divergence | None = None,
        scale: Scale = 10.0,
        cost: Cost | None = None,
        **infovae: Any,
    ):
        super().__init__(divergence, alpha=1.0, scale=scale, **infovae)
        self.cost = SquaredError() if cost is None else cost

    def _check_reconstruction(self, reading: Reading, reconstruction: Tensor) -> None:
        check_mean_moves(reading, reconstruction)

    def reconstruction(self, reading: Reading, name: str) -> Tensor:
        if reading.model_sites[name].role == "factor":
            return super().reconstruction(reading, name)  # a pyro.factor has no mean
        return cost_of(reading, name, self.cost)
