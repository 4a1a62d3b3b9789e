"""The distributions that Pyro lacks: densities, draws, and the derivatives of draws."""

import gc
import math

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from torch.distributions import kl_divergence
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from ppl_vae.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    DiagonalNormalMixture,
    Flow,
    Implicit,
    Levels,
    Mixture,
    NegativeBinomial,
    RelaxedOneHotCategorical,
    Uniform,
    VonMisesFisher,
    ZeroInflatedNegativeBinomial,
)
from ppl_vae.distributions.flow import build_flow, flow_from_noise
from ppl_vae.distributions.simplex import _drawn
from ppl_vae.guides import UniformBox
from ppl_vae.priors import Uniform as UniformPrior


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def assert_within_errors(draws, expected, errors=4.5):
    """The mean of independent draws, along dim 0, is the expected value."""
    draws = draws.detach()
    error = draws.std(0) / len(draws) ** 0.5
    excess = ((draws.mean(0) - expected).abs() - errors * error - 1e-12).max()
    assert excess <= 0, f"off by {excess:.3g} beyond {errors} standard errors"


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("logit", [0.0, 1e-3, 0.05, -0.07, 1.0, -10.0, 32.0, -80.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_integrates_to_one(logit, dtype):
    # At logits of 32 PyTorch's own gives one half in single precision.
    x, weight = np.polynomial.legendre.leggauss(200)
    x = torch.as_tensor((x + 1) / 2, dtype=dtype)
    p = ContinuousBernoulli(logits=torch.tensor(logit, dtype=dtype)).expand(x.shape)
    mass = (p.log_prob(x).exp().double() * torch.as_tensor(weight / 2)).sum()
    assert abs(mass - 1) < (1e-5 if dtype == torch.float32 else 1e-9)


def test_continuous_bernoulli_has_the_right_gradient_across_the_series():
    logits = torch.tensor([-40.0, -0.0601, -0.0599, 0.0, 0.0599, 0.0601, 40.0], dtype=torch.double)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(
        ContinuousBernoulli(logits=logits)._cont_bern_log_norm().sum(), logits
    )
    half = logits.detach() / 2
    exact = torch.where(
        half == 0, half, (1 / (2 * half) - 1 / half.mul(2).sinh())
    )  # d/dl log(l / tanh(l / 2)) = 1 / l - 1 / sinh(l)
    torch.testing.assert_close(grad, exact.nan_to_num(), rtol=1e-5, atol=1e-9)


LOGITS = [0.0] + [
    sign * size
    for size in (1e-4, 0.0041, 0.01, 0.3, 1.0, 1.01, 20.0, 32.0, 80.0, 1000.0)
    for sign in (1, -1)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_has_its_moments_and_their_gradients(logit, dtype):
    logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
    mean, variance, third, entropy = 0.5, 1 / 12, 0.0, 0.0
    if logit:
        with mpmath.workdps(1000):
            x = mpmath.mpf(logits.item())
            mean = 1 / (1 - mpmath.exp(-x)) - 1 / x
            spread = 2 * mpmath.cosh(x) - 2
            variance = 1 / x**2 - 1 / spread
            third = -2 / x**3 + 2 * mpmath.sinh(x) / spread**2
            entropy = float(mpmath.log(mpmath.expm1(x) / x) - x * mean)
    p = ContinuousBernoulli(logits=logits)
    slope, bend = (torch.autograd.grad(t, logits)[0] for t in (p.mean, p.variance))
    # A few roundings each, of terms 12 times the variance where they cancel most, 240 times its
    # derivative.
    eps = torch.finfo(dtype).eps
    assert math.isclose(p.mean.item(), mean, rel_tol=4 * eps)
    assert math.isclose(p.variance.item(), variance, rel_tol=50 * eps)
    assert math.isclose(slope.item(), variance, rel_tol=50 * eps)
    assert math.isclose(bend.item(), third, rel_tol=1000 * eps, abs_tol=4 * eps)
    # the mean's distance from its end is rounded, and multiplied by the logit
    assert math.isclose(p.entropy().item(), entropy, abs_tol=eps * (4 + abs(logit)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_has_its_distribution_function_and_the_inverse(logit, dtype):
    eps = torch.finfo(dtype).eps
    logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
    p = ContinuousBernoulli(logits=logits)
    u = torch.tensor([0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 2**-20, 1.0], dtype=dtype)
    with mpmath.workdps(1000):
        v = [mpmath.mpf(number) for number in u.tolist()]
        x = mpmath.mpf(logits.item())
        odds = mpmath.expm1(x)
        if logit:
            cdf = [mpmath.expm1(x * t) / odds for t in v]
            icdf = [mpmath.log1p(t * odds) / x for t in v]
            slopes = [
                (t * (odds + 1) / (1 + t * odds) - y) / x for t, y in zip(v, icdf, strict=True)
            ]
        else:
            cdf, icdf, slopes = v, v, [t * (1 - t) / 2 for t in v]
    exact = [np.array(numbers, float) for numbers in (cdf, icdf, slopes)]
    y = p.icdf(u)
    grads = [torch.autograd.grad(t, logits, retain_graph=True)[0] for t in y]
    # exponents of up to |l| are rounded; what underflows is 0
    tiny, rtol = torch.finfo(dtype).tiny, eps * (4 + abs(logit))
    np.testing.assert_allclose(p.cdf(u).detach().numpy(), exact[0], rtol=rtol, atol=tiny)
    np.testing.assert_allclose(y.detach().numpy(), exact[1], rtol=0, atol=2 * eps)
    np.testing.assert_allclose(torch.stack(grads).numpy(), exact[2], rtol=0, atol=4 * eps)


def test_gradients_of_continuous_bernoulli_are_differences():
    step = 1e-4
    u = torch.linspace(0, 1, 7, dtype=torch.double)
    for f in ("mean", "variance", "entropy", "cdf", "icdf"):
        for logit in LOGITS:

            def value(logits, f=f):
                attribute = getattr(ContinuousBernoulli(logits=logits), f)
                arguments = (u,) if f.endswith("cdf") else ()
                return attribute(*arguments) if callable(attribute) else attribute

            at = torch.tensor(logit, dtype=torch.double)
            grad = torch.autograd.functional.jacobian(value, at)
            difference = (value(at + step) - value(at - step)) / (2 * step)
            # the truncation is about step^2 / 6, the rounding eps (1 + |l|) / step
            torch.testing.assert_close(grad, difference, rtol=0, atol=step**2)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_draws_match_the_density(logit):
    logits = torch.full((20_000,), logit, requires_grad=True)
    p = ContinuousBernoulli(logits=logits)
    x, a = p.rsample(), abs(logit)
    # the distance from the end where the density is highest is an exponential variable, cut at 1
    distance = (1 - x if logit > 0 else x).detach().numpy()
    cdf = lambda t: np.expm1(-a * t) / np.expm1(-a) if a else t  # noqa: E731
    # 4.5 standard errors of a normal variable, as a tail probability
    assert stats.kstest(distance, cdf).pvalue > 6.8e-6
    (grad,) = torch.autograd.grad(x.sum(), logits)
    assert torch.isfinite(grad).all()
    assert_within_errors(grad.double(), ContinuousBernoulli(logits=logits[0].double()).variance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_without_gradients_is_the_cross_entropy(dtype):
    """To a rounding of the largest term, at grey values and where logits are 0 or far out."""
    far = torch.tensor([0.0, 1e-8, 0.5, 15.0, 40.0, 300.0])
    logits = torch.cat([far, -far])[:, None].to(dtype)
    x = torch.tensor([0.0, 0.3, 1.0], dtype=dtype)
    found = Bernoulli(logits=logits).log_prob(x)
    wide, grey = torch.broadcast_tensors(logits.double(), x.double())
    exact = torch.nn.functional.binary_cross_entropy_with_logits(wide, grey, reduction="none")
    assert found.dtype == dtype
    error = (found.double() + exact).abs()
    assert (error <= 2 * torch.finfo(dtype).eps * (1 + wide.abs())).all()
    with torch.no_grad():  # of a parameter, which has the gradient of both elsewhere
        leaf = logits.clone().requires_grad_()
        assert torch.equal(Bernoulli(logits=leaf).log_prob(x), found)
    (slope,) = torch.autograd.grad(Bernoulli(logits=leaf).log_prob(x).sum(), leaf)
    torch.testing.assert_close(slope, (x - logits.sigmoid()).sum(1, keepdim=True))


def test_bernoulli_scores_grey_values_by_cross_entropy():
    x = torch.tensor([0.0, 0.25, 1.0])
    logits = torch.tensor([0.3, -1.0, 2.0])
    log_prob = Bernoulli(logits=logits, validate_args=True).log_prob(x)
    pi = logits.sigmoid()
    torch.testing.assert_close(log_prob, x * pi.log() + (1 - x) * (1 - pi).log())
    assert not Bernoulli(logits=logits).support.check(torch.tensor([-0.1, 1.1, math.nan])).any()


def test_uniform_gives_its_ends_their_density_and_the_outside_none():
    u = Uniform(torch.tensor(0.9), torch.tensor(0.9 + 1e-6))
    draws = u.rsample((10_000,))
    assert (draws == u.high).any()  # a draw that PyTorch's scores as impossible
    torch.testing.assert_close(u.log_prob(draws), -(u.high - u.low).log().expand(10_000))
    wide = Uniform(torch.tensor(-1.0), torch.tensor(1.0), validate_args=False)
    log_prob = wide.log_prob(torch.tensor([-1.0, 0.0, 1.0, 1.01, -1.01]))
    torch.testing.assert_close(log_prob[:3], torch.full((3,), -math.log(2)))
    assert (log_prob[3:] == -math.inf).all()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.7), (-0.3, 0.1)])
def test_boxes_stay_inside_the_prior_in_every_precision(low, high):
    prior, encoder = UniformPrior(2, low, high), UniformBox((3,), 2, low=low, high=high)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(50)  # to the edges
    for dtype in (torch.float32, torch.float64, torch.float32):
        prior, encoder = prior.to(dtype), encoder.to(dtype)
        p = prior()
        assert torch.equal(p.base_dist.low, torch.full((2,), low, dtype=dtype))
        assert torch.equal(p.base_dist.high, torch.full((2,), high, dtype=dtype))
        assert torch.isfinite(kl_divergence(encoder(torch.randn(500, 3, dtype=dtype)), p)).all()


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("x", [0, 3, 29, 20_000])
@pytest.mark.parametrize("count", [1e-3, 1.0, 1e3, 1e5, 1e6, 1e8])
def test_negative_binomial_and_its_gradient_in_single_precision(count, x):
    eps = torch.finfo(torch.float32).eps
    r = torch.tensor(count, requires_grad=True)
    logits = torch.tensor(math.log(max(x, 5) / count), requires_grad=True)
    log_prob = NegativeBinomial(r, logits=logits).log_prob(torch.tensor(float(x)))
    by_r, by_logits = torch.autograd.grad(log_prob, (r, logits))
    # log (r + x - 1 choose x) as a sum, and its derivative
    k = np.arange(x)
    r, logit = r.item(), logits.item()
    exact = (np.log(r + k) - np.log(1 + k)).sum()
    exact += x * special.log_expit(logit) + r * special.log_expit(-logit)
    assert math.isclose(log_prob.item(), exact, rel_tol=2 * eps, abs_tol=2 * eps)
    exact = (1 / (r + k)).sum() + special.log_expit(-logit)
    assert math.isclose(by_r.item(), exact, rel_tol=2 * eps, abs_tol=2 * eps / r)
    exact = x * special.expit(-logit) - r * special.expit(logit)
    assert math.isclose(by_logits.item(), exact, rel_tol=2 * eps, abs_tol=2 * eps * x)


def test_zero_inflated_negative_binomial_draws_match_the_density():
    r, logits, gate = (torch.tensor(v, dtype=torch.double) for v in (2.0, 0.4, -0.7))
    p = ZeroInflatedNegativeBinomial(r, logits, gate)
    x = torch.arange(200, dtype=torch.double)
    probs = p.log_prob(x).exp()
    assert abs(probs.sum() - 1) < 1e-12
    torch.testing.assert_close(p.mean, probs @ x)
    torch.testing.assert_close(p.variance, probs @ (x - p.mean).square())
    draws = p.sample((20_000,))
    assert_within_errors((draws[..., None] == x[:5]).double(), probs[:5])


# ---------------------------------------------------------------- simplex and levels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_relaxed_one_hot_integrates_to_one_and_draws_match(temperature):
    logits = torch.tensor([0.3, -0.5], dtype=torch.double)
    p = RelaxedOneHotCategorical(torch.tensor(temperature).double(), logits=logits)
    u = torch.linspace(-60, 60, 20_001, dtype=torch.double)  # x = sigmoid(u)
    x = torch.stack([u.sigmoid(), (-u).sigmoid()], -1)
    density = p.log_prob(x).exp() * x.prod(-1)
    step = u[1] - u[0]
    assert abs(density.sum() * step - 1) < 1e-6
    draws = p.rsample((20_000,))
    for h in (lambda x: x[..., 0], lambda x: x[..., 0].square()):
        assert_within_errors(h(draws), (h(x) * density).sum() * step)


def test_relaxed_one_hot_draws_stay_inside_the_simplex():
    # PyTorch's underflow to 0 here, and the log-density there is NaN.
    p = RelaxedOneHotCategorical(
        torch.tensor(0.05), logits=10 * torch.randn(50, 200), validate_args=True
    )
    assert torch.isfinite(p.log_prob(p.rsample())).all()


def _sharp(cls, temperature, spread, dtype, draws=20_000):
    """Logits of 10 classes for each draw; a distribution with them, and one with none."""
    logits = spread * torch.randn(10, generator=torch.Generator().manual_seed(1))
    logits = logits.expand(draws, 10).to(dtype).requires_grad_()
    temperature = torch.tensor(temperature).to(dtype)
    return (
        logits,
        cls(temperature, logits=logits),
        cls(temperature, logits=torch.zeros_like(logits)),
    )


def _log_ratio(cls, temperature, spread, dtype):
    """Draws of log q(z) - log p(z), and their gradients by the logits."""
    logits, q, p = _sharp(cls, temperature, spread, dtype)
    z = q.rsample()
    ratio = q.log_prob(z) - p.log_prob(z)
    (grad,) = torch.autograd.grad(ratio.sum(), logits)
    return torch.cat([ratio.detach()[:, None], grad], -1).double()


@pytest.mark.parametrize(
    ("temperature", "spread"), [(0.5, 1), (0.1, 5), (0.05, 5), (0.02, 5), (0.5, 30)]
)
def test_relaxed_one_hot_scores_its_draws_by_their_logarithms(temperature, spread):
    # most coordinates are far below the smallest number of single precision
    found = _log_ratio(RelaxedOneHotCategorical, temperature, spread, torch.float32)
    exact = _log_ratio(ExpRelaxedCategorical, temperature, spread, torch.float64)
    error = ((found.var(0) + exact.var(0)) / len(found)).sqrt()
    rounding = 100 * torch.finfo(torch.float32).eps * exact.abs().amax(0)
    assert ((found.mean(0) - exact.mean(0)).abs() < 4.5 * error + rounding).all()


def test_relaxed_one_hot_knows_a_draw_by_any_view_and_in_a_plate():
    logits, q, p = _sharp(RelaxedOneHotCategorical, 0.05, 5, torch.float32, draws=6)

    def program():
        with pyro.plate("data", 6):
            return pyro.sample("z", RelaxedOneHotCategorical(q.temperature, logits=logits[0]))

    trace = pyro.poutine.trace(program).get_trace()
    z = trace.nodes["z"]["value"]
    assert (z.min(-1).values < 1e-30).all()
    log_z = _drawn[z.untyped_storage()][1]
    for law in (q, p):
        base = ExpRelaxedCategorical(law.temperature.double(), logits=law.logits.double())
        expected = (base.log_prob(log_z.double()) - log_z.double().sum(-1)).float()
        torch.testing.assert_close(law.log_prob(z), expected)
        torch.testing.assert_close(law.to_event(1).log_prob(z), expected.sum())
        torch.testing.assert_close(law.log_prob(z.detach()), expected)
        torch.testing.assert_close(law.log_prob(z.reshape(2, 3, 10).view(6, 10)), expected)
        outer = law.log_prob(z[:, None])
        torch.testing.assert_close(outer.diagonal(), expected)
        # ... and not a copy, which has only its values
        assert (law.log_prob(z.clone()) - expected).abs().min() > 1
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], q.log_prob(z))


def test_relaxed_one_hot_density_has_a_gradient_by_the_draw():
    # as estimators need that differentiate by a detached draw
    _, q, _ = _sharp(RelaxedOneHotCategorical, 0.5, 1, torch.float64, draws=50)
    z = q.rsample()
    leaf, copy = z.detach().requires_grad_(), z.detach().clone().requires_grad_()
    (by_leaf,) = torch.autograd.grad(q.log_prob(leaf).sum(), leaf)
    (by_copy,) = torch.autograd.grad(q.log_prob(copy).sum(), copy)
    (by_draw,) = torch.autograd.grad(q.log_prob(z).sum(), z, retain_graph=True)
    torch.testing.assert_close(by_leaf, by_copy)
    torch.testing.assert_close(by_draw, by_copy)


def test_relaxed_one_hot_scores_a_draw_changed_in_place_by_its_values():
    _, q, _ = _sharp(RelaxedOneHotCategorical, 0.05, 5, torch.float32, draws=6)
    with torch.no_grad():
        for change in (lambda z: z[2:].copy_(z[2:].roll(1, -1)), lambda z: z.data[2:].fill_(0.1)):
            z = q.sample()
            before = q.log_prob(z)
            change(z)
            torch.testing.assert_close(q.log_prob(z)[2:], q.log_prob(z.clone())[2:])
            torch.testing.assert_close(q.log_prob(z)[:2], before[:2])


def test_relaxed_one_hot_draws_are_forgotten_with_the_draw():
    _, q, p = _sharp(RelaxedOneHotCategorical, 0.5, 1, torch.float32, draws=6)
    gc.collect()
    kept = len(_drawn)
    z = q.rsample()
    log_prob = q.log_prob(z) - p.log_prob(z)
    assert len(_drawn) == kept + 1
    del z, log_prob
    assert len(_drawn) == kept


def test_levels_are_a_distribution_over_the_grid():
    logits = torch.randn(3, 5, dtype=torch.double)
    p = Levels(logits)
    grid = torch.linspace(0, 1, 5, dtype=torch.double)
    probs = p.log_prob(grid[:, None]).exp()
    torch.testing.assert_close(probs, logits.softmax(-1).T)
    torch.testing.assert_close(p.mean, grid @ probs)
    torch.testing.assert_close(p.variance, grid.square() @ probs - (grid @ probs).square())
    draws = p.sample((20_000,))
    assert_within_errors((draws[..., None] == grid).double(), probs.T)
    assert p.expand((2, 3)).log_prob(grid[2]).shape == (2, 3)


def test_variance_of_a_sharp_distribution_over_levels_in_single_precision():
    logits = torch.zeros(256)
    logits[100] = 30.0
    single = Levels(logits)
    double = Levels(single.logits.double())
    torch.testing.assert_close(single.variance.double(), double.variance)
    gap = torch.arange(256).double() / 255 - 100 / 255
    assert math.isclose(double.variance, math.exp(-30) * gap.square().sum(), rel_tol=1e-9)


def test_levels_refuse_values_off_the_grid():
    p = Levels(torch.zeros(256), validate_args=True)
    eight_bit = torch.arange(256, dtype=torch.float32) / 255
    torch.testing.assert_close(p.log_prob(eight_bit), torch.full((256,), -math.log(256)))
    for bad in (0.5, -1 / 255, 256 / 255, math.nan):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.tensor(bad))


