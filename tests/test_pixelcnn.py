"""Autoregressive likelihoods: causal, normalised, and sampled pixel by pixel without error."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from scipy import stats
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ppl_vae.data import MNIST
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import (
    AutoregressiveLikelihood,
    BinaryPixels,
    CategoricalPixels,
    LogisticPixels,
    PixelCNN,
    PixelCNNpp,
    Pixels,
)
from ppl_vae.likelihoods.pixelcnn import _gate
from ppl_vae.reproductions.autoregressive import histogram_nll, one_epoch

Factory = Callable[..., AutoregressiveLikelihood]

small: Factory = partial(PixelCNN, width=8, depth=3, kernel=3, head=8, maps=0)
mapped: Factory = partial(PixelCNN, width=6, depth=3, kernel=5, first=5, head=8, maps=3)
flat: Factory = partial(PixelCNNpp, width=6, depth=2, dropout=0.5, maps=0)
halved: Factory = partial(PixelCNNpp, width=6, depth=1, scales=2, maps=3)
quartered: Factory = partial(PixelCNNpp, width=5, depth=1, scales=3, maps=2)

NETWORKS = {
    "PixelCNN": (small, (5, 6)),
    "PixelCNN with maps": (mapped, (5, 6)),
    "PixelCNNpp": (flat, (5, 6)),
    "PixelCNNpp with maps, 2 scales": (halved, (4, 6)),
    "PixelCNNpp with maps, 3 scales": (quartered, (8, 4)),
}
PIXELS = [BinaryPixels(), CategoricalPixels(5), LogisticPixels(3, levels=16)]


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[Factory, tuple[int, int]]:
    return NETWORKS[request.param]


def strengthen(net: nn.Module) -> None:
    """Larger weights, with which outputs are far from constant."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.0)


