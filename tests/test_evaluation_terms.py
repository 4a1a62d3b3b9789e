"""Rate, distortion, ELBO and codes of plain Pyro pairs, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA
from pyro import poutine
from torch import nn

from ppl_vae import evaluation as ev
from ppl_vae.program import NoDataPlate

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("double")


def close(estimate, truth, sigmas=4.5, floor=1e-9):
    error = max(sigmas * (estimate.standard_error or 0.0), floor)
    assert abs(estimate.value - float(truth)) <= error, (estimate, float(truth))


@pytest.mark.parametrize("pair", [PPCA.make(), PPCA.make().mean_field(0.5)])
def test_terms_of_ppca(pair):
    x = pair.sample(400)
    found = ev.elbo_terms(pair.model, pair.guide, x, num_samples=20, block=333)
    close(found["rate"], pair.rate(x).mean())
    assert found["rate"].standard_error == 0
    close(found["distortion"], pair.distortion(x).mean())
    close(found["elbo"], -(pair.rate(x) + pair.distortion(x)).mean())
    assert found["elbo"].bound == "lower"
    assert 0 < found["distortion"].standard_error < 0.1
    assert found["distortion"].data_error > found["distortion"].standard_error
    close(ev.rate(pair.model, pair.guide, x), pair.rate(x).mean())
    close(ev.distortion(pair.model, pair.guide, x), pair.distortion(x).mean())
    close(ev.elbo(pair.model, pair.guide, x), found["elbo"].value, floor=0.1)


def test_codes_and_log_det_of_ppca():
    pair = PPCA.make(dim=3)
    x = pair.sample(2000)
    codes = ev.posterior_codes(pair.model, pair.guide, x, block=300)
    assert torch.allclose(codes.mean, pair.codes(x))
    assert torch.allclose(codes.variance, pair.covariance.diagonal().expand(2000, 3))
    assert torch.allclose(codes.covariance, pair.covariance)
    assert codes.slices == {"z": slice(0, 3)}
    spread = (codes.sample - codes.mean).T.cov()
    assert (spread - pair.covariance).abs().max() < 0.02
    # The exact guide's aggregate is the prior, of log-determinant zero.
    found = codes.log_det()
    close(found, 0.0)
    assert found.standard_error < 0.03
    diagonal = ev.log_det(codes.mean, codes.variance)
    aggregate = codes.mean.T.cov() + codes.variance.mean(0).diag()
    assert diagonal.value == pytest.approx(float(torch.logdet(aggregate)) / 3, abs=1e-9)


def test_the_covariance_of_student_codes():
    """Pyro's `covariance_matrix` is the scale matrix, (df - 2) / df of the covariance."""
    root, df = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=F64), torch.tensor(5.0, dtype=F64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateStudentT(df, x, root))

    x = torch.randn(9, 2, dtype=F64)
    covariance = ev.posterior_codes(model, guide, x).covariance
    assert torch.allclose(covariance, 5 / 3 * root @ root.T)


def test_log_det_error_covers():
    scores = []
    for seed in range(200):
        z = torch.randn(500, 4, generator=torch.Generator().manual_seed(seed), dtype=F64) * 0.7
        found = ev.log_det(z)
        bias = -(4 + 1) / (2 * 500)
        scores.append((found.value - 2 * math.log(0.7) - bias) / found.standard_error)
    scores = torch.tensor(scores)
    assert abs(scores.mean()) < 4.5 / 200**0.5
    assert 0.85 < scores.std() < 1.15