# ---------------------------------------------------------------- mixtures


def _mixture(d, k=3):
    torch.manual_seed(d)
    parameters = [
        (torch.randn(*shape, dtype=torch.double) * s).requires_grad_()
        for shape, s in (((k,), 0.5), ((k, d), 1.0), ((k, d), 0.3))
    ]
    logits, loc, log_scale = parameters
    components = dist.Normal(loc, log_scale.exp()).to_event(1)
    return parameters, DiagonalNormalMixture(dist.Categorical(logits=logits), components)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_gradients_of_mixture_draws_are_unbiased(d):
    parameters, mixture = _mixture(d)
    logits, loc, log_scale = parameters
    a = torch.linspace(1.5, 0.5, d, dtype=torch.double)
    # E sin(a z) in closed form: a z is normal under each component
    weights = logits.softmax(-1)
    decay = (-0.5 * (a.square() * (2 * log_scale).exp()).sum(-1)).exp()
    exact = torch.autograd.grad(
        (weights * (loc @ a).sin() * decay).sum(), parameters, retain_graph=True
    )
    batches = []
    for _ in range(60):
        mean = (mixture.rsample((1000,)) @ a).sin().mean()
        batches.append(torch.autograd.grad(mean, parameters, retain_graph=True))
    for estimates, expected in zip(zip(*batches, strict=True), exact, strict=True):
        assert_within_errors(torch.stack(estimates), expected)


