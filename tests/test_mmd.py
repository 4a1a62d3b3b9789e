"""MMD's estimators against the closed form between Gaussians."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, S, T, derivative, deviation, estimates, rows, slopes, standard, together
from torch import Tensor

from ppl_vae.objectives import (
    IMQ,
    MMD,
    RBF,
    AggregatePosterior,
    Kernel,
    Laplacian,
    MultiScale,
    RationalQuadratic,
)

pytestmark = pytest.mark.usefixtures("double")


def population(d: int, h2: float, mu: float = MU, variance: float = S**2 + T**2) -> float:
    """MMD^2 between N(mu, variance)^d and N(0, 1)^d under exp(-r^2 / 2 h^2), by hand."""

    def overlap(total: float, shift: float) -> float:
        return (h2 / (h2 + total)) ** (d / 2) * math.exp(-d * shift**2 / 2 / (h2 + total))

    return overlap(2 * variance, 0) - 2 * overlap(variance + 1, mu) + overlap(2, 0)


ESTIMATORS: dict[str, dict[str, Any]] = {
    "sampled": {"prior": "sampled", "noise": "sampled"},
    "closed prior": {"prior": "closed", "noise": "sampled"},
    "integrated": {"prior": "sampled", "noise": "integrated", "pairs": "all"},
    "both": {"prior": "closed", "noise": "integrated", "pairs": "all"},
    "shifts": {"prior": "closed", "noise": "integrated", "pairs": 5},
}


@pytest.mark.parametrize("d", [1, 2, 10, 40])
@pytest.mark.parametrize("n", [2, 10, 100])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unbiased(estimator: str, n: int, d: int) -> None:
    mmd = MMD(RBF(), **ESTIMATORS[estimator])
    values = estimates(mmd, n, d, repeats=1000 if n < 100 else 150)
    assert deviation(values, population(d, d)) < 4.5


@pytest.mark.parametrize("d", [1, 2, 10, 40])
@pytest.mark.parametrize("n", [2, 10, 100])
@pytest.mark.parametrize("prior", ["sampled", "closed"])
def test_v_statistic_is_biased_as_stated(prior: str, n: int, d: int) -> None:
    """It fails the test above, and by (1/n + 1/m)(1 - E k), with no 1/m for a closed prior."""
    mmd = MMD(RBF(), prior=prior, noise="sampled", statistic="V")  # type: ignore[arg-type]
    values = estimates(mmd, n, d, repeats=1000 if n < 100 else 500)
    truth = population(d, d)
    within = (d / (d + 2 * (S**2 + T**2))) ** (d / 2)
    of_prior = (d / (d + 2)) ** (d / 2)
    bias = (1 - within) / n + (1 - of_prior) / n * (prior == "sampled")
    assert deviation(values, truth) > 4.5
    assert deviation(values, truth + bias) < 4.5


@pytest.mark.parametrize(
    "kernel", [IMQ(), Laplacian(), RationalQuadratic(alpha=0.5), MultiScale()], ids=repr
)
def test_kernels_agree_across_estimators(kernel: Kernel) -> None:
    """Exact kernels on draws and their mixtures on Gaussians have one expectation."""
    exact = estimates(MMD(kernel, prior="sampled", noise="sampled"), 40, 3, repeats=600)
    mixed = estimates(MMD(kernel, prior="closed", noise="integrated"), 40, 3, repeats=600)
    error = (exact.var() + mixed.var()).sqrt().item() / 600**0.5
    assert abs(exact.mean() - mixed.mean()).item() < 4.5 * error
    assert exact.mean() > 4.5 * error  # a kernel of zero would agree too


@pytest.mark.parametrize(
    "kernel",
    [
        RBF(),
        IMQ(),
        Laplacian(),
        RationalQuadratic(alpha=0.3),
        RationalQuadratic(alpha=30.0),
        MultiScale(),
    ],
    ids=repr,
)
def test_mixture_is_the_kernel(kernel: Kernel) -> None:
    r2 = torch.cat([torch.zeros(1), torch.logspace(-5, 5, 300)])
    weights, multipliers = (torch.tensor(v) for v in kernel.mixture())
    mixed = (weights * torch.exp(-r2[:, None] / (2 * 1.7 * multipliers))).sum(-1)
    torch.testing.assert_close(mixed, kernel(r2, 1.7), rtol=0, atol=2e-6 * kernel.at_zero)
    torch.testing.assert_close(
        kernel(torch.zeros(1), 1.7).item(), kernel.at_zero, atol=2e-6, rtol=0
    )


def test_kernels_are_the_papers() -> None:
    r2, d = torch.tensor([0.3, 4.0]), 5
    exp = torch.exp
    assert torch.allclose(RBF()(r2, RBF().squared_length(d)), exp(-r2 / (2 * d)))
    tutorial = RBF("tutorial")
    assert torch.allclose(tutorial(r2, tutorial.squared_length(d)), exp(-r2 / d**2))
    assert torch.allclose(IMQ()(r2, IMQ().squared_length(d)), 2 * d / (2 * d + r2))
    scales = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    wae = torch.stack([2 * d * s / (2 * d * s + r2) for s in scales]).sum(0)
    assert torch.allclose(MultiScale()(r2, MultiScale().squared_length(d)), wae)
    assert torch.allclose(RBF(2.0)(r2, RBF(2.0).squared_length(d)), exp(-r2 / 8))
    assert torch.allclose(Laplacian(2.0)(r2, 4.0), exp(-r2.sqrt() / 2))


def test_median_bandwidth_is_detached() -> None:
    codes = torch.randn(20, 3, requires_grad=True)
    length = RBF("median").squared_length(3, codes)
    assert isinstance(length, Tensor)
    assert not length.requires_grad
    torch.testing.assert_close(length, torch.pdist(codes.detach()).square().median() / 2)


def test_variance_of_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    """At q = p, n = 100, m = 200, each integral cuts the variance."""
    n, d, m, repeats = 100, 10, 200, 700
    root = 0.5**0.5
    variances = {}
    for name in ("sampled", "closed prior", "both"):
        mmd = MMD(RBF(), draws=m, **ESTIMATORS[name])

        def value(_: Tensor, mmd: MMD = mmd) -> Tensor:
            means = root * torch.randn(n, d)
            q = dist.Normal(means, torch.full_like(means, root)).to_event(1)
            return mmd(AggregatePosterior.of(q, standard(d)))

        torch.manual_seed(1)
        variances[name] = together(value, torch.zeros(repeats), m * m).var().item()
    with capsys.disabled():
        print()
        for name, variance in variances.items():
            less = variances["sampled"] / variance
            print(f"  variance of MMD^2 at q = p, {name}: {less:.2f} times less")
    # A ratio of two sample variances of 700 has a relative standard error near 2 sqrt(2/700).
    assert variances["sampled"] / variances["closed prior"] > 1.8
    assert variances["closed prior"] / variances["both"] > 1 + 4.5 * 2 * (2 / repeats) ** 0.5


def test_widening_pays_alike_and_noise_is_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    """Near q = p, d = 10: the gradient on log sd is one number, the noise on the means' is not."""
    n, d, s, t, repeats = 64, 10, 0.9, 0.3, 150

    def wide(log_sd: float) -> float:
        return population(d, d, 0.0, math.exp(2 * log_sd) + t**2)

    at = math.log(s)
    truth = (wide(at + 1e-5) - wide(at - 1e-5)) / 2e-5
    fixed = t * torch.randn(n, d)
    on_means = {}
    lines = []
    for name in ("sampled", "both"):
        mmd, widths, found = MMD(RBF(), **ESTIMATORS[name]), [], []
        for _ in range(repeats):
            means = (t * torch.randn(n, d)).requires_grad_()
            log_sd = torch.tensor(at, requires_grad=True)
            q = dist.Normal(means, log_sd.exp().expand(n, d)).to_event(1)
            value = mmd(AggregatePosterior.of(q, standard(d)))
            widths.append(torch.autograd.grad(value, log_sd)[0])
            means = fixed.clone().requires_grad_()
            q = dist.Normal(means, torch.full_like(means, s)).to_event(1)
            value = mmd(AggregatePosterior.of(q, standard(d)))
            found.append(torch.autograd.grad(value, means)[0])
        slope, on_means[name] = torch.stack(widths), torch.stack(found)
        assert deviation(slope, truth) < 4.5
        error = slope.std() / repeats**0.5
        lines.append(f"{name}: on log sd {slope.mean():.4f} +- {error:.4f}, exact {truth:.4f}")
    signal = on_means["both"].mean(0).square().mean().sqrt()
    noise = on_means["sampled"].var(0).mean().sqrt()
    with capsys.disabled():
        print(
            f"\n  {lines[0]}\n  {lines[1]}\n  noise on the means {noise / signal:.1f} times signal"
        )
    assert on_means["both"].std(0).max() < 1e-12
    # Of one mean: along the signal, so that its own noise is not added up over directions.
    direction = on_means["both"].mean(0)
    along = (on_means["sampled"] * direction).sum((1, 2))
    assert deviation(along, direction.square().sum().item()) < 4.5
    assert noise > 2 * signal


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_is_the_population_s(estimator: str) -> None:
    """d/dmu of the closed form is the mean of the estimator's gradients."""
    d, n = 3, 20
    found = slopes(MMD(RBF(), **ESTIMATORS[estimator]), n, d, repeats=1500)
    assert deviation(found, derivative(lambda mu: population(d, d, mu))) < 4.5


