"""The memory: what it holds, when it moves, and that it changes bias and not the gradient."""

import math
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, V, deviation, rows, standard, together
from pairs import PAIRS, gradients
from syncs import no_waiting
from torch import Tensor

from ppl_vae.objectives import (
    MMD,
    RBF,
    AggregatePosterior,
    CramerWold,
    Divergence,
    Energy,
    FourierMMD,
    InfoVAE,
    Memory,
    SlicedWasserstein,
    Stein,
)

pytestmark = pytest.mark.usefixtures("double")


class Spy(Divergence):
    """Records what it is shown."""

    def __init__(self, reads_past: bool = True):
        super().__init__()
        self.reads_past = reads_past
        self.seen: list[AggregatePosterior] = []

    def forward(self, q: AggregatePosterior) -> Tensor:
        self.seen.append(q)
        return q.codes.square().mean()


def of(codes: Tensor, **kwargs: Any) -> AggregatePosterior:
    return AggregatePosterior.of(codes, standard(codes.shape[1]), **kwargs)


def past_of(spy: Spy) -> Tensor:
    """The codes of the past with weight, sorted."""
    past = spy.seen[-1].past
    assert past is not None
    return past.codes[past.weights > 0, 0].sort().values


def test_it_holds_the_last_rows() -> None:
    spy = Spy()
    memory = Memory(spy, size=5)
    memory(of(torch.zeros(2, 1)))
    assert spy.seen[-1].past is None
    for step in range(4):
        memory.remember(of(torch.tensor([[2.0 * step], [2.0 * step + 1]])))
        memory(of(torch.zeros(2, 1)))
        held = torch.arange(2.0 * (step + 1))[-5:]
        torch.testing.assert_close(past_of(spy), held)
    memory.remember(of(torch.arange(100.0, 108)[:, None]))
    memory(of(torch.zeros(2, 1)))
    torch.testing.assert_close(past_of(spy), torch.arange(103.0, 108))


def test_it_keeps_conditionals_and_weights() -> None:
    spy = Spy()
    memory = Memory(spy, size=6)
    q = rows(3, 2)
    weights = torch.tensor([1.0, 0.0, 2.0])
    batch = AggregatePosterior.of(q, standard(2), weights=weights)
    memory.remember(batch)
    memory(batch)
    past = spy.seen[-1].past
    assert past is not None
    assert past.conditional is not None
    keep = [0, 2]  # a masked row takes no place
    torch.testing.assert_close(past.conditional.mean[:2], q.base_dist.loc[keep])
    variance = q.base_dist.scale.square()[keep]
    torch.testing.assert_close(past.conditional.covariance[:2], variance)  # type: ignore[index]
    torch.testing.assert_close(past.weights, torch.cat([weights[keep], torch.zeros(4)]))
    assert not past.codes.requires_grad


def test_it_moves_once_a_step_after_all_particles() -> None:
    pair = PAIRS["one_latent"]()
    spy = Spy()
    memory = Memory(spy, size=100)
    objective = InfoVAE(memory, num_particles=3)

    def held() -> list[int]:
        counts = [0 if q.past is None else int((q.past.weights > 0).sum()) for q in spy.seen]
        spy.seen.clear()
        return counts

    for _ in range(2):  # nothing moves here
        objective.loss(pair.model, pair.guide, *pair.args)
        assert held() == [0, 0, 0]
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    assert held() == [0, 0, 0]
    objective.loss_and_grads(pair.model, pair.guide, *pair.args)
    assert held() == [21, 21, 21]
    with torch.no_grad():
        objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    objective.loss(pair.model, pair.guide, *pair.args)
    assert held() == [42] * 6
    objective.eval()
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    assert held() == [0, 0, 0]


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("divergence", [MMD(), SlicedWasserstein()], ids=["reads", "pooled"])
def test_three_ways_to_one_loss(divergence: Divergence, vectorize: bool) -> None:
    pair = PAIRS["subsampled"]()
    objective = InfoVAE(
        Memory(divergence, 10),
        scale=5.0,
        num_particles=2,
        vectorize_particles=vectorize,
        max_plate_nesting=1,
    )
    for seed in range(3):
        values = []
        for call in (objective.loss, objective.differentiable_loss):
            pyro.set_rng_seed(seed)
            queues = {n: vars(q.rows)["codes"].clone() for n, q in memory_of(objective).items()}
            values.append(
                float(torch.as_tensor(call(pair.model, pair.guide, *pair.args)).detach())
            )
            if call == objective.loss:
                for name, before in queues.items():
                    assert torch.equal(memory_of(objective)[name].rows.codes, before)
        assert values[0] == pytest.approx(values[1])


def memory_of(objective: InfoVAE) -> dict[str, Any]:
    (memory,) = (m for m in objective.modules() if isinstance(m, Memory))
    return memory._queues