@pytest.mark.parametrize("scale", [0.1, 1e-2, 1e-3, 1e-4])
def test_gradients_of_narrow_mixtures_by_the_weights_in_single_precision(scale):
    logits = torch.tensor([0.2, -0.1, 0.0])
    loc = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.5 * scale, 0.0]])
    z = torch.tensor([[0.2 * scale, 0.1 * scale], [-0.3 * scale, 1 - 0.2 * scale]])

    def gradients(dtype):
        w = logits.to(dtype).requires_grad_()
        normal = dist.Normal(loc.to(dtype), torch.full((3, 2), scale).to(dtype)).to_event(1)
        mixture = DiagonalNormalMixture(dist.Categorical(logits=w), normal)
        moves = mixture._shift(z.to(dtype)).flatten()
        return torch.stack([torch.autograd.grad(m, w, retain_graph=True)[0] for m in moves])

    single, double = gradients(torch.float32).double(), gradients(torch.float64)
    # exponents up to 20 and then a few roundings
    bound = 40 * torch.finfo(torch.float32).eps * double.abs().amax(-1, keepdim=True)
    assert ((single - double).abs() < bound).all()


def test_mixture_draws_follow_components_of_any_family():
    scale_tril = torch.randn(2, 2, 2, dtype=torch.double).tril() + 2 * torch.eye(2).double()
    loc = torch.randn(2, 2, dtype=torch.double, requires_grad=True)
    mixture = Mixture(
        dist.Categorical(logits=torch.tensor([0.2, -0.4], dtype=torch.double)),
        dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False),
    )
    assert mixture.has_rsample
    (grad,) = torch.autograd.grad(mixture.rsample((20_000,)).sum(), loc)
    weights = mixture.mixture_distribution.probs
    assert_within_errors(mixture.sample((20_000,)), weights @ loc.detach())
    # each draw moves with the component it came from
    assert (grad.sum(0) == 20_000).all()
    error = (weights * (1 - weights) / 20_000).sqrt()
    assert ((grad / 20_000 - weights[:, None]).abs() < 4.5 * error[:, None]).all()


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_mixture_shapes(batch):
    _, mixture = _mixture(2)
    mixture = mixture.expand(batch)
    z = mixture.rsample((4,))
    assert z.shape == (4, *batch, 2)
    assert mixture.log_prob(z).shape == (4, *batch)


