"""Evaluation of pairs of every shape: one answer each, and closed forms where there are some."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoNormal,
    AutoNormalMessenger,
)
from shapes import MASK, SHAPES, Shape, normal
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.program import NoDataPlate

METRICS: dict[str, Callable[..., Any]] = {
    "elbo": ev.elbo,
    "nll": lambda *pair, **asked: ev.nll(*pair, 8, steps=10, **asked),
    "mmd": ev.full_mmd,
    "information": ev.mutual_information,
    "surgery": ev.surgery,
    "annealing": lambda *pair, **asked: ev.annealed_nll(
        *pair, chains=2, temperatures=2, leapfrog=1, steps=10, **asked
    ),
}


def close(estimate: Estimate, truth: float, floor: float = 1e-6) -> None:
    error = max(4.5 * (estimate.standard_error or 0.0), floor)
    assert abs(estimate.value - truth) <= error, (estimate, truth)


@pytest.mark.parametrize("name", SHAPES)
def test_one_answer(name: str) -> None:
    """Each shape runs, or is refused in one line that is the same for every metric."""
    shape = SHAPES[name]()
    pair = shape.model, shape.guide, shape.args
    if shape.rows is None:
        with pytest.raises(NoDataPlate):
            ev.posterior_codes(*pair)
    for metric, compute in METRICS.items():
        if "evaluation" in shape.refused and not (shape.total and metric in ("elbo", "nll")):
            with pytest.raises(ValueError) as caught:
                compute(*pair)
            assert "\n" not in str(caught.value)
        elif (name, metric) != ("enumerated_in_the_guide", "annealing"):  # of real codes
            compute(*pair, **shape.asked)
    if "evaluation" not in shape.refused:
        codes = ev.posterior_codes(*pair, **shape.asked)
        assert set(codes.slices) == set(shape.local)
        if shape.rows is not None:
            assert len(codes) == shape.rows


ALIKE = (
    "number",
    "unsized",
    "batch_given",
    "plate_at_minus_two",
    "loop_of_observations",
    "further_observation",
    "further_factor",
    "observation_outside",
)


@pytest.mark.parametrize("name", ALIKE)
def test_other_spellings_of_one_pair(name: str) -> None:
    """The same rows, rates and, within the errors, likelihood: whatever else the model holds."""
    one, other = SHAPES["flat"](), SHAPES[name]()
    rates = [ev.rate(shape.model, shape.guide, shape.args) for shape in (one, other)]
    assert rates[0].value == pytest.approx(rates[1].value)
    # Marginally x ~ N(0, 1 + .8^2), coordinate by coordinate.
    truth = -dist.Normal(0.0, math.sqrt(1.64)).log_prob(one.args[0]).sum(-1).mean()
    close(ev.nll(other.model, other.guide, other.args, 300), float(truth))


@pytest.mark.parametrize("name", ["masked", "masked_distributions"])
def test_masked_rows_count_nothing(name: str) -> None:
    shape, (x,) = SHAPES[name](), SHAPES[name]().args
    truth = -(dist.Normal(0.0, math.sqrt(1.64)).log_prob(x).sum(-1) * MASK).mean()
    close(ev.nll(shape.model, shape.guide, x, 300), float(truth))


def test_partly_observed_rows_keep_their_codes() -> None:
    """The KL of all codes counts, the likelihood of what was seen."""
    shape, flat = SHAPES["partly_observed"](), SHAPES["flat"]()
    rates = [ev.rate(s.model, s.guide, s.args).value for s in (shape, flat)]
    assert rates[0] == pytest.approx(rates[1])
    (x,) = shape.args
    truth = -(dist.Normal(0.0, math.sqrt(1.64)).log_prob(x).sum(-1) * MASK).mean()
    close(ev.nll(shape.model, shape.guide, x, 300), float(truth))


def test_a_factor_is_a_likelihood_but_no_variable() -> None:
    shape = SHAPES["factor_for_likelihood"]()
    (x,) = shape.args
    # exp(-|x - z|^2 / 2) is 2 pi times the density of N(z, 1) in two dimensions.
    truth = -(dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1).mean() + math.log(2 * math.pi))
    close(ev.nll(shape.model, shape.guide, x, 300), float(truth))
    with pytest.raises(ValueError, match="observes no variable in plate 'data'"):
        ev.generate(shape.model, shape.guide, x, 3)


def test_latents_of_another_plate_are_held() -> None:
    """Given the items' draw each user's likelihood is Gaussian."""
    shape = SHAPES["users_and_items"]()
    (x,) = shape.args
    pyro.set_rng_seed(3)
    found = ev.nll(shape.model, shape.guide, x, 400, plate="users")
    assert "conditional on one draw of v" in found.note
    pyro.set_rng_seed(3)
    pair = ev.likelihood.Pair(shape.model, shape.guide, x, "users")
    v = pair.held["v"]
    # u ~ N(0, .81), x = u v + N(0, .64)
    covariance = 0.81 * torch.outer(v, v) + 0.64 * torch.eye(2)
    log_p = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x)
    close(found, -float(log_p.mean()))


def linear() -> tuple[Callable[[Tensor], None], Tensor, Tensor, float, float]:
    """z ~ N(0, 1), x ~ N(z, s^2) twice over: the posterior's means, sd and the evidence."""
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = 0.8

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, s).to_event(1), obs=x)

    evidence = dist.Normal(0.0, math.sqrt(1 + s**2)).log_prob(x).sum(-1).mean()
    return model, x, x / (1 + s**2), math.sqrt(s**2 / (1 + s**2)), float(evidence)


