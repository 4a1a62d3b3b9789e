"""KL of the aggregate posterior by MSS and MWS: expectations by enumeration and quadrature."""

import math
from dataclasses import replace
from itertools import combinations

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture import (
    ESTIMATORS,
    MEANS,
    SCALES,
    N,
    aggregate_term,
    batch,
    by_datum,
    full_data,
    near,
    pair_of,
    prior_term,
    standard,
)
from pairs import PAIRS
from pyro import poutine
from pyro.infer import SVI
from syncs import no_waiting
from torch import Tensor

from ppl_vae.objectives import AggregatePosterior, InfoVAE
from ppl_vae.objectives.divergences.aggregate_kl import (
    AggregateKL,
    Estimator,
    LogDensities,
    log_densities,
)
from ppl_vae.objectives.divergences.aggregate_posterior import DistributionPrior
from ppl_vae.objectives.divergences.gaussians import Gaussians


def estimates(q: AggregatePosterior, estimator: Estimator = "MSS") -> LogDensities:
    return log_densities(q, estimator, None, "test")


def test_quadrature_is_full_data() -> None:
    parts = full_data()
    log_q, log_p, cell = by_datum([0, 1])
    kl = (log_q.exp() * (log_q - log_p)).sum(1).mean() * cell
    assert sum(parts.values()) == pytest.approx(float(kl), abs=1e-10)
    mixture = torch.logsumexp(log_q, 0) - math.log(N)
    direct = (mixture.exp() * (mixture - log_p)).sum() * cell  # KL(q(z) || p(z))
    rest = parts["total_correlation"] + parts["dimension_wise"]
    assert rest == pytest.approx(float(direct), abs=1e-10)
    assert parts["mutual_information"] < math.log(N)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [2, 3, N])
def test_against_own_expectation(n: int, estimator: Estimator) -> None:
    expected = aggregate_term([0, 1], n, estimator) - prior_term([0, 1])
    divergence = AggregateKL(estimator)
    draws = [float(divergence(batch(torch.randperm(N)[:n]))) for _ in range(1000)]
    near(draws, expected)
    if n == N:
        population = aggregate_term([0, 1], N, "MSS") - prior_term([0, 1])
        gap = 0.0 if estimator == "MSS" else -math.log(N)
        assert expected - population == pytest.approx(gap, abs=1e-10)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_density_over_all_batches(n: int) -> None:
    """MSS is unbiased for q(z), MWS for what it says, summed over every batch with datum i."""
    z = torch.tensor([0.3, -0.2], dtype=torch.float64)
    each = dist.Normal(MEANS, SCALES).to_event(1).log_prob(z).exp()
    for i in range(N):
        found: dict[Estimator, list[Tensor]] = {"MSS": [], "MWS": []}
        for chosen in combinations([j for j in range(N) if j != i], n - 1):
            q = batch(torch.tensor([i, *chosen]))
            q = replace(q, codes=z.expand(n, 2))
            for estimator, values in found.items():
                values.append(estimates(q, estimator).aggregate[0].exp())
        others = (each.sum() - each[i]) / (N - 1)
        expected = {"MSS": each.mean(), "MWS": (each[i] + (n - 1) * others) / (N * n)}
        for estimator, values in found.items():
            torch.testing.assert_close(torch.stack(values).mean(), expected[estimator])


def test_gradient_is_that_of_the_kl() -> None:
    """At n = N the sampled gradient in a shift of all codes is the derivative of the KL."""
    expected = float(MEANS.mean(0)[0])  # d/ds KL(q(z - s) || N(0, I)) = E z
    draws = []
    for _ in range(800):
        shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        q = dist.Normal(MEANS + shift, SCALES).to_event(1)
        AggregateKL()(AggregatePosterior.of(q, standard())).backward()
        assert shift.grad is not None
        draws.append(float(shift.grad[0]))
    near(draws, expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 8),
    spread=st.floats(0, 30),
    repeats=st.floats(0.1, 50),
    masked=st.booleans(),
    grouped=st.booleans(),
)
def test_information_at_most_log_size(
    seed: int, n: int, spread: float, repeats: float, masked: bool, grouped: bool
) -> None:
    torch.manual_seed(seed)
    q = dist.Normal(spread * torch.randn(n, 3), torch.rand(n, 3) + 0.01).to_event(1)
    weights = repeats * (torch.rand(n) + 0.1)
    if masked:
        weights[0] = 0.0
    groups = torch.arange(n) // 2 if grouped else None
    found = estimates(AggregatePosterior.of(q, standard(3), weights=weights, groups=groups))
    information = (weights / weights.sum() * (found.own - found.aggregate)).sum()
    assert float(information) <= float(found.log_size) + 1e-5


