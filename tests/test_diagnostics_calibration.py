"""Simulation-based calibration and coverage of the amortised posterior; predictive checks."""

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from ppca import PPCA

from ppl_vae.diagnostics import coverage, predictive_check, sbc
from ppl_vae.diagnostics.predictive import estimates_of


@pytest.fixture(scope="module")
def ppca():
    return PPCA.make(dim=3, features=5)


def _scaled(p, factor):
    return dataclasses.replace(p, covariance=p.covariance * factor)


def test_the_exact_guide_is_calibrated(ppca):
    result = sbc(ppca.model, ppca.guide, ppca.sample(250), simulations=2000, seed=0)
    assert result.simulations == 2000
    assert result.ranks["z"].shape == (2000, 3)
    assert result.ranks["z"].min() == 0
    assert result.ranks["z"].max() == result.draws == 99
    assert (result.p_values["z"] > 0.01).all()
    assert result.p_values["log_joint"] > 0.01
    assert result.p_value > 0.01


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_half_or_twice_the_variance_is_seen(ppca, factor):
    p = _scaled(ppca, factor)
    result = sbc(p.model, p.guide, p.sample(250), simulations=1000, seed=0)
    assert (result.p_values["z"] < 1e-3).all()
    # Too narrow: ranks at the ends; too wide: in the middle.
    outer = (np.abs(result.uniform["z"] - 0.5) > 0.4).mean()
    assert outer > 0.25 if factor < 1 else outer < 0.15


def test_a_shifted_guide_is_seen(ppca):
    p = dataclasses.replace(ppca, shift=torch.full((3,), 0.15, dtype=torch.double))
    result = sbc(p.model, p.guide, p.sample(250), simulations=1000, seed=0)
    assert (result.p_values["z"] < 1e-3).all()
    assert (result.uniform["z"].mean(0) < 0.48).all()


def test_the_prior_as_guide_is_seen_by_the_joint_density_alone(ppca):
    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))

    result = sbc(ppca.model, prior, ppca.sample(250), simulations=1000, seed=0)
    assert (result.p_values["z"] > 0.01).all()
    assert result.p_values["log_joint"] < 1e-6
    assert np.abs(result.contraction["z"]).max() < 4.5 * math.sqrt(2 / 1000)


def test_contraction(ppca):
    result = sbc(ppca.model, ppca.guide, ppca.sample(250), simulations=2000, seed=0)
    variance = ppca.covariance.diagonal().numpy()
    # 1 - v / 1 with both variances estimated.
    error = variance * math.sqrt(2 / 2000 + 2 / (99 * 2000))
    assert (np.abs(result.contraction["z"] - (1 - variance)) < 4.5 * error).all()


def test_coverage_is_nominal(ppca):
    levels = (0.1, 0.5, 0.8, 0.9, 0.95, 0.99)
    result = coverage(
        ppca.model, ppca.guide, ppca.sample(400), levels=levels, simulations=4000, seed=0
    )
    off = np.abs(result.observed["z"] - result.levels[:, None]) / result.error[:, None]
    assert off.max() < 4.5
    assert result.error[1] == pytest.approx(math.sqrt(0.25 / 4000))


@pytest.mark.parametrize("draws", [9, 30])
def test_coverage_does_not_depend_on_the_number_of_draws(ppca, draws):
    result = coverage(
        ppca.model, ppca.guide, ppca.sample(400), simulations=4000, draws=draws, seed=0
    )
    off = np.abs(result.observed["z"] - result.levels[:, None]) / result.error[:, None]
    assert off.max() < 4.5


def test_coverage_of_half_the_variance(ppca):
    """The posterior mean is right and the sd too small by sqrt(2): coverage is known."""
    p = _scaled(ppca, 0.5)
    result = coverage(p.model, p.guide, p.sample(400), simulations=4000, draws=499, seed=0)
    normal = torch.distributions.Normal(0.0, 1.0)
    quantile = normal.icdf(torch.as_tensor(0.5 + result.levels / 2))
    expected = (2 * normal.cdf(quantile * math.sqrt(0.5)) - 1).numpy()
    error = np.sqrt(expected * (1 - expected) / 4000)[:, None]
    # The intervals of 499 draws are off by about 1 / 500.
    assert (np.abs(result.observed["z"] - expected[:, None]) < 4.5 * error + 0.004).all()
    assert (result.observed["z"][1:] < 0.9 * result.levels[1:, None]).all()


