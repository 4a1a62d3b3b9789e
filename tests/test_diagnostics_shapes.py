"""Diagnostics of every shape of a pair: which rows they have, and what belongs to a row."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_value
from shapes import MASK, SHAPES
from torch import Tensor

import ppl_vae
from ppl_vae.diagnostics import against_nuts, pareto_k, predictive_check, sbc, to_arviz
from ppl_vae.diagnostics.pair import Pair
from ppl_vae.program import NoDataPlate

ROWS = {
    "documents_and_words": 6,
    "time_and_sequences": 6,
    "labelled_and_unlabelled": 4,
    "users_and_items": 6,
    "global_only": 1,
}
"""The number of data where `shapes` leaves it open: as asked there; one joint draw."""


@pytest.mark.parametrize("name", SHAPES)
def test_rows(name: str) -> None:
    shape = SHAPES[name]()
    pair = (shape.model, shape.guide, shape.args)
    if "diagnostics" in shape.refused:
        for call in (pareto_k, to_arviz, predictive_check, sbc):
            with pytest.raises(ValueError) as caught:
                call(*pair)
            assert "\n" not in str(caught.value)
        assert isinstance(caught.value, NoDataPlate) == (shape.rows is None)
        return
    if shape.asked:
        with pytest.raises(NoDataPlate, match="several plates could be the data's"):
            pareto_k(*pair)
    rows = ROWS.get(name, shape.rows)
    assert pareto_k(*pair, draws=25, **shape.asked).k.shape == (rows,)
    tree = to_arviz(*pair, draws=2, prior_draws=2, **shape.asked)
    log_weight = tree["sample_stats"]["log_weight"]
    assert log_weight.shape == ((1, 2) if name == "global_only" else (1, 2, rows))
    assert set(shape.local) <= set(tree["posterior"].data_vars)


def test_a_random_subsample_has_no_rows() -> None:
    shape = SHAPES["subsampled"]()
    with pytest.raises(ValueError, match="draws 4 of 6: a datum has no fixed row"):
        pareto_k(shape.model, shape.guide, shape.args)


def normal(value: Any, loc: Any, sd: float) -> Tensor:
    return dist.Normal(loc, torch.tensor(sd).double()).log_prob(value)


def code(z: Tensor, x: Tensor, sd: float = 1.0) -> Tensor:
    """log p(z) + log p(x given z) of vectors."""
    return normal(z, 0.0, sd).sum(-1) + normal(x, z, 0.8).sum(-1)


LOG_P = {
    "flat": lambda v, x: code(v["z"], x),
    "unsized": lambda v, x: code(v["z"], x),
    "batch_given": lambda v, x: code(v["z"], x),
    "observation_outside": lambda v, x: code(v["z"], x),
    "further_factor": lambda v, x: code(v["z"], x),
    "loop_of_observations": lambda v, x: code(v["z"], x),
    "masked": lambda v, x: code(v["z"], x) * MASK,
    "masked_distributions": lambda v, x: code(v["z"], x) * MASK,
    "partly_observed": lambda v, x: (
        normal(v["z"], 0.0, 1.0).sum(-1) + normal(x, v["z"], 0.8).sum(-1) * MASK
    ),
    "factor_for_likelihood": lambda v, x: (
        normal(v["z"], 0.0, 1.0).sum(-1) - ((x - v["z"]) ** 2).sum(-1) / 2
    ),
    "features_below": lambda v, x: (
        normal(v["z"], 0.0, 1.0) + normal(x, v["z"][..., None], 0.8).sum(-1)
    ),
    "global_in_features": lambda v, x: (
        normal(v["z"], 0.0, 0.7) + normal(x, v["w"][:, None] + v["z"], 0.8)
    ).sum(-1),
    "time_and_data": lambda v, x: (normal(v["z"], 0.0, 0.7) + normal(x, v["z"], 0.8)).sum(-1),
    "labelled_and_unlabelled": lambda v, x: code(v["b"], x[2:]),
    "users_and_items": lambda v, x: (
        normal(v["u"], 0.0, 0.9) + normal(x, v["u"][..., None] * v["v"][:, None], 0.8).sum(-1)
    ),
    "global_only": lambda v, x: (
        normal(v["w"], 0.0, 1.0).sum(-1) + normal(x, v["w"][:, None], 0.8).sum((-1, -2))
    ),
    "enumerated_in_the_guide": lambda v, x: (
        dist.Bernoulli(0.4).log_prob(v["k"])
        + normal(v["z"], v["k"], 1.0)
        + normal(x[:, 0], v["z"], 0.8)
    ),
}
"""log p of each datum, (draw, n), from the draws and x."""


@pytest.mark.parametrize("name", LOG_P)
def test_log_p_by_datum(name: str) -> None:
    shape = SHAPES[name]()
    (x,) = shape.args
    tree = to_arviz(
        shape.model, shape.guide, x, draws=5, groups=("posterior", "sample_stats"), **shape.asked
    )
    values = {k: torch.as_tensor(v.values[0]).double() for k, v in tree["posterior"].items()}
    expected = LOG_P[name](values, x.double())
    np.testing.assert_allclose(tree["sample_stats"]["log_p"].values[0], expected, rtol=1e-5)


def test_the_log_density_of_everything_is_pyros(double: None) -> None:
    """What lies outside the row is counted in `lp`, once, and without the scale of a batch."""
    for name in ("observation_outside", "further_observation", "users_and_items"):
        shape = SHAPES[name]()
        args = tuple(a.double() for a in shape.args)
        tree = to_arviz(shape.model, shape.guide, args, draws=1, **shape.asked)
        values = {}
        with poutine.trace() as trace:
            shape.guide(*args)
        for key, array in tree["posterior"].items():
            if key in trace.trace:
                plain = torch.as_tensor(array.values[0, 0])
                values[key] = plain.reshape(trace.trace.nodes[key]["value"].shape)
        run = poutine.trace(poutine.condition(shape.model, values)).get_trace(*args)
        stats = tree["sample_stats"]
        total = {k: float(v.sum()) for k, v in stats.items()}
        assert total["lp"] == pytest.approx(float(run.log_prob_sum()), rel=1e-9)
        assert total["log_p"] + total["log_p_global"] == pytest.approx(total["lp"], rel=1e-9)


# A pair of scalars with a posterior in closed form, z given x ~ N(x / 2, 1 / 2)


def posterior(x: Tensor) -> Any:
    return dist.Normal(x / 2, math.sqrt(0.5))


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))


@pytest.fixture
def x(double: None) -> Tensor:
    return torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.double)


def evidence(x: Tensor) -> np.ndarray:
    return dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).numpy()


def _exact(model: Any, guide: Any, args: Any, truth: Any, **asked: Any) -> None:
    result = pareto_k(model, guide, args, draws=30, seed=0, **asked)
    assert result.exact.all()
    assert (result.k == 0).all()
    np.testing.assert_allclose(result.log_evidence, truth, rtol=1e-9)


def test_an_exact_guide_is_exact_whatever_the_plate(x: Tensor) -> None:
    def programs(plate: Any, factor: bool) -> tuple[Any, Any]:
        def model(x: Tensor) -> None:
            with plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                if factor:
                    pyro.factor("fit", dist.Normal(z, 1.0).log_prob(x))
                else:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with plate(x):
                pyro.sample("z", posterior(x))

        return model, guide

    plates = (
        lambda x: pyro.plate("data", 6),
        lambda x: pyro.plate("data"),
        lambda x: pyro.plate("data", 60, subsample=x),
    )
    for plate in plates:
        _exact(*programs(plate, False), x, evidence(x))
    _exact(*programs(plates[0], True), x, evidence(x))


def test_all_data_are_one_row_where_no_latent_belongs_to_a_datum(x: Tensor) -> None:
    n = len(x)

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(x.sum() / (n + 1), 1 / math.sqrt(n + 1)))

    cov = torch.eye(n) + 1
    truth = dist.MultivariateNormal(torch.zeros(n), cov).log_prob(x)
    _exact(model, guide, x, truth)
    tree = to_arviz(model, guide, x, draws=4)
    assert tree["posterior"]["w"].dims == ("chain", "draw")
    assert tree["log_likelihood"]["x"].dims == ("chain", "draw", "data")
    assert tree["observed_data"]["x"].dims == ("data",)
    assert "log_p_global" not in tree["sample_stats"]
    np.testing.assert_allclose(tree["sample_stats"]["log_weight"].values, float(truth), rtol=1e-9)
    check = predictive_check(model, guide, x, draws=3)
    assert check.observed["sd between data"] == pytest.approx(float(x.std()))
    assert sbc(model, guide, x, simulations=200, draws=19, seed=0).p_value > 0.01
    with pytest.raises(ValueError, match=r"has latents \['w'\] outside the data plate"):
        ppl_vae.compare({"one": (model, guide), "two": (model, guide)}, x)

    # An automatic guide's joint density is one number, which is what a joint draw has.
    auto = AutoMultivariateNormal(model)
    assert pareto_k(model, auto, x, draws=25).k.shape == (1,)


def test_what_the_guide_observes_belongs_to_log_q(x: Tensor) -> None:
    def observing(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", posterior(x))
            pyro.sample("x", dist.Normal(z, 2.0), obs=x)
            pyro.factor("classifier", -(x**2), has_rsample=False)
        pyro.factor("outside", torch.tensor(2.0), has_rsample=False)

    tree = to_arviz(model, observing, x, draws=7)
    z, stats = torch.as_tensor(tree["posterior"]["z"].values[0]), tree["sample_stats"]
    log_q = posterior(x).log_prob(z) + dist.Normal(z, 2.0).log_prob(x) - x**2
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    np.testing.assert_allclose(stats["log_q"].values[0], log_q, rtol=1e-9)
    np.testing.assert_allclose(stats["log_p"].values[0], log_p, rtol=1e-9)
    np.testing.assert_allclose(stats["log_q_global"].values[0], 2.0)
    # Weights with a factor of the guide in them average to no evidence.
    assert "log_likelihood" not in tree
    with pytest.raises(ValueError, match=r"the guide observes \['x', 'classifier'\]"):
        ppl_vae.compare({"one": (model, observing), "two": (model, guide)}, x)
    # x is observed in the model as well, and drawn there for a prediction.
    assert tree["posterior_predictive"]["x"].values.std(1).min() > 0


def test_missing_data_that_the_guide_samples_count_on_both_sides(x: Tensor) -> None:
    mask = torch.tensor([True, False] * 3)

    def missing(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=mask)

    def imputing(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x / 2 * mask, torch.where(mask, 0.5, 1.0).sqrt()))
            with poutine.mask(mask=~mask):
                pyro.sample("x_unobserved", dist.Normal(z, 1.0))

    _exact(missing, imputing, x, evidence(x) * mask.numpy())


def test_predictive_check_of_a_scalar(x: Tensor) -> None:
    result = predictive_check(model, guide, x, draws=5, seed=0)
    assert "sd within a datum" not in result.p_values
    assert result.observed["sd between data"] == pytest.approx(float(x.std()))
    assert result.replicated["sd between data"].shape == (5,)
    assert np.isfinite(list(result.p_values.values())).all()


def test_an_observation_in_no_plate_is_one_datum(x: Tensor) -> None:
    def more(x: Tensor) -> None:
        model(x)
        pyro.sample("total", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=torch.ones(3))

    shapes = []

    def look(data: Tensor) -> Tensor:
        shapes.append(tuple(data.shape))
        return data.sum()

    seen = predictive_check(more, guide, x, site="total", statistics={"sum": look}, draws=2)
    assert seen.observed == {"sum": 3.0}
    assert set(shapes) == {(1, 3)}
    _exact(more, guide, x, evidence(x))
    # It is no argument, and stays as it is while the data are drawn.
    assert sbc(more, guide, x, simulations=60, draws=9, seed=0).p_value > 0.01


def test_a_factor_predicts_nothing() -> None:
    shape = SHAPES["factor_for_likelihood"]()
    for call in (predictive_check, sbc):
        with pytest.raises(
            ValueError, match=r"only \['fit'\], and a factor has no dist"
        ) as caught:
            call(shape.model, shape.guide, shape.args)
        assert "\n" not in str(caught.value)
    tree = to_arviz(shape.model, shape.guide, shape.args, draws=2)
    assert "posterior_predictive" not in tree


def test_the_observed_argument_is_no_constant_in_whatever_shape() -> None:
    def program(x: Tensor, observed: bool) -> None:
        flat = x.flatten(1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0 if observed else flat.mean(1), 1.0))
            if observed:
                pyro.sample(
                    "x", dist.Normal(z[..., None].expand(*z.shape, 8), 1.0).to_event(1), obs=flat
                )

    tree = to_arviz(lambda x: program(x, True), lambda x: program(x, False), torch.randn(3, 2, 4))
    assert "constant_data" not in tree
    assert tree["observed_data"]["x"].dims == ("data", "x_dim_0")


def test_rows_asked_for_need_no_observation(x: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    """As in a Gaussian process' latent variables, where all data share one density."""

    def model(x: Tensor) -> None:
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        cov = torch.exp(-((z[..., :, None] - z[..., None, :]) ** 2)) + torch.eye(len(x))
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(len(x)), cov), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("points", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(NoDataPlate, match="no plate holds a latent site and an observation"):
        to_arviz(model, guide, x)
    kind = {"plate": "points", "log_likelihood": "conditional"}
    tree = to_arviz(model, guide, x, draws=3, **kind)
    assert tree["sample_stats"]["log_q"].shape == (1, 3, 6)
    assert tree["log_likelihood"]["x"].dims == ("chain", "draw")
    # The prior as guide: the weights of rows that hold no observation are 1.
    _exact(model, guide, x, np.zeros(6), plate="points")
    assert "compare the guide with the prior alone" in caplog.text


def test_a_table_of_parameters_and_an_automatic_guide(x: Tensor) -> None:
    table = torch.stack([x / 2, torch.full_like(x, math.sqrt(0.5))])

    def looked_up(x: Tensor) -> None:
        loc, sd = pyro.param("table", table)
        with pyro.plate("data", 6):
            pyro.sample("z", dist.Normal(loc, sd))

    _exact(model, looked_up, x, evidence(x))

    def cut_to_length(x: Tensor) -> None:
        loc, sd = pyro.param("table", table)[:, : len(x)]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, sd))

    # Blocks of its arguments would run, at the first rows of the table.
    _exact(model, cut_to_length, x, evidence(x), block=4)
    assert not Pair(model, cut_to_length, x).sliced
    assert Pair(model, guide, x).sliced
    with pytest.raises(ValueError, match="take their size from the arguments"):
        against_nuts(model, cut_to_length, x, rows=2, draws=10, warmup=10)
    start = init_to_value(values={"z": x / 2})
    auto = AutoNormal(model, init_loc_fn=start, init_scale=math.sqrt(0.5))
    _exact(model, auto, x, evidence(x))


def test_some_rows_alone(x: Tensor) -> None:
    """Where two rows run alone have the densities that they have among all, globals held."""

    def given_all(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def amortised(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.mean(), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((w + x) / 2, 0.7))

    def averaging(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - x.mean(), 0.7))

    assert Pair(given_all, amortised, x).rows(torch.tensor([4, 2])).size == 2
    whole = Pair(model, averaging, x)
    with pytest.raises(ValueError, match="cannot run on 2 of 6 data"):
        whole.rows(torch.tensor([4, 2]))
    assert whole.rows(torch.arange(6)) is whole


def test_plates_are_not_pooled(x: Tensor) -> None:
    shape = SHAPES["time_and_data"]()
    with pytest.raises(ValueError, match="rows are of one plate here"):
        pareto_k(shape.model, shape.guide, shape.args, plate=("data", "time"))  # type: ignore[arg-type]
    assert pareto_k(model, guide, x, draws=25, plate=("data",)).k.shape == (6,)  # type: ignore[arg-type]
