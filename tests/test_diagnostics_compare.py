"""Which model is better: evidence by datum, and what ArviZ makes of latents of either kind."""

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from ppca import PPCA
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

from ppl_vae import compare, load
from ppl_vae.cli.commandline import configured
from ppl_vae.data import Digits
from ppl_vae.diagnostics import to_arviz
from ppl_vae.diagnostics._arviz import arviz
from ppl_vae.diagnostics.importance import ParetoK, unseen
from ppl_vae.diagnostics.pair import Pair
from ppl_vae.evaluation import nll
from ppl_vae.evaluation.weights import threshold
from ppl_vae.loading import build

pytestmark = pytest.mark.usefixtures("unpainted")

_SPREAD = 1.5  # of the global mean's prior


def _widened(p, factor):
    return dataclasses.replace(p, covariance=p.covariance * factor)


def _relative_variance(p, widening):
    """V[w] / E[w]^2 where q has `widening` times the covariance of the Gaussian posterior."""
    return (widening**2 / (2 * widening - 1)) ** (p.dim / 2) - 1


def _around(p, widening=1.0):
    """PPCA around a global mean m ~ N(0, s^2 I), both guides exact but for the local widening."""

    def posterior(x):
        precision = torch.linalg.inv(p.marginal)
        eye = torch.eye(len(p.mean), dtype=x.dtype)
        covariance = torch.linalg.inv(eye / _SPREAD**2 + len(x) * precision)
        return covariance @ precision @ x.sum(0), covariance

    def model(x):
        m = pyro.sample("m", dist.Normal(torch.zeros_like(p.mean), _SPREAD).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(p.shift.new_zeros(p.dim), 1.0).to_event(1))
            loc = z @ p.weight.T + m
            pyro.sample("x", dist.Normal(loc, p.noise).to_event(1), obs=x)

    def guide(x):
        m = pyro.sample("m", dist.MultivariateNormal(*posterior(x)))
        with pyro.plate("data", len(x)):
            loc = (x - m) @ p.gain.T
            pyro.sample("z", dist.MultivariateNormal(loc, widening * p.covariance))

    def leave_one_out(x):
        """log p(x_i | x_-i)."""
        out = []
        for i in range(len(x)):
            mean, covariance = posterior(torch.cat([x[:i], x[i + 1 :]]))
            fn = torch.distributions.MultivariateNormal(mean, covariance + p.marginal)
            out.append(float(fn.log_prob(x[i])))
        return np.array(out)

    return model, guide, leave_one_out


def _log_likelihood(tree):
    return np.asarray(tree["log_likelihood"]["x"].values)[0]


def _elpd(loo):
    return float(getattr(loo, "elpd_loo", getattr(loo, "elpd", np.nan)))


def test_a_pair_of_local_latents_has_no_log_likelihood_unless_asked_by_name():
    p = PPCA.make()
    x = p.sample(4)
    assert "log_likelihood" not in to_arviz(p.model, p.guide, x, draws=3)
    with pytest.raises(ValueError, match=r"ppl_vae\.compare"):
        to_arviz(p.model, p.guide, x, draws=3, groups=("posterior", "log_likelihood"))
    tree = to_arviz(p.model, p.guide, x, draws=3, log_likelihood="conditional")
    z = torch.as_tensor(np.asarray(tree["posterior"]["z"].values)[0])
    fit = dist.Normal(z @ p.weight.T + p.mean, p.noise).log_prob(x).sum(-1)
    np.testing.assert_allclose(_log_likelihood(tree), fit, rtol=1e-10)
    with pytest.raises(ValueError, match="'marginal', 'conditional' or 'pointwise'"):
        to_arviz(p.model, p.guide, x, log_likelihood="joint")


def test_global_latents_alone_keep_the_plain_one(double):
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(0.3, 0.5))

    x = torch.randn(5)
    tree = to_arviz(model, guide, x, draws=7, seed=0)
    m = torch.as_tensor(np.asarray(tree["posterior"]["m"].values)[0])
    expected = dist.Normal(m[:, None], 1.0).log_prob(x)
    np.testing.assert_allclose(_log_likelihood(tree), expected, rtol=1e-10)
    assert "bias" not in tree["log_likelihood"].attrs