# ---------------------------------------------------------------- the sphere


@pytest.mark.parametrize("d", [2, 3, 10, 128, 1000])
@pytest.mark.parametrize("kappa", [1e-3, 0.5, 5.0, 50.0, 1e3, 1e4])
def test_von_mises_fisher_normaliser_mean_and_derivative(d, kappa):
    order = d / 2 - 1
    bessel = special.ive(order, kappa)
    if bessel < 1e-280:
        pytest.skip("SciPy's Bessel function underflows")
    concentration = torch.tensor(kappa, dtype=torch.double, requires_grad=True)
    direction = torch.eye(d, dtype=torch.double)[0]
    p = VonMisesFisher(direction, concentration)
    log_prob = p.log_prob(direction)
    exact = order * math.log(kappa) - d / 2 * math.log(2 * math.pi) - math.log(bessel)
    assert math.isclose(log_prob.item(), exact, rel_tol=1e-10, abs_tol=1e-10)
    ratio = special.ive(order + 1, kappa) / bessel
    (slope,) = torch.autograd.grad(log_prob, concentration)
    assert math.isclose(slope.item(), 1 - ratio, rel_tol=1e-6, abs_tol=1e-10)
    assert math.isclose(p.mean[0].item(), ratio, rel_tol=1e-9)
    single = VonMisesFisher(direction.float(), concentration.detach().float())
    assert math.isclose(single.log_prob(direction.float()).item(), exact, rel_tol=1e-4)