def test_sites_have_their_own() -> None:
    pair = PAIRS["two_latents"]()
    memory = Memory(MMD(), 10)
    objective = InfoVAE(sites={"z1": (memory, 2.0), "z2": (memory, 3.0)})
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    assert {n: q.rows.codes.shape for n, q in memory._queues.items()} == {
        "z1": (10, 3),
        "z2": (10, 1),
    }


ESTIMATORS: dict[str, Divergence] = {
    "sampled": MMD(RBF(), prior="sampled", noise="sampled"),
    "closed prior": MMD(RBF(), noise="sampled"),
    "both": MMD(RBF(), pairs="all"),
    "shifts": MMD(RBF(), pairs=4),
    "features": FourierMMD(RBF(), 64),
}


def population(d: int, mu: float = MU) -> float:
    def overlap(total: float, shift: float = 0.0) -> float:
        return (d / (d + total)) ** (d / 2) * math.exp(-d * shift**2 / 2 / (d + total))

    return overlap(2 * V) - 2 * overlap(V + 1, mu) + overlap(2)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_mmd_stays_unbiased(name: str) -> None:
    """Value and slope, with the past drawn from the same q as the batch."""
    d, values, slopes = 3, [], []
    for _ in range(400):
        memory = Memory(ESTIMATORS[name], size=12)
        memory.remember(AggregatePosterior.of(rows(9, d), standard(d)))  # three places stay empty
        mu = torch.tensor(MU, requires_grad=True)
        value = memory(AggregatePosterior.of(rows(5, d, mu), standard(d)))
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value, mu)[0])
    eps = 1e-5
    slope = (population(d, MU + eps) - population(d, MU - eps)) / (2 * eps)
    assert deviation(torch.stack(values), population(d)) < 4.5
    assert deviation(torch.stack(slopes), slope) < 4.5


def test_v_statistic_s_bias_falls() -> None:
    """From (1 - E k) / n to that over n + M, with the prior in closed form."""
    d, n, size = 3, 5, 20
    divergence = MMD(RBF(), noise="sampled", statistic="V")
    values = []
    for _ in range(700):
        memory = Memory(divergence, size)
        memory.remember(AggregatePosterior.of(rows(size, d), standard(d)))
        values.append(memory(AggregatePosterior.of(rows(n, d), standard(d))).detach())
    within = (d / (d + 2 * V)) ** (d / 2)
    found = torch.stack(values)
    assert deviation(found, population(d) + (1 - within) / (n + size)) < 4.5
    assert deviation(found, population(d)) > 4.5
    assert deviation(found, population(d) + (1 - within) / n) > 4.5


def test_variance_falls() -> None:
    """At q = p the gradient's noise is the partners': about n / (n + M) of it stays."""
    d, n, size = 10, 10, 90
    variances = []
    for past in (0, size):
        found = []
        for _ in range(300):
            memory = Memory(MMD(), size)
            if past:
                memory.remember(of(torch.randn(past, d)))
            codes = torch.cat([torch.ones(1, d), torch.randn(n - 1, d)]).requires_grad_()
            found.append(torch.autograd.grad(memory(of(codes)), codes)[0][0, 0])
        variances.append(torch.stack(found).var())
    assert variances[1] < 0.3 * variances[0]


@pytest.mark.parametrize("statistic", ["U", "V"])
@pytest.mark.parametrize("kind", [MMD, Energy, CramerWold, FourierMMD])
def test_mmd_by_hand(kind: Any, statistic: Any) -> None:
    """Batch rows against all rows, gradients as if every row were the batch's."""
    n, size, d = 4, 6, 2
    prior = torch.randn(7, d)
    codes, past = torch.randn(n, d, requires_grad=True), torch.randn(size, d)
    divergence = kind(statistic=statistic) if kind is not CramerWold else CramerWold(0.3)
    memory = Memory(divergence, size)
    memory.remember(AggregatePosterior.of(past, prior))
    torch.manual_seed(0)  # of the frequencies
    value = memory(AggregatePosterior.of(codes, prior))
    (found,) = torch.autograd.grad(value, codes)

    # Were every row the batch's, the derivative at these rows would be n / (n + size) as large;
    # the U-statistic counts n + size - 1 partners of each of them, so no more differs.
    everything = torch.cat([codes, past])
    torch.manual_seed(0)
    (whole,) = torch.autograd.grad(divergence(AggregatePosterior.of(everything, prior)), codes)
    torch.testing.assert_close(found, whole * (n + size) / n)


@pytest.mark.parametrize("divergence", [SlicedWasserstein(), Stein(), Stein(statistic="V")])
def test_others_see_the_pool(divergence: Divergence) -> None:
    n, size, d = 4, 6, 2
    codes, past = torch.randn(n, d, requires_grad=True), torch.randn(size, d)
    weights = torch.rand(n + size)
    memory = Memory(divergence, size)
    memory.remember(of(past, weights=weights[n:]))
    torch.manual_seed(0)
    value = memory(of(codes, weights=weights[:n]))
    (found,) = torch.autograd.grad(value, codes)
    torch.manual_seed(0)
    whole = divergence(of(torch.cat([codes, past]), weights=weights))
    (expected,) = torch.autograd.grad(whole, codes)
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(found, expected * weights.sum() / weights[:n].sum())


