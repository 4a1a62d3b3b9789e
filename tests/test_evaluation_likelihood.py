"""Importance-sampled and annealed likelihoods against the exact one of probabilistic PCA."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA
from pyro.infer.util import is_validation_enabled

from ppl_vae import evaluation as ev
from ppl_vae.evaluation.programs import unchecked

pytestmark = pytest.mark.usefixtures("double")


def test_exact_guide_has_no_error():
    pair = PPCA.make()
    x = pair.sample(60)
    found = ev.nll(pair.model, pair.guide, x, 3)
    assert found.value == pytest.approx(-float(pair.log_likelihood(x).mean()), abs=1e-9)
    assert found.standard_error == pytest.approx(0, abs=1e-7)
    assert found.data_error == pytest.approx(float(pair.log_likelihood(x).std()) / 60**0.5)
    assert found.bound == "upper"
    assert found.value > 0


def test_standard_error_covers_for_a_guide_wider_than_the_posterior():
    pair = PPCA.make(widen=1.5)
    x = pair.sample(40)
    truth = -float(pair.log_likelihood(x).mean())
    scores = []
    for seed in range(150):
        pyro.set_rng_seed(seed)
        found = ev.nll(pair.model, pair.guide, x, 600)
        scores.append((found.value - truth) / found.standard_error)
    scores = torch.tensor(scores)
    for z, nominal in ((1.0, 0.6827), (1.96, 0.95)):
        share = float((scores.abs() < z).double().mean())
        assert abs(share - nominal) < 4.5 * math.sqrt(nominal * (1 - nominal) / 150)
    assert scores.abs().max() < 4.5
    # A wrong factor of two in the error would show here.
    assert 0.8 < float(scores.std()) < 1.2


def test_number_of_draws_is_the_number_asked():
    pair = PPCA.make(widen=1.5)
    x = pair.sample(7)
    weights = ev.log_weights(pair.model, pair.guide, x, 257, block=90)
    assert weights.shape == (7, 257)
    assert weights.dtype == torch.float64
    pyro.set_rng_seed(1)
    direct = ev.log_weights(pair.model, pair.guide, x, 257, block=90)
    pyro.set_rng_seed(1)
    found = ev.nll(pair.model, pair.guide, x, 257, block=90)
    expected = math.log(257) - direct.logsumexp(1)
    assert found.value == pytest.approx(float(expected.mean()), abs=1e-12)
    w = (direct - direct.amax(1, keepdim=True)).exp()
    by_row = w.var(1) / 257 / w.mean(1).square()
    assert found.standard_error == pytest.approx(float(by_row.sum().sqrt()) / 7, rel=1e-9)


def test_few_draws_give_an_upper_bound():
    pair = PPCA.make(widen=0.3)
    x = pair.sample(2000)
    truth = -float(pair.log_likelihood(x).mean())
    few, many = (ev.nll(pair.model, pair.guide, x, k, "own").value for k in (2, 200))
    assert few > many > truth - 1e-3


def test_no_bias_is_stated_of_uneven_weights():
    x = PPCA.make().sample(40)

    def note(widen, draws):
        pair = PPCA.make(widen=widen)
        return ev.nll(pair.model, pair.guide, x, draws, "own").note

    # Weights of a guide of .4 the deviation have no variance: what is read off them is too small.
    with pytest.warns(UserWarning, match="too uneven to state a bias"):
        narrow = note(0.16, 500)
    assert "bias about" not in narrow
    assert "too uneven to state a bias" in narrow
    assert "k-hat" in narrow
    with pytest.warns(UserWarning, match="too uneven"):
        assert "bias about" not in note(1.5, 30)
    assert "bias about" in note(1.5, 600)
    assert "bias about" in note(1.0, 3)  # constant weights: the guide is the posterior
    pair = PPCA.make(widen=0.16)
    with pytest.warns(UserWarning, match="too uneven"):
        annealed = ev.annealed_nll(pair.model, pair.guide, x[:3], chains=8, temperatures=2)
    assert "too uneven to state a bias" in annealed.note


def test_bad_requests():
    pair = PPCA.make()
    x = pair.sample(5)
    with pytest.raises(ValueError, match="num_samples is 1"):
        ev.nll(pair.model, pair.guide, x, 1)
    with pytest.raises(ValueError, match="proposal='refit': use one of auto, own"):
        ev.nll(pair.model, pair.guide, x, 10, proposal="refit")
    with pytest.raises(ValueError, match="start is 'here'"):
        ev.annealed_nll(pair.model, pair.guide, x, start="here")


@pytest.mark.parametrize("start", ["fitted", "guide", "prior"])
def test_annealing_agrees_where_the_guide_is_bad(start):
    pair = PPCA.make(widen=0.2).mean_field()
    x = pair.sample(6)
    truth = -float(pair.log_likelihood(x).mean())
    sampled = ev.nll(pair.model, pair.guide, x, 16 * 100)
    found = ev.annealed_nll(pair.model, pair.guide, x, chains=16, temperatures=100, start=start)
    assert found.bound == "upper"
    # The bias of the logarithm is half the squared error of each datum's weights.
    slack = 4.5 * found.standard_error + 6 * found.standard_error**2
    assert abs(found.value - truth) < slack < 0.5
    assert found.value < sampled.value + slack


def test_annealing_finds_its_step_sizes():
    pair = PPCA.make().mean_field()
    for first in (0.01, 5.0):
        found = ev.annealed_nll(
            pair.model, pair.guide, pair.sample(4), temperatures=80, step_size=first
        )
        assert 0.5 < float(found.note.split("acceptance ")[1]) < 0.85


def test_annealing_moves_several_sites_and_refuses_bounded_ones():
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.8 * x, 1.0))
            pyro.sample("z2", dist.Normal(z1 / 2, 1.0))

    x = torch.randn(6)
    truth = -float(dist.Normal(0.0, 1.5).log_prob(x).mean())
    found = ev.annealed_nll(model, guide, x, temperatures=60)
    assert abs(found.value - truth) < 4.5 * found.standard_error + 6 * found.standard_error**2
    assert found.standard_error < 0.05

    def bounded(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def unit(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x.new_zeros(()), 1.0))

    with pytest.raises(ValueError, match="'z' is not real-valued"):
        ev.annealed_nll(bounded, unit, x)


def test_what_is_run_without_checks_says_what_is_wrong_all_the_same():
    """As where a decoder gives no numbers at a far draw, after a first block that it passed."""

    def of(loc):
        return lambda: dist.Normal(torch.tensor(loc), 1.0).log_prob(torch.tensor(0.5))

    assert unchecked(of(0.5)) == of(0.5)()
    with pytest.raises(ValueError, match="parameter loc"):
        unchecked(of(math.nan))
    assert unchecked(lambda: torch.tensor(math.nan)).isnan()
    assert is_validation_enabled()
