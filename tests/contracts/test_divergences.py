"""What every divergence must do. A new one is a line of `CASES`, and inherits all of it."""

import inspect
import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, S, V, derivative, deviation, estimates, slopes, standard
from pyro import validation_enabled
from scipy.special import hyp1f1
from syncs import Syncs
from torch import Tensor, nn

from ppl_vae import objectives
from ppl_vae.objectives import (
    MMD,
    RBF,
    Adversarial,
    AggregateKL,
    AggregatePosterior,
    CramerWold,
    Divergence,
    Energy,
    FourierMMD,
    Laplacian,
    Memory,
    MultiScale,
    Sinkhorn,
    SlicedWasserstein,
    Stein,
)
from ppl_vae.objectives.divergences.aggregate_posterior import DistributionPrior, Prior
from ppl_vae.objectives.divergences.gaussians import Gaussians
from ppl_vae.objectives.divergences.weighting import cyclic_shifts

D = 3
GAMMA = 0.3


def rbf(d: int, mu: float) -> float:
    """MMD^2 of N(mu, V)^d and N(0, 1)^d under exp(-r^2 / 2d)."""

    def overlap(total: float, shift: float = 0.0) -> float:
        return (d / (d + total)) ** (d / 2) * math.exp(-d * shift**2 / 2 / (d + total))

    return overlap(2 * V) - 2 * overlap(V + 1, mu) + overlap(2)


def energy(d: int, mu: float) -> float:
    def distance(shift: float, variance: float) -> float:
        root = math.sqrt(2 * variance) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
        return root * float(hyp1f1(-0.5, d / 2, -d * shift**2 / (2 * variance)))

    return 2 * distance(mu, V + 1) - distance(0, 2 * V) - distance(0, 2)


def cramer_wold(d: int, mu: float) -> float:
    def overlap(shift: float, variance: float) -> float:
        total = variance + 2 * GAMMA
        root = math.sqrt(2 * math.pi * total)
        return float(hyp1f1(0.5, d / 2, -d * shift**2 / (2 * total))) / root

    return overlap(0, 2 * V) - 2 * overlap(mu, V + 1) + overlap(0, 2)


@dataclass(frozen=True)
class Case:
    """A divergence as it is made, and what is true of it.

    Attributes:
        make: the constructor.
        population: its value between N(mu, V)^d and N(0, 1)^d, of d and mu, where the estimate
            and its gradient are unbiased for it.
        splits: whether a datum in two rows of half the weight is the datum.
        is_random: whether it draws frequencies, directions or shifts, others in another type.
        is_host_free: whether it never waits for the device.
        has_moments: whether four moments of the estimate exist; of exponentiated densities, no.
    """

    make: Callable[[], Divergence]
    population: Callable[[int, float], float] | None = None
    splits: bool = True
    is_random: bool = False
    is_host_free: bool = True
    has_moments: bool = True


def critic(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, last = (nn.Linear(*sizes, dtype=torch.float32) for sizes in ((D, 8), (8, 1)))
    return nn.Sequential(first, *layers, nn.Tanh(), last)


CASES: dict[str, Case] = {
    "MMD": Case(lambda: MMD(pairs="all"), rbf),
    "MMD, sampled": Case(lambda: MMD(prior="sampled", noise="sampled"), rbf),
    "MMD, integrated": Case(lambda: MMD(prior="sampled", pairs="all"), rbf),
    "MMD, V": Case(lambda: MMD(noise="sampled", statistic="V", prior="sampled"), splits=False),
    "MMD, shifts": Case(lambda: MMD(pairs=3), rbf, is_random=True),
    "MMD, median": Case(lambda: MMD(RBF("median"), pairs="all")),
    "MMD, median of draws too": Case(lambda: MMD(RBF("median"), prior="sampled")),
    "MMD, scales": Case(lambda: MMD(MultiScale(), noise="sampled")),
    "MMD, Laplacian": Case(lambda: MMD(Laplacian())),
    "Energy": Case(Energy, energy),
    "Energy, sampled": Case(lambda: Energy("sampled", "sampled"), energy),
    "Energy, shifts": Case(lambda: Energy(pairs=3), energy, is_random=True),
    "CramerWold": Case(lambda: CramerWold(GAMMA), cramer_wold),
    "CramerWold, silverman": Case(lambda: CramerWold(prior="sampled", pairs=3), is_random=True),
    "FourierMMD": Case(lambda: FourierMMD(features=32), rbf, is_random=True),
    "FourierMMD, sampled": Case(
        lambda: FourierMMD(None, 32, "sampled", "sampled"), rbf, is_random=True
    ),
    "SlicedWasserstein": Case(lambda: SlicedWasserstein(16), is_random=True),
    "SlicedWasserstein, samples": Case(lambda: SlicedWasserstein(16, "samples"), is_random=True),
    "SlicedWasserstein, p = 1": Case(lambda: SlicedWasserstein(16, power=1), is_random=True),
    "Stein": Case(Stein),
    "Stein, V": Case(lambda: Stein(statistic="V"), splits=False),
    "Stein, median": Case(lambda: Stein(RBF("median"))),
    "AggregateKL": Case(lambda: AggregateKL(size=60)),
    "AggregateKL, MWS": Case(lambda: AggregateKL("MWS", size=60)),
    "Adversarial": Case(lambda: Adversarial(critic())),
    "Adversarial, log p": Case(
        lambda: Adversarial(critic(), "reverse KL", log_prior=True), has_moments=False
    ),
    "Adversarial, WGAN-GP": Case(lambda: Adversarial(critic(), "WGAN-GP")),
    "Adversarial, batch-norm": Case(
        lambda: Adversarial(critic(nn.BatchNorm1d(8))), splits=False, is_host_free=False
    ),
    "Memory": Case(lambda: Memory(MMD(pairs="all"), 5)),
    "Memory, shifts": Case(lambda: Memory(MMD(pairs=4), 5), is_random=True),
    "Memory, pooled": Case(lambda: Memory(SlicedWasserstein(16, "samples"), 5), is_random=True),
    "Memory, density": Case(lambda: Memory(AggregateKL(size=60), 5)),
}
if find_spec("geomloss"):
    CASES["Sinkhorn"] = Case(Sinkhorn, is_host_free=False)
    CASES["Memory, Sinkhorn"] = Case(lambda: Memory(Sinkhorn(), 5), is_host_free=False)

double = pytest.mark.usefixtures("double")
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
known = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.population],
    ids=[name for name, case in CASES.items() if case.population],
)