def dependence(net: AutoregressiveLikelihood) -> Tensor:
    """Which pixel's outputs depend on which pixel, by the Jacobian: (i, j, k, l)."""
    x, z = torch.rand(1, net.channels, net.height, net.width), torch.randn(1, net.dim)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: net.outputs_at(x, z), x, vectorize=True
    )
    return (jacobian[0, :, :, :, 0] != 0).any(3).any(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_depend_on_exactly_the_earlier_pixels(
    double: None, network: tuple[Factory, tuple[int, int]], channels: int
) -> None:
    factory, (height, width) = network
    net = factory(2, (channels, height, width), pixels=LogisticPixels(2)).eval()
    n = height * width
    seen = dependence(net).reshape(n, n)
    assert torch.equal(seen, torch.ones(n, n).tril(-1).bool())


def test_a_shallow_network_sees_its_receptive_field_and_no_further(double: None) -> None:
    """First layer: 1 row above, 3 columns, 1 pixel left; second: 1 row and 1 column more."""
    net = PixelCNN(2, (5, 9), width=8, depth=2, kernel=3, first=3)
    seen = dependence(net)[3, 4]
    expected = torch.zeros(5, 9, dtype=torch.bool)
    expected[1, 2:7] = expected[2, 2:7] = True
    expected[3, 2:4] = True
    assert torch.equal(seen, expected)


def all_images(levels: int, size: tuple[int, ...]) -> Tensor:
    values = (torch.arange(levels) / (levels - 1)).tolist()
    return torch.tensor(list(itertools.product(values, repeat=math.prod(size)))).reshape(-1, *size)


@pytest.mark.parametrize("factory", [small, mapped, flat])
def test_log_prob_sums_to_one_over_all_binary_images_of_3x3(
    double: None, factory: Factory
) -> None:
    net = factory(2, (3, 3), pixels=BinaryPixels()).eval()
    strengthen(net)
    x, z = all_images(2, (3, 3)), 3 * torch.randn(4, 2)
    log_p = net(z).log_prob(x[:, None])
    assert log_p.shape == (512, 4)
    assert log_p.std() > 0.1
    assert (log_p.exp().sum(0) - 1).abs().max() < 1e-10


@pytest.mark.parametrize("factory", [small, halved])
@pytest.mark.parametrize(
    ("pixels", "levels", "size"),
    [
        (BinaryPixels(), 2, (2, 2, 2)),
        (BinaryPixels(), 2, (3, 2, 2)),
        (CategoricalPixels(4), 4, (2, 2)),
        (CategoricalPixels(3), 3, (2, 2, 2)),
        (LogisticPixels(2, levels=4), 4, (1, 2, 2)),
        (LogisticPixels(2, levels=3), 3, (2, 2, 2)),
    ],
)
def test_log_prob_sums_to_one_with_other_pixels_and_channels(
    double: None, factory: Factory, pixels: Pixels, levels: int, size: tuple[int, ...]
) -> None:
    net = factory(2, size, pixels=pixels)
    strengthen(net)
    total = net(torch.randn(2)).log_prob(all_images(levels, size)).exp().sum()
    assert (total - 1).abs() < 1e-10


@dataclass(frozen=True)
class Recording(Pixels):
    """Pixels that keep what the network returned each time one was drawn."""

    base: Pixels
    seen: list[Tensor] = field(default_factory=list)

    def outputs(self, channels: int) -> int:
        return self.base.outputs(channels)

    def noise(self, channels: int) -> int:
        return self.base.noise(channels)

    @property
    def support(self) -> torch.distributions.constraints.Constraint:
        return self.base.support

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return self.base.log_prob(y, x)

    def draw(self, y: Tensor, noise: Tensor) -> Tensor:
        self.seen.append(y)
        return self.base.draw(y, noise)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("base", PIXELS, ids=lambda p: type(p).__name__)
def test_cached_sampling_is_naive_sampling(
    double: None, network: tuple[Factory, tuple[int, int]], base: Pixels, channels: int
) -> None:
    factory, size = network
    pixels = Recording(base)
    net = factory(3, (channels, *size), pixels=pixels)
    strengthen(net)
    z, noise = torch.randn(6, 3), net.noise(6)
    cached = net.draw(z, noise)
    logits = torch.stack(pixels.seen)
    pixels.seen.clear()
    naive = net.draw_naively(z, noise)
    assert torch.equal(cached, naive)
    assert (logits - torch.stack(pixels.seen)).abs().max() < 1e-5
    assert logits.std() > 0.05
    assert cached.std() > 0.05
    # Teacher forcing on what was drawn sees the same outputs again.
    forced = net.eval().outputs_at(cached, z).flatten(2).permute(2, 0, 1)
    assert (logits - forced).abs().max() < 1e-5


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("factory", [small, flat, quartered])
def test_sampling_an_image_costs_one_pass(factory: Factory) -> None:
    net = factory(3, (8, 8))
    z, x = torch.randn(2, 3), torch.rand(2, 1, 8, 8)
    one_pass = flops(lambda: net.outputs_at(x, z))
    # Only the margins of rows are computed more than once.
    assert flops(lambda: net.draw(z, net.noise(2))) < 1.05 * one_pass


@pytest.mark.parametrize(
    ("pixels", "levels", "size"),
    [
        (BinaryPixels(), 2, (2, 3)),
        (BinaryPixels(), 2, (2, 1, 2)),
        (CategoricalPixels(3), 3, (2, 2)),
        (LogisticPixels(2, levels=4), 4, (1, 1, 2)),
        (LogisticPixels(2, levels=3), 3, (2, 1, 2)),
    ],
)
@pytest.mark.parametrize("factory", [small, flat])
def test_samples_match_the_density(
    factory: Factory, pixels: Pixels, levels: int, size: tuple[int, ...]
) -> None:
    net = factory(2, size, pixels=pixels).eval()
    strengthen(net)
    p, cells, n = net(torch.randn(2)), all_images(levels, size), 20_000
    x = p.sample((n,))
    index = ((x[:, None] - cells).abs().flatten(2).amax(2) < 1e-6).int().argmax(1)
    counts = torch.bincount(index, minlength=len(cells)).double()
    with torch.no_grad():
        expected = n * p.log_prob(cells).exp().double()
    common = expected > 5

    def tail(expected: Tensor) -> float:
        parts = torch.cat([expected[common], expected[~common].sum()[None]]) + 1e-9
        seen = torch.cat([counts[common], counts[~common].sum()[None]])
        statistic = ((seen - parts) ** 2 / parts)[parts > 1].sum()
        return float(stats.chi2.sf(statistic.item(), int((parts > 1).sum()) - 1))

    # 4.5 standard errors of a normal variable, as a tail probability.
    assert tail(expected) > 6.8e-6
    assert tail(n * torch.softmax(2 * (expected / n).log(), 0)) < 6.8e-6


@pytest.mark.parametrize("pixels", PIXELS, ids=lambda p: type(p).__name__)
def test_gradients_reach_everything(
    network: tuple[Factory, tuple[int, int]], pixels: Pixels
) -> None:
    factory, size = network
    net = factory(3, (3, *size), pixels=pixels)
    z = torch.randn(4, 3).requires_grad_()
    net(z).log_prob(net(z).sample()).sum().backward()
    assert z.grad is not None
    assert (z.grad != 0).all()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("size", [(4, 6), (1, 4, 6), (3, 4, 6)])
@pytest.mark.parametrize("factory", [small, halved])
def test_distribution_shapes(factory: Factory, size: tuple[int, ...]) -> None:
    net = factory(2, size, pixels=BinaryPixels())
    p = net(torch.randn(5, 7, 2))
    assert (p.batch_shape, p.event_shape, p.has_rsample) == ((5, 7), size, False)
    x = p.sample()
    assert x.shape == (5, 7, *size)
    assert not x.requires_grad
    assert p.support.check(x).all()
    log_p = p.log_prob(x)
    assert log_p.shape == (5, 7)
    assert torch.allclose(p.log_prob(x[:1]).diag()[0], log_p[0, 0])
    wide = p.expand(torch.Size([2, 5, 7]))
    assert torch.allclose(wide.log_prob(x), log_p.expand(2, 5, 7))
    assert wide.sample((3,)).shape == (3, 2, 5, 7, *size)
    assert net(torch.randn(2)).sample().shape == size
    # A code is paired with its own image, whatever the order of the batch.
    assert torch.allclose(net(p.z.flip(0)).log_prob(x.flip(0)), log_p.flip(0), atol=1e-5)


def test_drawing_leaves_dropout_out_and_the_mode_as_it_was() -> None:
    net = flat(2, (4, 4))
    z, noise = torch.randn(3, 2), net.noise(3)
    drawn = net.draw(z, noise)
    assert net.training
    assert torch.equal(drawn, net.eval().draw(z, noise))
    assert not net.training
    net.train()
    net.network.eval()  # a frozen part stays so
    modes = [module.training for module in net.modules()]
    net.draw(z, noise)
    net.draw_naively(z, noise)
    assert [module.training for module in net.modules()] == modes


@pytest.mark.parametrize("particles", [1, 3])
def test_trains_in_svi(particles: int) -> None:
    net, encoder = small(2, (4, 4)), MeanFieldNormal((4, 4), 2)

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            prior = pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1)
            pyro.sample("x", net(pyro.sample("z", prior)), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x))

    # Images all black or all white: every pixel but the first can be read off the one before.
    x = torch.arange(64).remainder(2).float().reshape(64, 1, 1).expand(64, 4, 4)
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True)
    svi = SVI(model, guide, Adam({"lr": 1e-2}), elbo)
    for _ in range(100):
        svi.step(x)
    losses = torch.tensor([svi.evaluate_loss(x) / 64 for _ in range(100)])
    error = losses.std() / math.sqrt(len(losses))
    # No law of these data is scored better than by the entropy, log 2. Less than as much again
    # is left for the 15 pixels to be read and for z, where a single coin costs log 2.
    assert losses.mean() > math.log(2) - 4.5 * error
    assert losses.mean() + 4.5 * error < 2 * math.log(2)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="needs images"):
        PixelCNN(2, (7,))
    with pytest.raises(ValueError, match="odd"):
        PixelCNN(2, (4, 4), kernel=4)
    with pytest.raises(ValueError, match="depth"):
        PixelCNN(2, (4, 4), depth=0)
    with pytest.raises(ValueError, match="divisible by 4"):
        PixelCNNpp(2, (6, 8), scales=3)
    with pytest.raises(ValueError, match="shape"):
        PixelCNN(2, (4, 4))(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="at least 2"):
        CategoricalPixels(1)