def test_density_of_the_pool_through_the_model() -> None:
    """The model's plate has n rows; the pool has more, not even a multiple."""
    x = torch.randn(4, 2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x * pyro.param("a", torch.tensor(1.3))).to_event(1))

    memory = Memory(Stein(), 7)
    objective = InfoVAE(memory)
    objective.differentiable_loss(model, guide, x)
    objective.differentiable_loss(model, guide, 2 * x)
    found = objective.terms["divergence/z"]
    prior = dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1)
    everything = AggregatePosterior.of(1.3 * torch.cat([2 * x, x]), prior)
    torch.testing.assert_close(found, Stein()(everything).detach())


def test_a_learnable_prior_s_gradient_is_not_scaled() -> None:
    memory = Memory(SlicedWasserstein(), 60)
    memory.remember(of(torch.randn(60, 1)))
    scale = torch.tensor(2.0, requires_grad=True)
    prior = dist.Normal(torch.zeros(1), scale).to_event(1)
    value = memory(AggregatePosterior.of(torch.randn(20, 1), prior))
    (grad,) = torch.autograd.grad(value, scale)
    assert grad.item() == pytest.approx(2 * (2 - 1), abs=0.5)  # of (scale - 1)^2


@pytest.mark.parametrize("divergence", [MMD(), SlicedWasserstein()])
def test_groups_and_masked_rows(divergence: Divergence) -> None:
    codes, past = torch.randn(6, 2, requires_grad=True), torch.randn(5, 2)
    prior = torch.randn(8, 2)
    keep = torch.tensor([0, 1, 3, 4])
    weights = torch.zeros(6)
    weights[keep] = 2.5
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    found = []
    for taken, row_weights in ((torch.arange(6), weights), (keep, weights[keep])):
        memory = Memory(divergence, 5)
        memory.remember(AggregatePosterior.of(past, prior, weights=torch.full((5,), 2.5)))
        torch.manual_seed(0)
        q = AggregatePosterior.of(codes[taken], prior, weights=row_weights, groups=groups[taken])
        value = memory(q)
        found.append((value, *torch.autograd.grad(value, codes)))
    torch.testing.assert_close(found[0], found[1])


def test_all_rows_masked() -> None:
    codes = torch.randn(4, 2, requires_grad=True)
    for divergence in (MMD(), FourierMMD()):
        memory = Memory(divergence, 5)
        memory.remember(of(torch.randn(5, 2)))
        value = memory(of(codes, weights=torch.zeros(4)))
        assert value == 0
        (grad,) = torch.autograd.grad(value, codes)
        assert (grad == 0).all()


def test_critic_sees_the_pool_too() -> None:
    class Critic(Spy):
        def critic_loss(self, q: AggregatePosterior) -> Tensor | None:
            return q.codes.sum()

    memory = Memory(Critic(reads_past=False), 3)
    memory.remember(of(torch.ones(3, 1)))
    loss = memory.critic_loss(of(torch.full((2, 1), 5.0)))
    assert loss is not None
    assert loss.item() == 13


def test_given_covariates_are_not_paired() -> None:
    """Prior draws that share a row's covariates stay out of its pairs in `FourierMMD` too."""
    q = replace(AggregatePosterior.of(torch.randn(5, 2), torch.randn(10, 2)), aligned=True)
    exact = MMD()(q)
    values = together(lambda _: FourierMMD(features=256)(q), torch.zeros(600), 256 * 10)
    assert deviation(values, exact) < 4.5
    unaligned = MMD()(replace(q, aligned=False))
    assert deviation(values, unaligned) > 4.5


def test_no_host_synchronisation() -> None:
    pair = PAIRS["one_latent"]()
    objective = InfoVAE(Memory(MMD(), 10), scale=5.0)
    pair.guide(*pair.args)
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    no_waiting(objective, pair)


def test_gradients_reach_the_guide() -> None:
    pair = PAIRS["one_latent"]()
    objective = InfoVAE(Memory(MMD(), 10), scale=50.0)
    for _ in range(3):
        _, grads = gradients(
            lambda: objective.differentiable_loss(pair.model, pair.guide, *pair.args)
        )
        assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in grads.values())


def test_bad_size() -> None:
    with pytest.raises(ValueError, match="Memory size=0: one past row or more"):
        Memory(MMD(), 0)


@pytest.mark.slow
def test_free_particles() -> None:
    """The claim: log-det/d within .02 of 0 with the memory, beyond .2 under a V-statistic."""
    from ppl_vae.reproductions.free_particles import measure

    torch.set_default_dtype(torch.float32)
    names = ("V-statistic", "U-statistic with memory")
    found = {name: measure(seed=0, estimator=name, steps=4000)["log-det/d"] for name in names}
    assert abs(found["U-statistic with memory"]) <= 0.02
    assert abs(found["V-statistic"]) > 0.2
