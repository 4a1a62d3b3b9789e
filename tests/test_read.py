"""`ppl_vae.read`: a pair in words."""

import pyro
import pytest
import torch
from shapes import SHAPES
from torch import nn

import ppl_vae
from ppl_vae.objectives import MMD, WAE, InfoVAE


def test_sites_plates_and_what_objectives_make_of_them() -> None:
    shape = SHAPES["global_in_features"]()
    said = ppl_vae.read(shape.model, shape.guide, *shape.args)
    lines = str(said).splitlines()
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "site role plates model guide shape support weight",
        "w latent features Normal Normal (2,) Real 1",
        "z latent features, data Normal Normal (6, 2) Real 1",
        "x observed features, data Normal - (6, 2) Real 1",
    ]
    assert lines[5] == (
        "data plate: 'data', 6 rows of z; of the plates ['features', 'data'], which hold a latent "
        "site and an observation each"
    )
    assert "6 rows of z, d = 2; z: prior in closed form" in said.objectives["InfoVAE(MMD())"]
    assert "bound" in said.objectives["IWAE(5)"]  # all data as one row, as w ties them


def test_weights_and_a_plate_that_nobody_could_tell() -> None:
    shape = SHAPES["masked"]()
    assert "4 of 6 unmasked" in str(ppl_vae.read(shape.model, shape.guide, *shape.args))
    shape = SHAPES["batch_given"]()
    assert "scale 10" in str(ppl_vae.read(shape.model, shape.guide, *shape.args))
    shape = SHAPES["users_and_items"]()
    said = ppl_vae.read(
        shape.model, shape.guide, *shape.args, objectives={"ELBO": InfoVAE(alpha=0)}
    )
    assert "no data plate: several plates could be the data's, ['users', 'items']" in str(said)
    assert said.objectives["ELBO"].startswith("loss ")
    assert ppl_vae.read(shape.model, shape.guide, *shape.args).objectives["InfoVAE(MMD())"] == (
        "refused: no data plate, as above"
    )
    own = {"each": InfoVAE(sites={"u": (MMD(), 1.0), "v": (MMD(), 1.0)})}
    said = ppl_vae.read(shape.model, shape.guide, *shape.args, objectives=own)
    assert "6 rows of u, d = 1; 2 rows of v, d = 1" in said.objectives["each"]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_put_in_words(name: str) -> None:
    shape = SHAPES[name]()
    said = ppl_vae.read(shape.model, shape.guide, *shape.args, objectives={"WAE": WAE(scale=0)})
    assert "\n\n" in str(said)


def test_nothing_is_trained_and_no_generator_moves() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    shape = SHAPES["flat"]()

    def guide(x: torch.Tensor) -> None:
        pyro.module("net", net)
        shape.guide(net(x))

    torch.manual_seed(0)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    ppl_vae.read(shape.model, guide, *shape.args)
    assert torch.equal(before, torch.get_rng_state())
    assert net.training
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