class FixedPrior(DistributionPrior):
    """A standard normal whose draws are these, so that two runs meet the same."""

    is_fixed = True

    def __init__(self, draws: Tensor):
        super().__init__(dist.Normal(torch.zeros(D), 1.0).to_event(1))
        self.draws = draws

    def sample(self, draws: int) -> Tensor:
        return self.draws


def posterior(
    means: Tensor,
    noise: Tensor,
    prior: Prior,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
) -> AggregatePosterior:
    variance = torch.full_like(means, S**2)
    return AggregatePosterior(
        codes=means + S * noise,
        prior=prior,
        weights=torch.ones(len(means)) if weights is None else weights,
        groups=groups,
        conditional_of=lambda: Gaussians(means, variance),
    )


def value_and_slope(
    case: Case, means: Tensor, noise: Tensor, prior: Prior, *more: Tensor | None
) -> tuple[Tensor, Tensor]:
    """At one seed: a divergence's value, and its gradient by row."""
    means = means.detach().requires_grad_()
    divergence = case.make()
    divergence.to(means.dtype)
    torch.manual_seed(3)
    q = posterior(means, noise, prior, *more)
    if isinstance(divergence, Memory):  # other codes, or equal ones would share their slopes
        divergence.remember(posterior(means, noise.flip(1), prior, *more))
    value = divergence(q)
    (slope,) = torch.autograd.grad(value, means, materialize_grads=True)
    return value.detach(), slope


def test_every_public_divergence_has_a_case() -> None:
    public = {
        kind
        for kind in vars(objectives).values()
        if inspect.isclass(kind) and issubclass(kind, Divergence) and kind is not Divergence
    }
    if not find_spec("geomloss"):
        public -= {Sinkhorn}
    assert public == {type(case.make()) for case in CASES.values()}


@every
@pytest.mark.parametrize("dim", [1, 40])
def test_what_moving_all_codes_costs_is_positive_or_not_known(case: Case, dim: int) -> None:
    """`scale="auto"` goes by it."""
    cost = case.make().of_unit_shift(dim)
    assert cost is None or 0 < cost < math.inf


