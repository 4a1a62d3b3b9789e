"""Pareto k-hat: exact guides, narrow and wide ones, and ArviZ's own figure."""

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

from ppl_vae.diagnostics import khat, pareto_k


def _scaled(p, factor):
    return dataclasses.replace(p, covariance=p.covariance * factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_weights_are_exact(dtype):
    p = PPCA.make(dim=5, features=8, dtype=dtype)
    x = p.sample(60)
    result = pareto_k(p.model, p.guide, x, seed=0)
    assert result.exact.all()
    assert (result.k == 0).all()
    assert result.usable == 1.0
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(result.log_evidence, p.log_likelihood(x), rtol=tolerance)
    np.testing.assert_allclose(result.ess, 1000, rtol=1e-3)


@pytest.mark.parametrize("dim", [5, 8])
def test_a_tenth_of_the_variance_is_refused(dim):
    p = _scaled(PPCA.make(dim=dim, features=12), 0.1)
    result = pareto_k(p.model, p.guide, p.sample(200), seed=0)
    assert (result.k > 0.7).mean() >= 0.9
    assert result.usable <= 0.1
    assert not result.exact.any()


def test_a_wide_guide_is_usable_and_its_evidence_right():
    # The weights are bounded: every moment exists.
    p = _scaled(PPCA.make(dim=2, features=5), 1.5)
    x = p.sample(100)
    result = pareto_k(p.model, p.guide, x, draws=2000, seed=0)
    assert result.usable == 1.0
    assert not result.exact.any()
    error = np.sqrt(1 / result.ess - 1 / 2000)
    assert np.abs((result.log_evidence - p.log_likelihood(x).numpy()) / error).max() < 4.5


def test_a_slightly_wrong_guide_is_not_exact():
    p = _scaled(PPCA.make(dim=2, features=5), 1.001)
    result = pareto_k(p.model, p.guide, p.sample(20), seed=0)
    assert not result.exact.any()


def _arviz_k(log_weights):
    """ArviZ 0.23 takes log-weights, 1.x their negative."""
    import arviz as az

    if hasattr(az, "psislw"):
        return az.psislw(log_weights)[1]
    from arviz_stats.base import array_stats

    return array_stats.psislw(-log_weights)[1]


# 3 sqrt(S) is an integer: 0.23 rounds the number of tail draws up and 1.x down, and one draw can
# change k by a tenth.
@pytest.mark.parametrize("draws", [100, 900, 3600])
def test_khat_equals_arviz(draws):
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.2, 4.0, size=(20, 1))
    log_weights = scale * rng.standard_normal((20, draws)) - 300
    ours = [khat(torch.as_tensor(row)) for row in log_weights]
    np.testing.assert_allclose(ours, _arviz_k(log_weights), rtol=0, atol=1e-6)


