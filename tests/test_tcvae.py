"""The beta-TCVAE: limits, the three parts against quadrature, refusals."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from mixture import (
    ESTIMATORS,
    MEANS,
    N,
    aggregate_term,
    batch,
    full_data,
    near,
    own_term,
    pair_of,
    prior_term,
    standard,
)
from pairs import PAIRS, MeanField, gradients
from pyro import poutine
from pyro.infer import SVI
from syncs import no_waiting
from torch import Tensor

from ppl_vae.objectives import MMD, AggregatePosterior, BetaVAE
from ppl_vae.objectives.divergences.aggregate_kl import Estimator, log_densities
from ppl_vae.objectives.tcvae import TCVAE, _parts

# Chains as one joint and points of an auxiliary site have no Gaussian density.
SUPPORTED = [name for name in PAIRS if not name.startswith(("chain", "auto_local"))]
PARTICLES: list[dict[str, Any]] = [
    {"num_particles": 1},
    {"num_particles": 3},
    {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 2},
]


def parts_of(terms: dict[str, Tensor], name: str) -> tuple[float, float, float]:
    kinds = ("mutual_information", "total_correlation", "dimension_wise")
    first, second, third = (float(terms[f"{kind}/{name}"]) for kind in kinds)
    return first, second, third


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("particles", PARTICLES, ids=["one", "three", "vectorised"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_equal_weights_are_the_elbo(name: str, particles: dict[str, Any]) -> None:
    pair = PAIRS[name]()
    theirs = MeanField(**particles)
    theirs.differentiable_loss(pair.model, pair.guide, *pair.args)  # fills the parameter store
    pyro.set_rng_seed(3)
    expected, expected_grads = gradients(
        lambda: theirs.differentiable_loss(pair.model, pair.guide, *pair.args)
    )
    ours = TCVAE(1.0, 1.0, 1.0, **pair.keywords, **particles)
    pyro.set_rng_seed(3)
    value, grads = gradients(lambda: ours.differentiable_loss(pair.model, pair.guide, *pair.args))
    assert value == pytest.approx(expected, rel=1e-8)
    for parameter, gradient in expected_grads.items():
        torch.testing.assert_close(grads[parameter], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", SUPPORTED)
def test_three_calls_agree_and_parts_sum_to_the_rate(name: str, estimator: Estimator) -> None:
    pair = PAIRS[name]()
    objective = TCVAE(0.5, 6.0, 2.0, estimator, size=50, **pair.keywords)
    objective.loss(pair.model, pair.guide, *pair.args)
    losses = []
    for call in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        pyro.set_rng_seed(1)
        losses.append(float(torch.as_tensor(call(pair.model, pair.guide, *pair.args)).detach()))
    assert losses[0] == losses[1] == losses[2]
    joint = "+".join(pair.local)
    rate = sum(float(objective.terms[f"rate/{site}"]) for site in pair.local)
    mi, tc, rest = parts_of(objective.terms, joint)
    assert mi + tc + rest == pytest.approx(rate, rel=1e-10)
    assert mi <= math.log(50) + 1e-12
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), objective)
    assert all(math.isfinite(svi.step(*pair.args)) for _ in range(3))


def test_loss_is_the_weighted_sum_of_the_parts() -> None:
    model, guide = pair_of(N, 4)
    objective = TCVAE(0.3, 7.0, 2.0)
    loss = float(objective.loss(model, guide))
    mi, tc, rest = parts_of(objective.terms, "z")
    expected = float(objective.terms["reconstruction/x"]) + 0.3 * mi + 7 * tc + 2 * rest
    assert loss == pytest.approx(N * expected, rel=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_parts_sum_to_the_sampled_log_ratio(estimator: Estimator) -> None:
    q = batch(torch.arange(4))
    found = log_densities(q, estimator, None, "test")
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(q.codes)
    information = found.own - found.aggregate
    correlation = found.aggregate - found.by_dimension.sum(-1)
    by_dimension = (found.by_dimension - log_p).sum(-1)
    assert q.conditional is not None
    assert q.conditional.covariance is not None
    spread = q.conditional.covariance.sqrt()
    direct = torch.distributions.Normal(q.conditional.mean, spread).log_prob(q.codes).sum(-1)
    torch.testing.assert_close(
        information + correlation + by_dimension, direct - standard().log_prob(q.codes)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [3, N])
def test_parts_against_quadrature(n: int, estimator: Estimator) -> None:
    """Each part's mean over batches is its own finite-n expectation; at n = N, MSS, the truth."""
    joint = aggregate_term([0, 1], n, estimator)
    marginals = sum(aggregate_term([k], n, estimator) for k in (0, 1))
    expected = [
        own_term() - joint,
        joint - marginals,
        marginals - prior_term([0]) - prior_term([1]),
    ]
    if estimator == "MSS" and n == N:
        assert expected == pytest.approx(list(full_data().values()), abs=1e-9)
    model, guide = pair_of(N, n)
    objective = TCVAE(estimator=estimator)
    draws = []
    for seed in range(400):
        pyro.set_rng_seed(seed)
        objective.differentiable_loss(model, guide)
        draws.append(parts_of(objective.terms, "z"))
    information, correlation, rest = zip(*draws, strict=True)
    near([a + b for a, b in zip(information, correlation, strict=True)], sum(expected[:2]))
    near(list(rest), expected[2])
    assert max(information) <= math.log(N) + 1e-12
    if estimator == "MSS":
        near(list(information), expected[0])
    else:  # as published, before the excess over log N is moved
        near([_published(n) for _ in range(400)], expected[0])