@double
@every
@pytest.mark.parametrize("junk", [1e4, math.nan])
def test_masked_row_is_a_dropped_row(case: Case, junk: float) -> None:
    """In value and in gradient, of which none reaches it, whatever it holds."""
    keep = torch.tensor([1, 2, 4, 7])  # as many that three shifts are all pairs
    weights = torch.zeros(9)
    weights[keep] = 2.5
    means, noise = torch.randn(9, D), torch.randn(9, D)
    means[weights == 0] = junk
    prior = FixedPrior(torch.randn(11, D))
    masked, slope = value_and_slope(case, means, noise, prior, weights)
    dropped, expected = value_and_slope(case, means[keep], noise[keep], prior, weights[keep])
    torch.testing.assert_close(masked, dropped)
    torch.testing.assert_close(slope[keep], expected)
    assert (slope[weights == 0] == 0).all()


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.has_moments],
    ids=[name for name, case in CASES.items() if case.has_moments],
)
def test_masked_rows_are_as_noisy_as_dropped_ones(case: Case) -> None:
    """Mean and variance over the noise, the prior's draws and what the estimate draws."""
    repeats, n = 150, 16
    means = MU + torch.randn(n, D)
    weights = torch.arange(n) % 2.0
    prior = DistributionPrior(standard(D))
    divergence = case.make()

    def sample(means: Tensor, weights: Tensor) -> Tensor:
        found = []
        for _ in range(repeats):
            q = posterior(means, torch.randn_like(means), prior, weights)
            found.append(divergence(q).detach())
        return torch.stack(found).double()

    with torch.no_grad():
        masked, dropped = sample(means, weights), sample(means[1::2], weights[1::2])
    error = ((masked.var() + dropped.var()) / repeats).sqrt() + 1e-6
    assert (masked.mean() - dropped.mean()).abs() < 4.5 * error
    if dropped.std() > 1e-6:  # else nothing is drawn
        ratio, error = (masked.var() / dropped.var()).log(), torch.zeros(())
        for values in (masked, dropped):
            # The variance of the log of a sample variance, by the fourth moment.
            fourth = ((values - values.mean()) / values.std()).pow(4).mean()
            error = error + (fourth - 1) / repeats
        assert ratio.abs() < 4.5 * error.sqrt()
    else:
        assert masked.std() < 1e-6


@double
@every
def test_weights_have_no_unit(case: Case) -> None:
    means, noise, weights = torch.randn(6, D), torch.randn(6, D), torch.rand(6)
    prior = FixedPrior(torch.randn(7, D))
    found = [value_and_slope(case, means, noise, prior, c * weights) for c in (1.0, 7.3)]
    torch.testing.assert_close(found[0], found[1])


@every
def test_all_rows_masked_is_zero(case: Case) -> None:
    means, noise = torch.randn(4, D), torch.randn(4, D)
    prior = DistributionPrior(standard(D))
    value, slope = value_and_slope(case, means, noise, prior, torch.zeros(4))
    assert value == 0
    assert (slope == 0).all()


@double
@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.splits], ids=[n for n, c in CASES.items() if c.splits]
)
def test_rows_of_one_datum_are_one_datum(case: Case) -> None:
    """Two rows of a group, alike and of half the weight: no pair of them counts."""
    means, noise = torch.randn(4, D), torch.randn(4, D)
    prior = FixedPrior(torch.randn(7, D))
    once = value_and_slope(case, means, noise, prior, torch.ones(4))
    if isinstance(case.make(), Memory):  # where a past row is a datum of its own
        return
    for order in (torch.arange(4).repeat(2), torch.arange(4).repeat_interleave(2)):
        half = torch.full((8,), 0.5)
        value, slope = value_and_slope(case, means[order], noise[order], prior, half, order)
        torch.testing.assert_close(value, once[0])
        summed = torch.zeros(4, D).index_add(0, order, slope)
        torch.testing.assert_close(summed, once[1])


@every
def test_single_precision(case: Case) -> None:
    means, noise, draws = torch.randn(9, D), torch.randn(9, D), torch.randn(9, D)
    single = value_and_slope(case, means, noise, FixedPrior(draws))[0]
    assert single.dtype == torch.float32
    if not case.is_random:
        torch.set_default_dtype(torch.float64)
        prior = FixedPrior(draws.double())
        exact = value_and_slope(case, means.double(), noise.double(), prior)[0]
        assert exact.dtype == torch.float64
        assert single.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)


@double
@known
def test_unbiased_for_the_population(case: Case) -> None:
    assert case.population is not None
    values = estimates(case.make(), 7, D, repeats=400)
    assert deviation(values, case.population(D, MU)) < 4.5


@double
@known
def test_gradient_is_the_population_s(case: Case) -> None:
    assert case.population is not None
    found = slopes(case.make(), 7, D, repeats=400)
    assert deviation(found, derivative(partial(case.population, D))) < 4.5


@every
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-6, 1.0, 1e6, 1e12])
def test_equal_tiny_and_huge_codes(case: Case, size: float) -> None:
    """Finite in value and in gradient; and of equal codes a number of the prior's own size."""
    prior = DistributionPrior(standard(D))
    codes = (size * torch.randn(6, D) if size != 1.0 else torch.ones(6, D)).requires_grad_()
    variance = torch.full((6, D), S**2)
    divergence = case.make()
    q = AggregatePosterior(
        codes, prior, torch.ones(6), conditional_of=lambda: Gaussians(codes, variance)
    )
    value = divergence(q)
    (slope,) = torch.autograd.grad(value, codes, materialize_grads=True)
    assert value.isfinite()
    assert slope.isfinite().all()
    if size in (0.0, 1.0) and not isinstance(divergence, Adversarial):  # an untrained bound is low
        assert value.abs() < 100


