"""Divergences over all pairs hold memory that is linear in the batch, at the same values."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae.objectives import (
    IMQ,
    MMD,
    RBF,
    AggregateKL,
    AggregatePosterior,
    CramerWold,
    Divergence,
    Energy,
    Memory,
    MultiScale,
    Stein,
)
from ppl_vae.objectives.divergences import blocks, weighting
from ppl_vae.objectives.divergences.expectation import quadratic_forms
from ppl_vae.training.graphs import simplify

DIVERGENCES: dict[str, Callable[[], Divergence]] = {
    "sampled": lambda: MMD(noise="sampled", prior="sampled"),
    "sampled, V": lambda: MMD(noise="sampled", prior="sampled", statistic="V"),
    "many scales": lambda: MMD(MultiScale(), noise="sampled", prior="sampled"),
    "median": lambda: MMD(RBF("median"), noise="sampled", prior="sampled"),
    "all pairs": lambda: MMD(pairs="all"),
    "all pairs, inverse multiquadric": lambda: MMD(IMQ(), pairs="all"),
    "shifts": lambda: MMD(IMQ(), pairs=3),
    "sampled prior": lambda: MMD(IMQ(), prior="sampled", pairs=2),
    "energy": lambda: Energy(pairs=2),
    "energy, sampled": lambda: Energy(noise="sampled", prior="sampled"),
    "Cramer-Wold": lambda: CramerWold(noise="sampled", prior="sampled"),
    "Stein": Stein,
    "KL": AggregateKL,
    "KL, MWS": lambda: AggregateKL("MWS"),
    "memory": lambda: _remembering(Memory(MMD(pairs="all"), size=40)),
}

each = pytest.mark.parametrize("make", DIVERGENCES.values(), ids=DIVERGENCES)


class Peak(TorchDispatchMode):
    """The most bytes alive at once of what is made inside, forward and backward.

    Attributes:
        bytes: these.
        alive: how many tensors are alive now.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, int] = {}
        self._now = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage.data_ptr(), storage.nbytes()
                if key and key not in self._held:
                    self._held[key] = size
                    self._now += size
                    weakref.finalize(storage, self._free, key)
        self.bytes = max(self.bytes, self._now)
        return made

    @property
    def alive(self) -> int:
        return len(self._held)

    def _free(self, key: int) -> None:
        self._now -= self._held.pop(key)


def _remembering(memory: Memory) -> Memory:
    memory.remember(posterior(30, 3, seed=1)[0])
    return memory


