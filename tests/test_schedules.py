"""Schedules: values by hand, in steps and in fractions of the run, and their use by objectives."""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pairs import PAIRS
from syncs import Syncs, no_waiting

from ppl_vae.objectives import (
    MMD,
    RBF,
    BetaVAE,
    CapacityVAE,
    Cyclical,
    Dual,
    HighThenLow,
    InfoVAE,
    Linear,
    Objective,
    Penalty,
    Piecewise,
    Schedule,
)
from ppl_vae.objectives.schedules import schedules_of
from ppl_vae.training.fit import fit


def at(schedule: Schedule, steps: list[int]) -> list[float]:
    values = [schedule(torch.tensor(step)) for step in steps]
    assert all(value.dim() == 0 and value.is_floating_point() for value in values)
    return [float(value) for value in values]


STEPS = [0, 10, 15, 20, 30, 40, 55, 100, 1000]
BY_HAND: dict[str, tuple[Schedule, Schedule, list[float]]] = {
    # the same curve in steps, and as fractions of a run of 100; its values at STEPS
    "linear": (
        Linear(over=40),
        Linear(over=0.4),
        [0, 0.25, 0.375, 0.5, 0.75, 1, 1, 1, 1],
    ),
    "linear, held first, downwards": (
        Linear(8.0, 2.0, over=30, after=10),
        Linear(8.0, 2.0, over=0.3, after=0.1),
        [8, 8, 7, 6, 4, 2, 2, 2, 2],
    ),
    "high then low": (
        HighThenLow(16.0, 4.0, hold=20, over=20),
        HighThenLow(16.0, 4.0, hold=0.2, over=0.2),
        [16, 16, 16, 16, 10, 4, 4, 4, 4],
    ),
    "cyclical": (
        Cyclical(0.0, 3.0, period=40, rise=0.75),
        Cyclical(0.0, 3.0, period=0.4, rise=0.75),
        [0, 1, 1.5, 2, 3, 0, 1.5, 2, 0],
    ),
    "cyclical, all rise": (
        Cyclical(1.0, 3.0, period=20, rise=1.0),
        Cyclical(1.0, 3.0, period=0.2, rise=1.0),
        [1, 2, 2.5, 1, 2, 1, 2.5, 1, 1],
    ),
    "piecewise": (
        Piecewise([(10, 4.0), (20, 4.0), (40, 1.0), (60, 2.0)]),
        Piecewise([(0.1, 4.0), (0.2, 4.0), (0.4, 1.0), (0.6, 2.0)]),
        [4, 4, 4, 4, 2.5, 1, 1.75, 2, 2],
    ),
    "piecewise constant": (
        Piecewise([(0, 5.0), (15, 2.0), (40, 7.0)], between="constant"),
        Piecewise([(0, 5.0), (0.15, 2.0), (0.4, 7.0)], between="constant"),
        [5, 5, 2, 2, 2, 7, 7, 7, 7],
    ),
    "one point": (Piecewise([(30, 6.0)]), Piecewise([(0.3, 6.0)]), [6.0] * 9),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name: str) -> None:
    in_steps, in_fractions, expected = BY_HAND[name]
    assert at(in_steps, STEPS) == pytest.approx(expected, rel=1e-6)
    for schedule in (in_steps, in_fractions):
        schedule.plan(100)
        assert at(schedule, STEPS) == pytest.approx(expected, rel=1e-5)


def test_a_fraction_is_of_the_run() -> None:
    schedule = Linear(over=0.5)
    schedule.plan(100)
    assert at(schedule, [25]) == [0.5]
    schedule.plan(200)
    assert at(schedule, [25]) == [0.25]
    fixed = Linear(over=50)
    fixed.plan(100)
    fixed.plan(200)
    assert at(fixed, [25]) == [0.5]


def test_one_step_and_the_whole_run_differ() -> None:
    one, whole = Linear(over=1), Linear(over=1.0)
    for schedule in (one, whole):
        schedule.plan(10)
    assert at(one, [1]) == [1.0]
    assert at(whole, [1, 10]) == pytest.approx([0.1, 1.0])


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(over=0.5),
        HighThenLow(4.0, hold=0.3, over=10),
        Cyclical(period=0.2),
        Piecewise([(0, 1.0), (0.5, 2.0)]),
    ],
)
def test_a_fraction_without_the_run_is_refused(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match=r"call objective.plan\(total_steps\)") as caught:
        schedule(torch.tensor(0))
    assert repr(schedule) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="total_steps=0"):
        schedule.plan(0)