@every
def test_single_row_is_refused_by_name_or_finite(case: Case) -> None:
    divergence = case.make()
    q = posterior(torch.randn(1, D), torch.randn(1, D), DistributionPrior(standard(D)))
    name = type(getattr(divergence, "divergence", divergence)).__name__
    refusal = ""
    try:
        assert divergence(q).isfinite()
    except ValueError as error:
        refusal = str(error)
    names = (name, "bandwidth 'median'", "more than 1 value per channel")
    assert not refusal or any(n in refusal for n in names)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES.values() if c.is_host_free],
    ids=[n for n, c in CASES.items() if c.is_host_free],
)
def test_never_waits_for_the_device(case: Case) -> None:
    means, noise, weights = torch.randn(8, D), torch.randn(8, D), torch.arange(8) % 2.0
    divergence = case.make()
    for is_first in (True, False):  # constants are made once
        q = replace(
            posterior(means, noise, FixedPrior(torch.randn(8, D)), weights),
            groups=torch.arange(8) % 4,
            data=4,
        )
        with nullcontext() if is_first else Syncs(), validation_enabled(False):
            if isinstance(divergence, Memory):
                divergence.remember(q)
            divergence(q)


def test_far_codes_are_told_where_nothing_pulls_them() -> None:
    """A flag by sites, for those whose kernel is flat out there, and for no other."""
    far, near = (AggregatePosterior.of(c + torch.randn(8, D), standard(D)) for c in (1e4, 0.0))
    spread = AggregatePosterior.of(1e4 * torch.randn(8, D), standard(D))
    for make in (MMD, FourierMMD, partial(MMD, noise="sampled", prior="sampled")):
        for q, expected in ((far, True), (spread, True), (near, False)):
            divergence = make()
            divergence(q)
            assert bool(divergence.out_of_reach["z"]) is expected
    for q, expected in ((spread, True), (near, False)):
        divergence = Stein()
        divergence(q)
        assert bool(divergence.out_of_reach["z"]) is expected
    for masked in (MMD(), Stein()):
        masked(AggregatePosterior.of(1e4 * torch.randn(8, D), standard(D), torch.zeros(8)))
        assert not masked.out_of_reach["z"]
    codes = torch.randn(100, D)
    for far_out, expected in ((1, False), (50, True)):  # a stray datum, a cluster
        codes[:far_out] += 1e5
        for divergence in (MMD(), MMD(noise="sampled", prior="sampled")):
            divergence(AggregatePosterior.of(codes, standard(D)))
            assert bool(divergence.out_of_reach["z"]) is expected
    for make in (Energy, SlicedWasserstein):
        divergence = make()
        divergence(spread)
        assert not any(divergence.out_of_reach.values())


def test_training_warns_once_of_codes_out_of_reach() -> None:
    x = 1e6 * torch.randn(20, 2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * pyro.param("a", torch.tensor(1.0)), 1.0).to_event(1))

    for divergence, count in ((MMD(), 1), (Memory(MMD(), 5), 1), (Energy(), 0)):
        objective = objectives.InfoVAE(divergence, scale=10.0)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(3):
                objective.loss_and_grads(model, guide, x)
        reach = [str(w.message) for w in seen if "beyond the reach" in str(w.message)]
        assert len(reach) == count
        assert all("'z'" in text and "Energy()" in text for text in reach)


def test_shifts_of_the_living() -> None:
    """Each of the living meets others of the living, each shift once; or all, exactly."""
    alive = torch.tensor([True, False, True, True, False, True, True, True])
    for shifts in (2, 5, 6):
        order, partners, share = cyclic_shifts(alive, shifts, first=1)
        living = order[:6]
        assert sorted(living.tolist()) == [0, 2, 3, 5, 6, 7]
        real = partners[share[:, 0] > 0][:, :6]
        assert len(real) == min(shifts, 5)
        assert alive[real].all()
        assert (real != living).all()
        assert all(len(set(column)) == len(real) for column in real.T.tolist())
        assert share.sum() == 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"weights": torch.ones(3)}, r"weights of shape \(3,\): one for each of 4 rows"),
        ({"weights": torch.tensor([1.0, -2.0, 1.0, 1.0])}, "a weight is -2.0: none may be"),
        ({"groups": torch.zeros(5, dtype=torch.long)}, r"groups of shape \(5,\)"),
    ],
)
def test_bad_rows(more: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AggregatePosterior.of(torch.randn(4, 2), standard(2), **more)
