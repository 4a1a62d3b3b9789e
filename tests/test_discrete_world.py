"""A world where everything can be added up: the auto-encoder's optimum, and its Markov chain."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.evaluation.sampling import ancestral
from ppl_vae.program.density import density
from ppl_vae.reproductions.discrete_world import (
    ENCODERS,
    STATES,
    World,
    largest_error,
    measure,
    simulate,
)

ROWS = 20_000


def trained(name: str, seed: int = 0) -> World:
    world = World(**ENCODERS[name], seed=seed)
    world.train_tables()
    return world


def with_decoder(world: World, table: Tensor) -> World:
    with torch.no_grad():
        world.decoder.copy_(table.log())
    return world


def test_the_world_by_hand() -> None:
    """The tables' own sums, written out entry by entry."""
    world = World(3, noise=0.25)
    law = [(k + 1) / 28 for k in range(STATES)]
    assert world.law.tolist() == pytest.approx(law)
    q, p = world.q.tolist(), world.p.tolist()
    assert [sum(row) for row in q + p] == pytest.approx([1.0] * (STATES + 3))
    assert min(min(row) for row in q) >= 0.25 / 3
    codes, states = range(3), range(STATES)
    marginal = [sum(law[x] * q[x][z] for x in states) for z in codes]
    information = sum(
        law[x] * q[x][z] * math.log(q[x][z] / marginal[z]) for x in states for z in codes
    )
    entropy = -sum(share * math.log(share) for share in law)
    assert world.optimum == pytest.approx(information - entropy, abs=1e-12)
    value = sum(law[x] * q[x][z] * math.log(p[z][x]) for x in states for z in codes)
    assert world.value() == pytest.approx(value, abs=1e-12)
    moved = [[sum(q[i][z] * p[z][j] for z in codes) for j in states] for i in states]
    torch.testing.assert_close(world.transition, torch.tensor(moved, dtype=torch.float64))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_optimum_is_information_less_entropy(name: str, seed: int) -> None:
    world = trained(name, seed)
    assert world.value() == pytest.approx(world.optimum, abs=1e-6)
    # the posterior's value as well, to rounding
    assert with_decoder(world, world.posterior.clamp_min(1e-300)).value() == pytest.approx(
        world.optimum, abs=1e-9
    )


def test_any_other_decoder_loses_its_divergence_from_the_posterior() -> None:
    world = trained("noisy, fixed")
    best = world.posterior
    other = 0.7 * best + 0.3 / STATES
    codes = world.law @ world.q
    lost = float((codes @ torch.xlogy(best, best / other)).sum().detach())
    assert lost > 0.01
    value = with_decoder(world, other).value()
    assert value == pytest.approx(world.optimum - lost, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "7 codes"])
def test_the_data_are_stationary_and_nothing_else(name: str) -> None:
    world = trained(name)
    assert world.mixes
    torch.testing.assert_close(world.law @ world.transition, world.law, rtol=0, atol=1e-6)
    for state in range(STATES):
        start = torch.eye(STATES, dtype=torch.float64)[state]
        torch.testing.assert_close(world.limit(start), world.law, rtol=0, atol=1e-6)


def test_another_decoder_has_another_law() -> None:
    """A decoder that leaves out the data's proportions, p(x|z) ~ q(z|x), misses their law."""
    world = trained("noisy, fixed")
    with_decoder(world, (world.q / world.q.sum(0)).T.detach())
    assert float((world.limit(world.law) - world.law).abs().max()) > 0.02
    start = torch.zeros(ROWS, dtype=torch.long)
    torch.manual_seed(0)
    share = simulate(world, start, 40)
    assert largest_error(share, world.limit(world.law), ROWS) < 4.5
    assert largest_error(share, world.law, ROWS) > 9


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_the_simulated_chain_follows_the_transition_matrix(steps: int) -> None:
    world = trained("3 codes, noise 0.1")
    torch.manual_seed(0)
    share = simulate(world, torch.zeros(ROWS, dtype=torch.long), steps)
    expected = torch.linalg.matrix_power(world.transition, steps)[0]
    assert largest_error(share, expected, ROWS) < 4.5
    far = largest_error(share, world.law, ROWS)
    assert far < 4.5 if steps == 50 else far > 9


def test_ancestral_draws_do_not_follow_the_data() -> None:
    """The prior of codes never entered: p(x) is its mixture of decoder rows, not the data's."""
    world = trained("3 codes, noise 0.1")
    torch.manual_seed(0)
    x = ancestral(world.model, ROWS, torch.zeros(5000, dtype=torch.long))["x"]
    share = torch.bincount(x, minlength=STATES).double() / ROWS
    assert largest_error(share, world.p.detach().mean(0), ROWS) < 4.5
    assert largest_error(share, world.law, ROWS) > 9


@pytest.mark.parametrize("name", ENCODERS)
def test_experiment(name: str) -> None:
    found = measure(seed=0, encoder=name, rows=ROWS, steps=60)
    assert found["log p(x|z)"] == pytest.approx(found["I_q - H(data)"], abs=1e-6)
    assert abs(found["difference"]) < 1e-6
    assert found["limit off by"] < 1e-6
    assert found["chain, errors"] < 4.5


def test_a_density_outside_a_discrete_support_is_zero() -> None:
    """A categorical law looks its values up: one beyond the table is no error."""
    three = dist.Categorical(torch.tensor([0.2, 0.3, 0.5]))
    found = density(three, torch.tensor([-1, 0, 2, 3])).exp()
    torch.testing.assert_close(found, torch.tensor([0.0, 0.2, 0.5, 0.0]))
    pair = dist.Categorical(torch.ones(2, 3) / 3).to_event(1)
    found = density(pair, torch.tensor([[0, 1], [3, 1]])).exp()
    torch.testing.assert_close(found, torch.tensor([1 / 9, 0.0]))
