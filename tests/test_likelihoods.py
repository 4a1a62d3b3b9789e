"""What one likelihood does and others do not: noise, starts, outputs, zero inflation."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from ppl_vae import likelihoods
from ppl_vae.bodies import DCGAN, MLP
from ppl_vae.training.guard import check_support

SMALL = partial(MLP, hidden=(16,))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


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


def test_means_start_where_told():
    for kind, mean in ((likelihoods.Poisson, 3.0), (likelihoods.NegativeBinomial, 4.0)):
        p = kind(3, (5,), body=SMALL, mean=mean)
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
        (lambda: likelihoods.Normal(3, (2,), noise="shared", scale=0.005), "above 0.005"),
        (lambda: likelihoods.Bernoulli(2, (1, 9, 9), body=DCGAN), "divisible by 4"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