def gap(sd: float, shift: float, factor: float) -> float:
    """KL of two coordinates moved by `shift`, `factor` times as wide as the posterior."""
    wide = factor**2 - 1 - 2 * math.log(factor)
    return float(0.5 * 2 * (wide + (shift / sd) ** 2))


def automatic(model: Any, x: Tensor, mean: Tensor, sd: float) -> Any:
    guide = AutoNormal(model)
    guide(x)
    guide.locs.z.data.copy_(mean)
    guide.scales.z = torch.full_like(mean, sd)
    return guide


def messenger(model: Any, x: Tensor, mean: Tensor, sd: float) -> Any:
    guide = AutoNormalMessenger(model)
    guide(x)
    guide.locs.z.data.copy_(mean)
    guide.scales.z = torch.full_like(mean, sd)
    return guide


def one_vector(model: Any, x: Tensor, mean: Tensor, sd: float) -> Any:
    guide = AutoDiagonalNormal(model)
    guide(x)
    guide.loc.data.copy_(mean.flatten())
    guide.scale = torch.full_like(mean, sd).flatten()
    return guide


def table(_: Any, __: Tensor, mean: Tensor, sd: float) -> Any:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", mean.clone(), event_dim=1)
            pyro.sample("z", dist.Normal(loc, sd).to_event(1))

    return guide


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("block", [8, 1024, None])
@pytest.mark.parametrize("make", [automatic, messenger, table, one_vector])
def test_guides_that_are_not_amortised(make: Callable[..., Any], block: int | None) -> None:
    """ELBO and likelihood against the evidence, exact at the posterior and moved off it."""
    model, x, mean, sd, evidence = linear()
    guide = make(model, x, mean, sd)
    if make is one_vector:
        found = ev.elbo_terms(model, guide, x, block=block)
        assert found["elbo"].value == pytest.approx(evidence)
        assert "log q is one number" in found["elbo"].note
        close(found["rate"], rate(mean, sd))
        with pytest.raises(ValueError, match="no log q by row") as caught:
            ev.nll(model, guide, x, 20, "own", block=block)
        assert "\n" not in str(caught.value)
        fitted = ev.nll(model, guide, x, 100, block=block)
        assert fitted.standard_error is not None
        assert abs(fitted.value + evidence) < 4.5 * fitted.standard_error + 1e-6
    else:
        # Every log-weight is the evidence of its row.
        assert ev.nll(model, guide, x, 3, block=block).value == pytest.approx(-evidence)
    pyro.clear_param_store()
    guide = make(model, x, mean + 0.2, 1.3 * sd)
    terms = ev.elbo_terms(model, guide, x, num_samples=50, block=block)
    close(terms["elbo"], evidence - gap(sd, 0.2, 1.3))
    close(terms["rate"], rate(mean + 0.2, 1.3 * sd))
    assert (terms["rate"].standard_error == 0) == (make is table)  # in closed form
    codes = ev.posterior_codes(model, guide, x, num_samples=50, block=block)
    assert (codes.mean - mean - 0.2).abs().max() < 5 * 1.3 * sd / math.sqrt(50)


def rate(mean: Tensor, sd: float) -> float:
    """KL(N(mean, sd^2) || N(0, 1)) by row, averaged."""
    kl = 0.5 * (sd**2 + mean.square() - 1 - 2 * math.log(sd))
    return float(kl.sum(-1).mean())


@pytest.mark.usefixtures("double")
def test_the_change_of_variables_of_a_constrained_latent_counts() -> None:
    """log s is Gaussian, and the guide its posterior: every weight is the evidence."""
    y = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def model(y: Tensor) -> None:
        with pyro.plate("data", len(y)):
            s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
            pyro.sample("y", dist.Normal(s.log(), 0.5), obs=y)

    guide = AutoNormal(model)
    guide(y)
    guide.locs.s.data.copy_(y / 1.25)
    guide.scales.s = torch.full_like(y, math.sqrt(0.25 / 1.25))
    truth = float(dist.Normal(0.0, math.sqrt(1.25)).log_prob(y).mean())
    assert ev.nll(model, guide, y, 3).value == pytest.approx(-truth)
    assert ev.elbo(model, guide, y).value == pytest.approx(truth)


