"""Likelihoods by a proposal fitted to each row, where the guide's own draws are off by nats."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA
from pyro import poutine
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae.evaluation.estimate import importance_nll
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import evaluating
from ppl_vae.evaluation.proposal import Proposal, Space
from ppl_vae.evaluation.weights import Weights, khat

FAMILIES = ["mean_field", "full_covariance", "flow"]


@pytest.mark.filterwarnings("ignore:in .* rows the weights")
@pytest.mark.parametrize("family", ["auto", *FAMILIES])
def test_linear_gaussian_data(family: Any) -> None:
    """The guide is 50 times too narrow: its own draws are off by nats, fitted ones are not."""
    pair = PPCA.make(widen=0.02)
    x = pair.sample(150)
    truth = -float(pair.log_likelihood(x).mean())
    own = ev.nll(pair.model, pair.guide, x, 300, "own")
    assert own.value - truth > 1
    found = ev.nll(pair.model, pair.guide, x, 300, family)
    assert abs(found.value - truth) < 4.5 * found.standard_error
    assert found.standard_error < 0.01
    assert found.size > 150
    assert found.k < 0.5
    assert found.proposal == ("full_covariance" if family == "auto" else family)
    assert "bias about" in found.note
    if family == "auto":
        assert found.own is not None
        assert found.own.value == pytest.approx(own.value, abs=4.5 * own.data_error)
        assert "by the guide itself" in found.note
        assert "too uneven" not in found.note
    assert torch.allclose(found.rows.mean(), torch.tensor(found.value).double())


@pytest.mark.filterwarnings("ignore:in .* rows the weights")
@pytest.mark.parametrize("dim", [14, 32])
def test_a_full_covariance_is_found_in_many_dimensions(dim: int) -> None:
    """With d (d - 1) / 2 correlations to be fitted, from a guide that is too narrow."""
    pair = PPCA.make(dim, features=2 * dim, noise=3.0, widen=0.02)
    x = pair.sample(30)
    truth = -float(pair.log_likelihood(x).mean())
    found = ev.nll(pair.model, pair.guide, x, 1000, "full_covariance")
    assert found.size > 300
    assert abs(found.value - truth) < 4.5 * found.standard_error
    assert found.standard_error < 0.02


def normal_weights(width: float, rows: int = 1) -> Weights:
    """Of draws N(0, width^2) for a posterior N(0, 1): their mean is 1, whatever is read off."""
    z = torch.randn(rows, 1000, dtype=torch.float64)
    return Weights([math.log(width) + (z.square() - (width * z).square()) / 2], 1000)


def test_a_narrow_guide_s_weights_may_look_even_but_for_their_tail() -> None:
    torch.manual_seed(0)
    rows = [normal_weights(0.05) for _ in range(100)]
    even = [row for row in rows if bool(row.enough.all())]
    assert len(even) > 25
    assert min(-float(row.log_mean) for row in even) > 1  # nats too low, each of them
    assert not Weights.cat(even).met  # one k-hat is noisy, those of a data set are not
    assert "unseen" in importance_nll(next(r for r in even if not r.met), "", quiet=True).note
    good = normal_weights(1.2, rows=100)
    assert good.met
    assert good.typical_size < float(good.size.mean())


def test_the_proposal_of_the_smaller_bias_is_taken() -> None:
    """The guide is the posterior of most rows, and far too narrow for one in four."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        narrow = (torch.arange(len(x)) % 4 == 0).to(x)[:, None]
        with pyro.plate("data", len(x)):
            sd = 0.5**0.5 * (1 - 0.97 * narrow)
            pyro.sample("z", dist.Normal(x / 2, sd).to_event(1))

    pyro.set_rng_seed(0)
    x = 2**0.5 * torch.randn(40, 2)
    found = ev.nll(model, guide, x, 1000, block=None)
    assert found.sizes["own"] > found.sizes["full_covariance"]  # in the median
    assert found.proposal == "full_covariance"
    truth = -float(dist.Normal(0.0, 2**0.5).log_prob(x).sum(1).mean())
    assert abs(found.value - truth) < 4.5 * found.standard_error
    assert found.own is not None
    assert found.own.value - truth > 0.5


