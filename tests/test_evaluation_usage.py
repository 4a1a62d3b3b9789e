"""Usage and the information under the model, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae import evaluation as ev

SD, NOISE = 0.5, 0.3


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, SD), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, NOISE))


@pytest.mark.parametrize("block", [None, 70, 1024])
def test_usage_of_a_linear_decoder(block: int | None) -> None:
    """z = x + e, so log p(x|z') - log p(x|z) differs by ((x - z')^2 - e^2) / (2 sd^2), of mean
    V[x] / sd^2; the error covers it over 200 repetitions as it should."""
    pyro.set_rng_seed(0)
    truth, z = 1.0 / SD**2, []
    for _ in range(200):
        found = ev.usage(model, guide, torch.randn(1000), block=block)
        assert found.standard_error is not None
        z.append((found.value - truth) / found.standard_error)
    scores = torch.tensor(z)
    assert abs(float(scores.mean())) < 4.5 / math.sqrt(200)
    # squared scores have mean 1 and sd sqrt(2); without the covariance of neighbours .6
    assert abs(float(scores.square().mean()) - 1) < 4.5 * math.sqrt(2 / 200)


def test_usage_is_nothing_where_the_code_is_ignored() -> None:
    def deaf(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), SD), obs=x)

    found = ev.usage(deaf, guide, torch.randn(50))
    assert (found.value, found.standard_error) == (0.0, 0.0)


def test_no_row_keeps_its_own_code() -> None:
    """A decoder that is sure: any row with its own code would gain nothing."""

    def sure(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1e3))
            pyro.sample("x", dist.Normal(z, 1e-3), obs=x)

    def copy(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x))

    for n in (2, 3, 4, 10):
        least = 0.5 / 1e-6
        for block in (None, 1, 3, 4):
            found = ev.usage(sure, copy, torch.arange(float(n)), block=block)
            assert found.value >= least * (1 - 1e-4)
    with pytest.raises(ValueError, match="2 rows or more"):
        ev.usage(sure, copy, torch.zeros(1))


def test_information_under_a_linear_gaussian_model() -> None:
    """I = d log(1 + 1 / sd^2) / 2, and the posterior is linear in x: the bound is close."""

    def wide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, SD).to_event(1), obs=x)

    def its(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    pyro.set_rng_seed(0)
    truth = 2 * math.log1p(1 / SD**2) / 2
    found = ev.model_information(wide, its, torch.zeros(30, 2), 8000, steps=1500)
    assert found.standard_error is not None
    assert found.bound == "lower"
    assert found.value < truth + 4.5 * found.standard_error
    assert found.value > truth - 4.5 * found.standard_error - 0.1


def test_information_of_a_decoder_that_ignores_the_code() -> None:
    def deaf(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), SD), obs=x)

    pyro.set_rng_seed(0)
    found = ev.model_information(deaf, guide, torch.zeros(30), 4000, steps=200)
    assert found.standard_error is not None
    assert found.value < 4.5 * found.standard_error
    assert found.value > -0.1
