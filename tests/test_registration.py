"""Every module trains its own tensors, whatever stands in Pyro's store already."""

import copy

import pyro
import pytest
import torch
from torch import nn

from ppl_vae.bodies import DCGAN
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import StandardNormal
from ppl_vae.program.registration import register


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


def _vae(body=None):
    size = (1, 8, 8)
    options = {} if body is None else {"body": body}
    return VAE(
        StandardNormal(2), Bernoulli(2, size, **options), MeanFieldNormal(size, 2, **options)
    )


def _stored(name):
    store, prefix = pyro.get_param_store(), f"{name}$$$"
    return {
        key.removeprefix(prefix): store[key].unconstrained()
        for key in store
        if key.startswith(prefix)
    }


def _assert_own(name, module):
    stored = _stored(name)
    own = dict(module.named_parameters())
    assert stored.keys() == own.keys()
    assert all(stored[key] is own[key] for key in own)


def test_two_modules_in_one_process_keep_their_own_tensors_and_both_train():
    one, two = _vae(), _vae()
    x = torch.rand(20, 1, 8, 8).round()
    before = [[p.clone() for p in vae.parameters()] for vae in (one, two)]
    for vae in (one, two):
        svi = pyro.infer.SVI(
            vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.TraceMeanField_ELBO()
        )
        svi.step(x)
    _assert_own("VAE", one)
    _assert_own("VAE_2", two)
    for vae, old in zip((one, two), before, strict=True):
        assert all(not torch.equal(p, o) for p, o in zip(vae.parameters(), old, strict=True))


def test_a_repeated_call_is_free_of_effect():
    vae = _vae()
    assert register(vae) == "VAE"
    keys = list(pyro.get_param_store().keys())
    assert register(vae) == "VAE"
    assert list(pyro.get_param_store().keys()) == keys


def test_a_cleared_store_is_filled_again():
    vae = _vae()
    register(_vae())
    assert register(vae) == "VAE_2"
    pyro.clear_param_store()
    assert register(vae) == "VAE"
    _assert_own("VAE", vae)


def test_a_copy_gets_its_own_name():
    vae = _vae()
    register(vae)
    clone = copy.deepcopy(vae)
    assert register(clone) == "VAE_2"
    _assert_own("VAE", vae)
    _assert_own("VAE_2", clone)


def test_a_non_contiguous_parameter_is_refused_and_leaves_the_store_alone():
    vae = _vae(DCGAN).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="contiguous"):
        register(vae)
    assert not list(pyro.get_param_store().keys())
    assert register(vae.to(memory_format=torch.contiguous_format)) == "VAE"


def test_frozen_parameters_are_left_out_also_when_frozen_later():
    vae = _vae()
    frozen = "likelihood.network.layers.1.weight"
    vae.get_parameter(frozen).requires_grad_(False)
    assert register(vae) == "VAE"
    assert frozen not in _stored("VAE")
    # A name that has been given stays when more is frozen: a new one would lose Adam's moments.
    vae.get_parameter("likelihood.network.layers.1.bias").requires_grad_(False)
    with pyro.poutine.trace() as tracer:
        assert register(vae) == "VAE"
    assert "VAE$$$likelihood.network.layers.1.bias" not in tracer.trace


def test_a_module_without_parameters_registers_nothing():
    assert register(StandardNormal(2)) == "StandardNormal"
    assert not list(pyro.get_param_store().keys())


def test_tied_parameters_are_registered_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = self.a

    tied = Tied()
    assert register(tied) == "Tied"
    _assert_own("Tied", tied)


def test_a_change_of_precision_keeps_the_name():
    vae = _vae()
    register(vae)
    vae.double()
    assert register(vae) == "VAE"
    assert all(t.dtype == torch.float64 for t in _stored("VAE").values())