def test_groups_are_not_paired() -> None:
    """Rows of one datum tell nothing of q(z) against each other: their pairs are left out."""
    n, d = 6, 2
    once = torch.randn(n, d)
    twice = once.repeat_interleave(2, 0)
    groups = torch.arange(n).repeat_interleave(2)
    prior = torch.randn(20, d)
    mmd = MMD(RBF(), prior="sampled", noise="sampled")
    repeated = mmd(AggregatePosterior.of(twice, prior, groups=groups))
    torch.testing.assert_close(repeated, mmd(AggregatePosterior.of(once, prior)))


def test_full_covariance_is_integrated() -> None:
    n, d = 12, 3
    means, factor = torch.randn(n, d), torch.randn(n, d, d).tril(-1) + 0.5 * torch.eye(d)
    full = dist.MultivariateNormal(means, scale_tril=factor)
    mmd = MMD(RBF())
    value = mmd(AggregatePosterior.of(full, standard(d)))
    assert mmd.estimator["z"].startswith("prior in closed form, encoder noise integrated")
    draws = together(
        lambda _: MMD(RBF(), noise="sampled")(AggregatePosterior.of(full, standard(d))),
        torch.zeros(4000),
        n * n,
    )
    assert deviation(draws, value.item()) < 4.5


def test_auto_says_what_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    q = rows(200, 10)
    mmd = MMD()
    with caplog.at_level("INFO", logger="ppl_vae"):
        mmd(AggregatePosterior.of(q, standard(10)))
        mmd(AggregatePosterior.of(q, standard(10)))
    assert mmd.estimator == {
        "z": "prior in closed form, encoder noise integrated over 16 random shifts"
    }
    assert len(caplog.records) == 1
    mmd = MMD()
    mmd(AggregatePosterior.of(torch.randn(5, 2), torch.rand(5, 2)))
    assert mmd.estimator["z"] == "prior sampled, encoder noise sampled (U-statistic)"