@pytest.mark.parametrize("kappa", [0.0, 0.7, 20.0])
def test_von_mises_fisher_integrates_to_one_over_circle_and_sphere(kappa):
    concentration = torch.tensor(kappa, dtype=torch.double)
    phi = torch.arange(400, dtype=torch.double) * (2 * math.pi / 400)
    circle = torch.stack([phi.cos(), phi.sin()], -1)
    p = VonMisesFisher(circle[37], concentration)
    assert abs(p.log_prob(circle).exp().mean() * 2 * math.pi - 1) < 1e-9
    x, weight = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(100))
    height, around = x[:, None], (1 - x.square()).sqrt()[:, None]
    sphere = torch.stack([around * phi.cos(), around * phi.sin(), height.expand(100, 400)], -1)
    p = VonMisesFisher(torch.nn.functional.normalize(torch.ones(3).double(), dim=0), concentration)
    mass = (p.log_prob(sphere).exp().mean(-1) * weight).sum() * 2 * math.pi
    assert abs(mass - 1) < 1e-9


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.0, 3.0, 1000.0])
def test_von_mises_fisher_draws_match_the_density(d, kappa):
    direction = torch.nn.functional.normalize(torch.randn(d, dtype=torch.double), dim=0)
    p = VonMisesFisher(direction, torch.tensor(kappa, dtype=torch.double))
    z = p.rsample((20_000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(20_000, dtype=torch.double))
    # the angle to the mean direction, against its distribution function
    theta = torch.linspace(0, math.pi, 200_001, dtype=torch.double)
    log_density = kappa * (theta.cos() - 1) + (d - 2) * theta.sin().clamp_min(1e-300).log()
    cdf = torch.cumulative_trapezoid(log_density.exp(), theta)
    cdf = np.concatenate([[0.0], cdf / cdf[-1]])
    angle = 2 * ((z - direction).norm(dim=-1) / 2).clamp(0, 1).asin()
    assert stats.kstest(angle.numpy(), lambda t: np.interp(t, theta, cdf)).pvalue > 1e-3
    assert_within_errors(z, p.mean)
    assert_within_errors((z - p.mean).square(), p.variance)


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.5, 30.0, 2000.0])
def test_derivatives_of_von_mises_fisher_draws_are_unbiased(d, kappa):
    concentration = torch.full((20_000,), kappa, dtype=torch.double, requires_grad=True)
    raw = torch.nn.functional.normalize(torch.randn(d, dtype=torch.double), dim=0)
    raw.requires_grad_()
    direction = torch.nn.functional.normalize(raw, dim=0)
    a = torch.linspace(-1, 1, d, dtype=torch.double) + 0.3
    z = VonMisesFisher(direction, concentration).rsample()
    (by_kappa,) = torch.autograd.grad((z @ a).sum(), concentration, retain_graph=True)
    one = torch.tensor(kappa, dtype=torch.double, requires_grad=True)
    mean = VonMisesFisher(direction, one).mean @ a
    exact_kappa, exact_raw = torch.autograd.grad(mean, [one, raw], retain_graph=True)
    assert_within_errors(by_kappa, exact_kappa)
    by_raw = [torch.autograd.grad((c @ a).mean(), raw, retain_graph=True)[0] for c in z.split(500)]
    assert_within_errors(torch.stack(by_raw), exact_raw)