def test_a_guide_that_will_do_is_taken_as_it_is() -> None:
    pair = PPCA.make(widen=1.1)
    x = pair.sample(50)
    found = ev.nll(pair.model, pair.guide, x, 500)
    assert (found.proposal, found.fitted) == ("own", None)
    assert "fitted" not in found.note


def _curved(x: Tensor) -> None:
    """z ~ N(0, I) of two dimensions, x of three numbers bent by it."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        first, second = z.unbind(-1)
        loc = torch.stack([2 * first.tanh(), first * second / 2, second + second**2 / 4], -1)
        pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def _exact(x: Tensor) -> Tensor:
    """log p(x) by quadrature over z on a grid of [-7, 7]^2."""
    side = torch.linspace(-7, 7, 281, dtype=torch.float64)
    first, second = torch.meshgrid(side, side, indexing="ij")
    loc = torch.stack([2 * first.tanh(), first * second / 2, second + second**2 / 4], -1)
    normal = torch.distributions.Normal(0.0, 1.0)
    prior = (normal.log_prob(first) + normal.log_prob(second)).flatten()
    likelihood = torch.distributions.Normal(loc.reshape(-1, 1, 3), 0.5).log_prob(x.double())
    step = 2 * math.log(float(side[1] - side[0]))
    return (likelihood.sum(-1) + prior[:, None]).logsumexp(0) + step


@pytest.mark.filterwarnings("ignore:in .* rows the weights")
def test_a_posterior_known_by_quadrature() -> None:
    pyro.set_rng_seed(0)
    x = poutine.uncondition(_curved)
    x = poutine.trace(x).get_trace(torch.zeros(60, 3)).nodes["x"]["value"]
    truth = -_exact(x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] / 2, 0.05).to_event(1))

    own = ev.nll(_curved, guide, x, 2000, "own")
    found = ev.nll(_curved, guide, x, 2000)
    assert own.value - float(truth.mean()) > 1
    assert found.proposal == "full_covariance"
    assert abs(found.value - float(truth.mean())) < 4.5 * found.standard_error
    assert found.value < own.value - 1


def test_constrained_latents_have_their_jacobian() -> None:
    """Gamma and Poisson: x_i is negative binomial; a Beta and a Bernoulli besides it."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(3.0, 0.5))
            share = pyro.sample("share", dist.Beta(2.0, 3.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)
            pyro.sample("y", dist.Binomial(5, share), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Delta(x + 1))
            pyro.sample("share", dist.Delta((y + 1) / 7))

    pyro.set_rng_seed(1)
    x, y = dist.Poisson(dist.Gamma(3.0, 0.5).sample((80,))).sample(), torch.randint(6, (80,)) * 1.0
    exact = dist.GammaPoisson(3.0, 0.5).log_prob(x) + dist.BetaBinomial(2.0, 3.0, 5).log_prob(y)
    found = ev.nll(model, guide, (x, y), 500)
    assert found.own is None
    assert abs(found.value + float(exact.mean())) < 4.5 * found.standard_error
    with pytest.raises(ValueError, match="deterministic, so its draws have no density"):
        ev.nll(model, guide, (x, y), 500, "own")


def test_a_chain_with_masked_rows() -> None:
    """z1 -> z2 -> x, in two sites; masked rows have log p(x) = 0."""
    mask = torch.arange(40) % 4 > 0

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            a = pyro.sample("a", dist.Normal(torch.zeros(len(x)), 0.02))
            pyro.sample("b", dist.Normal(a, 0.02))

    pyro.set_rng_seed(2)
    x = 3**0.5 * torch.randn(40)
    found = ev.nll(model, guide, x, 500, "full_covariance", block=None)
    exact = torch.where(mask, dist.Normal(0.0, 3**0.5).log_prob(x), 0.0)
    assert abs(found.value + float(exact.mean())) < 4.5 * found.standard_error
    assert found.rows[~mask].abs().max() < 0.3


def test_discrete_latents_have_no_proposal() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(4 * k, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.05)))

    x = torch.tensor([4.0, 4.0, 0.0])
    with pytest.warns(UserWarning, match="too uneven"):
        found = ev.nll(model, guide, x, 50)
    assert found.fitted is None
    assert "latent 'k' has no map to real numbers" in found.note
    with pytest.raises(ValueError, match="no map to real numbers"):
        ev.nll(model, guide, x, 50, "mean_field")