def test_local_latents_are_integrated_given_the_global_ones():
    p = PPCA.make(dim=2, features=4)
    x = p.sample(40)
    inner, widening = 100, 1.5
    model, guide, _ = _around(p, widening)
    tree = to_arviz(model, guide, x, draws=20, inner_draws=inner, seed=0)
    m = torch.as_tensor(np.asarray(tree["posterior"]["m"].values)[0])
    exact = torch.distributions.MultivariateNormal(m[:, None], p.marginal).log_prob(x).numpy()
    off = _log_likelihood(tree) - exact
    # The weights are functions of the noise alone, which all draws of m share.
    assert np.ptp(off, axis=0).max() < 1e-8
    squared = _relative_variance(p, widening) / inner
    assert abs(off[0].mean() + squared / 2) < 4.5 * math.sqrt(squared / len(x))
    np.testing.assert_allclose(off[0].std(), math.sqrt(squared), rtol=4.5 / math.sqrt(2 * 40))
    attrs = tree["log_likelihood"].attrs
    assert attrs["inner_draws"] == inner
    # V[w] is below 1 / 8 and (w - 1)^2 below 1: the variance of the latter is below the former.
    spread = 1 / math.sqrt(_relative_variance(p, widening) * inner * len(x))
    assert attrs["bias"] == pytest.approx(-squared / 2, rel=4.5 * spread)


@pytest.mark.parametrize("vectorises", [True, False])
def test_the_globals_of_an_automatic_guide_are_held(vectorises, double, monkeypatch):
    """An exact local guide given them makes every weight the density, if both run at one draw."""

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 2.0).to_event(1))
        tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            if not vectorises and z.dim() > 2:
                raise ValueError("one batch dimension only")
            pyro.sample("x", dist.Normal(w * z, tau[..., None]).to_event(1), obs=x)

    latents = AutoNormal(poutine.block(model, hide=["z"]))

    def guide(x):
        drawn = latents(x)
        w, tau = drawn["w"], drawn["tau"][..., None]
        variance = 1 / (1 + (w / tau) ** 2)
        with pyro.plate("data", len(x)):
            loc = variance * w * x / tau**2
            pyro.sample("z", dist.Normal(loc, variance.sqrt()).to_event(1))

    monkeypatch.setattr("ppl_vae.diagnostics.marginal._KHAT_DRAWS", 25)
    x = torch.randn(6, 3)
    assert Pair(model, guide, x).vectorise == vectorises
    options = {"groups": ("posterior", "log_likelihood"), "inner_draws": 3, "seed": 0}
    tree = to_arviz(model, guide, x, draws=4, **options)
    drawn = {k: torch.as_tensor(tree["posterior"][k].values[0]) for k in ("w", "tau")}
    sd = (drawn["w"] ** 2 + drawn["tau"][:, None] ** 2).sqrt()[:, None]
    exact = dist.Normal(0.0, sd).log_prob(x).sum(-1)
    np.testing.assert_allclose(_log_likelihood(tree), exact, rtol=1e-8)


class _Implicit(dist.Normal):
    def log_prob(self, value):
        raise NotImplementedError


@pytest.mark.parametrize("fn", [_Implicit, lambda loc, scale: dist.Delta(loc)])
def test_a_local_guide_without_a_density_integrates_nothing(fn):
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(0.0, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn(x / 2, 1.0))

    x = torch.randn(4)
    tree = to_arviz(model, guide, x, draws=2)
    assert "posterior" in tree
    assert "log_likelihood" not in tree
    with pytest.raises(ValueError, match="no log_likelihood: the guide"):
        to_arviz(model, guide, x, draws=2, groups=("log_likelihood",))
    assert "log_likelihood" in to_arviz(model, guide, x, draws=2, log_likelihood="conditional")


def test_a_poor_guide_is_warned_of():
    p = PPCA.make(dim=2, features=4)
    model, guide, _ = _around(p, 0.15)
    options = {"draws": 2, "inner_draws": 2, "seed": 0}
    with pytest.warns(UserWarning, match="do not compare models by it") as caught:
        to_arviz(model, guide, p.sample(20), **options)
    assert [w.filename for w in caught] == [__file__]
    tree = to_arviz(model, guide, p.sample(20), log_likelihood="conditional", **options)
    assert "bias" not in tree["log_likelihood"].attrs