@pytest.mark.parametrize(
    ("schedule", "length", "last"),
    [
        (Linear(over=400), "400", "0.25"),
        (Linear(2.0, 4.0, over=100, after=50), "150", "3"),
        (HighThenLow(16.0, 4.0, hold=50, over=100), "150", "10"),
        (HighThenLow(3.0, 1.0, hold=0.75, over=0.5), "125", "2"),
        (Cyclical(period=200), "200", "1"),
        (Piecewise([(0, 4.0), (200, 2.0)]), "200", "3"),
    ],
)
def test_longer_than_the_run_is_reported(schedule: Schedule, length: str, last: str) -> None:
    message = rf"takes {length} steps and the run ends after 100, at the value {last}:"
    with pytest.warns(UserWarning, match=message):
        schedule.plan(100)


@pytest.mark.parametrize("total", [3, 5, 10, 97, 100, 1234])
def test_as_long_as_the_run_is_not_reported(total: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Linear(over=total).plan(total)
        Linear(over=1.0).plan(total)
        Piecewise([(0, 0.0), (1.0, 1.0)]).plan(total)
        # fractions whose sum rounds to above 1, as 0.2 * 3 + 0.8 * 3 does
        for percent in range(1, 100):
            HighThenLow(4.0, hold=percent / 100, over=(100 - percent) / 100).plan(total)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Linear(over=0), "over must be above 0"),
        (lambda: Linear(over=-5), "over must be above 0"),
        (lambda: Linear(over=1000.0), "write 1000 for steps"),
        (lambda: Linear(after=-1), "after must be 0 or more"),
        (lambda: HighThenLow(1.0, 2.0), "high must be above low"),
        (lambda: HighThenLow(4.0, hold=1.5), "hold=1.5 is a float"),
        (lambda: HighThenLow(4.0, over=0.0), "over must be above 0"),
        (lambda: Cyclical(period=0), "period must be above 0"),
        (lambda: Cyclical(rise=0.0), r"rise is a share of the cycle, in \(0, 1\]"),
        (lambda: Cyclical(rise=1.5), r"rise is a share of the cycle, in \(0, 1\]"),
        (lambda: Piecewise([]), "one point or more"),
        (lambda: Piecewise([(10, 1.0), (5, 2.0)]), "in the order of time"),
        (lambda: Piecewise([(5, 1.0), (5, 2.0)]), "in the order of time"),
        (lambda: Piecewise([(0.5, 1.0), (5, 2.0)]), "all times in steps or all as fractions"),
        (lambda: Piecewise([(0, 1.0), (50.0, 2.0)]), "write 50 for steps"),
        (lambda: Piecewise([(-3, 1.0), (5, 2.0)]), "time must be 0 or more"),
        (lambda: Piecewise([(0, 1.0)], between="cubic"), "'linear' or 'constant'"),
    ],
)
def test_bad_arguments(build: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
    assert "(" in str(caught.value).split(":")[0]  # says which schedule, as it was written


@pytest.mark.parametrize("name", BY_HAND)
def test_a_value_does_not_wait_for_the_device(name: str) -> None:
    schedule = BY_HAND[name][1]
    schedule.plan(100)
    step = torch.tensor(17)
    with Syncs():
        schedule(step)


@pytest.mark.parametrize("schedule", [Linear(0.0, 8.0, 4), Piecewise([(0, 1.0), (3, 7.0)])])
def test_an_objective_with_a_schedule_does_not_wait(schedule: Schedule) -> None:
    pair = PAIRS["one_latent"]()
    objective = CapacityVAE(schedule, Penalty(schedule))
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    no_waiting(objective, pair)


# In objectives

RAMP = Linear(2.0, 8.0, over=3)
VALUES = [2.0, 4.0, 6.0, 8.0, 8.0]
KERNEL = MMD(RBF(1.0))


@pytest.mark.parametrize(
    ("scheduled", "fixed"),
    [
        (lambda: BetaVAE(RAMP), lambda w: BetaVAE(w)),
        (lambda: InfoVAE(KERNEL, scale=RAMP), lambda w: InfoVAE(KERNEL, scale=w)),
        (
            lambda: InfoVAE(KERNEL, alpha=lambda step: 1 - RAMP(step), scale=10.0),
            lambda w: InfoVAE(KERNEL, alpha=1 - w, scale=10.0),
        ),
        (
            lambda: InfoVAE(sites={"z": (KERNEL, RAMP)}),
            lambda w: InfoVAE(sites={"z": (KERNEL, w)}),
        ),
        (lambda: CapacityVAE(RAMP, 5.0), lambda w: CapacityVAE(w, 5.0)),
        (lambda: CapacityVAE(1.0, Penalty(RAMP)), lambda w: CapacityVAE(1.0, Penalty(w))),
        (lambda: CapacityVAE(RAMP, Dual(3.0)), lambda w: CapacityVAE(w, Dual(3.0))),
    ],
    ids=["beta", "scale", "alpha", "sites", "capacity", "penalty", "dual"],
)
@pytest.mark.usefixtures("double")
def test_an_objective_uses_the_value_of_each_step(
    scheduled: Callable[[], Objective], fixed: Callable[[float], Objective]
) -> None:
    pair = PAIRS["one_latent"]()
    run = scheduled()

    def loss(objective: Objective) -> float:
        pyro.set_rng_seed(5)
        value = objective.differentiable_loss(pair.model, pair.guide, *pair.args)
        return float(value.detach())

    losses = [loss(run) for _ in VALUES]
    assert losses == pytest.approx([loss(fixed(value)) for value in VALUES], rel=1e-10)
    assert len({round(value, 6) for value in losses}) == 4  # the fourth and the fifth are equal


def test_what_is_evaluated_does_not_move_the_step() -> None:
    pair = PAIRS["one_latent"]()
    objective = BetaVAE(RAMP)
    for _ in range(3):
        objective.loss(pair.model, pair.guide, *pair.args)
    assert int(objective.step) == 0
    objective.loss_and_grads(pair.model, pair.guide, *pair.args)
    assert int(objective.step) == 1


def objectives() -> dict[str, tuple[Objective, list[Schedule]]]:
    a, b = Linear(over=0.5), Cyclical(period=0.25)
    return {
        "beta": (BetaVAE(a), [a]),
        "alpha and scale": (InfoVAE(MMD(), alpha=a, scale=b), [a, b]),
        "by site": (InfoVAE(sites={"z": (MMD(), b)}), [b]),
        "capacity": (CapacityVAE(a), [a]),
        "within the constraint": (CapacityVAE(a, Penalty(b)), [a, b]),
        "one for two": (InfoVAE(MMD(), alpha=a, scale=a), [a]),
        "none": (CapacityVAE(2.0), []),
    }


@pytest.mark.parametrize("name", objectives())
def test_all_schedules_of_an_objective_are_planned(name: str) -> None:
    objective, expected = objectives()[name]
    found = schedules_of(objective)
    assert len(found) == len(expected)
    assert {id(schedule) for schedule in found} == {id(schedule) for schedule in expected}
    objective.plan(80)
    assert [schedule.total for schedule in expected] == [80] * len(expected)


def test_plan_warns_once_for_each_schedule() -> None:
    objective = InfoVAE(MMD(), alpha=Linear(1.0, 0.0, over=500), scale=Linear(1.0, 2.0, over=300))
    with pytest.warns(UserWarning, match="takes") as record:
        objective.plan(100)
    assert len(record) == 2


@pytest.mark.parametrize(
    ("build", "warned"),
    [
        (lambda: CapacityVAE(Linear(0.0, 1.0, over=0.5), Penalty(Linear(1.0, 9.0, 0.25))), 0),
        (lambda: BetaVAE(Linear(over=100)), 1),
    ],
)
def test_fit_plans(build: Callable[[], Objective], warned: int) -> None:
    pair = PAIRS["one_latent"]()
    objective = build()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        options: dict[str, Any] = {"epochs": 2, "batch_size": 4, "progress": False}
        fit(pair.model, pair.guide, *pair.args, objective, device="cpu", **options)
    assert [schedule.total for schedule in schedules_of(objective)] == [4] * (2 - warned)
    assert sum("the run ends after 4" in str(w.message) for w in record) == warned
    assert int(objective.step) == 4


def test_a_schedule_may_be_the_step_itself() -> None:
    """The step moves on in place; the weight that a loss was taken at does not."""
    objective = BetaVAE(beta=lambda step: step)
    pair = PAIRS["one_latent"]()
    weight = objective.at_step(lambda step: step)
    loss = objective.loss_and_grads(pair.model, pair.guide, *pair.args)
    assert objective.step == 1
    assert weight == 0
    assert loss == pytest.approx(7 * objective.terms["reconstruction/x"].item(), rel=1e-5)