# Of 20 tail draws the least is at -500; of the second, 15 have a weight that a double can hold.
@pytest.mark.parametrize("spacing", [25.0, 50.0])
def test_khat_of_weights_near_the_least_double(spacing):
    log_weights = -spacing * np.arange(100.0)
    expected = _arviz_k(log_weights)
    np.testing.assert_allclose(khat(torch.as_tensor(log_weights)), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_of_pareto_weights(shape):
    g = torch.Generator().manual_seed(0)
    u = torch.rand(100_000, generator=g, dtype=torch.double)
    # 949 tail draws: the shape's standard error is (1 + k) / sqrt(949).
    assert abs(khat(-shape * u.log()) - shape) < 4.5 * (1 + shape) / math.sqrt(949)


def test_khat_of_degenerate_weights():
    n = 1000
    few = torch.zeros(n)
    few[:3] = 2000.0
    assert khat(few) == math.inf
    plateau = torch.zeros(n)
    plateau[:400] = 1.0
    assert khat(plateau) == 0.0
    assert khat(torch.full((n,), math.nan)) == math.inf
    assert khat(torch.full((n,), -math.inf)) == math.inf


def test_blocks_and_the_seed():
    p = _scaled(PPCA.make(dim=2, features=5), 0.5)
    x = p.sample(30)
    first = pareto_k(p.model, p.guide, x, draws=100, seed=4)
    again = pareto_k(p.model, p.guide, x, draws=100, seed=4)
    np.testing.assert_array_equal(first.k, again.k)
    exact = PPCA.make(dim=2, features=5)
    for block in (1, 7, 64):
        result = pareto_k(exact.model, exact.guide, x, draws=50, block=block)
        np.testing.assert_allclose(result.log_evidence, exact.log_likelihood(x), rtol=1e-8)


def test_a_masked_datum_is_left_out():
    p = PPCA.make(dim=2, features=5)
    mask = torch.tensor([True, False, True])
    model, guide = (poutine.mask(f, mask=mask) for f in (p.model, p.guide))
    result = pareto_k(model, guide, p.sample(3), draws=50)
    assert list(np.isnan(result.k)) == [False, True, False]
    assert list(result.exact) == [True, False, True]
    assert result.usable == 1.0
    assert result.summary()["max_k"] == 0.0


def test_globals_are_held(double):
    """Given one draw of the latents outside the plate an exact local guide is exact."""

    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        w = pyro.sample("w", dist.Normal(0.3, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((w + x) / 2, math.sqrt(0.5)))

    assert pareto_k(model, guide, torch.randn(7), seed=0).exact.all()


def test_every_model_shape():
    for name, build in PAIRS.items():
        if name in ("subsampled", "auxiliary"):
            continue
        pyro.clear_param_store()
        pair = build()
        plate = pair.keywords.get("plate")
        result = pareto_k(pair.model, pair.guide, pair.args, draws=50, seed=0, plate=plate)
        assert result.k.shape == (7,), name


@pytest.mark.parametrize(
    ("draws", "threshold"), [(25, 1 - 1 / 1.39794), (100, 0.5), (1000, 2 / 3), (3000, 0.7)]
)
def test_the_threshold(draws, threshold):
    """min(1 - 1 / log10 S, 0.7), and a k-hat at it is usable."""
    p = PPCA.make(dim=1, features=2)
    found = pareto_k(p.model, p.guide, p.sample(1), draws=draws)
    assert found.threshold == pytest.approx(threshold, abs=1e-5)
    k = np.array([found.threshold, found.threshold + 1e-9, np.nan, 0.1])
    assert dataclasses.replace(found, k=k).usable == pytest.approx(2 / 3)


@pytest.mark.parametrize("above", [4, 5])
def test_five_draws_above_the_others_are_a_tail(above):
    log_weights = torch.zeros(1000)
    log_weights[:above] = 1 + torch.arange(above) / 2
    assert math.isfinite(khat(log_weights)) == (above == 5)


@pytest.mark.parametrize("level", [-60.0, 0.0, -900.0])
def test_weights_equal_to_rounding_are_constant(level):
    """The exact guide in single precision: two draws a rounding step above the others."""
    log_weights = torch.full((1000,), level)
    step = torch.nextafter(log_weights[:2], torch.full((2,), 1e9)) if level else 1e-7
    log_weights[:2] = step
    assert log_weights.max() > level
    assert khat(log_weights) == 0.0
    assert khat(log_weights.double()) == 0.0
    # A hundredth of a nat is not rounding.
    log_weights[:2] = level + 0.01
    assert khat(log_weights) == math.inf


def test_a_density_that_is_not_a_number_is_no_masked_datum():
    p = PPCA.make(dim=2, features=3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            fn = dist.Normal(z @ p.weight.T, math.nan, validate_args=False)
            pyro.sample("x", fn.to_event(1), obs=x)

    with pyro.validation_enabled(False):
        result = pareto_k(model, p.guide, p.sample(3), draws=25)
    assert (result.k == math.inf).all()
    assert result.usable == 0.0


def test_a_latent_of_the_guide_alone_has_no_weights():
    """p(x, z) / q(z, u | x) does not average to p(x): u would have to be scored by the model."""
    built = PAIRS["auxiliary"]()
    with pytest.raises(ValueError, match=r"the guide draws \['u'\], which the model lacks"):
        pareto_k(built.model, built.guide, built.args)
    # A point mass made of one is the image of its density.
    built = PAIRS["auto_local"]()
    assert np.isfinite(pareto_k(built.model, built.guide, built.args, draws=50).k).all()


def test_bad_input():
    p = PPCA.make()
    x = p.sample(4)

    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(p.codes(x), event_dim=1))

    with pytest.raises(ValueError, match="at least 25"):
        pareto_k(p.model, p.guide, x, draws=24)
    with pytest.raises(ValueError, match="point masses"):
        pareto_k(p.model, point, x)
