"""InfoVAE at alpha=0, scale=1 is the ELBO: value and every gradient, over the matrix of models."""

from typing import Any

import pyro
import pytest
import torch
from pairs import PAIRS, MeanField, gradients
from pyro.infer import Trace_ELBO

from ppl_vae.objectives import MMD, BetaVAE, InfoVAE

PARTICLES: list[dict[str, Any]] = [
    {"num_particles": 1},
    {"num_particles": 5},
    {"num_particles": 5, "vectorize_particles": True, "max_plate_nesting": 2},
]


@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
@pytest.mark.parametrize("particles", PARTICLES, ids=["one", "five", "vectorised"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("objective", ["infovae", "with divergence", "beta"])
def test_equals_pyro(name: str, particles: dict[str, Any], objective: str) -> None:
    pair = PAIRS[name]()
    theirs = MeanField(**particles) if pair.in_order else Trace_ELBO(**particles)
    ours = {
        "infovae": lambda: InfoVAE(alpha=0, scale=1, **particles),
        "with divergence": lambda: InfoVAE(MMD(), alpha=0, scale=1, **particles),
        "beta": lambda: BetaVAE(1.0, **particles),
    }[objective]()
    theirs.differentiable_loss(pair.model, pair.guide, *pair.args)  # fills the parameter store
    pyro.set_rng_seed(3)
    expected, expected_grads = gradients(
        lambda: theirs.differentiable_loss(pair.model, pair.guide, *pair.args)
    )
    pyro.set_rng_seed(3)
    value, grads = gradients(lambda: ours.differentiable_loss(pair.model, pair.guide, *pair.args))
    assert value == pytest.approx(expected, rel=1e-8)
    assert grads.keys() == expected_grads.keys()
    for parameter, gradient in expected_grads.items():
        torch.testing.assert_close(grads[parameter], gradient, rtol=1e-8, atol=1e-10)
