"""The Sinkhorn divergence where it is known: two points, one point, both limits of the blur."""

import math
from typing import Any

import pytest
import torch
from gaussians import MU, V, deviation, estimates, standard
from test_sliced import overlap
from torch import Tensor

from ppl_vae.objectives import AggregatePosterior, Energy, Memory, Sinkhorn
from ppl_vae.objectives.divergences import sinkhorn

pytest.importorskip("geomloss", reason="needs the extra: pip install 'ppl-vae[sinkhorn]'")
pytestmark = pytest.mark.usefixtures("double")


def two_points(z: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """D between two points and two at cost r^2 / 2; the plan has one free entry."""

    def transport(a: Tensor, b: Tensor) -> Tensor:
        cost = torch.cdist(a, b).square() / 2
        twist = cost[0, 0] + cost[1, 1] - cost[0, 1] - cost[1, 0]
        same = torch.sigmoid(-twist / (2 * epsilon)) / 2
        plan = torch.stack([same, 0.5 - same, 0.5 - same, same]).reshape(2, 2)
        return (plan * cost).sum() + epsilon * torch.special.xlogy(plan, 4 * plan).sum()

    return transport(z, y) - transport(z, z) / 2 - transport(y, y) / 2


@pytest.mark.parametrize("blur", [0.3, 1.0, 3.0])
def test_two_points_in_closed_form(blur: float) -> None:
    z, y = torch.randn(2, 3), torch.randn(2, 3)
    z.requires_grad_()
    value = Sinkhorn(blur, scaling=0.99)(AggregatePosterior.of(z, y))
    exact = two_points(z, y, blur**2)
    torch.testing.assert_close(value, exact, rtol=1e-5, atol=0)
    found, expected = (torch.autograd.grad(v, z)[0] for v in (value, exact))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("d", [1, 4])
def test_expectation_of_one_row(d: int) -> None:
    """n = m = 1: E c = d (MU^2 + V + 1) / 2, where the truth is about d (MU^2 + (1 - s)^2) / 2."""
    values = estimates(Sinkhorn(), 1, d, repeats=1000, one_by_one=True)
    assert deviation(values, d * (MU**2 + V + 1) / 2) < 4.5


def test_expectation_at_a_large_blur() -> None:
    """Half the squared distance of the means: its bias is d (V / n + 1 / m) / 2."""
    n, m, d = 4, 7, 3
    values = estimates(Sinkhorn(300.0, draws=m), n, d, repeats=600, one_by_one=True)
    truth = d * MU**2 / 2
    assert deviation(values, truth + d * (V / n + 1 / m) / 2) < 4.5
    assert deviation(values, truth) > 4.5


def test_expectation_at_a_small_blur() -> None:
    """In one dimension W_2^2 / 2 of the samples, known by order statistics."""
    n = 10
    values = estimates(Sinkhorn(0.01, scaling=0.9), n, 1, repeats=300, one_by_one=True)
    expected = (MU**2 + V + 1 - 2 * math.sqrt(V) * overlap(n, n)) / 2
    assert deviation(values, expected) < 4.5
    assert deviation(values, (MU**2 + (1 - math.sqrt(V)) ** 2) / 2) > 4.5


def test_power_one_tends_to_half_the_energy_distance() -> None:
    z, y = torch.randn(6, 2), torch.randn(8, 2) + 1
    value = Sinkhorn(1e5, power=1)(AggregatePosterior.of(z, y))
    energy = Energy(statistic="V")(AggregatePosterior.of(z, y))
    torch.testing.assert_close(value, energy / 2, rtol=1e-4, atol=0)


def test_gradient() -> None:
    y = torch.randn(7, 2)
    z = torch.randn(3, 2, requires_grad=True)
    # Finite differences must see one schedule of blurs: a bound on the diameter holds it still.
    loss = Sinkhorn(1.0, scaling=0.998, diameter=10.0)
    (found,) = torch.autograd.grad(loss(AggregatePosterior.of(z, y)), z)
    numeric = torch.zeros_like(found)
    with torch.no_grad():
        for i in range(3):
            for k in range(2):
                step = torch.zeros(3, 2)
                step[i, k] = 1e-4
                high, low = (loss(AggregatePosterior.of(z + s * step, y)) for s in (1, -1))
                numeric[i, k] = (high - low) / 2e-4
    torch.testing.assert_close(found, numeric, rtol=1e-2, atol=1e-4)


def test_blur_by_dimension() -> None:
    q = AggregatePosterior.of(torch.randn(6, 8), torch.randn(6, 8))
    torch.testing.assert_close(Sinkhorn()(q), Sinkhorn(2.0)(q))


def test_gradients_stay_off() -> None:
    """The library behind it switches them on."""
    q = AggregatePosterior.of(torch.randn(4, 2), standard(2))
    with torch.no_grad():
        Sinkhorn()(q)
        assert not torch.is_grad_enabled()


def test_codes_that_are_not_finite_give_nan() -> None:
    codes = torch.randn(4, 2)
    codes[1] = math.inf
    assert Sinkhorn()(AggregatePosterior.of(codes, standard(2))).isnan()


def test_memory_lowers_the_bias() -> None:
    """At n = 10, with 90 rows of the past, as at n = 100."""
    d = 2
    values = []
    for _ in range(60):
        memory = Memory(Sinkhorn(1.0), size=90)
        memory.remember(AggregatePosterior.of(torch.randn(90, d), standard(d)))
        values.append(memory(AggregatePosterior.of(torch.randn(10, d), standard(d))))
    pooled = torch.stack(values)
    whole = torch.stack(
        [Sinkhorn(1.0)(AggregatePosterior.of(torch.randn(100, d), standard(d))) for _ in range(60)]
    )
    error = ((pooled.var() + whole.var()) / 60).sqrt()
    assert (pooled.mean() - whole.mean()).abs() < 4.5 * error
    alone = Sinkhorn(1.0)(AggregatePosterior.of(torch.randn(10, d), standard(d)))
    assert alone > whole.mean() + 4.5 * error


def test_single_precision() -> None:
    codes, prior = torch.randn(40, 5), torch.randn(50, 5)
    double = Sinkhorn()(AggregatePosterior.of(codes, prior))
    single = Sinkhorn()(AggregatePosterior.of(codes.float(), prior.float()))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), abs=1e-4)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(sinkhorn, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'ppl-vae\[sinkhorn\]'"):
        Sinkhorn()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sinkhorn(0.0), "Sinkhorn blur=0.0: it must be positive"),
        (lambda: Sinkhorn("median"), "use 'dimension' or a positive number"),  # type: ignore[arg-type]
        (lambda: Sinkhorn(power=3), "power=3: use 1 or 2"),  # type: ignore[arg-type]
        (lambda: Sinkhorn(scaling=1.0), "scaling=1.0: it must lie between 0 and 1"),
        (lambda: Sinkhorn(diameter=-1.0), "diameter=-1.0: it must be positive"),
        (lambda: Sinkhorn(draws=0), "draws=0: one prior draw or more"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