@pytest.mark.parametrize("d", [2, 3, 5, 20, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_von_mises_fisher_accepts_often_enough(d, dtype):
    # 32 proposals are made; with each accepted at 0.65, all fail once in 10^14.
    p = VonMisesFisher(torch.eye(d, dtype=dtype)[0], torch.logspace(-3, 8, 23, dtype=dtype))
    _, log_accept = p._proposals(torch.Size([3000, 23]))
    accepted = log_accept.clamp_max(0).exp().flatten(0, 1)
    error = accepted.std(0) / len(accepted) ** 0.5
    assert (accepted.mean(0) + 4.5 * error > 0.65).all()


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize("kappa", [1e5, 1e6, 1e7])
def test_concentrated_von_mises_fisher_draws_in_single_precision(d, kappa):
    direction = torch.eye(d)[0]
    z = VonMisesFisher(direction, torch.tensor(kappa)).rsample((20_000,))
    # 2 kappa (1 - cos), which is chi-square but for terms in 1 / kappa
    square = kappa * (z - direction).double().square().sum(-1)
    assert stats.kstest(square.numpy(), stats.chi2(d - 1).cdf).pvalue > 6.8e-6


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.0, 3.0, 1e4, 1e7])
def test_moments_and_kl_of_von_mises_fisher_in_single_precision(d, kappa):
    loc = torch.eye(d)[:2]
    single = [VonMisesFisher(m, torch.tensor(k)) for m, k in zip(loc, (kappa, 2.0), strict=True)]
    double = [VonMisesFisher(p.loc.double(), p.concentration.double()) for p in single]
    # exponents of up to (window's 12)^2 / 2 are rounded
    rtol = 72 * torch.finfo(torch.float32).eps
    for f in (lambda p, q: p.variance[:2], lambda p, q: p.mean_gap, kl_divergence):
        torch.testing.assert_close(f(*single).double(), f(*double), rtol=rtol, atol=0)
    if kappa == 1e4:
        # E sin^2 / (d - 1) is about 1 / kappa, and 1 - cos gamma with shape (d - 1) / 2
        expected = torch.tensor([(d - 1) / (2 * kappa**2), 1 / kappa], dtype=torch.double)
        torch.testing.assert_close(double[0].variance[:2], expected, rtol=d / kappa, atol=0)


