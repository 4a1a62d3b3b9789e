"""The guide against NUTS, and the gaps, where both are known in closed form."""

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from ppca import PPCA, logdet
from torch import nn

from ppl_vae.diagnostics import against_nuts
from ppl_vae.diagnostics.gaps import _student
from ppl_vae.diagnostics.nuts import _compare

_QUICK = {"draws": 120, "warmup": 80, "seed": 0}


def _within(values, error, truth=0.0):
    assert np.abs((values - truth) / error).max() < 4.5


@pytest.fixture(scope="module")
def ppca():
    return PPCA.make(dim=2, features=5)


@pytest.fixture(scope="module")
def exact(ppca):
    x = ppca.sample(100)
    return x, against_nuts(ppca.model, ppca.guide, x, rows=3, **_QUICK)


def test_nuts_has_the_true_posterior(ppca, exact):
    x, result = exact
    draws = result.nuts["z"].reshape(-1, 3, 2)
    sd = ppca.covariance.diagonal().sqrt().numpy()
    _within(draws.mean(0), sd / np.sqrt(result.ess["z"]), ppca.codes(x[result.rows]).numpy())
    assert result.rhat["z"].max() < 1.1
    assert result.ess["z"].min() > 100
    assert result.divergences == 0
    assert list(result.rows) == [0, 50, 99]


def test_the_exact_guide_is_near_zero(ppca, exact):
    x, result = exact
    _within(result.shift["z"], result.shift_error["z"])
    _within(result.log_scale["z"], result.log_scale_error["z"])
    assert result.wasserstein["z"].max() < 0.2
    evidence = ppca.log_likelihood(x[result.rows]).numpy()
    gaps = result.gaps
    _within(gaps.evidence, gaps.evidence_error, evidence)
    assert gaps.evidence_k.max() < 0.7
    np.testing.assert_allclose(gaps.elbo, evidence, rtol=1e-8)
    np.testing.assert_allclose(gaps.refined, evidence, rtol=1e-6)
    _within(gaps.inference, gaps.evidence_error)
    assert np.abs(gaps.amortisation).max() < 1e-5


def test_spreads_of_a_few_draws_divide_by_n_minus_one():
    """Guide and NUTS have different numbers of draws, so that n would not cancel."""
    rng = np.random.default_rng(0)
    q, p = rng.standard_normal((10, 3)), rng.standard_normal((2, 15, 3))
    found = _compare(q, p)
    flat = p.reshape(30, 3)
    sd = flat.std(0, ddof=1)
    np.testing.assert_allclose(found["log_scale"], np.log(q.std(0, ddof=1) / sd))
    np.testing.assert_allclose(found["shift"], (q.mean(0) - flat.mean(0)) / sd)


def test_the_proposal_of_the_evidence_has_the_chains_covariance():
    """Few draws: shrunk to the diagonal, which is the chains' own with n - 1."""
    draws = torch.randn(6, 2, 3, dtype=torch.double)
    for count, weight in ((6, 1.0), (12, 0.5)):
        chain = draws if count == 6 else torch.cat([draws, 2 * draws.flip(2)])
        scale = _student(chain).scale_tril
        for row in range(2):
            cov = np.cov(chain[:, row].T.numpy(), ddof=1)
            expected = (1 - weight) * cov + weight * np.diag(np.diag(cov))
            np.testing.assert_allclose((scale @ scale.mT)[row], expected, rtol=1e-10)


def test_half_the_variance(ppca):
    p = dataclasses.replace(ppca, covariance=ppca.covariance / 2)
    result = against_nuts(p.model, p.guide, p.sample(100), rows=3, **_QUICK)
    _within(result.shift["z"], result.shift_error["z"])
    _within(result.log_scale["z"], result.log_scale_error["z"], math.log(0.5) / 2)
    assert (result.log_scale["z"] < -0.15).all()
    # KL(N(m, S/2) || N(m, S)) in two dimensions; the family holds the posterior.
    kl = math.log(2) - 0.5
    gaps = result.gaps
    _within(gaps.inference, np.hypot(gaps.evidence_error, gaps.elbo_error), kl)
    _within(gaps.amortisation, np.hypot(gaps.elbo_error, gaps.refined_error) + 1e-6, kl)
    _within(gaps.approximation, np.hypot(gaps.evidence_error, gaps.refined_error) + 1e-6)


def test_family_and_encoder_are_told_apart():
    """A shifted mean-field guide of a correlated posterior pays for both."""
    p = PPCA.make(dim=2, features=2, seed=7)
    shift = torch.tensor([0.4, -0.3], dtype=torch.double)
    guide = dataclasses.replace(p.mean_field(), shift=shift)
    result = against_nuts(p.model, guide.guide, p.sample(50), rows=2, **_QUICK)
    precision = torch.linalg.inv(p.covariance)
    # The best mean-field normal has the posterior's mean and the inverse diagonal precision.
    best = precision.diagonal().reciprocal().diag()
    approximation = 0.5 * (logdet(p.covariance) - logdet(best))
    diagonal = guide.covariance
    inference = 0.5 * float(
        (precision @ diagonal).trace() + shift @ precision @ shift - 2
    ) + 0.5 * (logdet(p.covariance) - logdet(diagonal))
    assert approximation > 0.1
    assert inference > approximation + 0.1
    gaps = result.gaps
    _within(gaps.inference, np.hypot(gaps.evidence_error, gaps.elbo_error), inference)
    # The search ends within a thousandth of a nat of the optimum.
    error = np.hypot(gaps.evidence_error, gaps.refined_error)
    assert (np.abs(gaps.approximation - approximation) < 4.5 * error + 1e-3).all()
    error = np.hypot(gaps.elbo_error, gaps.refined_error)
    assert (np.abs(gaps.amortisation - (inference - approximation)) < 4.5 * error + 1e-3).all()
    sd = p.covariance.diagonal().sqrt()
    _within(result.shift["z"], result.shift_error["z"], (shift / sd).numpy())


