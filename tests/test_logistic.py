"""The discretised logistic mixture: a distribution, exact in its tails, and PixelCNN++'s."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ppl_vae.distributions import DiscretizedLogisticMixture, Levels
from ppl_vae.likelihoods import LogisticMixture


def grid(levels: int) -> Tensor:
    return torch.arange(levels) / (levels - 1)


def all_pixels(levels: int, channels: int) -> Tensor:
    values = grid(levels).tolist()
    return torch.tensor(list(itertools.product(values, repeat=channels)))


def mixture(
    *batch: int, channels: int = 1, components: int = 3, levels: int = 256, spread: float = 1.0
) -> DiscretizedLogisticMixture:
    """A mixture whose locations also lie outside [0, 1]."""
    shape = (*batch, components, channels)
    pairs = channels * (channels - 1) // 2
    return DiscretizedLogisticMixture(
        torch.randn(*batch, components),
        0.5 + spread * torch.randn(shape),
        torch.randn(shape) - 2.0,
        torch.randn(*batch, components, pairs) if pairs else None,
        levels=levels,
    )


@pytest.mark.parametrize("log_scale", [-12.0, -7.0, -3.0, 0.0, 4.0, 12.0])
def test_sums_to_one_over_256_levels(double: None, log_scale: float) -> None:
    p = mixture(20)
    p = DiscretizedLogisticMixture(p.logits, p.loc, p.log_scale + 2 + log_scale)
    x = grid(256).reshape(-1, 1, 1).expand(-1, 20, 1)
    total = p.log_prob(x).exp().sum(0)
    # 256 terms below one, each good to a few roundings.
    assert torch.allclose(total, torch.ones(20), rtol=0, atol=256 * 8 * 2.3e-16)


def test_rgb_chain_sums_to_one_over_256_levels(double: None) -> None:
    """Blue sums out to the law of (red, green), green to that of red, and red to one."""
    p, slopes = mixture(channels=3), torch.randn(3, 3)

    def first(c: int) -> DiscretizedLogisticMixture:
        loc, log_scale = p.loc[:, :c], p.log_scale[:, :c]
        return DiscretizedLogisticMixture(p.logits, loc, log_scale, slopes[:, : c * (c - 1) // 2])

    for known in ((), (0.0,), (17 / 255,), (1.0,), (90 / 255, 201 / 255)):
        c = len(known)
        x = torch.cat([torch.tensor(known).expand(256, c), grid(256)[:, None]], 1)
        summed = first(c + 1).log_prob(x).exp().sum()
        expected = first(c).log_prob(torch.tensor(known)).exp() if c else torch.tensor(1.0)
        assert summed.item() == pytest.approx(expected.item(), rel=1e-11)


@pytest.mark.parametrize("size", [(3, 2, 1), (3, 1, 2)])
def test_sums_to_one_over_all_small_rgb_images(double: None, size: tuple[int, ...]) -> None:
    levels, components = 4, 3
    count = DiscretizedLogisticMixture.outputs(3, components)
    p = DiscretizedLogisticMixture.from_network(
        2 * torch.randn(count, *size[1:]), 3, components, positions=2, levels=levels
    )
    x = all_pixels(levels, 6).reshape(-1, *size)
    assert p.event_shape == size
    assert p.log_prob(x).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def exact_log_prob(x: int, levels: int, loc: float, log_scale: float) -> float:
    """One logistic distribution by the definition, with digits enough for exp(-12,000)."""
    with mpmath.workdps(6000):
        scale, half = mpmath.exp(log_scale), mpmath.mpf(1) / (2 * (levels - 1))
        centre = mpmath.mpf(x) / (levels - 1)

        def cdf(v: mpmath.mpf) -> mpmath.mpf:
            return 1 / (1 + mpmath.exp(-(v - loc) / scale))

        upper = 1 if x == levels - 1 else cdf(centre + half)
        lower = 0 if x == 0 else cdf(centre - half)
        return float(mpmath.log(upper - lower))


@pytest.mark.parametrize("x", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("loc", [-3.0, 0.0, 0.501, 1.0, 2.5])
@pytest.mark.parametrize("log_scale", [-8.0, -4.0, 0.0, 8.0])
def test_tails_against_many_digits(double: None, x: int, loc: float, log_scale: float) -> None:
    p = DiscretizedLogisticMixture(
        torch.zeros(1), torch.tensor([[loc]]), torch.tensor([[log_scale]])
    )
    computed = p.log_prob(torch.tensor([x / 255])).item()
    assert computed == pytest.approx(exact_log_prob(x, 256, loc, log_scale), rel=1e-11, abs=1e-13)


def test_far_tails_are_finite_in_single_precision() -> None:
    loc = torch.tensor([[-100.0], [100.0], [0.5]]).requires_grad_()
    log_scale = torch.tensor([[-7.0], [-7.0], [-20.0]]).requires_grad_()
    for x in grid(256)[::51]:
        p = DiscretizedLogisticMixture(torch.zeros(3, 1), loc[..., None], log_scale[..., None])
        log_p = p.log_prob(x.reshape(1, 1))
        gradients = torch.autograd.grad(log_p.sum(), [loc, log_scale])
        assert torch.isfinite(log_p).all()
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "log_scale", [-1e30, -400.0, -90.0, -60.0, -20.0, -12.0, -7.0, -3.0, 30.0, 1e30]
)
def test_is_a_distribution_at_any_finite_parameters(dtype: torch.dtype, log_scale: float) -> None:
    edges = [0.5 / 255, 7.5 / 255, 254.5 / 255]
    loc = torch.tensor([*torch.rand(20).tolist(), *edges, 0.0, 1.0, -1e30, 1e30, 1e3], dtype=dtype)
    loc = loc[:, None, None].requires_grad_()
    log_scales = torch.full_like(loc, log_scale).detach().requires_grad_()
    p = DiscretizedLogisticMixture(torch.zeros(len(loc), 1, dtype=dtype), loc, log_scales)
    log_p = p.log_prob(grid(256).to(dtype).reshape(-1, 1, 1))
    gradients = torch.autograd.grad(log_p.sum(), [loc, log_scales])
    total = log_p.double().exp().sum(0)
    # 256 terms below one, each good to a few roundings; neighbours share those of their edge.
    assert (total - 1).abs().max() < 256 * torch.finfo(dtype).eps
    assert log_p.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)
    assert ((p.mean >= 0) & (p.mean <= 1 + 1e-6)).all()
    x = p.sample((50,))
    assert p.support.check(x).all()


def test_levels_with_a_large_common_logit_sum_to_one() -> None:
    p = Levels(1e6 + torch.zeros(256))
    assert p.log_prob(grid(256)).exp().sum().item() == pytest.approx(1, abs=256 * 1.2e-7)


@pytest.mark.parametrize("log_scale", [40.0, 80.0, 90.0, 98.0, 110.0])
def test_wide_components_in_single_precision(log_scale: float) -> None:
    """Where e^-log_scale underflows, an inner level's log-probability still falls by 1 a unit."""
    loc, log_scales = torch.full((1, 1), 0.5), torch.full((1, 1), log_scale, requires_grad=True)
    p = DiscretizedLogisticMixture(torch.zeros(1), loc, log_scales)
    for level, slope in ((0, 0.0), (128, -1.0), (255, 0.0)):
        log_p = p.log_prob(torch.tensor([level / 255]))
        (grad,) = torch.autograd.grad(log_p, log_scales)
        eps = torch.finfo(torch.float32).eps
        exact = exact_log_prob(level, 256, 0.5, log_scale)
        assert log_p.item() == pytest.approx(exact, rel=2 * eps)
        assert grad.item() == pytest.approx(slope, abs=2 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_close_to_each_other_are_scored_alike_on_both_sides_of_the_series(
    dtype: torch.dtype,
) -> None:
    eps = torch.finfo(dtype).eps
    middle = -math.log(255 * eps**0.5)  # here the width of a level is eps^(1/2) scales
    steps = torch.linspace(-0.5, 0.5, 11, dtype=dtype)
    log_scale = (middle + steps).reshape(-1, 1, 1).requires_grad_()
    p = DiscretizedLogisticMixture(
        torch.zeros(11, 1, dtype=dtype), torch.full_like(log_scale, 0.5), log_scale
    )
    log_p = p.log_prob(torch.tensor([128 / 255], dtype=dtype))
    exact = [exact_log_prob(128, 256, 0.5, s) for s in log_scale.flatten().tolist()]
    np.testing.assert_allclose(log_p.detach().numpy(), exact, rtol=4 * eps)
    (grad,) = torch.autograd.grad(log_p.sum(), log_scale)
    # the slope is -1 but for t^2 / 12 and as much from the logistic functions, t^2 about eps
    assert (grad + 1).abs().max() < 8 * eps


def test_network_outputs_mean_what_they_mean_in_pixelcnnpp(double: None) -> None:
    """Against the paper's formula on [-1, 1], written out for one pixel and three channels."""
    k = 4
    y = torch.randn(DiscretizedLogisticMixture.outputs(3, k))
    x = torch.tensor([40.0, 0.0, 255.0]) / 255
    p = DiscretizedLogisticMixture.from_network(y, 3, k)
    logits, raw = y.reshape(k, 10).numpy()[:, 0], y.reshape(k, 10).numpy()[:, 1:]
    v = 2 * x.numpy() - 1
    total = 0.0
    for weight, row in zip(np.exp(logits) / np.exp(logits).sum(), raw, strict=True):
        mean, scale = row[:3].copy(), np.exp(np.logaddexp(0, row[3:6] + 7) - 7)
        a = np.tanh(row[6:])
        mean[1] += a[0] * v[0]
        mean[2] += a[1] * v[0] + a[2] * v[1]
        cdf = lambda t: 1 / (1 + np.exp(-t))  # noqa: E731
        red = cdf((v[0] + 1 / 255 - mean[0]) / scale[0]) - cdf(
            (v[0] - 1 / 255 - mean[0]) / scale[0]
        )
        green = cdf((v[1] + 1 / 255 - mean[1]) / scale[1])
        blue = 1 - cdf((v[2] - 1 / 255 - mean[2]) / scale[2])
        total += weight * red * green * blue
    assert p.log_prob(x).item() == pytest.approx(math.log(total), rel=1e-10)


def chi_square(x: Tensor, cells: Tensor, log_p: Tensor) -> float:
    """Upper tail probability of Pearson's statistic, cells of fewer than 5 expected pooled."""
    match = (x[:, None] - cells[None]).abs().amax(2) < 1e-6
    assert match.any(1).all(), "a sample lies outside the support"
    counts, expected = match.sum(0).double().numpy(), len(x) * log_p.exp().double().numpy()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 1
    statistic = ((counts - expected)[keep] ** 2 / expected[keep]).sum()
    return float(stats.chi2.sf(statistic, keep.sum() - 1))


@pytest.mark.parametrize(("channels", "levels"), [(1, 16), (3, 4)])
def test_samples_match_the_density(channels: int, levels: int) -> None:
    p = mixture(channels=channels, levels=levels, spread=0.3)
    cells = all_pixels(levels, channels)
    x = p.sample((20_000,))
    assert x.shape == (20_000, channels)
    # 4.5 standard errors of a normal variable, as a tail probability.
    assert chi_square(x, cells, p.log_prob(cells)) > 6.8e-6
    wider = DiscretizedLogisticMixture(
        p.logits, p.loc, p.log_scale + math.log(2.0), p.slopes, levels=levels
    )
    assert chi_square(x, cells, wider.log_prob(cells)) < 6.8e-6


def test_samples_of_images_match_the_density() -> None:
    """Each position of an image draws from its own mixture."""
    levels, components = 3, 2
    y = 2 * torch.randn(DiscretizedLogisticMixture.outputs(2, components), 1, 2)
    p = DiscretizedLogisticMixture.from_network(y, 2, components, positions=2, levels=levels)
    cells = all_pixels(levels, 4)
    x = p.sample((20_000,)).reshape(-1, 4)
    log_p = p.log_prob(cells.reshape(-1, 2, 1, 2))
    assert chi_square(x, cells, log_p) > 6.8e-6
    assert chi_square(x, cells, log_p.flip(0)) < 6.8e-6


def test_mean(double: None) -> None:
    p = mixture(7, levels=32)
    x = grid(32).reshape(-1, 1, 1).expand(-1, 7, 1)
    expected = (p.log_prob(x).exp()[..., None] * x).sum(0)
    assert torch.allclose(p.mean, expected, rtol=1e-12)
    with pytest.raises(NotImplementedError, match="channels depend"):
        _ = mixture(channels=2).mean


def test_data_off_the_grid_is_refused() -> None:
    p = LogisticMixture(2, (4,))(torch.zeros(2))
    for x in (torch.full((4,), 0.5), torch.full((4,), 256 / 255), torch.full((4,), math.nan)):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(x)
    # Bytes divided by 255 are on the grid in every precision.
    for dtype in (torch.float32, torch.float64):
        assert p.support.check((torch.arange(256) / 255).to(dtype).reshape(64, 4)).all()


def test_bad_shapes_are_refused() -> None:
    logits, loc = torch.zeros(5, 3), torch.zeros(5, 3, 2)
    with pytest.raises(ValueError, match="loc and log_scale"):
        DiscretizedLogisticMixture(logits, torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="need 1 slopes"):
        DiscretizedLogisticMixture(logits, loc, loc, torch.zeros(5, 3, 2))
    with pytest.raises(ValueError, match="at least 2"):
        DiscretizedLogisticMixture(logits, loc, loc, levels=1)
    with pytest.raises(ValueError, match="does not hold"):
        DiscretizedLogisticMixture(logits, loc, loc, size=(3,))
