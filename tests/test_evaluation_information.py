"""Mutual information and ELBO surgery against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA

from ppl_vae import evaluation as ev

pytestmark = pytest.mark.usefixtures("double")


def within(estimate, truth, sigmas=4.5, slack=0.0, error=None):
    error = error or estimate.data_error or estimate.standard_error
    assert abs(estimate.value - truth) < sigmas * error + slack, (str(estimate), truth)


@pytest.mark.parametrize("guide", ["exact", "mean-field", "wide"])
def test_sandwich_holds_the_truth(guide):
    pair = PPCA.make()
    pair = {"exact": pair, "mean-field": pair.mean_field(), "wide": pair.mean_field(3.0)}[guide]
    x = pair.sample(4000)
    found = ev.mutual_information(pair.model, pair.guide, x)
    truth = pair.mutual_information
    within(found.lower, truth)
    within(found.upper, truth)
    # On the same codes the two differ by their biases, far less than their common noise.
    gap = found.upper.value - found.lower.value
    assert "rate" in found.upper.note or 0 < gap < 0.05
    assert not found.capped
    assert "capped" not in found.lower.note
    assert 0.01 < found.lower.data_error < 0.04


def test_errors_cover_the_population():
    pair = PPCA.make().mean_field(2.0)
    scores = []
    for seed in range(120):
        pyro.set_rng_seed(seed)
        found = ev.mutual_information(pair.model, pair.guide, pair.sample(600, seed)).lower
        scores.append((found.value - pair.mutual_information) / found.data_error)
    scores = torch.tensor(scores)
    assert 0.8 < float(scores.std()) < 1.2
    assert abs(float(scores.mean())) < 0.6  # the bias of order 1/M shows as a part of the error


def test_the_estimate_is_capped_and_says_so():
    pair = PPCA.make(dim=6, features=8, noise=0.05)
    for m in (2, 10, 300):
        found = ev.mutual_information(pair.model, pair.guide, pair.sample(300), num_data=m)
        assert found.log_m == pytest.approx(math.log(m))
        assert found.lower.value <= found.log_m + 1e-12
        assert found.capped
        assert "capped" in found.lower.note
        assert "capped" in str(found)
    # The upper bound is still news: the rate is I + KL(q(z) || p), here I.
    within(found.upper, pair.mutual_information)


@pytest.mark.parametrize("seed", range(5))
def test_never_above_log_m(seed):
    pyro.set_rng_seed(seed)
    pair = PPCA.make(dim=3, noise=0.01 + 0.3 * seed, seed=seed, dtype=torch.float32)
    found = ev.mutual_information(pair.model, pair.guide, pair.sample(64), block=13)
    assert found.lower.value <= math.log(64) + 1e-12


def test_upper_bounds_lie_above_in_expectation():
    """Where both are close to I, the smaller of the two does not."""
    pair, runs = PPCA.make(dim=1, noise=1.2), 300
    upper, rate = [], []
    for seed in range(runs):
        pyro.set_rng_seed(seed)
        found = ev.mutual_information(pair.model, pair.guide, pair.sample(60, seed))
        upper.append(found.upper.value)
        rate.append(found.rate.value)
    for bound in (torch.tensor(upper), torch.tensor(rate)):
        error = float(bound.std()) / runs**0.5
        assert float(bound.mean()) + 3 * error > pair.mutual_information
    smaller = torch.minimum(torch.tensor(upper), torch.tensor(rate))
    assert float(smaller.mean()) + 4.5 * float(smaller.std()) / runs**0.5 < pair.mutual_information


def independent(m):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.5))

    return ev.mutual_information(model, guide, torch.randn(m))


@pytest.mark.parametrize("m", [2, 5])
def test_both_bounds_are_zero_without_information(m):
    """With one more or fewer component in either mean they are off by log M / (M - 1)."""
    found = independent(m)
    assert found.lower.value == pytest.approx(0, abs=1e-12)
    assert found.upper.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sd", [1e-2, 1e-5, 1e-9, 1e-15])
@pytest.mark.parametrize("full", [False, True])
def test_information_of_narrow_encoders_is_that_of_the_index(dtype, sd, full):
    """Each datum twice: log N / 2 at any sd, however large the square of codes over scales."""
    x = (torch.arange(20.0, dtype=dtype) / 4 - 2).repeat(2)[:, None]
    root = torch.tensor([[1.0, 0.0], [0.5, 1.0]], dtype=dtype) * sd

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[:, :1], 1.0).to_event(1), obs=x)

    def guide(x):
        loc = torch.cat([x, 3 * x], 1)
        fn = dist.MultivariateNormal(loc, scale_tril=root)
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn if full else dist.Normal(loc, root[0, 0]).to_event(1))

    parts = ev.surgery(model, guide, x)
    assert parts.mutual_information.value == pytest.approx(math.log(20), abs=1e-9)
    found = ev.mutual_information(model, guide, x)
    assert found.lower.value == pytest.approx(math.log(20), abs=1e-9)


def test_surgery_of_ppca():
    # A gain and shift that leave every term away from zero, and few nats, so that the bias of the
    # empirical q(z) is small.
    pair = PPCA.make(noise=2.5).mean_field(1.3)
    turn = torch.tensor([[1.0, 1.5], [0.3, 1.8]])
    pair = PPCA(
        pair.weight,
        pair.mean,
        pair.noise,
        turn @ pair.gain,
        torch.tensor([0.4, -0.3]),
        pair.covariance,
    )
    x = pair.sample(4000)
    found = ev.surgery(pair.model, pair.guide, x)
    within(found.rate, float(pair.rate(x).mean()))
    assert pair.total_correlation > 0.02
    # Against the population both the draws and the data err.
    information = ev.mutual_information(pair.model, pair.guide, x).lower
    within(found.mutual_information, pair.mutual_information, error=information.data_error)
    for name in ("marginal_kl", "total_correlation", "dimension_wise"):
        within(getattr(found, name), getattr(pair, name), slack=0.005)
    parts = (
        found.mutual_information.value + found.total_correlation.value + found.dimension_wise.value
    )
    assert parts == pytest.approx(found.rate.value, abs=1e-9)
    assert float(found.per_dimension.sum()) == pytest.approx(found.dimension_wise.value)
    assert found.marginal_kl.value == pytest.approx(
        found.total_correlation.value + found.dimension_wise.value
    )


def test_surgery_is_exact_for_the_data_given():
    # Three data, one dimension: every term by quadrature over the mixture of three Gaussians.
    means, scales = torch.tensor([-1.0, 0.2, 1.5]), torch.tensor([0.3, 0.8, 0.5])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    def guide(x):
        i = x[:, 0].long()
        loc = torch.stack([means[i], means[i]], 1)
        scale = torch.stack([scales[i], scales[i]], 1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    grid = torch.linspace(-7, 7, 1401)
    step = grid[1] - grid[0]
    one = dist.Normal(means[:, None], scales[:, None]).log_prob(grid).exp()
    joint = (one[:, :, None] * one[:, None, :]).mean(0)
    single = one.mean(0)
    product = single[:, None] * single[None, :]
    tc = float((joint * (joint / product).log()).nan_to_num().sum() * step**2)
    p = dist.Normal(0.0, 1.0).log_prob(grid).exp()
    wise = 2 * float((single * (single / p).log()).sum() * step)
    # Many copies of each datum are the same empirical distribution.
    x = torch.arange(3.0).repeat_interleave(800)[:, None]
    found = ev.surgery(model, guide, x, block=500)
    within(found.total_correlation, tc)
    within(found.dimension_wise, wise)
    kl = torch.distributions.kl_divergence(dist.Normal(means, scales), dist.Normal(0.0, 1.0))
    within(found.rate, 2 * float(kl.mean()))
    within(found.mutual_information, 2 * float(kl.mean()) - tc - wise)


def test_identity_on_three_thousand_data():
    pair = PPCA.make(dim=10, features=12, noise=1.0, dtype=torch.float32).mean_field()
    x = pair.sample(3_000)
    found = ev.surgery(pair.model, pair.guide, x)
    parts = (found.mutual_information, found.total_correlation, found.dimension_wise)
    assert abs(found.rate.value - sum(p.value for p in parts)) < 1e-4
    # The closed-form rate is not made of the same numbers.
    within(found.rate, float(pair.rate(x).mean()))
    assert found.mutual_information.value < math.log(3_000)


def chain():
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def dependent(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x / 3, math.sqrt(2 / 3)))
            pyro.sample("z1", dist.Normal((x + z2) / 2, math.sqrt(1 / 2)))

    return model, dependent


def test_a_chain_guide_is_run_for_every_pair():
    model, guide = chain()
    x = torch.randn(300) * math.sqrt(3)
    found = ev.mutual_information(model, guide, x, block=1000)
    # I(x; z) = I(x; z1) = h(x) - h(x | z1).
    truth = 0.5 * math.log(3)
    within(found.lower, truth, slack=0.02)
    within(found.upper, truth, slack=0.02)
    parts = ev.surgery(model, guide, x, block=1000)
    assert parts.total_correlation is None
    assert parts.marginal_kl.value == pytest.approx(
        parts.rate.value - parts.mutual_information.value
    )


def test_uniform_boxes_do_not_overlap_everywhere():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(x.new_full((2,), -1.0), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x - 0.25, x + 0.25).to_event(1))

    # x uniform on [-.75, .75]^2: q(z_j) is a trapezoid.
    x = torch.rand(1500, 2) * 1.5 - 0.75
    found = ev.mutual_information(model, guide, x)
    # h(z_j) of the sum of uniforms of widths 1.5 and .5 is log 1.5 + .5 / (2 * 1.5).
    truth = 2 * (math.log(1.5) + 0.5 / 3.0 - math.log(0.5))
    within(found.lower, truth, slack=0.02)
    within(found.upper, truth, slack=0.02)
    parts = ev.surgery(model, guide, x)
    within(parts.dimension_wise, 2 * (math.log(2) - math.log(1.5) - 0.5 / 3.0), slack=0.02)
    within(parts.total_correlation, 0.0, slack=0.02)


def test_bad_requests():
    pair = PPCA.make()
    x = pair.sample(20)
    with pytest.raises(ValueError, match="num_data is 21: 2 to 20 of the data"):
        ev.mutual_information(pair.model, pair.guide, x, num_data=21)

    def conditional(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ pair.weight.T, 1.0).to_event(1), obs=x)

    for metric in (ev.mutual_information, ev.surgery, ev.full_mmd):
        with pytest.raises(ValueError, match="prior of 'z' differs between data"):
            metric(conditional, pair.guide, x)


def test_active_units():
    pair = PPCA.make(dim=3, features=6)
    pair.gain[2] = 0
    x = pair.sample(500)
    codes = ev.posterior_codes(pair.model, pair.guide, x)
    found = ev.active_units(codes.mean)
    assert found.count == 2
    assert torch.allclose(found.variances, codes.mean.var(0))