def test_positive_latents(double):
    """Gamma-Poisson: the evidence needs the Jacobian of the unconstraining map."""
    a, b = 2.0, 1.5

    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(a, b))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(a + x, b + 1.0))

    x = torch.tensor([0.0, 1.0, 2.0, 5.0])
    result = against_nuts(model, guide, x, rows=4, **_QUICK)
    gaps = result.gaps
    evidence = dist.GammaPoisson(a, b).log_prob(x).numpy()
    _within(gaps.evidence, gaps.evidence_error, evidence)
    assert gaps.evidence_error.max() < 0.05
    np.testing.assert_allclose(gaps.elbo, evidence, atol=1e-8)
    _within(result.shift["rate"], result.shift_error["rate"])
    # Its parameters are found again by the search: nothing to gain.
    assert np.abs(gaps.amortisation).max() < 1e-3


def test_a_vae_is_left_as_it_was(double):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))
            self.encoder = nn.Linear(4, 2)

        def model(self, x):
            pyro.module("net", self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("net", self)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.7).to_event(1))

    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    result = against_nuts(
        net.model, net.guide, torch.randn(5, 4), rows=[4, 1], draws=12, warmup=12, seed=0
    )
    assert list(result.rows) == [4, 1]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert net.decoder[1].training
    assert result.gaps is not None
    assert np.isfinite(list(result.summary().values())).all()


@pytest.mark.parametrize(
    "name", ["chain_bottom_up", "global_and_local", "nested_plates", "plate_at_minus_two"]
)
def test_model_shapes(name):
    pair = PAIRS[name]()
    result = against_nuts(
        pair.model,
        pair.guide,
        pair.args,
        rows=2,
        draws=12,
        warmup=12,
        guide_draws=50,
        seed=0,
        plate=pair.keywords.get("plate"),
    )
    assert set(result.nuts) == set(pair.local)
    assert np.isfinite(result.gaps.evidence).all()
    # A guide that draws one latent given another has no parameters for each datum alone.
    assert (result.gaps.refined is None) == (name == "chain_bottom_up")


def test_the_nested_latents_keep_their_places(double):
    """u at (datum, time) has its own posterior: N(x / 2, 1 / 2)."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("time", 3, dim=-2):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("time", 3, dim=-2):
            pyro.sample("u", dist.Normal(x.T / 2, math.sqrt(0.5)))

    x = 4 * torch.randn(6, 3)
    result = against_nuts(model, guide, x, rows=[1, 3], plate="data", **_QUICK)
    assert result.nuts["u"].shape == (2, 120, 2, 3)
    truth = x[[1, 3]].numpy() / 2
    error = math.sqrt(0.5) / np.sqrt(result.ess["u"])
    _within(result.nuts["u"].reshape(-1, 2, 3).mean(0), error, truth)
    np.testing.assert_allclose(result.gaps.elbo, _marginal(x[[1, 3]]), rtol=1e-8)
    _within(result.gaps.evidence, result.gaps.evidence_error, _marginal(x[[1, 3]]))


def _marginal(x):
    return dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1).numpy()


def test_a_deterministic_guide_has_distances_and_no_gaps(ppca):
    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(ppca.codes(x), event_dim=1))

    x = ppca.sample(10)
    result = against_nuts(ppca.model, point, x, rows=2, draws=12, warmup=12, seed=0)
    assert result.gaps is None
    assert (result.log_scale["z"] == -np.inf).all()


def test_bad_input(ppca):
    x = ppca.sample(5)
    options = {"draws": 10, "warmup": 10}
    with pytest.raises(ValueError, match="asked for 6 data, there are 5"):
        against_nuts(ppca.model, ppca.guide, x, rows=6, **options)
    with pytest.raises(ValueError, match="between 0 and 4"):
        against_nuts(ppca.model, ppca.guide, x, rows=[5], **options)
    with pytest.raises(ValueError, match="each once"):
        against_nuts(ppca.model, ppca.guide, x, rows=[1, 1], **options)
    with pytest.raises(ValueError, match="chains must be"):
        against_nuts(ppca.model, ppca.guide, x, rows=2, chains=1, **options)

    def labels(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k, 1.0).expand([len(x)]), obs=x[:, 0])

    def label_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="discrete"):
        against_nuts(labels, label_guide, x.float(), rows=2, **options)

    def fixed(x):
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def fixed_guide(x):
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="take their size from the arguments"):
        against_nuts(fixed, fixed_guide, x.float(), rows=2, **options)