def test_the_density_of_u_integrates_to_the_evidence() -> None:
    """p(x, z(u)) |dz / du| over u of a Gamma latent, on a grid."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(torch.zeros(len(x)), 1.0))

    x = torch.tensor([0.0, 3.0])
    pair = Pair(model, guide, x)
    grid = torch.linspace(-12, 5, 341)
    with evaluating(model, guide):
        space = Space(pair, pair.index)
        log_p = torch.stack([space.log_density(u.expand(2, 1)) for u in grid])
    found = log_p.double().logsumexp(0) + math.log(float(grid[1] - grid[0]))
    assert torch.allclose(found, dist.GammaPoisson(2.0, 1.0).log_prob(x).double(), atol=1e-4)


def test_fitting_leaves_the_model_alone() -> None:
    pair = PPCA.make(widen=0.1)
    x = pair.sample(10)
    weight = torch.nn.Parameter(pair.weight.clone())

    def model(x: Tensor) -> None:
        pyro.module("w", holder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T + pair.mean, 1.0).to_event(1), obs=x)

    holder = torch.nn.ParameterList([weight])
    ev.nll(model, pair.guide, x, 30, "mean_field")
    assert weight.grad is None
    assert torch.equal(weight, pair.weight)


def test_weights_in_chunks_are_the_weights() -> None:
    torch.manual_seed(0)
    log_w = 3 * torch.randn(4, 700, dtype=torch.float64)
    found = Weights(log_w.split(90, 1), 700)
    assert torch.allclose(found.log_mean, log_w.exp().mean(1).log())
    assert torch.allclose(found.size, log_w.exp().sum(1) ** 2 / (2 * log_w).exp().sum(1))
    assert found.khats.tolist() == pytest.approx([khat(row) for row in log_w])
    assert np.isnan(Weights([log_w[:, :20]], 20).khats).all()


@pytest.mark.filterwarnings("ignore:in .* rows the weights")
def test_annealing_from_a_fitted_proposal_is_right_where_the_guide_is_hopeless() -> None:
    pair = PPCA.make(widen=0.02)
    x = pair.sample(10)
    truth = -float(pair.log_likelihood(x).mean())
    found = ev.annealed_nll(pair.model, pair.guide, x, chains=32, temperatures=4)
    assert "from a fitted proposal" in found.note
    assert abs(found.value - truth) < 4.5 * found.standard_error
    own = ev.annealed_nll(pair.model, pair.guide, x, chains=32, temperatures=4, start="guide")
    assert own.value - truth > 4.5 * found.standard_error


def test_a_proposal_is_drawn_by_row() -> None:
    """Rows whose posteriors are far apart keep their own locations through every chunk."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 100.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1))

    x = torch.tensor([-50.0, 0.0, 70.0])
    pair = Pair(model, guide, x, None, 7)
    with evaluating(model, guide):
        fitted = Proposal.fit(pair, pair.index, "mean_field", 300)
        found = Weights(fitted.log_weights(50), 50)
    exact = dist.Normal(0.0, 10001**0.5).log_prob(x).double()
    assert torch.allclose(found.log_mean, exact, atol=0.2)


@pytest.mark.filterwarnings("ignore:in .* rows the weights")
def test_a_mixture_as_the_prior() -> None:
    """Its support is that of its components; p(x) is a mixture of normals too."""
    means = torch.tensor([[-0.8], [0.8]])

    def prior(spread: float) -> Any:
        parts = dist.Normal(means, spread).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), parts)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(1.0))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    torch.manual_seed(0)
    x = prior(2**0.5).sample((100,))
    truth = -float(prior(2**0.5).log_prob(x).mean())
    found = ev.nll(model, guide, x, 300, "mean_field")
    assert abs(found.value - truth) < 4.5 * found.standard_error
    assert found.standard_error < 0.02
    assert abs(ev.nll(model, guide, x, 300, "own").value - truth) > 0.1
