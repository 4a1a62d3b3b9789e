"""Missing values under every objective and pair that has its own way through a loss."""

import math
from functools import partial
from typing import Any

import pyro
import pytest
import torch

from ppl_vae import VAE, Experiment, HierarchicalVAE, SemiSupervisedVAE
from ppl_vae.bodies import MLP
from ppl_vae.data import Dataset
from ppl_vae.guides import Ladder, MeanFieldNormal, RelaxedCategorical
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import IWAE, MMD, WAE, BetaVAE, InfoVAE

SD, SMALL = 0.7, partial(MLP, hidden=(4,))
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
GONE = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.3
LABELS = torch.arange(40) % 3

PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "VAE": (VAE, 2, partial(MeanFieldNormal, body=SMALL)),
    "SemiSupervisedVAE": (
        partial(SemiSupervisedVAE, classifier=partial(RelaxedCategorical, body=SMALL)),
        2,
        partial(MeanFieldNormal, body=SMALL),
    ),
    "HierarchicalVAE": (
        HierarchicalVAE,
        [2, 1],
        partial(Ladder, body=SMALL, features=4, hidden=(4,)),
    ),
}
OBJECTIVES: dict[str, Any] = {
    "ELBO": BetaVAE,
    "IWAE": partial(IWAE, 5),
    "InfoVAE": lambda: InfoVAE(MMD(), scale=3.0),
    "WAE": lambda: WAE(MMD()),
}


def loss(x: torch.Tensor, pair: str, objective: str) -> float:
    """The loss of all rows at weights of zero, where x is Normal(0, SD) whatever its code is."""
    pyro.clear_param_store()
    made, dim, encoder = PAIRS[pair]
    data = Dataset(x, train_labels=LABELS, missing="mask")
    run = Experiment(
        data,
        OBJECTIVES[objective](),
        dim,
        made,
        likelihood=partial(Normal, scale=SD, body=SMALL),
        encoder=encoder,
        epochs=1,
        batch_size=40,
    )
    with torch.no_grad():
        for parameter in run.pair.parameters():
            parameter.zero_()
    return run.fit(progress=False).last["loss"]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_missing_value_costs_nothing(objective: str, pair: str) -> None:
    """A loss of rows with holes is that of whole rows less what the values there would add."""
    whole, holes = (loss(x, pair, objective) for x in (X, X.masked_fill(GONE, torch.nan)))
    squares = X[GONE].square().sum() / 40
    added = squares / (2 * SD**2) + GONE.sum() / 40 * math.log(SD * math.sqrt(2 * math.pi))
    expected = squares if objective == "WAE" else added
    assert whole - holes == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