@pytest.mark.usefixtures("double")
def test_what_the_guide_observes_belongs_to_log_q() -> None:
    """A factor of the guide is subtracted, once, row by row."""
    model, x, mean, sd, evidence = linear()
    weight = torch.linspace(-1, 2, len(x))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 1.64, sd).to_event(1))
            pyro.factor("cost", x.new_tensor(3.0) * x[:, 0], has_rsample=True)
        pyro.factor("outside", weight.sum(), has_rsample=True)

    cost = float(3 * x[:, 0].mean())
    assert ev.nll(model, guide, x, 3).value == pytest.approx(cost - evidence)
    assert ev.elbo(model, guide, x).value == pytest.approx(evidence - cost, abs=0.2)
    close(ev.elbo(model, guide, x, 400), evidence - cost)
    assert torch.allclose(ev.posterior_codes(model, guide, x).mean, mean)


@pytest.mark.usefixtures("double")
def test_an_observation_outside_the_rows_counts_in_total() -> None:
    """Codes by datum, one observation of their sum: rates by row, the ELBO in total."""
    n, mean, sd, noise = 20, 0.3, 0.7, 0.5
    y = torch.tensor(4.0)

    def model(_: Tensor) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z.sum(), noise), obs=y)

    def guide(_: Tensor) -> None:
        with pyro.plate("data", n):
            pyro.sample("z", dist.Normal(torch.full((n,), mean), sd))

    x = torch.zeros(n)
    with pytest.raises(NoDataPlate):
        ev.elbo(model, guide, x)
    kl = 0.5 * (sd**2 + mean**2 - 1) - math.log(sd)
    assert ev.rate(model, guide, x, plate="data").value == pytest.approx(kl)
    fit = float(dist.Normal(n * mean, noise).log_prob(y)) - n * sd**2 / (2 * noise**2)
    found = ev.elbo(model, guide, x, 500, plate="data")
    close(found, fit / n - kl)
    assert "holds no observation" in found.note
    with pytest.raises(ValueError, match="the model observes nothing in plate 'data'"):
        ev.nll(model, guide, x, plate="data")


N, D, NOISE, WIDTH = 25, 2, 0.8, 0.25


def mean_of_all(x: Tensor) -> None:
    """w ~ N(0, 1), x_i ~ N(w, NOISE^2)."""
    w = pyro.sample("w", normal(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(w, NOISE), obs=x)


def globals_of(x: Tensor) -> tuple[Tensor, float, float]:
    """The posterior's mean and sd, and log p(x) of all rows."""
    precision = 1 + len(x) / NOISE**2
    covariance = NOISE**2 * torch.eye(len(x)) + torch.ones(len(x), len(x))
    p_x = dist.MultivariateNormal(torch.zeros(len(x)), covariance)
    return x.sum(0) / NOISE**2 / precision, precision**-0.5, float(p_x.log_prob(x.T).sum())


@pytest.mark.usefixtures("double")
def test_totals_of_global_latents() -> None:
    """Every term of a normal's mean is known, and is of all rows together."""
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(2)) + 0.4
    mean, sd, evidence = globals_of(x)

    def guide(loc: Tensor, width: float) -> Callable[[Tensor], None]:
        return lambda x: pyro.sample("w", normal(loc, width))

    exact = guide(mean, sd)
    assert ev.nll(mean_of_all, exact, x, 3).value == pytest.approx(-evidence)
    close(ev.elbo(mean_of_all, exact, x, 50), evidence)
    off, draws = mean + 0.1, 500
    terms = ev.elbo_terms(mean_of_all, guide(off, WIDTH), x, draws)
    kl = 0.5 * D * (WIDTH**2 - 1 - 2 * math.log(WIDTH)) + 0.5 * float(off.square().sum())
    assert terms["rate"].value == pytest.approx(kl)
    assert ev.rate(mean_of_all, guide(off, WIDTH), x).value == pytest.approx(kl)
    cost = -float(dist.Normal(off, NOISE).log_prob(x).sum()) + N * D * WIDTH**2 / (2 * NOISE**2)
    close(terms["distortion"], cost)
    close(terms["elbo"], -kl - cost)
    assert terms["elbo"].bound == "lower"
    assert "total over all data" in terms["elbo"].note
    # V[(w - a)^2] = 2 s^4 + 4 s^2 (m - a)^2, and no kurtosis is above a squared normal's 15.
    parts = 2 * WIDTH**4 + 4 * WIDTH**2 * (off - x.mean(0)).square()
    error = N / (2 * NOISE**2) * math.sqrt(float(parts.sum()) / draws)
    assert abs(terms["elbo"].standard_error / error - 1) < 4.5 * math.sqrt(14 / draws) / 2
    found = ev.nll(mean_of_all, guide(off, WIDTH), x, draws)
    close(found, -evidence)
    assert found.bound == "upper"
    assert found.data_error is None
    assert "total over all data" in found.note


