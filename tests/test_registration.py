"""Every module trains its own tensors, whatever stands in Pyro's store already."""

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from ppl_vae.bodies import DCGAN
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli, Normal
from ppl_vae.objectives import MMD, Adversarial, BetaVAE, InfoVAE
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import StandardNormal
from ppl_vae.program.registration import register
from ppl_vae.training import fit
from ppl_vae.training.run import Run
from ppl_vae.training.weights import load


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
    vae, other = _vae(), _vae()
    assert register(other) == "VAE"
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


# Pairs of a user's own, whose modules are registered under names that a second pair takes too.


def _latent(loc):
    with pyro.plate("data", len(loc)):
        m, r = loc.chunk(2, -1)
        pyro.sample("z", dist.Normal(m, (r - 2).exp()).to_event(1))


def _observed(x, decode):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decode(z), 1.0).to_event(1), obs=x)


def _functions(width=4, update=False, names=("enc", "dec"), prior_first=False):
    enc = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 4))
    dec = nn.Linear(2, 6)

    def model(x):
        pyro.module(names[1], dec, update_module_params=update)
        _observed(x, dec)

    def guide(x):
        pyro.module(names[0], enc, update_module_params=update)
        _latent(enc(x))

    if prior_first:
        model(DATA)
    return model, guide, [enc, dec]


class _Encoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.first = PyroModule[nn.Linear](6, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        _latent(self.second(self.first(x)))


class _Decoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Sequential](
            *[PyroModule[nn.Linear](*n) for n in ((2, 3), (3, 6))]
        )

    def forward(self, x):
        _observed(x, self.net)


def _pyro_modules():
    model, guide = _Decoder(), _Encoder()
    return model, guide, [model, guide]


def _callables():
    enc, dec = nn.Linear(6, 4), nn.Linear(2, 6)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.dec = enc, dec

        def model(self, x):
            pyro.module("both", self)
            _observed(x, self.dec)

        def guide(self, x):
            pyro.module("both", self)
            _latent(self.enc(x))

    both = Both()
    return both.model, both.guide, [both]


DATA = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
PAIRS = {
    "functions": _functions,
    "model run first": partial(_functions, prior_first=True),
    "pyro modules": _pyro_modules,
    "methods": _callables,
}


def _by_svi(model, guide, steps=2):
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), InfoVAE(MMD(), scale=2.0))
    for _ in range(steps):
        svi.step(DATA)


def _by_fit(model, guide, objective=None, **options):
    adam = pyro.optim.Adam({"lr": 0.05})
    objective = objective or InfoVAE(MMD(), scale=2.0)
    fit(model, guide, DATA, objective, adam, epochs=2, tensorboard=False, **options)


TRAINERS = {
    "svi": _by_svi,
    "fit": _by_fit,
    "fit by Trace_ELBO": lambda model, guide: _by_fit(model, guide, pyro.infer.Trace_ELBO()),
}


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_a_cell_run_again_trains_its_new_networks(make, train):
    for _ in range(3):
        model, guide, modules = make()
        parameters = [p for module in modules for p in module.parameters()]
        before = [p.detach().clone() for p in parameters]
        train(model, guide)
        # Adam moves each entry that has a gradient by about the learning rate, step by step
        moved = [(p - b).abs().max().item() for p, b in zip(parameters, before, strict=True)]
        assert min(moved) > 0.04
        assert all(p.grad is None or not p.grad.any() for p in parameters)


def test_the_saved_weights_are_those_that_ran(tmp_path):
    for name in "ab":
        model, guide, (enc, dec) = _functions()
        _by_fit(model, guide, out=tmp_path / name)
        saved = Run(tmp_path / name).load_weights()
        assert torch.equal(saved["param.enc$$$0.weight"], enc[0].weight)
        assert torch.equal(saved["param.dec$$$weight"], dec.weight)
    # and loading moves the pair that is given, not the one before it
    model, guide, (enc, _) = _functions()
    load(saved, model, guide, None, DATA)
    assert torch.equal(enc[0].weight, saved["param.enc$$$0.weight"])


def test_networks_of_another_width_take_a_name_over():
    for width in (4, 7, 3):
        model, guide, (enc, _) = _functions(width)
        before = enc[0].weight.detach().clone()
        _by_svi(model, guide)
        assert (enc[0].weight - before).abs().max() > 0.04
    assert len(pyro.get_param_store()) == 6


def test_pairs_of_one_name_are_trained_in_turn_by_one_objective():
    pairs = [_functions(), _functions()]
    objective = InfoVAE(MMD(), scale=2.0)
    svis = [
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), objective)
        for model, guide, _ in pairs
    ]
    for _ in range(2):
        for svi, (_, _, (enc, _)) in zip(svis, pairs, strict=True):
            before = enc[0].weight.detach().clone()
            svi.step(DATA)
            assert (enc[0].weight - before).abs().max() > 0.02


def test_a_network_behind_a_global_name_is_seen_when_it_is_replaced():
    nets = {}

    def model(x):
        pyro.module("dec", nets["dec"])
        _observed(x, nets["dec"])

    def guide(x):
        pyro.module("enc", nets["enc"])
        _latent(nets["enc"](x))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), InfoVAE(MMD(), scale=2.0))
    for _ in range(2):
        nets |= {"enc": nn.Linear(6, 4), "dec": nn.Linear(2, 6)}
        before = nets["enc"].weight.detach().clone()
        svi.step(DATA)
        assert (nets["enc"].weight - before).abs().max() > 0.04


