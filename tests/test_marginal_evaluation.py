"""Evaluation and diagnostics of pairs whose models sum over discrete sites, row by row."""

import inspect
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from marginals import MARGINALS, Marginal, centres, data, weights
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from ppl_vae.diagnostics import to_arviz
from ppl_vae.diagnostics.importance import pareto_k
from ppl_vae.evaluation import elbo, log_weights, nll
from ppl_vae.evaluation.pair import Pair
from ppl_vae.program.running import read

pytestmark = pytest.mark.usefixtures("double")

every = pytest.mark.parametrize("name", MARGINALS)


def options(name: str) -> dict[str, Any]:
    return {"plate": "documents"} if name == "topics" else {}


def alone(pair: Marginal, name: str, row: int, z: Tensor) -> float:
    """log p(x_i, z_i) - log q(z_i | x_i), by Pyro, of a pair that has this row only."""
    (x,) = pair.args
    one = x[:, row : row + 1] if name == "topics" else x[row : row + 1]
    held = poutine.condition(pair.guide, data={"z": z[None]})
    # The guide's density is Pyro's log q of an observed site, so it is taken by itself.
    log_q = float(poutine.trace(held).get_trace(one).log_prob_sum().detach())

    def still(x: Tensor) -> None:
        with pyro.plate("documents" if name == "topics" else "data", 1):
            pyro.sample("z", dist.Delta(z[None], event_dim=1))

    joint = -TraceEnum_ELBO(max_plate_nesting=pair.nesting).loss(pair.model, still, one)
    return joint - log_q


@every
def test_densities_by_row_are_those_of_rows_alone(name: str) -> None:
    pair = MARGINALS[name]()
    terms = Pair(pair.model, pair.guide, pair.args, **options(name)).run()
    weights = terms.log_prior + terms.log_likelihood - terms.log_q
    z = terms.guide["z"].value
    for row, weight in enumerate(weights):
        assert float(weight.detach()) == pytest.approx(alone(pair, name, row, z[row]), rel=1e-9)
    by_hand = pair.conditional(z)
    assert float(terms.log_likelihood.sum().detach()) == pytest.approx(
        float(by_hand.detach()), rel=1e-9
    )


@pytest.mark.parametrize("block", [2, None])
@every
def test_blocks_make_no_difference(name: str, block: int | None) -> None:
    pair = MARGINALS[name]()
    whole = Pair(pair.model, pair.guide, pair.args, **options(name))
    parts = Pair(pair.model, pair.guide, pair.args, **options(name), block=block)
    z = whole.run().guide["z"].value
    sums = []
    for each in (whole, parts):
        found = []
        rows = each.split() if each.sliced else [None]
        for part in rows:
            terms = each.run(part, {"z": z if part is None else z[part]})
            found.append(terms.log_likelihood + terms.log_prior)
        sums.append(torch.cat(found))
    torch.testing.assert_close(*sums, rtol=1e-9, atol=1e-9)


@every
def test_the_elbo_is_the_loss(name: str) -> None:
    """In nats per datum, evaluation's ELBO and TraceEnum_ELBO's loss agree in expectation."""
    pair = MARGINALS[name]()
    found = elbo(pair.model, pair.guide, pair.args, num_samples=200, **options(name))
    loss = TraceEnum_ELBO(max_plate_nesting=pair.nesting).loss
    values = torch.tensor([loss(pair.model, pair.guide, *pair.args) for _ in range(20)])
    values = -values / len(read(pair.model, pair.guide, pair.args).guide_sites["z"].value)
    ours = log_weights(pair.model, pair.guide, pair.args, num_samples=200, **options(name))
    error = (values.var() / 20 + ours.mean(0).var() / 200).sqrt()
    assert abs(float(found.value) - float(values.mean())) < 4.5 * float(error)
    assert abs(float(ours.mean()) - float(values.mean())) < 4.5 * float(error)


def test_the_likelihood_of_a_mixture() -> None:
    """x is a mixture of normals of variance .64 + .36."""
    pair = MARGINALS["mixture_prior"]()
    parts = dist.Independent(dist.Normal(centres(), 1.0), 1)
    mixture = dist.MixtureSameFamily(dist.Categorical(weights()), parts)
    exact = mixture.log_prob(data()).detach()
    found = nll(pair.model, pair.guide, data(), num_samples=4000, proposal="own")
    ours = log_weights(pair.model, pair.guide, data(), num_samples=4000)
    ratio = (ours - exact[:, None]).exp()
    error = ratio.std(1) / 4000**0.5
    assert ((ratio.mean(1) - 1).abs() < 4.5 * error).all()
    assert found.value == pytest.approx(-float(exact.mean()), abs=4.5 * float(error.mean()))


@every
def test_k_hat(name: str) -> None:
    pair = MARGINALS[name]()
    found = pareto_k(pair.model, pair.guide, pair.args, draws=200, seed=1, **options(name))
    n = len(read(pair.model, pair.guide, pair.args).guide_sites["z"].value)
    k = np.asarray(found.k)
    assert k.shape == (n,)
    assert np.isfinite(k).all()


@every
def test_arviz(name: str) -> None:
    pair = MARGINALS[name]()
    groups = ["posterior", "sample_stats", "prior", "observed_data"]
    made = to_arviz(
        pair.model, pair.guide, pair.args, draws=6, groups=groups, seed=2, **options(name)
    )
    z, stats = made["posterior"]["z"].values[0], made["sample_stats"]
    assert not [key for key in made["posterior"] if key.startswith("k")]
    for draw in (0, 5):
        for row in (0, z.shape[1] - 1):
            expected = alone(pair, name, row, torch.as_tensor(z[draw, row]))
            assert stats["log_weight"].values[0, draw, row] == pytest.approx(expected, rel=1e-8)


def test_observations_of_a_summed_prior_are_not_redrawn() -> None:
    """Where z and x both depend on k, x given z wants k given z."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})[..., None]
            z = pyro.sample("z", dist.Normal(k + torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + k, 0.6).to_event(1), obs=x)

    pair = MARGINALS["mixture_prior"]()
    with pytest.raises(ValueError, match="'x' cannot be drawn given 'z': both depend on 'k'"):
        to_arviz(model, pair.guide, data(), draws=5, groups=["posterior_predictive"])


def test_what_is_taken_of_pyro() -> None:
    """`ppl_vae.program.marginal` alone stands on these; where one is gone, this test names it."""
    assert list(inspect.signature(contract_tensor_tree).parameters)[:2] == [
        "tensor_tree",
        "sum_dims",
    ]
    pair = MARGINALS["mixture_prior"]()
    reading = read(pair.model, pair.guide, pair.args)
    infer = reading.model_sites["k"].infer
    assert infer["_enumerate_dim"] == -2
    assert infer["_dim_to_id"][-2] >= 0
    assert reading.model_sites["z"].infer["_dim_to_id"] == infer["_dim_to_id"]
