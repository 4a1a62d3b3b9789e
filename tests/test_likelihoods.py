"""Likelihoods: densities against SciPy's, shapes, supports, gradients."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from ppl_vae import likelihoods
from ppl_vae.bodies import DCGAN, MLP, ResNet, positive
from ppl_vae.training.guard import check_support

SMALL = partial(MLP, hidden=(16,))
ALL = {
    "Bernoulli": likelihoods.Bernoulli,
    "ContinuousBernoulli": likelihoods.ContinuousBernoulli,
    "Categorical": partial(likelihoods.Categorical, levels=17),
    "Deterministic": likelihoods.Deterministic,
    "Deterministic sigmoid": partial(likelihoods.Deterministic, link="sigmoid"),
    "Poisson": partial(likelihoods.Poisson, mean=3.0),
}
for family in ("Normal", "Laplace"):
    for noise in ("fixed", "shared", "pixel", "network"):
        ALL[f"{family} {noise}"] = partial(
            getattr(likelihoods, family), noise=noise, scale=0.3, link="sigmoid"
        )
for family in ("NegativeBinomial", "ZeroInflatedNegativeBinomial"):
    for dispersion in ("shared", "element", "network"):
        ALL[f"{family} {dispersion}"] = partial(
            getattr(likelihoods, family), dispersion=dispersion, mean=4.0, count=2.0
        )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("size", "body"),
    [((), SMALL), ((5,), SMALL), ((2, 3), SMALL), ((1, 8, 8), DCGAN), ((3, 8, 8), ResNet)],
)
def test_shapes_types_supports_and_gradients(name, size, body):
    p = ALL[name](3, size, body=body).double()
    assert isinstance(p, likelihoods.Likelihood)
    assert (p.dim, p.size) == (3, size)
    for batch in ((), (6,), (2, 6)):
        z = torch.randn(*batch, 3, dtype=torch.double)
        d = p(z)
        assert (d.batch_shape, d.event_shape) == (batch, size)
        x = d.sample()
        assert x.shape == (*batch, *size)
        assert x.dtype == torch.double
        assert d.support.check(x).all()
        assert not d.support.check(torch.full_like(x, math.nan)).any()
        assert d.mean.shape == x.shape
    loss = d.mean.sum() if name.startswith("Deterministic") else d.log_prob(x).sum()
    loss.backward()
    for key, parameter in p.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ALL)
def test_rows_are_independent_of_their_batch(name):
    p = ALL[name](3, (4,), body=SMALL)
    z = torch.randn(5, 3)
    x = p(z).sample()
    if not name.startswith("Deterministic"):
        torch.testing.assert_close(p(z).log_prob(x)[2], p(z[2]).log_prob(x[2]))


def _raw(p, z):
    return [t.detach().double().numpy() for t in p.features(z)]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _log_prob(name, p, z, x):
    """The same density by NumPy and SciPy, from the network's outputs."""
    family, _, kind = name.partition(" ")
    raw = _raw(p, z)
    if family == "Bernoulli":
        return stats.bernoulli(_sigmoid(raw[0])).logpmf(x)
    if family == "ContinuousBernoulli":
        pi = _sigmoid(raw[0])
        return np.log(pi**x * (1 - pi) ** (1 - x) * 2 * np.arctanh(1 - 2 * pi) / (1 - 2 * pi))
    if family == "Categorical":
        logits = np.stack(raw, -1)
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        index = np.round(x * 16).astype(int)[..., None]
        return np.log(np.take_along_axis(probs, index, -1)[..., 0])
    if family in ("Normal", "Laplace"):
        if kind == "fixed":
            scale = 0.3
        else:
            unconstrained = torch.as_tensor(raw[1]) if kind == "network" else p.raw_scale.detach()
            scale = positive(unconstrained.double(), 0.3, 0.005).numpy()
        law = stats.norm if family == "Normal" else stats.laplace
        return law(_sigmoid(raw[0]), scale).logpdf(x)
    if family == "Poisson":
        return stats.poisson(3 * positive(torch.as_tensor(raw[0]), 1.0).numpy()).logpmf(x)
    mean = 4 * positive(torch.as_tensor(raw[0]), 1.0).numpy()
    unconstrained = torch.as_tensor(raw[-1]) if kind == "network" else p.raw_count.detach()
    count = positive(unconstrained.double(), 2.0, 1e-4).numpy()
    pmf = stats.nbinom(count, count / (count + mean)).pmf(x)
    if family == "ZeroInflatedNegativeBinomial":
        gate = _sigmoid(raw[1])
        pmf = gate * (x == 0) + (1 - gate) * pmf
    return np.log(pmf)


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("Deterministic")])
def test_densities_agree_with_scipy(name):
    p = ALL[name](3, (4,), body=SMALL).double()
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    z = torch.randn(50, 3, dtype=torch.double)
    x = p(z).sample()
    expected = _log_prob(name, p, z, x.numpy()).sum(-1)
    np.testing.assert_allclose(p(z).log_prob(x).detach().numpy(), expected, rtol=1e-8)


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("Deterministic")])
def test_draws_have_the_mean_and_variance_of_the_distribution(name):
    p = ALL[name](3, (4,), body=SMALL).double()
    d = p(torch.randn(3, dtype=torch.double))
    x = d.sample((20_000,))
    for got, expected in ((x, d.mean), ((x - d.mean).square(), d.variance)):
        error = got.std(0) / 20_000**0.5
        assert ((got.mean(0) - expected).abs() < 4.5 * error + 1e-12).all()


