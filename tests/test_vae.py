"""The pair: its sites, its value on a model known in closed form, training, refusals."""

import copy
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

from ppl_vae.bodies import MLP
from ppl_vae.guides import FullCovarianceNormal, MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli, Normal
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import StandardNormal, VampPrior

SIZE = (1, 4, 4)


def _small(inputs, outputs):
    return MLP(inputs, outputs, hidden=(32,))


def _vae(dim=2):
    return VAE(
        StandardNormal(dim),
        Bernoulli(dim, SIZE, body=_small),
        MeanFieldNormal(SIZE, dim, body=_small),
    )


def test_sites_plate_and_shapes():
    vae = _vae()
    x = torch.rand(7, *SIZE).round()
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x)
    assert guide.stochastic_nodes == ["data", "z"]
    assert [n for n in model.nodes if model.nodes[n]["type"] == "sample"] == ["data", "z", "x"]
    assert model.nodes["data"]["fn"].size == 7
    assert model.nodes["z"]["value"].shape == (7, 2)
    assert model.nodes["z"]["value"] is guide.nodes["z"]["value"]
    assert model.nodes["x"]["is_observed"]
    assert torch.equal(model.nodes["_RETURN"]["value"], x)


def test_unconditioned_the_model_draws_data():
    x = poutine.uncondition(_vae().model)(torch.zeros(5, *SIZE))
    assert x.shape == (5, *SIZE)
    assert x.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_bound_is_the_exact_evidence_at_the_exact_posterior(elbo):
    # x = A z + b + noise: the posterior is normal, and the bound is then tight for every draw.
    d, n, noise = 2, 4, 0.7
    likelihood = Normal(d, (n,), body=lambda i, o: MLP(i, o, hidden=()), scale=noise)
    encoder = FullCovarianceNormal((n,), d, body=lambda i, o: MLP(i, o, hidden=()))
    vae = VAE(StandardNormal(d), likelihood, encoder).double()
    weight, bias = (p.detach() for p in likelihood.parameters())
    covariance = torch.linalg.inv(torch.eye(d) + weight.T @ weight / noise**2)
    factor = torch.linalg.cholesky(covariance)
    scale = factor.diagonal()
    gain = covariance @ weight.T / noise**2
    with torch.no_grad():
        w, b = encoder.parameters()
        w.zero_()
        w[:d] = gain
        b[:d] = -gain @ bias
        start = torch.tensor(math.expm1(encoder.initial_scale - 1e-6)).double().log()
        b[d : 2 * d] = (scale - 1e-6).expm1().log() - start
        b[2 * d :] = (factor / scale[:, None])[encoder.rows, encoder.columns]
    x = torch.randn(6, n, dtype=torch.double)
    evidence = torch.distributions.MultivariateNormal(
        bias, weight @ weight.T + noise**2 * torch.eye(n)
    ).log_prob(x)
    loss = elbo().loss(vae.model, vae.guide, x)
    if elbo is Trace_ELBO:
        assert math.isclose(loss, -evidence.sum().item(), rel_tol=1e-7)
    else:
        losses = torch.tensor(
            [elbo().loss(vae.model, vae.guide, x) for _ in range(400)], dtype=torch.double
        )
        error = losses.std() / 20
        assert abs(losses.mean() + evidence.sum()) < 4.5 * error


def test_trains_under_svi_and_under_a_torch_optimiser_alike():
    x = (torch.rand(64, *SIZE) < 0.2).float()
    by_svi, by_torch = _vae(), None
    by_torch = copy.deepcopy(by_svi)
    svi = SVI(by_svi.model, by_svi.guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    pyro.set_rng_seed(1)
    for _ in range(20):
        svi.step(x)
    pyro.set_rng_seed(1)
    loss = TraceMeanField_ELBO()(by_torch.model, by_torch.guide)
    optimiser = torch.optim.Adam(by_torch.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        losses.append(loss(x))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 64
    for p, q in zip(by_svi.parameters(), by_torch.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vectorised", [False, True])
def test_particles_agree_with_one(vectorised):
    vae, x = _vae(), torch.rand(5, *SIZE).round()
    one = torch.tensor([Trace_ELBO().loss(vae.model, vae.guide, x) for _ in range(400)])
    many = Trace_ELBO(num_particles=400, vectorize_particles=vectorised, max_plate_nesting=1)
    error = one.std() / 20 * 2**0.5
    assert abs(many.loss(vae.model, vae.guide, x) - one.mean()) < 4.5 * error


def test_the_vamp_prior_shares_the_encoder_inside_the_pair():
    encoder = MeanFieldNormal(SIZE, 2, body=_small)
    vae = VAE(VampPrior(encoder, 5), Bernoulli(2, SIZE, body=_small), encoder)
    x = torch.rand(8, *SIZE).round()
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    keys = [k.removeprefix("VAE$$$") for k in pyro.get_param_store()]
    assert sorted(keys) == sorted(dict(vae.named_parameters()))
    assert not [k for k in keys if "prior.encoder" in k]
    clone = copy.deepcopy(vae)
    assert clone.prior.encoder is clone.encoder
    clone.load_state_dict(vae.state_dict())


def test_parts_that_do_not_fit_are_named():
    prior, likelihood = StandardNormal(2), Bernoulli(2, SIZE, body=_small)
    encoder = MeanFieldNormal(SIZE, 2, body=_small)
    with pytest.raises(ValueError, match="StandardNormal is over 3 dimensions, Bernoulli over 2"):
        VAE(StandardNormal(3), likelihood, encoder)
    with pytest.raises(ValueError, match=r"StandardNormal is over 2 .* MeanFieldNormal over 3"):
        VAE(prior, likelihood, MeanFieldNormal(SIZE, 3, body=_small))
    with pytest.raises(ValueError, match=r"Bernoulli .*\(1, 4, 4\), MeanFieldNormal .*\(16,\)"):
        VAE(prior, likelihood, MeanFieldNormal((16,), 2, body=_small))