# Real data


def test_the_baseline_of_histograms_by_hand() -> None:
    train = torch.tensor([[[0.0, 0.5]], [[1.0, 0.5]], [[1.0, 0.0]]])
    nll = histogram_nll(train, torch.tensor([[[1.0, 1.0]]]), levels=3)
    assert float(nll) == pytest.approx(-math.log(3 / 6 * 1 / 6))


@pytest.mark.slow
def test_one_epoch_on_3_000_digits(mnist_root: Path) -> None:
    """One epoch under the ELBO takes the importance-weighted NLL below 110 nats."""
    data = MNIST(str(mnist_root), limit=3_000)
    assert data.test is not None
    train, test = torch.bernoulli(data.train), torch.bernoulli(data.test[:200])
    net = PixelCNN(8, data.size, width=16, depth=3, kernel=3, first=5, head=32)
    nll = one_epoch(net, MeanFieldNormal(data.size, 8), train, test)
    assert nll.mean() + 4.5 * nll.std() / math.sqrt(len(nll)) < 110


@pytest.mark.slow
def test_one_epoch_on_1_000_grey_digits(mnist_root: Path) -> None:
    """PixelCNN++ on 256 grey levels knows more than each pixel's own histogram."""
    data = MNIST(str(mnist_root), limit=1000)
    assert data.test is not None
    train, test = data.train, data.test[:100]
    net = PixelCNNpp(8, data.size, width=16, depth=1, scales=2)
    nll = one_epoch(net, MeanFieldNormal(data.size, 8), train, test)
    gain = histogram_nll(train, test, 256) - nll
    assert gain.mean() > 4.5 * gain.std() / math.sqrt(len(gain))


def test_the_gate_is_tanh_times_sigma_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    a, b = x.chunk(2, 1)
    torch.testing.assert_close(_gate(x), torch.tanh(a) * torch.sigmoid(b))
    assert torch.autograd.gradcheck(_gate, x)
    assert torch.autograd.gradgradcheck(_gate, x)
    torch.testing.assert_close(torch.vmap(_gate)(torch.stack([x, 2 * x]))[1], _gate(2 * x))
    pixel = x.detach()[:, :, 0, 0]
    torch.testing.assert_close(_gate(pixel), _gate(x)[:, :, 0, 0])