def posterior(
    n: int, d: int, seed: int = 0, enumerated: bool = False
) -> tuple[AggregatePosterior, list[Tensor]]:
    """Rows of Gaussians with weights, and what a gradient reaches: weights too if enumerated."""
    torch.manual_seed(seed)
    loc, scale = torch.randn(n, d), 0.2 + torch.rand(n, d)
    weights = torch.rand(n) + 0.5
    weights[n // 3] = 0
    leaves = [t.requires_grad_() for t in (loc, scale, weights)[: 3 if enumerated else 2]]
    q = dist.Normal(loc, scale).to_event(1)
    prior = dist.Normal(torch.zeros(d), 1.0).to_event(1)
    return AggregatePosterior.of(q, prior, weights), leaves


def value_and_gradients(
    make: Callable[[], Divergence], n: int, d: int, enumerated: bool = False
) -> list[Tensor]:
    divergence = make()
    q, leaves = posterior(n, d, enumerated=enumerated)
    value = divergence(q)
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [value.detach(), *(g for g in found if g is not None)]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("enumerated", [False, True])
@each
def test_blocks_change_no_value_and_no_gradient(
    make: Callable[[], Divergence], enumerated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = value_and_gradients(make, 50, 3, enumerated)
    monkeypatch.setattr(blocks, "block_size", lambda per_row: 8)
    found = value_and_gradients(make, 50, 3, enumerated)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)


@each
def test_nothing_is_left_between_blocks(
    make: Callable[[], Divergence], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a block leaves lies among its large tensors, whose room then cannot be used again:
    all blocks but the first begin with as many tensors alive, forward and backward."""
    monkeypatch.setattr(blocks, "block_size", lambda per_row: 8)
    alive: list[list[int]] = []

    def counting(n: int, size: int, start: int = 0) -> Iterator[slice]:
        numbers: list[int] = []
        alive.append(numbers)
        for part in slices(n, size, start):
            numbers.append(peak.alive)
            yield part

    slices = blocks._slices
    monkeypatch.setattr(blocks, "_slices", counting)
    with Peak() as peak:
        value_and_gradients(make, 50, 3)
    assert alive
    for numbers in alive:
        assert len(set(numbers[1:])) <= 1, numbers


class Reading:
    """Rows that meet others, which blocks are given, or which they read of themselves."""

    def __init__(self, is_given: bool) -> None:
        self.rows, self.others, self.width = (
            torch.randn(shape).requires_grad_() for shape in ((7, 2), (5, 2), (1,))
        )
        self.is_given = is_given

    def whole(self, rows: Tensor, others: Tensor, width: Tensor) -> Tensor:
        squares = (rows[:, None] - others).square().sum(-1)
        return torch.exp(-squares * width.exp()).sum(1)

    def by_blocks(self, rows: Tensor, others: Tensor, width: Tensor) -> Tensor:
        index = torch.arange(7)
        if self.is_given:
            return blocks.by_blocks(
                lambda _, rows, none, others, also, width: self.whole(rows, others, width),
                [index, rows, None],
                5,
                [others, None, width],
            )
        return blocks.by_blocks(lambda _, rows: self.whole(rows, others, width), [index, rows], 5)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("is_given", [True, False])
def test_blocks_have_the_derivatives_of_the_whole(
    is_given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(blocks, "ELEMENTS", 15)
    pair = Reading(is_given)
    given = pair.rows, pair.others, pair.width
    torch.testing.assert_close(pair.by_blocks(*given), pair.whole(*given))
    assert torch.autograd.gradcheck(pair.by_blocks, given)
    assert torch.autograd.gradgradcheck(pair.by_blocks, given)


@pytest.mark.usefixtures("double")
def test_what_is_given_may_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that meet themselves, at a width that is a function of them."""
    torch.manual_seed(0)
    monkeypatch.setattr(blocks, "ELEMENTS", 15)
    pair = Reading(True)
    assert torch.autograd.gradcheck(lambda r: pair.by_blocks(r, r, r.mean()), pair.rows)
    assert torch.autograd.gradgradcheck(lambda r: pair.by_blocks(r, r, r.mean()), pair.rows)


class Learned(RBF):
    """A kernel of a width that is learned, which no block is given."""

    def __init__(self, width: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "width", width)

    def __call__(self, squared_distance: Tensor, squared_length: Tensor | float) -> Tensor:
        return super().__call__(squared_distance, squared_length * self.width.exp())  # type: ignore[attr-defined]


@pytest.mark.usefixtures("double")
def test_a_learned_width_gets_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    width = torch.zeros(()).requires_grad_()
    q, leaves = posterior(50, 3)
    divergence = MMD(Learned(width), noise="sampled", prior="sampled")

    def gradients() -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        return torch.autograd.grad(divergence(q), [width, *leaves], retain_graph=True)

    whole = gradients()
    monkeypatch.setattr(blocks, "ELEMENTS", 600)
    torch.testing.assert_close(gradients(), whole, rtol=1e-9, atol=1e-12)


@each
def test_a_recorded_graph_of_blocks_is_what_it_records(
    make: Callable[[], Divergence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "block_size", lambda per_row: 30)
    divergence, (_, leaves) = make(), posterior(50, 3)
    prior = dist.Normal(torch.zeros(3), 1.0).to_event(1)

    def step(loc: Tensor, scale: Tensor) -> list[Tensor]:
        value = divergence(AggregatePosterior.of(dist.Normal(loc, scale).to_event(1), prior))
        return [value.detach(), *torch.autograd.grad(value, [loc, scale])]

    with pyro.validation_enabled(False):
        graph = make_fx(step)(*leaves)
        simplify(graph)
        torch.manual_seed(1)
        eager = step(*leaves)
    torch.manual_seed(1)
    with torch.no_grad():
        recorded = graph(*leaves)
    torch.testing.assert_close(recorded, eager, rtol=0, atol=0)


@each
def test_memory_is_linear_in_the_batch(
    make: Callable[[], Divergence], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the batch takes at most twice the memory, where pairs would take four times."""
    monkeypatch.setattr(blocks, "ELEMENTS", 1024)
    peaks = []
    for n in (100, 200):
        with Peak() as peak:
            value_and_gradients(make, n, 3)
        peaks.append(peak.bytes)
    assert peaks[1] < 2.2 * peaks[0]


@pytest.mark.parametrize("spread", [1e-3, 1.0])
@pytest.mark.parametrize("is_full", [False, True])
def test_matrix_products_are_exact_for_narrow_rows(spread: float, is_full: bool) -> None:
    """In single precision, far from the origin: against the sum over dimensions in double."""
    torch.manual_seed(0)
    mean, points = 5 + torch.randn(2, 40, 6)
    points[:20] = mean[:20] + spread * torch.randn(20, 6)
    variance = spread**2 * (0.5 + torch.rand(40, 6))
    delta = points.double() - mean.double()[:, None]
    expected = (delta.square() / variance.double()[:, None]).sum(-1)
    precision = variance.double().reciprocal()
    precision = torch.diag_embed(precision) if is_full else precision
    found = quadratic_forms(points, mean, precision, is_full)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("groups", [False, True])
def test_gradient_of_weights_under_stein_is_that_of_the_discrepancy(groups: bool) -> None:
    torch.manual_seed(0)
    codes, weights = torch.randn(7, 2), torch.rand(7) + 0.1
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    data = torch.arange(7) % 4 if groups else None

    def value(weights: Tensor) -> Tensor:
        return Stein()(AggregatePosterior.of(codes, prior, weights, data))

    weights.requires_grad_()
    (found,) = torch.autograd.grad(value(weights), weights)
    step = 1e-6 * torch.eye(7)
    slopes = [(value(weights + e) - value(weights - e)).detach() / 2e-6 for e in step]
    torch.testing.assert_close(found, torch.stack(slopes), rtol=1e-5, atol=1e-7)


def test_median_in_either_precision_is_the_sorted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.float64):
        rows = torch.randn(61, 4, dtype=dtype, generator=torch.Generator().manual_seed(2))
        distances = torch.pdist(rows).sort().values
        usual = distances[(len(distances) - 1) // 2]
        for elements in (2**20, 100):
            monkeypatch.setattr(blocks, "ELEMENTS", elements)
            found = weighting.weighted_median_distance(rows, rows.new_ones(61), None)
            torch.testing.assert_close(found, usual, rtol=1e-6, atol=0)
    assert weighting.weighted_median_distance(rows, rows.new_zeros(61), None) == 0