def test_several_observed_sites_are_one_variable(double):
    def model(x, y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(x, y):
        m = pyro.sample("m", dist.Normal(0.0, 0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((m + x + y) / 3, math.sqrt(1 / 3)))

    x, y = torch.randn(2, 5)
    tree = to_arviz(model, guide, (x, y), draws=3, inner_draws=2, seed=0)
    m = torch.as_tensor(np.asarray(tree["posterior"]["m"].values)[0])[:, None, None]
    cov = torch.eye(2) + 1
    exact = dist.MultivariateNormal(m.expand(3, 1, 2), cov).log_prob(torch.stack([x, y], -1))
    assert list(tree["log_likelihood"].data_vars) == ["joint"]
    np.testing.assert_allclose(tree["log_likelihood"]["joint"].values[0], exact, rtol=1e-8)


def test_arviz_ranks_as_exact_leave_one_out_does():
    """And the conditional density does not: nats too high, the looser model first."""
    az = arviz()
    p = PPCA.make(dim=2, features=4)
    x = p.sample(40) + torch.tensor([0.5, -0.5, 0.0, 1.0], dtype=torch.double)
    # Ten times the loadings fit every datum better, and expect data ten times as far out.
    loose = PPCA.make(dim=4, features=4, noise=0.3, seed=1)
    loose = dataclasses.replace(loose, weight=10 * loose.weight)
    loose = _posterior(loose)
    exact, marginal, conditional = {}, {}, {}
    for name, q in (("right", p), ("loose", loose)):
        model, guide, leave_one_out = _around(q, 1.2)
        exact[name] = leave_one_out(x).sum()
        groups = ("posterior", "log_likelihood")
        options = {"draws": 150, "groups": groups, "seed": 0}
        marginal[name] = to_arviz(model, guide, x, inner_draws=50, **options)
        conditional[name] = to_arviz(model, guide, x, log_likelihood="conditional", **options)
        ell = _log_likelihood(marginal[name])
        # Draws of m are shared by all data: their errors add up at worst. So do the inner ones'
        # bias and error, as each datum has its own noise.
        squared = _relative_variance(q, 1.2) / 50
        error = ell.std(0).sum() / math.sqrt(150) + math.sqrt(len(x) * squared)
        found = _elpd(az.loo(marginal[name]))
        assert abs(found - exact[name]) < 4.5 * error + len(x) * squared / 2
        assert error < 2.0
    assert exact["right"] > exact["loose"] + 100
    assert list(az.compare(marginal).index) == ["right", "loose"]
    fits = {name: _log_likelihood(tree).mean(0).sum() for name, tree in conditional.items()}
    assert fits["loose"] > fits["right"] > exact["right"] + 20


def _posterior(p):
    """The same model with its exact posterior as guide."""
    precision = torch.eye(p.dim, dtype=p.weight.dtype) + p.weight.T @ p.weight / p.noise**2
    covariance = torch.linalg.inv(precision)
    return dataclasses.replace(p, covariance=covariance, gain=covariance @ p.weight.T / p.noise**2)


@pytest.fixture(scope="module")
def gaussians():
    """Three models of the same data and the widening of their guides."""
    p = PPCA.make(dim=2, features=5)
    noisy = _posterior(dataclasses.replace(p, noise=p.noise * 1.2))
    weak = _posterior(dataclasses.replace(p, weight=0.7 * p.weight))
    return p.sample(150), {"noisy": (noisy, 1.5), "right": (p, 1.2), "weak": (weak, 1.3)}


def test_compare_ranks_as_the_exact_evidence_does(gaussians):
    x, models = gaussians
    draws, n = 500, len(x)
    pairs = {k: (_widened(p, c).model, _widened(p, c).guide) for k, (p, c) in models.items()}
    result = compare(pairs, x, draws=draws, seed=0)
    exact = {k: p.log_likelihood(x).numpy() for k, (p, _) in models.items()}
    order = sorted(exact, key=lambda k: -exact[k].mean())
    assert list(result.names) == order
    squared = {k: _relative_variance(p, c) / draws for k, (p, c) in models.items()}
    best = order[0]
    for i, name in enumerate(order):
        apart = exact[name] - exact[best]
        # For these very data the error is that of the weights, and the bias half its square.
        error = math.sqrt((squared[name] + squared[best]) / n)
        off = result.difference[i] - apart.mean() + (squared[name] - squared[best]) / 2
        assert abs(off) <= 4.5 * error + 1e-9
        if name == best:
            assert result.difference[i] == result.difference_error[i] == result.monte_carlo[i] == 0
            continue
        # s_i^2 is estimated from 500 weights for each of 150 data.
        assert result.monte_carlo[i] == pytest.approx(error, rel=0.05)
        assert result.bias[i] == pytest.approx(-squared[name] / 2, rel=0.1)
        # The variance of noisy differences is that of the exact ones and of the noise: not twice.
        total = math.sqrt(apart.var(ddof=1) / n + error**2)
        assert result.difference_error[i] == pytest.approx(total, rel=4.5 / math.sqrt(2 * n))
        own = exact[name].std(ddof=1) / math.sqrt(n)
        assert result.error[i] == pytest.approx(own, rel=0.05)
        # Paired: what the data share is no error of the difference.
        assert result.difference_error[i] < result.error[i] / 2
    lines = repr(result).splitlines()
    assert [line.split()[0] for line in lines[2:]] == order
    assert "150 data, 500 draws" in lines[0]


def test_the_error_divides_by_n_minus_one():
    """Exact guides, three data: the paired error in closed form."""
    p = PPCA.make(dim=2, features=5)
    other = _posterior(dataclasses.replace(p, noise=p.noise * 1.5))
    x = p.sample(3)
    result = compare({"a": (p.model, p.guide), "b": (other.model, other.guide)}, x, draws=30)
    d = (other.log_likelihood(x) - p.log_likelihood(x)).numpy()
    expected = np.std(d, ddof=1) / math.sqrt(3)
    assert result.difference_error[1] == pytest.approx(expected, rel=1e-6)
    assert result.monte_carlo[1] < 1e-6
    with pytest.raises(ValueError, match="2 or more"):
        compare({"a": (p.model, p.guide)}, x[:1], draws=30)


def test_unusable_weights_are_not_ranked():
    p = PPCA.make(dim=5, features=8)
    narrow = _widened(p, 0.1)
    pairs = {"exact": (p.model, p.guide), "narrow": (narrow.model, narrow.guide)}
    with pytest.raises(ValueError, match=r"k-hat of 'narrow' is .* proposal='own'") as caught:
        compare(pairs, p.sample(40), draws=500, seed=0, proposal="own")
    assert "'exact'" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("draws", "known"), [(25, 0.2847), (1000, 2 / 3), (10_000, 0.7)])
def test_a_tenth_is_unseen_at_the_threshold(draws, known):
    usable = threshold(draws)
    assert usable == pytest.approx(known, abs=5e-5)
    k = np.array([usable, math.nan, usable])
    found = ParetoK(k, np.zeros(3, bool), np.ones(3), np.zeros(3), draws, usable)
    assert unseen(found) == pytest.approx(0.1)
    # S^(k - 1) with the S that the threshold is of.
    size = min(draws, 10 ** (1 / 0.3))
    one = dataclasses.replace(found, k=np.array([0.5]))
    assert unseen(one) == pytest.approx(size**-0.5, rel=1e-3)


def _off(x):
    """A guide a hundred times too narrow: its own evidence is off by nats."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + 0.3, 0.007))


def _point(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(x / 2))


@pytest.mark.parametrize("guide", [_off, _point])
@pytest.mark.parametrize("proposal", ["auto", "mean_field"])
def test_a_guide_that_is_no_proposal_is_ranked_by_a_fitted_one(guide, proposal):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pyro.set_rng_seed(0)
    x = math.sqrt(2) * torch.randn(100)
    with pytest.raises(ValueError, match=r"no ranking: k-hat of 'm'|no density|deterministic"):
        compare({"m": (model, guide)}, x, draws=500, seed=0, proposal="own")
    result = compare({"m": (model, guide)}, x, draws=500, seed=0, proposal=proposal)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).numpy()
    own = math.sqrt(-2 * result.bias[0] / len(x))
    assert abs(result.mean[0] - exact.mean()) < 4.5 * own + 1e-6
    assert result.sources["m"].startswith("fitted")
    assert "fitted" in repr(result)


def test_what_has_no_common_scale_is_refused():
    p = PPCA.make(dim=2, features=3)
    x = p.sample(4)
    pairs = {"p": (p.model, p.guide)}

    def other(observe, data):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                pyro.sample("x", observe(z).to_event(1), obs=data(x))

        return model, p.guide

    def normal(z):
        return dist.Normal(z @ p.weight.T + p.mean, p.noise)

    with pytest.raises(ValueError, match="'half' observes other values"):
        compare({**pairs, "half": other(normal, lambda x: x / 2)}, x, draws=25)
    same = compare({**pairs, "copy": other(normal, torch.clone)}, x, draws=25)
    assert same.difference[1] == pytest.approx(0, abs=1e-9)
    zeros = torch.zeros_like(x)
    coins = other(lambda z: dist.Bernoulli(logits=z @ p.weight.T), lambda x: x)
    with pytest.raises(ValueError, match="'p' gives the data a density and 'coins' a prob"):
        compare({**pairs, "coins": coins}, zeros, draws=25)
    model, guide, _ = _around(p)
    with pytest.raises(ValueError, match=r"'m' has latents \['m'\] outside.*arviz.compare"):
        compare({**pairs, "m": (model, guide)}, x, draws=25)
    built = PAIRS["auxiliary"]()
    with pytest.raises(ValueError, match=r"'u': the guide draws \['u'\]"):
        compare({"u": (built.model, built.guide)}, built.args, draws=25, proposal="own")
    cost = other(lambda z: dist.Normal(z @ p.weight.T, math.nan, validate_args=False), torch.clone)
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match="'cost' gives datum 0 a log"),
    ):
        compare({"cost": cost}, x, draws=25)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "nothing to compare"),
        ("runs/a", "give a list of runs"),
        ({"a": 3}, r"'a' is 3: give \(model, guide\)"),
    ],
)
def test_bad_models(models, message):
    with pytest.raises(ValueError, match=message):
        compare(models, torch.zeros(3, 2))


@pytest.fixture
def run(tmp_path):
    """Makes the run of an objective's words."""

    def make(name, *words):
        out = str(tmp_path / name)
        body = "{class_path: MLP, init_args: {hidden: [64]}}"
        parts = ("--encoder.body", body, "--likelihood.body", body, "--dim", "2")
        training = ("--batch_size", "32", "--optimizer.lr", "3e-3", "--out", out)
        schema, settings, _, _ = configured([*words, *parts, *training], "fit")
        build(schema, settings).fit(out, config=settings, progress=False)
        return out

    return make


def test_runs_on_the_digits(run):
    """Longer and shorter training as more draws rank them; an auto-encoder is not ranked."""
    folders = {
        "short": run("short", "--objective", "BetaVAE", "--epochs", "2"),
        "long": run("long", "--objective", "BetaVAE", "--epochs", "6"),
        "plain": run("plain", "--objective", "Autoencoder", "--epochs", "2"),
    }
    x = Digits().test[:60]
    with pytest.raises(ValueError, match="no ranking: k-hat of 'plain'"):
        compare(folders, x, draws=500, seed=0)
    folders.pop("plain")
    result = compare(folders, x, draws=500, seed=0)
    truth = {}
    for name, folder in folders.items():
        pair = load(folder, device="cpu").pair
        truth[name] = -float(nll(pair.model, pair.guide, x, 2000))
    assert list(result.names) == sorted(truth, key=lambda k: -truth[k]) == ["long", "short"]
    apart = truth["short"] - truth["long"]
    assert abs(result.difference[1] - apart) < 4.5 * 1.12 * result.monte_carlo[1]
    by_folder = compare(list(folders.values()), x, draws=500, seed=0)
    assert by_folder.names == (folders["long"], folders["short"])
    np.testing.assert_array_equal(np.sort(by_folder.mean), np.sort(result.mean))
    with pytest.raises(FileNotFoundError):
        compare([folders["long"] + "-missing"], x)
