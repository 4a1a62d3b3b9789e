"""The constraint mechanism: values and gradients by hand, and multipliers known in closed form."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pairs import PAIRS
from torch import Tensor

from ppl_vae.objectives import GECO, BetaVAE, CapacityVAE, Constraint, Dual, Linear, Penalty

pytestmark = pytest.mark.usefixtures("double")

STEP = torch.tensor(0)


def term(
    constraint: Constraint, gap: float, at_most: bool = False, moving: bool = False
) -> tuple[float, float]:
    """A constraint's value and its gradient in the gap."""
    leaf = torch.tensor(gap, requires_grad=True)
    value = constraint(leaf, STEP, at_most, moving)
    (slope,) = torch.autograd.grad(value, leaf, retain_graph=True)
    if isinstance(constraint, Dual):
        constraint.raw.grad = None
        value.backward()
    return float(value.detach()), float(slope)


def double(constraint: Constraint) -> Any:
    return constraint.double()


# Penalty


@pytest.mark.parametrize(
    ("gap", "at_most", "value", "slope"),
    [
        (0.3, False, 2.1, 7),
        (-0.3, False, 2.1, -7),
        (0.3, True, 2.1, 7),
        (-0.3, True, 0, 0),
        (0.0, False, 0, 0),
    ],
)
def test_penalty_by_hand(gap: float, at_most: bool, value: float, slope: float) -> None:
    assert term(Penalty(7.0), gap, at_most) == pytest.approx((value, slope))


def test_penalty_weight_may_be_scheduled() -> None:
    penalty = Penalty(Linear(1.0, 9.0, over=4))
    gap = torch.tensor(-0.5)
    values = [float(penalty(gap, torch.tensor(step))) for step in (0, 1, 4, 9)]
    assert values == pytest.approx([0.5, 1.5, 4.5, 4.5])


@pytest.mark.parametrize("build", [Penalty, Dual])
def test_moving_average_by_hand(build: Callable[..., Constraint]) -> None:
    """Steering is the mean with weights a^(t-i), which a first gap has to itself."""
    constraint = double(build(average=0.8))
    seen: list[float] = []
    for gap in (1.0, -4.0, 2.0):
        seen.append(gap)
        weights = [0.8 ** (len(seen) - 1 - i) for i in range(len(seen))]
        expected = sum(w * g for w, g in zip(weights, seen, strict=True)) / sum(weights)
        for moving in (False, False, True):  # what only looks does not move it
            steer = constraint.steering(torch.tensor(gap, requires_grad=True), moving)
            assert float(steer) == pytest.approx(expected)
            assert not steer.requires_grad
    assert float(constraint.count) == 3


def test_no_average_is_this_gap() -> None:
    constraint = Penalty()
    for gap in (1.0, -4.0):
        assert float(constraint.steering(torch.tensor(gap), True)) == gap
    assert float(constraint.count) == 0


@pytest.mark.parametrize(
    ("at_most", "value", "slope"),
    # after 5, the gap -1: its average is (0.5 * 5 - 1) / 1.5 = 1, still above 0
    [(False, 7.0, 7.0), (True, 0.0, 7.0)],
)
def test_penalty_follows_the_average_s_sign(at_most: bool, value: float, slope: float) -> None:
    penalty = double(Penalty(7.0, average=0.5))
    assert term(penalty, 5.0, at_most, moving=True) == pytest.approx((35, 7))
    assert term(penalty, -1.0, at_most, moving=True) == pytest.approx((value, slope))
    # and (0.25 * 5 - 0.5 * 1 - 3) / 1.75 is below 0
    after = (21.0, -7.0) if not at_most else (0.0, 0.0)
    assert term(penalty, -3.0, at_most, moving=True) == pytest.approx(after)


def test_the_average_takes_the_bias_out_of_the_gradient() -> None:
    """A gap s e of mean 0: |gap| rewards a smaller s at the rate E |e| = sqrt(2/pi).

    With the sign of the average in place of the gap's own, what is left is their correlation
    times that: (1 - a) over the average's deviation sqrt((1 - a) / (1 + a)), 0.14 at a = 0.99.
    """
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    for average in (0.0, 0.99):
        penalty = double(Penalty(1.0, average=average))
        spread = torch.tensor(1.0, requires_grad=True)
        slopes = [
            torch.autograd.grad(penalty(spread * e, STEP, moving=True), spread)[0] for e in noise
        ]
        kept = slopes[500:]
        expected = math.sqrt(2 / math.pi) * math.sqrt(1 - average**2)
        assert float(sum(kept)) / len(kept) == pytest.approx(
            expected, abs=4.5 / math.sqrt(len(kept))
        )


