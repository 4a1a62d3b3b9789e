"""Draws, reconstructions, classifiers of samples, and feature distances."""

import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA
from sklearn.datasets import load_digits
from torch import nn

from ppl_vae import evaluation as ev
from ppl_vae.objectives import MMD, WAE


def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    return x[:1400], y[:1400], x[1400:], y[1400:]


def test_generated_data_have_the_models_law(double):
    pair = PPCA.make()
    x = pair.sample(7)
    draws = ev.generate(pair.model, pair.guide, x, 20_000, mean=False, block=3000)
    assert draws.shape == (20_000, 5)
    assert (draws.T.cov() - pair.marginal).abs().max() < 6 * 7.0 * math.sqrt(2 / 20_000)
    means = ev.generate(pair.model, pair.guide, x, 20_000)
    expected = pair.weight @ pair.weight.T
    assert (means.T.cov() - expected).abs().max() < 6 * 7.0 * math.sqrt(2 / 20_000)
    assert torch.linalg.matrix_rank(means - means.mean(0)) == 2


def test_globals_are_not_redrawn_from_the_prior(double):
    def model(x):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(theta, 0.1))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x[:, 0])
            pyro.sample("y", dist.Bernoulli(logits=z), obs=x[:, 1])

    def guide(x):
        pyro.sample("theta", dist.Delta(torch.tensor(50.0)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 0.1))

    x = torch.ones(4, 2)
    draws = ev.generate(model, guide, x, 100, site="x", mean=False)
    assert abs(draws.mean() - 50) < 0.1
    with pytest.raises(ValueError, match=r"choose one of the observed sites \['x', 'y'\]"):
        ev.generate(model, guide, x, 100)


@pytest.mark.parametrize("without", ["nan", "not implemented"])
def test_a_likelihood_without_a_mean_is_refused(without):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            if without == "nan":
                fn = dist.Categorical(logits=z)
            else:
                fn = dist.TransformedDistribution(
                    dist.Normal(z.sum(-1), 1.0), dist.transforms.SigmoidTransform()
                )
            pyro.sample("x", fn, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3), 0.5).to_event(1))

    x = torch.tensor([0, 1, 2]) if without == "nan" else torch.tensor([0.2, 0.4, 0.8])
    for call in (
        lambda: ev.reconstruction_error(model, guide, x),
        lambda: ev.generate(model, guide, x, 2),
        lambda: WAE(MMD()).loss(model, guide, x),
    ):
        with pytest.raises(ValueError, match=r"site 'x' has no mean in closed form"):
            call()
    assert ev.generate(model, guide, x, 2, mean=False).shape == (2,)


def test_sharpness_of_noise_and_of_flat_images(double):
    noise = torch.randn(500, 3, 20, 24) * 0.5
    found = ev.sharpness(noise, block=99)
    # The filter's squares sum to 20; averaging three channels divides the variance by 3. Within
    # an image the variance is taken about its own mean, which costs little at 18 x 22 pixels.
    assert found.value == pytest.approx(20 * 0.25 / 3, rel=0.02)
    assert ev.sharpness(torch.ones(4, 8, 8)).value == 0
    blurred = torch.nn.functional.avg_pool2d(noise, 3, 1)
    assert ev.sharpness(blurred).value < 0.3 * found.value
    with pytest.raises(ValueError, match="images of shape"):
        ev.sharpness(torch.ones(4, 8))


def test_classifier_is_trained_once_and_cached(tmp_path, monkeypatch):
    data = digits()
    state = torch.get_rng_state()
    net = ev.train_classifier(*data, cache=tmp_path, steps=200)
    assert torch.equal(state, torch.get_rng_state())
    assert net.accuracy.value > 0.85
    assert net.accuracy.value == float((net.predict(data[2]) == data[3]).double().mean())
    assert not net.training
    (path,) = tmp_path.iterdir()

    def refuse(*_):
        raise AssertionError("trained again")

    with monkeypatch.context() as patched:
        patched.setattr("ppl_vae.evaluation.classifier._fit", refuse)
        again = ev.train_classifier(*data, cache=tmp_path, steps=200)
        assert again.accuracy == net.accuracy
        assert torch.equal(again(data[2]), net(data[2]))
        with pytest.raises(AssertionError):
            ev.train_classifier(*data, cache=tmp_path, steps=199)
    path.write_bytes(b"not a file of weights")
    repaired = ev.train_classifier(*data, cache=tmp_path, steps=200)
    assert torch.equal(repaired(data[2]), net(data[2]))
    with pytest.raises(ValueError, match="needs labels"):
        ev.train_classifier(data[0], None, data[2], data[3])


class _Sign(nn.Module):
    def forward(self, x):
        return torch.cat([x, -x], 1)