def _published(n: int) -> float:
    found = log_densities(batch(torch.randperm(N)[:n]), "MWS", None, "test")
    return float((found.own - found.aggregate).mean())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_information_beyond_log_size_moves_in_value_alone(estimator: Estimator) -> None:
    """Codes so far apart that MWS says log(N n): the gradients are as published."""
    x = 10.0 * torch.arange(30.0)[:, None].expand(30, 2)

    def model() -> None:
        with pyro.plate("data", 30, subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[index])

    def guide() -> None:
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", 30, subsample_size=5) as index:
            pyro.sample("z", dist.Normal(x[index], scale).to_event(1))

    objective = TCVAE(2.0, 1.0, 1.0, estimator)
    pyro.set_rng_seed(0)
    loss = objective.loss(model, guide)
    pyro.set_rng_seed(0)
    elbo = BetaVAE(1.0).loss(model, guide)
    assert float(objective.terms["mutual_information/z"]) == pytest.approx(math.log(30))
    assert (loss - elbo) / 30 == pytest.approx(math.log(30), abs=2e-3)
    parts = parts_of(objective.terms, "z")
    assert sum(parts) == pytest.approx(float(objective.terms["rate/z"]), rel=1e-5)

    means = torch.randn(5, 2, requires_grad=True)
    q = AggregatePosterior.of(dist.Normal(means, 1.0).to_event(1), standard())
    found = log_densities(q, estimator, None, "test")
    plain = (found.own - found.aggregate).mean()
    (expected,) = torch.autograd.grad(plain, means, retain_graph=True)
    (gradient,) = torch.autograd.grad(_parts(q, found)[0], means)
    torch.testing.assert_close(gradient, expected)


def test_scale_is_exact_and_n_does_not_follow_it() -> None:
    model, guide = pair_of(N, 3)
    for weights in ((1.0, 6.0, 1.0), (0.0, 2.0, 0.5)):
        losses, terms = [], []
        for scale in (1.0, 0.01):
            pyro.set_rng_seed(0)
            objective = TCVAE(*weights)
            pair = [poutine.scale(f, scale=scale) for f in (model, guide)]
            losses.append(objective.loss(*pair) / scale)
            terms.append(objective.terms)
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        assert parts_of(terms[0], "z") == pytest.approx(parts_of(terms[1], "z"), rel=1e-10)


def test_total_correlation_falls_as_it_is_weighed() -> None:
    """A guide that copies one datum into both codes unlearns it under a weight on TC."""
    x = torch.linspace(-1.5, 1.5, 32)[:, None]

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.mean(-1, keepdim=True), 0.3).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        w = pyro.param("w", torch.tensor([0.9, 0.8]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * w, 0.4).to_event(1))

    found = {}
    for weight in (1.0, 10.0):
        pyro.clear_param_store()
        objective = TCVAE(1.0, weight, 1.0)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), objective)
        for _ in range(250):
            svi.step(x)
        with torch.no_grad():
            values = []
            for _ in range(20):
                objective.loss(model, guide, x)
                values.append(parts_of(objective.terms, "z")[1])
        found[weight] = sum(values) / 20
    assert found[10.0] < found[1.0] / 2


def test_scheduled_weights() -> None:
    model, guide = pair_of(N, 4)
    fixed, scheduled = TCVAE(1.0, 3.0, 1.0), TCVAE(1.0, lambda step: 3.0 * (step + 1) / 1, 1.0)
    losses = []
    for objective in (fixed, scheduled):
        pyro.set_rng_seed(0)
        losses.append(objective.loss(model, guide))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_no_rate_where_the_rest_has_no_weight() -> None:
    """With dimension_wise=0 no prior density is asked for: a uniform prior trains."""

    def model() -> None:
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.Uniform(-torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.zeros(N))

    def guide() -> None:
        with pyro.plate("data", N):
            pyro.sample("z", dist.Normal(MEANS.float(), 0.5).to_event(1))

    objective = TCVAE(0.0, 1.0, 0.0)
    assert math.isfinite(objective.loss_and_grads(model, guide))
    assert "dimension_wise/z" not in objective.terms


def test_refusals() -> None:
    with pytest.raises(ValueError, match="total_correlation=-1"):
        TCVAE(1.0, -1.0)
    with pytest.raises(ValueError, match="dimension_wise=-1"):
        TCVAE(1.0, 1.0, -1.0)
    with pytest.raises(ValueError, match="MSS, MWS"):
        TCVAE(estimator="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one joint"):
        TCVAE(sites={"z": (MMD(), 1.0)})
    for name in ("chain_top_down", "chain_bottom_up"):
        pair = PAIRS[name]()
        with pytest.raises(ValueError, match=r"z2.*drawn given"):
            TCVAE().loss(pair.model, pair.guide, *pair.args)
    pair = PAIRS["chain_top_down"]()
    objective = TCVAE(sites=["z2"])
    objective.loss(pair.model, pair.guide, *pair.args)
    assert {"rate/z1", "rate/z2", "total_correlation/z2"} <= objective.terms.keys()

    def mixture_prior(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            parts = dist.Normal(torch.randn(3, 3), 1.0).to_event(1)
            prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), parts)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    pair = PAIRS["one_latent"]()
    with pytest.raises(ValueError, match="factorises"):
        TCVAE().loss(mixture_prior, pair.guide, *pair.args)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_host_synchronisation(estimator: Estimator) -> None:
    for name in ("subsampled", "masked", "two_latents"):
        pair = PAIRS[name]()
        objective = TCVAE(estimator=estimator)
        objective.loss(pair.model, pair.guide, *pair.args)
        no_waiting(objective, pair)