# Dual


@pytest.mark.parametrize("gap", [0.3, -0.3])
def test_dual_by_hand(gap: float) -> None:
    """Value lambda g; slope lambda + rho g in the gap; minus g times the speed in the raw one."""
    dual = double(Dual(initial=2.0, speed=5.0, damping=3.0))
    assert term(dual, gap) == pytest.approx((2 * gap, 2 + 3 * gap))
    assert dual.raw.grad is not None
    assert float(dual.raw.grad) == pytest.approx(-5 * gap)


@pytest.mark.parametrize("gap", [0.3, -0.3, -2.0])
def test_dual_upper_bound_by_hand(gap: float) -> None:
    """The multiplier is a softplus: d lambda / d raw = speed (1 - e^-lambda)."""
    dual = double(Dual(initial=2.0, speed=5.0, damping=3.0))
    slope = max(2 + 3 * gap, 0)
    assert term(dual, gap, at_most=True) == pytest.approx((2 * gap, slope))
    assert dual.raw.grad is not None
    assert float(dual.raw.grad) == pytest.approx(-gap * 5 * (1 - math.exp(-2)))


def test_dual_average_steers_multiplier_and_damping() -> None:
    dual = double(Dual(initial=2.0, speed=5.0, damping=3.0, average=0.5))
    term(dual, 5.0, moving=True)
    # the average of 5 and -1 is 1; the value is this gap's
    assert term(dual, -1.0, moving=True) == pytest.approx((-2, 2 + 3 * 1))
    assert dual.raw.grad is not None
    assert float(dual.raw.grad) == pytest.approx(-5 * 1)


def test_multiplier_signs() -> None:
    dual = double(Dual(initial=0.5, speed=2.0))
    assert float(dual.multiplier().detach()) == pytest.approx(0.5)
    assert float(dual.multiplier(at_most=True).detach()) == pytest.approx(0.5)
    with torch.no_grad():
        dual.raw.fill_(-3.0)
    assert float(dual.multiplier().detach()) == pytest.approx(-5.5)
    start = math.log(math.expm1(0.5))
    assert float(dual.multiplier(at_most=True).detach()) == pytest.approx(
        math.log1p(math.exp(start - 6))
    )


def descend(
    constraint: Constraint,
    free: Callable[[Tensor], Tensor],
    gap: Callable[[Tensor], Tensor],
    *,
    at_most: bool = False,
    noise: float = 0.0,
    steps: int = 1200,
    start: tuple[float, ...] = (0.5, -0.5),
) -> Tensor:
    """Trains a point and the multiplier together by Adam, with a step that falls to 0."""
    x = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([x, *constraint.parameters()], lr=0.05)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, 2 * (1 - t / steps)))
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        noisy = gap(x) + noise * torch.randn((), generator=g)
        (free(x) + constraint(noisy, STEP, at_most, True)).backward()
        optimizer.step()
        fall.step()
    return x.detach()


def squares(x: Tensor) -> Tensor:
    return (x[0] - 1).square() + 2 * (x[1] - 2).square()


def total(x: Tensor) -> Tensor:
    return x.sum()


# min (x - 1)^2 + 2 (y - 2)^2 with x + y = t: x = 1 - l/2, y = 2 - l/4, so l = (3 - t) 4/3.
@pytest.mark.parametrize("target", [0.0, 6.0])
@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_dual_finds_the_multiplier(target: float, damping: float) -> None:
    dual = double(Dual(speed=1.0, damping=damping))
    x = descend(dual, squares, lambda x: total(x) - target)
    multiplier = (3 - target) * 4 / 3
    assert float(dual.multiplier().detach()) == pytest.approx(multiplier, abs=0.01)
    assert x.tolist() == pytest.approx([1 - multiplier / 2, 2 - multiplier / 4], abs=0.01)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_dual_finds_the_multiplier_of_a_bound(average: float) -> None:
    """An active bound has the equality's multiplier, an inactive one none."""
    options: dict[str, Any] = {"speed": 2.0, "damping": 2.0, "average": average}
    active = double(Dual(**options))
    x = descend(active, squares, lambda x: total(x) - 1.5, at_most=True)
    assert float(active.multiplier(at_most=True).detach()) == pytest.approx(2, abs=0.02)
    assert x.tolist() == pytest.approx([0, 1.5], abs=0.02)
    slack = double(Dual(**options))
    x = descend(slack, squares, lambda x: total(x) - 5, at_most=True)
    assert 0 < float(slack.multiplier(at_most=True).detach()) < 0.01
    assert x.tolist() == pytest.approx([1, 2], abs=0.01)