def test_von_mises_fisher_refuses_directions_off_the_sphere():
    with pytest.raises(ValueError, match="loc"):
        VonMisesFisher(torch.ones(2), torch.tensor(1.0), validate_args=True)


def test_von_mises_fisher_needs_two_dimensions():
    with pytest.raises(ValueError, match="2 dimensions"):
        VonMisesFisher(torch.ones(1), torch.tensor(1.0))


# ---------------------------------------------------------------- implicit and flows


def test_implicit_draws_and_refuses_a_density():
    features = torch.randn(5, 3, requires_grad=True)
    p = Implicit(lambda h, e: h[..., :2] + e, features, noise=2, dim=2)
    z = p.rsample((4,))
    assert z.shape == (4, 5, 2)
    assert p.expand((7, 5)).rsample().shape == (7, 5, 2)
    assert torch.autograd.grad(z.sum(), features)[0][:, :2].eq(4).all()
    with pytest.raises(NotImplementedError, match="no density"):
        p.log_prob(z)


@pytest.mark.parametrize("family", ["affine", "spline"])
@pytest.mark.parametrize("d", [1, 2])
def test_flows_integrate_to_one_and_draws_match(family, d):
    pytest.importorskip("zuko")
    flow = build_flow(family, d, 3, transforms=2, hidden=(16,)).double()
    context, loc, scale = torch.randn(3), torch.randn(d), torch.tensor([0.3, 1.2])[:d]
    with torch.no_grad():
        p = flow_from_noise(flow, context.double(), loc.double(), scale.double())
        axis = torch.linspace(-8, 8, 241, dtype=torch.double)
        grid = torch.stack(torch.meshgrid(*[axis] * d, indexing="ij"), -1) * scale + loc
        density = p.log_prob(grid).exp() * scale.prod() * (axis[1] - axis[0]) ** d
        assert abs(density.sum() - 1) < 1e-3
        draws = p.sample((20_000,))
        for h in (lambda z: z.sum(-1), lambda z: z.sin().prod(-1)):
            assert_within_errors(h(draws), (h(grid) * density).sum())


