"""Pairs and settings that are refused, in one line."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from probe import D, N, data, guide, model, model_only, refuse
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives import (
    MMD,
    Autoencoder,
    BetaVAE,
    InfoVAE,
)


def test_refusals() -> None:
    def no_plate(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(N, D), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    refuse(no_plate, model_only(no_plate), r"no plate .*`with pyro.plate\(\"data\", len\(x\)\)")
    refuse(no_plate, model_only(no_plate), r"no plate holds all of \['z'\]", sites=["z"])

    def sequential(x: Tensor) -> None:
        for i in pyro.plate("data", 3):
            z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i, 0])

    refuse(sequential, model_only(sequential), "sequential plate 'data'", sites=["z_0"])

    def discrete(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k[:, None], 1.0).to_event(1), obs=x)

    refuse(discrete, model_only(discrete), "'k' of the guide, Bernoulli, is not reparameterised")
    enumerated = pyro.infer.config_enumerate(model_only(discrete), "sequential")
    refuse(discrete, enumerated, "'k' of the guide is enumerated in a way that")
    refuse(poutine.scale(model, scale=2.0), guide, "'z' has another scale in the model than")
    masked = poutine.mask(model, mask=torch.arange(N) < 3)
    refuse(masked, guide, "'z' has another mask in the model than")
    refuse(model, guide, "'w' is no latent site: the model has", sites=["w"])
    refuse(model, guide, "plate 'batch' does not hold all of", plate="batch", sites=["z"])
    refuse(model, lambda x: None, "latent site 'z' of the model is not in the guide")


def test_refused_at_construction() -> None:
    for make, message in [
        (lambda: InfoVAE(MMD(), alpha=0.2, scale=0.5), "add up to less than 1"),
        (lambda: InfoVAE(), "none is given: pass one, such as MMD"),
        (lambda: InfoVAE(MMD(), scale=2.0, sites="z"), "give a list, \\['z'\\]"),
        (lambda: InfoVAE(MMD(), sites={"z": (MMD(), 1.0)}), "not both"),
        (lambda: BetaVAE(-1.0), "beta=-1.0 must not be negative"),
        (lambda: InfoVAE(MMD(), num_particles=0), "num_particles=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_names_that_nothing_has_are_refused_without_a_divergence_too() -> None:
    def no_plate(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(N, D), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    for objective, pair, message in [
        (BetaVAE(4.0, plate="batch"), (model, guide), "plate 'batch' holds no latent site"),
        (BetaVAE(4.0, sites=["zz"]), (model, guide), "'zz' is no latent site"),
        (Autoencoder(plate="batch"), (model, guide), "plate 'batch' holds no latent site"),
        (
            BetaVAE(4.0),
            (no_plate, model_only(no_plate)),
            "no plate holds a latent site and an obs",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            objective.differentiable_loss(*pair, data())