def test_discrete_latents_are_ranked_with_random_ties():
    """A mixture's exact posterior over labels has uniform ranks."""
    centres = torch.tensor([-1.0, 0.0, 2.0])
    weights = torch.tensor([0.5, 0.3, 0.2])

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(centres[k], 1.0), obs=x)

    def guide(x):
        logits = weights.log() + dist.Normal(centres, 1.0).log_prob(x[:, None])
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=logits))

    def flat(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(3) / 3))

    x = torch.randn(500)
    assert sbc(model, guide, x, simulations=2000, seed=0).p_value > 0.01
    assert sbc(model, flat, x, simulations=2000, seed=0).p_value < 1e-6


def test_latents_outside_the_plate_are_held(double):
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        w = pyro.sample("w", dist.Normal(0.3, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((w + x) / 2, math.sqrt(0.5)))

    result = sbc(model, guide, torch.randn(100), simulations=1000, seed=0)
    assert set(result.ranks) == {"z", "log_joint"}
    assert result.p_value > 0.01


def test_covariates_stay_and_arguments_can_be_made():
    c = torch.randn(300)

    def model(x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.exp())

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x.exp() + c) / 2, math.sqrt(0.5)))

    x = torch.randn(300)
    with pytest.raises(ValueError, match="arguments="):
        sbc(model, guide, (x, c))

    def shifted(x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def exact(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + c) / 2, math.sqrt(0.5)))

    assert sbc(shifted, exact, (x, c), simulations=1000, seed=0).p_value > 0.01
    made = sbc(
        shifted, exact, (x, c), simulations=300, seed=0, arguments=lambda d: (d["x"], 0 * c)
    )
    assert made.p_value < 1e-3


def test_every_model_shape():
    for name, build in PAIRS.items():
        if name == "subsampled":
            continue
        pyro.clear_param_store()
        pair = build()
        plate = pair.keywords.get("plate")
        result = sbc(pair.model, pair.guide, pair.args, simulations=20, seed=0, plate=plate)
        assert set(pair.local) <= set(result.ranks), name
        assert result.simulations == 20


def test_bad_input(ppca):
    x = ppca.sample(10)
    with pytest.raises(ValueError, match="simulations must be"):
        sbc(ppca.model, ppca.guide, x, simulations=5)
    with pytest.raises(ValueError, match="draws must be"):
        sbc(ppca.model, ppca.guide, x, draws=5)
    for levels in ((0.0,), (1.0,), (), (90,)):
        with pytest.raises(ValueError, match="levels"):
            coverage(ppca.model, ppca.guide, x, levels=levels, simulations=10, draws=9)


def test_the_seed_repeats(ppca):
    x = ppca.sample(50)
    a, b = (sbc(ppca.model, ppca.guide, x, simulations=100, seed=2) for _ in range(2))
    np.testing.assert_array_equal(a.uniform["z"], b.uniform["z"])


def test_contraction_divides_by_n_minus_one():
    """Ten simulations of nine draws, all of them recorded."""
    truths, draws = [], []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            # So near that the simulated data say what z was.
            pyro.sample("x", dist.Normal(z, 1e-6), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 0.5))
        if z.shape == (9, 10):
            draws.append(z.numpy())

    def arguments(drawn):
        truths.append(drawn["x"].numpy())
        return (drawn["x"],)

    x = torch.randn(10)
    result = sbc(model, guide, x, simulations=10, draws=9, seed=0, arguments=arguments)
    ((truth,), (z,)) = truths, draws
    expected = 1 - z.var(0, ddof=1).mean() / truth.var(ddof=1)
    assert result.contraction["z"] == pytest.approx(expected, rel=1e-4)


def test_ties_are_ranked_uniformly_over_all_places():
    """A latent that never varies ties with every draw: its rank is any of 0 to L."""

    def pair(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(1.0))
            return z

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Bernoulli(1.0)), 1.0), obs=x)

    result = sbc(model, pair, torch.randn(500), simulations=1000, draws=9, seed=0)
    counts = np.bincount(result.ranks["z"], minlength=10)
    assert len(counts) == 10
    assert np.abs(counts - 100).max() < 4.5 * math.sqrt(1000 * 0.1 * 0.9)