def test_estimator_is_the_last_call_s() -> None:
    mmd = MMD()
    mmd(AggregatePosterior.of(rows(8, 2), standard(2)))
    assert mmd.estimator["z"].startswith("prior in closed form, encoder noise integrated")
    mmd(AggregatePosterior.of(torch.randn(5, 2), torch.rand(5, 2)))
    assert mmd.estimator["z"] == "prior sampled, encoder noise sampled (U-statistic)"


def test_median_is_weighted() -> None:
    """Equal weights: torch's median; a row of weight zero: as if dropped; a datum: no pair."""
    for n in (*range(2, 12), 60):
        codes, far = torch.randn(n, 3), torch.randn(5, 3) + 50
        usual = torch.pdist(codes).square().median() / 2
        rule = RBF("median")
        torch.testing.assert_close(rule.squared_length(3, codes), usual)
        weights = torch.cat([torch.full((n,), 0.1), torch.zeros(5)])
        torch.testing.assert_close(rule.squared_length(3, codes, far, weights=weights), usual)
        twice = torch.arange(n).repeat(2)
        halves = torch.full((2 * n,), 0.5)
        length = rule.squared_length(3, codes[twice], weights=halves, groups=twice)
        torch.testing.assert_close(length, usual)
    assert RBF("median").squared_length(3, torch.ones(4, 3)) == 3