def test_class_divergence_of_a_known_share(double):
    # p(x > 0) = Phi(.5) against one half.
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.full((1,), 0.5), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.zeros(10, 1)
    p = float(torch.special.ndtr(torch.tensor(0.5)))
    truth = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    found = ev.class_divergence(model, guide, x, _Sign(), num_samples=4000)
    assert abs(found.value - truth) < 4.5 * found.standard_error < truth
    # A class that no label has is infinitely far, without an error.
    never = ev.class_divergence(model, guide, x, _Sign(), torch.zeros(9).long(), num_samples=50)
    assert never.value == math.inf
    assert never.standard_error is None
    # Against its own share: zero but for the bias of (C - 1) / 2m.
    labels = (torch.arange(100_000) >= round(p * 100_000)).long()
    scores, errors = [], []
    for seed in range(200):
        pyro.set_rng_seed(seed)
        found = ev.class_divergence(model, guide, x, _Sign(), labels, num_samples=500)
        scores.append(found.value)
        errors.append(found.standard_error)
    mean, spread = torch.tensor(scores).mean(), torch.tensor(scores).std()
    assert abs(mean - 1 / 1000) < 4.5 * spread / 200**0.5
    assert 0.75 < torch.tensor(errors).square().mean().sqrt() / spread < 1.7


def test_fid_and_kid():
    pytest.importorskip("torchmetrics")
    n, d = 3000, 4
    real, near = torch.randn(2, n, d)
    far = torch.randn(n, d) * 2 + 1

    def network(images):
        return images

    # |mu|^2 + tr(I + 4 I - 2 * 2 I) = d + d.
    assert ev.fid(real, far, network).value == pytest.approx(2 * d, rel=0.1)
    assert ev.fid(real, near, network).value < 0.05
    equal = ev.kid(real, near, network, subsets=30, subset_size=500)
    assert abs(equal.value) < 4.5 * equal.standard_error + 1e-3
    unequal = ev.kid(real, far, network, subsets=30, subset_size=500)
    # The kernel's expectations by brute force over other draws.
    a, b = torch.randn(2, 4000, d).double()
    c, e = torch.randn(2, 4000, d).double() * 2 + 1

    def k(u, v):
        return float((u @ v.T / d + 1).pow(3).mean())

    truth = k(a, b) + k(c, e) - 2 * k(a, c)
    assert abs(unequal.value - truth) < 4.5 * unequal.standard_error
    with pytest.raises(ValueError, match="subset_size is 5000"):
        ev.kid(real, near, network, subset_size=5000)
    with pytest.raises(ValueError, match="two images or more"):
        ev.fid(real[:1], near, network)


@pytest.mark.parametrize("size", [40, 25])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_error_against_the_spread_over_repeats(shift, size):
    """Also where each subset is all the images, and they spread not at all."""
    pytest.importorskip("torchmetrics")
    runs = 150
    values, errors = [], []
    for seed in range(runs):
        torch.manual_seed(seed)
        real, generated = torch.randn(40, 4), torch.randn(45, 4) + shift
        found = ev.kid(real, generated, torch.nn.Identity(), subsets=5, subset_size=size)
        values.append(found.value)
        errors.append(found.standard_error)
    ratio = float(torch.tensor(errors).square().mean().sqrt() / torch.tensor(values).std())
    # Truncating negative variances makes the error a fifth too large where the laws are equal.
    error = 4.5 / (2 * runs) ** 0.5
    assert 1 - error < ratio < (1.2 if shift == 0 else 1) + error


def test_kid_of_one_image_a_subset():
    pytest.importorskip("torchmetrics")
    with pytest.raises(ValueError, match="subset_size is 1: 2 or more"):
        ev.kid(torch.randn(5, 2), torch.randn(5, 2), torch.nn.Identity(), subset_size=1)


def test_fid_with_the_librarys_own_network():
    pytest.importorskip("torchmetrics")
    x, y, test, labels = digits()
    net = ev.train_classifier(x, y, test, labels, steps=60)
    same, noise = ev.fid(x[:700], x[700:], net), ev.fid(x[:700], torch.rand_like(x[:700]), net)
    assert same.value < noise.value / 5


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"ppl-vae\[metrics\]"):
        ev.fid(torch.randn(5, 2), torch.randn(5, 2), lambda x: x)


def test_a_classifier_is_kept_by_all_that_it_was_made_of():
    from ppl_vae.evaluation.classifier import _name

    x, labels, settings = torch.rand(4, 2), torch.arange(4), {"steps": 3}
    made = {_name(x, labels, x, settings), _name(x + 1, labels, x, settings)}
    made |= {_name(x, labels, x + 1, settings), _name(x, labels + 1, x, settings)}
    made |= {_name(x, labels, x, {"steps": 4})}
    assert len(made) == 5