def test_a_copy_that_pyro_stores_gives_way_to_the_module():
    # Pyro keeps a copy of what is not contiguous
    model, guide, (enc, _) = _functions()
    enc[0].weight = nn.Parameter(torch.rand(6, 4).T)
    before = enc[0].weight.detach().clone()
    _by_svi(model, guide)
    assert (enc[0].weight - before).abs().max() > 0.04


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_two_modules_of_one_name_are_refused(train):
    enc, dec = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(x):
        pyro.module("net", dec)
        _observed(x, dec)

    def guide(x):
        pyro.module("net", enc)
        _latent(enc(x))

    with pytest.raises(ValueError, match=r"'net.weight' is of two modules of that name") as error:
        train(model, guide)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_a_module_made_anew_at_each_run_is_refused(train):
    model, *_ = _functions()

    def guide(x):
        enc = nn.Linear(6, 4)
        pyro.module("enc", enc)
        _latent(enc(x))

    with pytest.raises(ValueError, match=r"'enc\.\w+' is .* one made anew at each run"):
        train(model, guide)


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_what_is_read_from_the_store_goes_on_from_there(train):
    model, guide, (enc, _) = _functions(update=True)
    train(model, guide)
    last = enc[0].weight.detach().clone()
    model, guide, (enc, _) = _functions(update=True)
    train(model, guide)
    # two steps of .05 from the last weights, and from no new ones (spread evenly over +-.4)
    assert (enc[0].weight - last).abs().max() < 0.15
    assert not torch.equal(enc[0].weight, last)
    model, guide, _ = _functions(7, update=True)
    with pytest.raises(ValueError, match=r"'enc\.\d\.\w+' has shape .* is asked for"):
        train(model, guide)


def test_a_value_that_is_asked_for_with_a_new_tensor_each_time_is_the_stored_one():
    model, *_ = _functions()

    def guide(x):
        w = pyro.param("w", nn.Parameter(torch.zeros(6, 4)))
        _latent(x @ w)

    _by_svi(model, guide)
    assert pyro.param("w").abs().min() > 0.01
    assert pyro.param("w").abs().max() < 0.11


def _scaled(shape, constraint=dist.constraints.real):
    model, *_ = _functions()

    def guide(x):
        scale = pyro.param("scale", torch.ones(shape), constraint=constraint)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], scale.mean()).to_event(1))

    return model, guide


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_a_parameter_of_another_shape_or_constraint_is_refused_in_one_line(train):
    train(*_scaled(3))
    with pytest.raises(ValueError, match=r"'scale' has shape \(3,\) in .*\(5,\)") as error:
        train(*_scaled(5))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"'scale' is asked for under the constraint") as error:
        train(*_scaled(3, dist.constraints.positive))
    assert "\n" not in str(error.value)
    train(*_scaled((1, 3)))  # sizes of 1 make no difference


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_an_automatic_guide_of_another_shape_is_refused_by_name(train):
    def model(x, d):
        m = pyro.sample("m", dist.Normal(torch.zeros(d), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m.sum(), 1.0).expand([6]).to_event(1), obs=x)

    objective = BetaVAE()

    def run(d):
        of_d = partial(model, d=d)
        if train is _by_svi:
            svi = pyro.infer.SVI(of_d, AutoNormal(of_d), pyro.optim.Adam({"lr": 0.05}), objective)
            svi.step(DATA)
        else:
            chosen = objective if train is _by_fit else pyro.infer.Trace_ELBO()
            _by_fit(of_d, AutoNormal(of_d), chosen)

    run(3)
    run(3)
    with pytest.raises(ValueError, match=r"'AutoNormal.locs.m' has shape \(3,\).*\(2,\)"):
        run(2)


def test_a_pyro_param_of_another_shape_is_refused_by_fit():
    model, *_ = _functions()

    class Guide(PyroModule):
        def __init__(self, d):
            super().__init__()
            self.scale = PyroParam(torch.ones(d), dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, :2], self.scale).to_event(1))

    _by_fit(model, Guide(1))
    with pytest.raises(ValueError, match=r"'scale' has shape \(1,\).*\(2,\)"):
        _by_fit(model, Guide(2))


def test_parameters_local_to_a_module_are_refused_by_fit():
    with (
        pyro.settings.context(module_local_params=True),
        pytest.raises(ValueError, match=r"is local to its module.*module_local_params=False"),
    ):
        _by_fit(*_pyro_modules()[:2])


def test_finished_fits_leave_nothing_that_grows():
    sizes = []
    for _ in range(6):
        vae = VAE(StandardNormal(2), Normal(2, (6,)), MeanFieldNormal((6,), 2))
        critic = InfoVAE(Adversarial(dim=2))
        _by_fit(vae.model, vae.guide, critic)
        store = pyro.get_param_store()
        sizes.append((len(store), len(store._param_to_name), len(store._constraints)))
    # this pair and the one before it, which goes when the next is registered
    assert sizes[1:] == sizes[1:2] * 5
    _by_fit(vae.model, vae.guide, critic)
    _by_svi(vae.model, vae.guide)
    before = [p.detach().clone() for p in vae.parameters()]
    _by_svi(vae.model, vae.guide)
    assert all(not torch.equal(p, b) for p, b in zip(vae.parameters(), before, strict=True))


def test_a_part_that_outlives_its_pair_stays_registered_with_the_next():
    encoder = MeanFieldNormal((6,), 2)
    first, second = (VAE(StandardNormal(2), Normal(2, (6,)), encoder) for _ in range(2))
    assert register(first) == "VAE"
    assert register(second) == "VAE_2"
    del first
    assert register(second) == "VAE_2"
    assert not _stored("VAE")
    _assert_own("VAE_2", second)
    store = pyro.get_param_store()
    assert {store.param_name(p) for p in second.parameters()} == set(store)