@pytest.mark.parametrize(
    "name", [n for n in ALL if n.startswith(("Poisson", "NegativeBinomial", "ZeroInflated"))]
)
def test_counts_sum_to_one(name):
    p = ALL[name](3, (), body=SMALL).double()
    d = p(torch.zeros(3, dtype=torch.double))
    x = torch.arange(400, dtype=torch.double)
    assert abs(d.log_prob(x).exp().sum() - 1) < 1e-8


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("Bernoulli", 1.5),
        ("ContinuousBernoulli", -0.1),
        ("Categorical", 0.51),
        ("Poisson", 0.5),
        ("NegativeBinomial shared", -1.0),
        ("ZeroInflatedNegativeBinomial shared", 0.5),
    ],
)
def test_supports_exclude_wrong_data(name, bad):
    d = ALL[name](3, (4,), body=SMALL)(torch.zeros(2, 3))
    x = torch.zeros(2, 4)
    assert d.support.check(x).all()
    x[1, 2] = bad
    assert d.support.check(x).tolist() == [True, False]


def test_grey_images_fit_256_levels_and_bernoulli():
    x = torch.arange(256).float().div(255).reshape(1, 256)
    for p in (likelihoods.Categorical, likelihoods.Bernoulli):
        assert p(2, (256,), body=SMALL)(torch.zeros(1, 2)).support.check(x).all()


@pytest.mark.parametrize("family", ["Normal", "Laplace"])
@pytest.mark.parametrize(
    ("noise", "shape"), [("fixed", None), ("shared", ()), ("pixel", (2, 3)), ("network", None)]
)
def test_noise_is_what_was_asked_and_keeps_above_its_floor(family, noise, shape):
    p = getattr(likelihoods, family)(3, (2, 3), noise=noise, scale=0.5, floor=0.1, body=SMALL)
    own = {k: tuple(v.shape) for k, v in p.named_parameters() if "network" not in k}
    assert own == ({} if shape is None else {"raw_scale": shape})
    z = torch.randn(7, 3)
    scale = p(z).base_dist.scale
    assert scale.shape == (7, 2, 3)
    if noise != "network":
        torch.testing.assert_close(scale, torch.full_like(scale, 0.5))
        if noise != "fixed":
            with torch.no_grad():
                p.raw_scale.fill_(-100.0)
            torch.testing.assert_close(p(z).base_dist.scale, torch.full_like(scale, 0.1))
    else:
        assert (scale.std(0) > 0).all()
        assert (scale > 0.1).all()


def test_outputs_of_an_image_are_so_many_times_its_channels():
    p = likelihoods.Normal(3, (2, 8, 8), noise="network", body=DCGAN)
    y = p.network(torch.zeros(1, 3))
    assert y.shape == (1, 4, 8, 8)
    loc, raw = p.features(torch.zeros(1, 3))
    torch.testing.assert_close(loc, y[:, :2])
    torch.testing.assert_close(raw, y[:, 2:])


def test_the_deterministic_decoder_gives_its_value_as_the_mean():
    p = likelihoods.Deterministic(3, (1, 8, 8), link="sigmoid", body=SMALL)
    d = p(torch.randn(5, 3))
    torch.testing.assert_close(d.mean, d.sample())
    assert ((d.mean > 0) & (d.mean < 1)).all()


def test_means_start_where_told():
    for name, mean in (("Poisson", 3.0), ("NegativeBinomial shared", 4.0)):
        p = ALL[name](3, (5,), body=SMALL)
        with torch.no_grad():
            for parameter in p.network.layers[-2].parameters():
                parameter.zero_()
        got = p(torch.randn(200, 3)).mean
        torch.testing.assert_close(got, torch.full_like(got, mean))


def test_zero_inflated_counts_may_be_as_dispersed_as_they_come():
    p = likelihoods.ZeroInflatedNegativeBinomial(3, (4,), body=SMALL, mean=2e4, count=1.0)
    with torch.no_grad():
        p.raw_count.fill_(-20.0)
    x, d = torch.tensor([0.0, 1.0, 50.0, 3000.0]), p(torch.randn(2, 3)).base_dist
    assert (d.probs == 1).all()  # rounded: the logit is log(mean / count), about 19
    count, logits, gate = (
        t.detach().double().numpy() for t in (d.total_count, d.logits, d.gate_logits)
    )
    pmf = stats.nbinom(count, _sigmoid(-logits)).pmf(x.numpy())
    exact = np.log(_sigmoid(gate) * (x.numpy() == 0) + _sigmoid(-gate) * pmf)
    eps = torch.finfo(torch.float32).eps
    np.testing.assert_allclose(d.log_prob(x).detach().numpy(), exact, rtol=8 * eps, atol=8 * eps)


def test_zero_inflated_counts_are_checked_all_the_same():
    p = likelihoods.ZeroInflatedNegativeBinomial(3, (4,), body=SMALL)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", p(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    x = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.5, 3.0]])
    check_support(model, guide, (x[:1],), x[:1])
    with pytest.raises(ValueError, match=r"'x' is ZeroInflatedNegativeBinomial.* is 2\.5"):
        check_support(model, guide, (x,), x)
    with pytest.raises(ValueError, match="support"):
        p(torch.zeros(2, 3)).log_prob(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.Normal(3, (2,), scale=0.0), "scale must be above 0"),
        (lambda: likelihoods.Normal(3, (2,), noise="shared", scale=0.005), "above 0.005"),
        (lambda: likelihoods.Categorical(3, (2,), levels=1), "at least 2 levels"),
        (lambda: likelihoods.Bernoulli(0, (2,)), "at least 1"),
        (lambda: likelihoods.Bernoulli(2, (1, 9, 9), body=DCGAN), "divisible by 4"),
        (lambda: likelihoods.Bernoulli(2, (3,))(torch.zeros(5, 3)), r"\(\.\.\., 2\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