def chain(exact_order: str):
    """z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1), with the exact posterior either way round."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def top_down(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x / 3, math.sqrt(2 / 3)))
            pyro.sample("z1", dist.Normal((x + z2) / 2, math.sqrt(1 / 2)))

    def bottom_up(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(2 * x / 3, math.sqrt(2 / 3)))
            pyro.sample("z2", dist.Normal(z1 / 2, math.sqrt(1 / 2)))

    return model, {"top-down": top_down, "bottom-up": bottom_up}[exact_order]


@pytest.mark.parametrize("order", ["top-down", "bottom-up"])
def test_chain_with_the_exact_posterior(order):
    model, guide = chain(order)
    x = torch.randn(200, dtype=F64) * math.sqrt(3)
    log_p = dist.Normal(0.0, math.sqrt(3.0)).log_prob(x)
    # Every log-weight equals log p(x).
    assert ev.nll(model, guide, x, 7).value == pytest.approx(-float(log_p.mean()), abs=1e-9)
    weights = ev.log_weights(model, guide, x, 5)
    assert torch.allclose(weights, log_p[:, None].expand(-1, 5))
    terms = ev.elbo_terms(model, guide, x, num_samples=200)
    mean, cov = (
        x[:, None] * torch.tensor([1 / 3, 2 / 3], dtype=F64),
        torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]], dtype=F64),
    )
    prior = torch.tensor([[1.0, 1.0], [1.0, 2.0]], dtype=F64)
    q = dist.MultivariateNormal(mean, cov)
    p = dist.MultivariateNormal(torch.zeros(2, dtype=F64), prior)
    close(terms["rate"], torch.distributions.kl_divergence(q, p).mean())
    close(terms["elbo"], log_p.mean(), floor=4.5 * terms["rate"].standard_error)
    # Moments of the second site are averaged over runs of the guide.
    codes = ev.posterior_codes(model, guide, x, num_samples=400)
    first = 0 if order == "top-down" else 1
    assert codes.slices == {
        f"z{2 - i}" if first == 0 else f"z{i + 1}": slice(i, i + 1) for i in range(2)
    }
    columns = [0, 1] if first == 0 else [1, 0]
    error = math.sqrt(2 / 3 / 400)
    assert (codes.mean[:, columns] - mean).abs().max() < 5 * error
    assert (codes.covariance[columns][:, columns] - cov).abs().max() < 0.05
    assert (codes.variance[:, columns].mean(0) - 2 / 3).abs().max() < 0.05


def test_plate_at_dim_minus_two_with_masks_scales_and_two_arguments():
    n, t = 50, 2  # a time plate as long as the two rows the plate is looked for with

    def model(x, mask):
        data, time = pyro.plate("data", len(x), dim=-2), pyro.plate("time", t, dim=-1)
        with data, time, poutine.mask(mask=mask), poutine.scale(scale=0.01):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, mask):
        data, time = pyro.plate("data", len(x), dim=-2), pyro.plate("time", t, dim=-1)
        with data, time, poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    x = torch.randn(n, t, dtype=F64) * math.sqrt(2)
    mask = torch.rand(n, t) < 0.7
    truth = -(dist.Normal(0.0, math.sqrt(2.0)).log_prob(x) * mask).sum(1).mean()
    assert ev.nll(model, guide, (x, mask), 5).value == pytest.approx(float(truth), abs=1e-9)
    codes = ev.posterior_codes(model, guide, (x, mask))
    assert torch.allclose(codes.mean, x / 2)
    # By time, a row is a column of x.
    found = ev.nll(model, guide, (x, mask), 5, plate="time")
    assert found.value == pytest.approx(float(truth) * n / t, abs=1e-9)
    with pytest.raises(ValueError, match="equal numbers"):
        ev.rate(model, guide, (x, mask[:3]))


def test_globals_are_held_and_said():
    def model(x):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        theta = pyro.sample("theta", dist.Normal(2.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + theta) / 2, math.sqrt(0.5)))

    x = torch.randn(30) + 1
    pyro.set_rng_seed(11)
    theta = poutine.trace(guide).get_trace(x[:2]).nodes["theta"]["value"]
    pyro.set_rng_seed(11)
    found = ev.nll(model, guide, x, 8, block=16)
    truth = -dist.Normal(theta, math.sqrt(2.0)).log_prob(x).mean()
    assert found.value == pytest.approx(float(truth), abs=1e-5)
    assert "theta" in found.note


def test_auxiliary_guide_sites_and_partly_observed_data():
    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x, obs_mask=seen)

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            u = pyro.sample(
                "u",
                dist.Normal(x.new_zeros(2), 1.0).to_event(1),
                infer={"is_auxiliary": True},
            )
            log_density = torch.full((len(x),), -2 * math.log(1.5), dtype=x.dtype)
            pyro.sample("z", dist.Delta(1.5 * u, log_density, event_dim=1))

    x, seen = torch.randn(40, dtype=F64), torch.ones(40, dtype=torch.bool)
    seen[::4] = False
    truth = -(dist.Normal(0.0, math.sqrt(3.0)).log_prob(x) * seen).mean()
    close(ev.nll(model, guide, (x, seen), 4000), truth)
    # N(0, 1.5^2) against N(0, 1), twice.
    kl = 2 * (0.5 * (1.5**2 - 1) - math.log(1.5))
    close(ev.rate(model, guide, (x, seen), num_samples=500), kl)


def test_modules_run_in_eval_mode_and_are_put_back():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[2].eval()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ torch.ones(2, 4), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))

    x = torch.randn(20, 4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    one = ev.posterior_codes(model, guide, x).mean
    assert [m.training for m in net] == [True, True, False, True]
    assert net.training
    assert not one.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.allclose(one, ev.posterior_codes(model, guide, x, block=7).mean)
    ev.nll(model, guide, x, 30, proposal="mean_field")
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_deterministic_guide():
    pair = PPCA.make()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(pair.codes(x), event_dim=1))

    x = pair.sample(50)
    found = ev.elbo_terms(pair.model, guide, x)
    assert found["rate"].value == math.inf
    assert found["elbo"].value == -math.inf
    assert found["rate"].as_dict()["value"] is None
    assert math.isfinite(found["distortion"].value)
    codes = ev.posterior_codes(pair.model, guide, x)
    assert torch.equal(codes.mean, codes.sample)
    assert not codes.variance.any()
    for metric in (ev.mutual_information, ev.surgery):
        with pytest.raises(ValueError, match="deterministic"):
            metric(pair.model, guide, x)
    fitted = ev.nll(pair.model, guide, x, 200)
    assert abs(fitted.value + float(pair.log_likelihood(x).mean())) < 4.5 * fitted.standard_error


def test_prior_narrower_than_the_guide_has_weights_of_zero():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(x.new_full((1,), -1.0), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    x = torch.linspace(-1, 1, 9, dtype=F64)[:, None]
    truth = torch.log((torch.special.ndtr(1 - x) - torch.special.ndtr(-1 - x)) / 2).mean()
    close(ev.nll(model, guide, x, 20000), -truth)
    assert ev.rate(model, guide, x).value == math.inf


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_pairs_get_one_line():
    pair = PPCA.make()
    x = pair.sample(10)

    def bare(x, observed=None):
        z = pyro.sample("z", dist.Normal(pair.codes(x), 1.0).to_event(2))
        if observed is not None:
            pyro.sample("x", dist.Normal(z.mean(), 1.0), obs=observed)

    with pytest.raises(NoDataPlate, match=r'pyro.plate\("data", len\(x\)\)') as error:
        ev.posterior_codes(lambda x: bare(x, x.mean()), bare, x)
    one_line(error)

    def wide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3, dtype=F64), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"'z': Normal in the model is of shape \(10, 2\)") as e:
        ev.rate(pair.model, wide, x)
    one_line(e)

    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))

    with pytest.raises(ValueError, match="'z' of the model is not in the guide"):
        ev.rate(pair.model, other, x)

    def silent(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))

    with pytest.raises(NoDataPlate, match="no plate holds a latent site and an observation"):
        ev.nll(silent, pair.guide, x)
    with pytest.raises(ValueError, match="observes nothing"):
        ev.nll(silent, pair.guide, x, plate="data")
    with pytest.raises(ValueError, match="num_samples is 0"):
        ev.rate(pair.model, pair.guide, x, num_samples=0)
    with pytest.raises(ValueError, match="above 0"):
        ev.rate(pair.model, pair.guide, x[:0])
    with pytest.raises(ValueError, match="not both"):
        ev.log_det(x, x, x)


def test_one_row():
    pair = PPCA.make()
    x = pair.sample(1)
    assert ev.rate(pair.model, pair.guide, x).value == pytest.approx(float(pair.rate(x)))
    assert ev.nll(pair.model, pair.guide, x, 3).value == pytest.approx(
        -float(pair.log_likelihood(x))
    )


def test_errors_against_the_spread_over_repeats():
    """Of the draws with the data held, and of both; 200 spreads are known to 5%."""
    pair, runs = PPCA.make().mean_field(2.0), 200
    held = pair.sample(20)
    for fresh in (False, True):
        values, errors = [], []
        for seed in range(runs):
            pyro.set_rng_seed(seed)
            x = pair.sample(20, seed) if fresh else held
            found = ev.distortion(pair.model, pair.guide, x, 3)
            values.append(found.value)
            errors.append(found.data_error if fresh else found.standard_error)
        values, errors = torch.tensor(values), torch.tensor(errors)
        ratio = float(errors.square().mean().sqrt() / values.std())
        assert abs(ratio - 1) < 4.5 / math.sqrt(2 * runs), fresh


def test_the_covariance_of_two_draws_divides_by_one():
    """Of a chain's joint, which no site's moments tell: unbiased at the fewest draws there are."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))

    n = 2000
    codes = ev.posterior_codes(model, guide, torch.zeros(n), num_samples=2)
    truth = torch.tensor([[1.0, 1.0], [1.0, 2.0]])
    # Of one difference of draws a row: the fourth moments of a normal.
    error = ((truth.diag().outer(truth.diag()) + truth.square()) / n).sqrt()
    assert ((codes.covariance - truth).abs() < 4.5 * error).all()