@pytest.mark.parametrize("source", ["posterior", "prior"])
def test_a_true_model_passes_the_predictive_check(ppca, source):
    result = predictive_check(ppca.model, ppca.guide, ppca.sample(300), source=source, seed=0)
    assert all(0.005 < p < 0.995 for p in result.p_values.values()), result.p_values
    assert result.replicated["mean"].shape == (200,)


def test_wrong_noise_fails_the_predictive_check(ppca):
    x = ppca.sample(300)
    wrong = dataclasses.replace(ppca, noise=ppca.noise * 3)
    result = predictive_check(wrong.model, wrong.guide, x, source="prior", seed=0)
    assert result.p_values["sd"] > 0.995
    assert "'sd': > 0.995" in repr(result)
    found = estimates_of(result)["sd"]
    assert (found.value, found.bound) == (200 / 201, "lower")
    few = estimates_of(dataclasses.replace(result, p_values={"sd": 0.0, "mean": 0.3}))
    assert [str(each) for each in few.values()] == ["<= 0.004975", "0.3"]
    statistic = {"third": lambda d: d[:, 2].pow(2).mean()}
    result = predictive_check(wrong.model, wrong.guide, x, statistics=statistic, seed=0)
    truth = float(x[:, 2].pow(2).mean())
    assert result.observed["third"] == pytest.approx(truth, rel=1e-6)
    assert list(result.p_values) == ["third"]


def test_predictive_check_of_one_of_several_sites():
    pair = PAIRS["several_observed"]()
    with pytest.raises(ValueError, match="several observed sites"):
        predictive_check(pair.model, pair.guide, pair.args)
    mean = {"mean": lambda d: d.mean()}
    result = predictive_check(
        pair.model, pair.guide, pair.args, site="y", draws=20, statistics=mean
    )
    assert set(np.round(result.replicated["mean"] * 7) / 7 - result.replicated["mean"]) != set()
    with pytest.raises(ValueError, match="no observed site"):
        predictive_check(pair.model, pair.guide, pair.args, site="z")
    with pytest.raises(ValueError, match="one number"):
        predictive_check(
            pair.model, pair.guide, pair.args, site="x", statistics={"all": lambda d: d}
        )
    with pytest.raises(ValueError, match="source must be"):
        predictive_check(pair.model, pair.guide, pair.args, site="x", source="both")


def _coins(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(0.5).expand([len(x)]), obs=x)


def _coins_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("source", ["posterior", "prior"])
@pytest.mark.parametrize(("heads", "exact"), [(0, 7 / 8), (1, 1 / 2), (2, 1 / 8)])
def test_ties_of_a_discrete_statistic_count_by_half(heads, exact, source):
    """Two fair coins: P(T > t) + P(T = t) / 2; P(T >= t) would be 1, 3/4 and 1/4."""
    x = (torch.arange(2) < heads).float()
    draws = 2000
    result = predictive_check(
        _coins,
        _coins_guide,
        x,
        statistics={"heads": torch.sum},
        source=source,
        draws=draws,
        seed=0,
    )
    tie = 0.5 if heads == 1 else 0.25
    above = exact - tie / 2
    error = math.sqrt((above + tie / 4 - exact**2) / draws)
    assert abs(result.p_values["heads"] - exact) < 4.5 * error


def test_a_statistic_that_never_varies_is_no_misfit():
    x = torch.ones(3)
    result = predictive_check(_coins, _coins_guide, x, statistics={"n": lambda d: len(d)}, draws=9)
    assert result.p_values == {"n": 0.5}


def test_a_statistic_that_is_not_a_number_is_refused():
    """NaN is not above, not below: its p-value would be 0, a misfit."""
    x = torch.ones(3)
    with pytest.raises(ValueError, match="statistic 'log' is NaN"):
        predictive_check(
            _coins, _coins_guide, x, statistics={"log": lambda d: (d - 2).mean().log()}, draws=9
        )
    # One number a datum has no spread within it; one datum none between.
    usual = {"mean", "sd", "min", "max"}
    result = predictive_check(_coins, _coins_guide, x, draws=9, seed=0)
    assert set(result.observed) == usual | {"sd between data"}
    one = predictive_check(_coins, _coins_guide, x[:1], draws=9, seed=0)
    assert set(one.observed) == usual - {"sd"}