def test_dual_under_noise() -> None:
    dual = double(Dual(speed=1.0, average=0.9))
    descend(dual, squares, total, noise=1.0)
    assert float(dual.multiplier().detach()) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize(("weight", "expected"), [(20.0, 0.0), (2.0, 1.5)])
def test_penalty_is_exact_above_the_multiplier(weight: float, expected: float) -> None:
    """The multiplier of x + y = 0 is 4: a penalty of 20 meets it, one of 2 stops at l = 2."""
    x = descend(Penalty(weight), squares, total, start=(0.0, 0.5))
    assert float(x.sum()) == pytest.approx(expected, abs=0.02)


# In an objective


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        (lambda c, **k: CapacityVAE(2.0, c, **k), "constraint/rate"),
        (lambda c, **k: GECO(2.0, c, **k), "constraint/reconstruction"),
    ],
)
@pytest.mark.parametrize("name", ["one_latent", "subsampled", "scaled", "masked"])
def test_gap_is_per_datum_and_the_term_times_the_data(
    objective: Callable[..., CapacityVAE | GECO], key: str, name: str
) -> None:
    """The loss is the free part plus N w g, with N = 7, 7, 2.1 and 5 data."""
    pair = PAIRS[name]()
    ours = objective(Penalty(11.0), num_particles=3)
    loss = ours.loss(pair.model, pair.guide, *pair.args)
    terms = {k: float(v) for k, v in ours.terms.items()}
    data = {"one_latent": 7, "subsampled": 7, "scaled": 2.1, "masked": 5}[name]
    quantity, free = terms["rate/z"], terms["reconstruction/x"]
    if key == "constraint/reconstruction":
        quantity, free = free, quantity
    assert terms[key] == pytest.approx(quantity - 2)
    assert terms[key.replace("constraint", "target")] == pytest.approx(2)
    assert loss == pytest.approx(data * (free + 11 * abs(quantity - 2)))


def test_global_latents_are_not_in_a_capacity_and_are_in_the_loss() -> None:
    pair = PAIRS["global_and_local"]()
    ours = CapacityVAE(1.0, 3.0)
    loss = ours.loss(pair.model, pair.guide, *pair.args)
    t = {k: float(v) for k, v in ours.terms.items()}
    free = t["reconstruction/x"] + t["global/w"] + t["global/tau"]
    assert loss == pytest.approx(7 * (free + 3 * abs(t["rate/z"] - 1)))


def test_a_capacity_below_the_rate_is_a_beta_vae() -> None:
    """Where the rate is above C, |KL - C| has the KL's gradient: beta is the weight."""
    pair = PAIRS["one_latent"]()
    losses = []
    for objective in (CapacityVAE(0.0, 4.0), BetaVAE(4.0)):
        torch.manual_seed(0)
        losses.append(objective.loss(pair.model, pair.guide, *pair.args))
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Penalty(0.0), "weight=0.0"),
        (lambda: Penalty(-1.0), "weight=-1.0"),
        (lambda: Penalty(average=1.0), r"average=1.0: a decay in \[0, 1\)"),
        (lambda: Dual(average=-0.1), "average=-0.1"),
        (lambda: Dual(speed=0.0), "speed=0.0"),
        (lambda: Dual(damping=-1.0), "damping=-1.0"),
        (lambda: Dual(initial=0.0).multiplier(at_most=True), "initial=0.0: above 0"),
        (lambda: CapacityVAE(-1.0), "a rate is never below 0"),
        (lambda: CapacityVAE(1.0, sites="z"), r"give a list, \['z'\]"),
    ],
)
def test_refusals(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