@pytest.mark.parametrize("choice", ["certain", "soft"])
def test_enumerated_shifts_are_as_quiet_as_rows(choice: str) -> None:
    """Data x choices: the SD over shifts is no more than that of the data alone."""
    data, k, d = 48, 4, 4
    means = torch.randn(data, k, d)
    p = torch.zeros(data, k)
    p[:, 0] = 1
    if choice == "soft":
        p = torch.softmax(2 * torch.randn(data, k), 1)
    groups = torch.arange(data * k) % data
    q, single = (
        dist.Normal(m, torch.full_like(m, S)).to_event(1)
        for m in (means.transpose(0, 1).reshape(-1, d), means[:, 0])
    )
    weights, every = p.T.reshape(-1), MMD(RBF(), pairs="all")

    def values(mmd: MMD, q: dist.Distribution, repeats: int, **options: Tensor) -> Tensor:
        return together(
            lambda _: mmd(AggregatePosterior.of(q, standard(d), **options)),
            torch.zeros(repeats),
            len(weights) * d,
        )

    found = values(MMD(RBF(), pairs=8), q, 300, weights=weights, groups=groups)
    alone = values(MMD(RBF(), pairs=8), single, 300)
    (exact,) = values(every, q, 1, weights=weights, groups=groups)
    assert deviation(found, exact.item()) < 4.5
    # A sample SD of 300 has a relative standard error near 1 / sqrt(600).
    assert found.std() < (1 + 4.5 * (2 / 600) ** 0.5) * alone.std()


def test_a_negative_estimate_stays_negative() -> None:
    values = estimates(MMD(prior="sampled", noise="sampled"), 10, 2, repeats=200)
    assert (values < 0).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMD(prior="exact"), "MMD prior='exact': use one of auto, sampled, closed"),  # type: ignore[arg-type]
        (lambda: MMD(pairs=0), "MMD pairs=0"),
        (lambda: MMD(draws=0), "MMD draws=0"),
        (lambda: RBF("mean"), "bandwidth 'mean' is no rule"),  # type: ignore[arg-type]
        (lambda: RBF(-1.0), "bandwidth -1.0 must be positive"),
        (lambda: MultiScale(scales=()), "scales"),
        (
            lambda: MMD(prior="closed")(
                AggregatePosterior.of(torch.randn(4, 2), torch.randn(4, 2))
            ),
            "prior='closed' needs a Gaussian prior",
        ),
        (
            lambda: MMD(noise="integrated")(AggregatePosterior.of(torch.randn(4, 2), standard(2))),
            "noise='integrated' needs a guide that is Gaussian",
        ),
        (
            lambda: MMD(prior="sampled", draws=1)(
                AggregatePosterior.of(torch.randn(9, 2), standard(2))
            ),
            "MMD draws=1 leaves the prior's draws without a pair: make it 2 or more",
        ),
        (
            lambda: MMD()(AggregatePosterior.of(torch.randn(9, 2), torch.randn(1, 2))),
            "MMD has one prior draw",
        ),
        (
            lambda: MMD()(AggregatePosterior.of(torch.randn(1, 2), standard(2))),
            "MMD needs two rows or more",
        ),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