def test_separate_codes_reach_log_size() -> None:
    q = dist.Normal(100.0 * torch.arange(8.0)[:, None].expand(8, 2), 1.0).to_event(1)
    posterior = AggregatePosterior.of(q, standard(), weights=torch.full((8,), 5.0))
    found = estimates(posterior)
    torch.testing.assert_close(found.own - found.aggregate, torch.full((8,), math.log(40.0)))
    weighted = estimates(posterior, "MWS")
    torch.testing.assert_close(
        weighted.own - weighted.aggregate, torch.full((8,), math.log(40.0 * 8))
    )


def _by_hand(
    codes: Tensor, rows: Tensor, weights: Tensor, groups: Tensor | None = None
) -> AggregatePosterior:
    return AggregatePosterior(
        codes=codes,
        prior=DistributionPrior(standard()),
        weights=weights,
        groups=groups,
        conditional_of=lambda: Gaussians(MEANS[rows], SCALES[rows].square()),
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_masked_row_is_a_dropped_row(estimator: Estimator) -> None:
    codes = MEANS + 0.1
    weights = torch.tensor([2.0, 0.0, 2.0, 2.0, 0.0, 2.0], dtype=torch.float64)
    kept = torch.tensor([0, 2, 3, 5])
    masked = AggregateKL(estimator)(_by_hand(codes, torch.arange(N), weights))
    dropped = AggregateKL(estimator)(_by_hand(codes[kept], kept, weights[kept]))
    torch.testing.assert_close(masked, dropped, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_split_datum_is_one_datum(estimator: Estimator) -> None:
    rows = torch.tensor([0, 0, 2, 3, 3, 3])
    split = torch.tensor([0.4, 0.6, 1.0, 0.1, 0.2, 0.7], dtype=torch.float64) * 3
    whole = torch.tensor([0, 2, 3])
    divergence = AggregateKL(estimator)
    together = divergence(_by_hand(MEANS[rows] + 0.1, rows, split, groups=rows))
    single = divergence(_by_hand(MEANS[whole] + 0.1, whole, torch.full((3,), 3.0).double()))
    torch.testing.assert_close(together, single, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_weight_at_all_gives_zero(estimator: Estimator) -> None:
    codes = MEANS.clone().requires_grad_()
    value = AggregateKL(estimator)(_by_hand(codes, torch.arange(N), torch.zeros(N).double()))
    value.backward()
    assert value == 0
    assert codes.grad is not None
    assert torch.equal(codes.grad, torch.zeros_like(MEANS))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_of_an_enumerated_guide(estimator: Estimator) -> None:
    """Weights that are probabilities get the derivative, finite with masked rows too."""
    rows = torch.tensor([0, 1, 2, 3, 4, 5])
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    logits = torch.tensor([0.3, -0.8, 1.2], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 0.0], dtype=torch.float64)

    def value(logits: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        weights = mask * torch.stack([p, 1 - p], 1).flatten()
        return AggregateKL(estimator)(_by_hand(MEANS + 0.1, rows, weights, groups))

    assert torch.autograd.gradcheck(value, logits)


def test_full_covariance() -> None:
    root = torch.tensor([[0.8, 0.0], [0.5, 0.4]], dtype=torch.float64) * SCALES[:, :1, None]
    q = dist.MultivariateNormal(MEANS, scale_tril=root)
    posterior = AggregatePosterior.of(q, standard())
    found = estimates(posterior)
    every = q.log_prob(posterior.codes[:, None])
    torch.testing.assert_close(found.aggregate, torch.logsumexp(every, 1) - math.log(N))
    torch.testing.assert_close(found.own, q.log_prob(posterior.codes))
    spread = q.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    marginals = dist.Normal(MEANS, spread).log_prob(posterior.codes[:, None])
    torch.testing.assert_close(found.by_dimension, torch.logsumexp(marginals, 1) - math.log(N))


def test_subsampled_plate_says_its_size() -> None:
    """Through the traces, scaled by 0.01 and not: the estimate is that of N data."""
    expected = aggregate_term([0, 1], 3, "MSS") - prior_term([0, 1])
    model, guide = pair_of(N, 3)
    objective = InfoVAE(AggregateKL())
    scaled = [poutine.scale(f, scale=0.01) for f in (model, guide)]
    draws = []
    for seed in range(300):
        pyro.set_rng_seed(seed)
        loss = objective.differentiable_loss(model, guide)
        draws.append(float(objective.terms["divergence/z"]))
        if seed < 5:
            pyro.set_rng_seed(seed)
            hundredth = objective.differentiable_loss(*scaled)
            torch.testing.assert_close(hundredth * 100, loss, rtol=1e-12, atol=0)
    near(draws, expected)


def test_size_for_batches_of_a_plain_plate() -> None:
    model, guide = pair_of(4)
    values = []
    for divergence in (AggregateKL(), AggregateKL(size=4), AggregateKL(size=400)):
        pyro.set_rng_seed(0)
        objective = InfoVAE(divergence)
        objective.loss(model, guide)
        values.append(float(objective.terms["divergence/z"]))
    assert values[0] == values[1]
    assert values[2] < values[0] - 0.1


def test_invariant_to_the_priors_units() -> None:
    values = []
    for loc, scale in ((0.0, 1.0), (3.0, 5.0)):
        pyro.set_rng_seed(0)
        objective = InfoVAE(AggregateKL())
        objective.loss(*pair_of(N, loc=loc, scale=scale))
        values.append(objective.terms["divergence/z"])
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", [n for n in PAIRS if not n.startswith(("chain", "auto_local"))])
def test_over_pairs(name: str, estimator: Estimator) -> None:
    pair = PAIRS[name]()
    objective = InfoVAE(AggregateKL(estimator), alpha=0.5, scale=2.0, **pair.keywords)
    objective.loss(pair.model, pair.guide, *pair.args)
    losses = []
    for call in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        pyro.set_rng_seed(1)
        losses.append(float(torch.as_tensor(call(pair.model, pair.guide, *pair.args)).detach()))
    assert losses[0] == losses[1] == losses[2]
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), objective)
    assert all(math.isfinite(svi.step(*pair.args)) for _ in range(3))


@pytest.mark.parametrize("name", ["chain_top_down", "chain_bottom_up"])
def test_joint_of_a_chain_is_refused(name: str) -> None:
    pair = PAIRS[name]()
    with pytest.raises(ValueError, match=r"z2.*drawn given"):
        InfoVAE(AggregateKL()).loss(pair.model, pair.guide, *pair.args)
    InfoVAE(AggregateKL(), sites=["z2"]).loss(pair.model, pair.guide, *pair.args)
    if name == "chain_bottom_up":
        # z1's noise under p(z1 | z2) is a function of z2 too, which the guide draws given z1.
        with pytest.raises(ValueError, match=r"z1.*its own prior"):
            InfoVAE(AggregateKL(), sites=["z1"]).loss(pair.model, pair.guide, *pair.args)


def test_refusals() -> None:
    points = torch.randn(4, 2)
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    for q in (
        points,
        dist.Delta(points, event_dim=1),
        dist.Uniform(points, points + 1).to_event(1),
    ):
        with pytest.raises(ValueError, match="density of q"):
            AggregateKL()(AggregatePosterior.of(q, prior))
    gaussian = dist.Normal(points, 1.0).to_event(1)
    with pytest.raises(ValueError, match="draws alone"):
        AggregateKL()(AggregatePosterior.of(gaussian, torch.randn(5, 2)))
    one = dist.Normal(points[:1], 1.0).to_event(1)
    with pytest.raises(ValueError, match="two rows"):
        AggregateKL()(AggregatePosterior.of(one, prior))
    with pytest.raises(ValueError, match="MSS, MWS"):
        AggregateKL("mss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size=0"):
        AggregateKL(size=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_host_synchronisation(estimator: Estimator) -> None:
    pyro.enable_validation(False)
    for name in ("subsampled", "masked"):
        pair = PAIRS[name]()
        objective = InfoVAE(AggregateKL(estimator))
        objective.loss(pair.model, pair.guide, *pair.args)
        no_waiting(objective, pair)