def test_flow_remembers_the_density_of_its_draws_only_where_right():
    pytest.importorskip("zuko")
    flow = build_flow("affine", 3, 2, transforms=2, hidden=(8,)).double()
    make = lambda: flow_from_noise(  # noqa: E731
        flow, torch.zeros(5, 2).double(), torch.zeros(5, 3).double(), torch.ones(5, 3).double()
    )
    p = make()
    z = p.rsample()
    torch.testing.assert_close(p.log_prob(z), p.dist.log_prob(z))
    remembered = torch.autograd.grad(
        p.log_prob(z).sum(), list(flow.parameters()), retain_graph=True
    )
    computed = torch.autograd.grad(p.dist.log_prob(z).sum(), list(flow.parameters()))
    torch.testing.assert_close(remembered, computed)
    with torch.no_grad():
        z.mul_(2)  # changed in place
    torch.testing.assert_close(p.log_prob(z), p.dist.log_prob(z))
    q = make()
    with torch.no_grad():
        draw = q()
    assert q.log_prob(draw).requires_grad  # remembered without a gradient: computed afresh
    assert isinstance(q.expand((2, 5)), Flow)
    assert q.expand((2, 5)).rsample().shape == (2, 5, 3)


def test_flow_without_zuko_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    with pytest.raises(ImportError, match=r"ppl-vae\[flows\]"):
        build_flow("affine", 2, 0, 1, (8,))


def test_unknown_flow_is_refused():
    with pytest.raises(ValueError, match="affine, spline"):
        build_flow("cubic", 2, 0, 1, (8,))


# ---------------------------------------------------------------- closed-form divergences


def _against_draws(p, q):
    """The registered divergence is the mean of log p - log q over draws of p."""
    kl = kl_divergence(p, q)
    z = p.sample((20_000,))
    assert_within_errors(p.log_prob(z) - q.log_prob(z), kl)


@pytest.mark.parametrize("d", [1, 3])
def test_kl_of_correlated_normals_against_independent_ones(d):
    loc, scale = torch.randn(2, d).double(), torch.rand(2, d).double() + 0.5
    q = dist.Normal(loc, scale).to_event(1)
    factor = torch.randn(2, d, d).double().tril(-1) + torch.eye(d)
    full = dist.MultivariateNormal(torch.randn(2, d).double(), scale_tril=factor)
    low = dist.LowRankMultivariateNormal(
        torch.randn(2, d).double(), torch.randn(2, d, 2).double(), torch.rand(2, d).double() + 0.1
    )
    for p in (full, low):
        other = dist.MultivariateNormal(loc, scale_tril=torch.diag_embed(scale))
        dense = dist.MultivariateNormal(p.mean, covariance_matrix=p.covariance_matrix)
        torch.testing.assert_close(kl_divergence(p, q), kl_divergence(dense, other))
        _against_draws(p, q)
        with pytest.raises(NotImplementedError):
            kl_divergence(p, dist.Laplace(loc, scale).to_event(1))


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize(("kappa", "other"), [(5.0, 0.0), (0.0, 3.0), (400.0, 20.0), (2.0, 90.0)])
def test_kl_of_von_mises_fisher(d, kappa, other):
    directions = torch.nn.functional.normalize(torch.randn(2, d, dtype=torch.double), dim=-1)
    concentrations = torch.tensor([kappa, other], dtype=torch.double)
    p, q = (VonMisesFisher(*a) for a in zip(directions, concentrations, strict=True))
    _against_draws(p, q)
    assert abs(kl_divergence(p, p)) < 1e-12


@pytest.mark.parametrize("d", [2, 3, 8])
def test_kl_of_two_von_mises_fishers_is_the_mean_log_ratio(d):
    torch.manual_seed(d)
    loc = torch.nn.functional.normalize(torch.randn(2, d).double(), dim=-1)
    p = VonMisesFisher(loc[0], torch.tensor(4.0).double())
    q = VonMisesFisher(loc[1], torch.tensor(2.5).double())
    draws = p.sample((20_000,))
    ratio = p.log_prob(draws) - q.log_prob(draws)
    error = ratio.std() / len(ratio) ** 0.5
    assert (torch.distributions.kl_divergence(p, q) - ratio.mean()).abs() < 4.5 * error


def test_a_relaxed_sample_passes_no_gradient():
    logits = torch.zeros(3, requires_grad=True)
    fn = RelaxedOneHotCategorical(torch.tensor(0.5), logits=logits)
    assert fn.rsample().requires_grad
    assert not fn.sample().requires_grad