@pytest.mark.usefixtures("double")
def test_totals_of_automatic_guides() -> None:
    """One vector for all latents, its log q by its change of variables; and a point."""
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    mean, sd, evidence = globals_of(x)
    guide = AutoDiagonalNormal(mean_of_all)
    guide(x)
    guide.loc.data.copy_(mean)
    guide.scale = torch.full((D,), sd)
    assert ev.elbo(mean_of_all, guide, x).value == pytest.approx(evidence)
    assert ev.nll(mean_of_all, guide, x, 3).value == pytest.approx(-evidence)
    point = AutoDelta(mean_of_all)
    found = ev.elbo_terms(mean_of_all, point, x)
    assert found["elbo"].value == -math.inf
    assert ev.rate(mean_of_all, point, x).value == math.inf
    at_median = dist.Normal(point.median(x)["w"], NOISE).log_prob(x).sum()
    assert found["distortion"].value == pytest.approx(-float(at_median))
    with pytest.raises(ValueError, match="the guide is deterministic"):
        ev.nll(mean_of_all, point, x)


@pytest.mark.usefixtures("double")
def test_totals_of_a_batch_in_the_event() -> None:
    """As many times the mean by row as there are rows."""
    flat, event = (SHAPES[name]() for name in ("flat", "batch_in_the_event"))
    args = tuple(a.double() for a in flat.args)
    by_row, total = (ev.elbo_terms(s.model, s.guide, args, 100) for s in (flat, event))
    assert total["rate"].value == pytest.approx(6 * by_row["rate"].value)
    truth = float(dist.Normal(0.0, math.sqrt(1.64)).log_prob(args[0]).sum())
    close(ev.nll(event.model, event.guide, args, 500), -truth)
    apart = total["elbo"].value - 6 * by_row["elbo"].value
    errors = total["elbo"].standard_error, 6 * by_row["elbo"].standard_error
    assert abs(apart) < 4.5 * math.hypot(*errors)


def test_global_latents_have_no_rows() -> None:
    """What is by row says why there is none, and never to put w in the data plate."""
    shape = SHAPES["global_only"]()
    pair = shape.model, shape.guide, shape.args
    for compute in (
        ev.posterior_codes,
        ev.full_mmd,
        ev.log_weights,
        lambda *pair: ev.elbo(*pair, plate="data"),
    ):
        with pytest.raises(NoDataPlate, match="'w' is a global latent, the same for all") as e:
            compute(*pair)
        assert "with pyro.plate" not in str(e.value)
        assert "\n" not in str(e.value)


def test_what_has_no_total_is_refused() -> None:
    x = SHAPES["flat"]().args[0]

    def some(x: Tensor) -> None:
        w = pyro.sample("w", normal(0.0))
        with pyro.plate("data", len(x), subsample_size=4) as index:
            pyro.sample("x", normal(w, 0.8), obs=x[index])

    def silent(x: Tensor) -> None:
        pyro.sample("w", normal(0.0))

    def guide(x: Tensor) -> None:
        pyro.sample("w", normal(0.1, 0.3))

    with pytest.raises(ValueError, match="draws 4 of 6"):
        ev.elbo(some, guide, x)
    with pytest.raises(ValueError, match="the model observes nothing"):
        ev.elbo(silent, guide, x)
    with pytest.raises(ValueError, match="proposal='flow' is fitted row by row"):
        ev.nll(mean_of_all, guide, x, proposal="flow")


def test_deterministic_codes_under_a_random_global() -> None:
    """The guide of the global has an auxiliary site; the codes do not move with it."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(w * z, 0.7), obs=x)

    globals_ = AutoNormal(pyro.poutine.block(model, hide=["z"]))

    def guide(x: Tensor) -> None:
        globals_(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x / 2, event_dim=1))

    x = SHAPES["flat"]().args[0]
    assert ev.rate(model, guide, x).value == math.inf
    assert ev.rate(model, AutoDelta(model), x).value == math.inf


def test_num_data_of_a_pair_that_runs_whole() -> None:
    shape: Shape = SHAPES["number"]()
    with pytest.raises(ValueError, match="3 of 6 data are asked for"):
        ev.mutual_information(shape.model, shape.guide, shape.args, num_data=3)


def test_a_list_of_arguments_is_a_tuple_of_them() -> None:
    def model(x, shift):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    both = [torch.randn(9), torch.tensor(0.5)]
    for call in (ev.rate, lambda *pair: ev.posterior_codes(*pair).mean.shape):
        assert str(call(model, guide, both)) == str(call(model, guide, tuple(both)))
