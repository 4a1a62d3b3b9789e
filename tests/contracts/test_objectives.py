"""What every objective must do. A new one is a line of `CASES`, and inherits all of it."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import gradients
from pyro import poutine
from syncs import Syncs
from torch import Tensor, nn

from ppl_vae import objectives
from ppl_vae.objectives import (
    GECO,
    IWAE,
    MMD,
    TCVAE,
    WAE,
    Autoencoder,
    BetaVAE,
    CapacityVAE,
    InfoVAE,
    MutualAutoencoder,
    Objective,
    Penalty,
)

pytestmark = pytest.mark.usefixtures("double")

N, D = 6, 2
A, V, S2 = 0.4, 0.5, 0.8
"""The guide is N(A x, V), the model N(0, 1) and N(z, S2), by dimension."""


class R(nn.Module):
    """r(z|x), the posterior's own family."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Any:
        return dist.Normal(self.slope * x, 0.7).to_event(1)


def reconstruction(x: Tensor) -> Tensor:
    """-E log p(x|z), summed over dimensions, by datum."""
    square = ((1 - A) * x) ** 2 + V
    return (0.5 * math.log(2 * math.pi * S2) + square / (2 * S2)).sum(-1)


def rate(x: Tensor) -> Tensor:
    return 0.5 * ((A * x) ** 2 + V - 1 - math.log(V)).sum(-1)


def mmd(x: Tensor) -> Tensor:
    """MMD^2 under exp(-r^2 / 2d) of the batch's Gaussians, no pair of one row, and the prior."""

    def overlap(delta: Tensor, total: float) -> Tensor:
        root = (D / (D + total)) ** (D / 2)
        return root * torch.exp(-delta.square().sum(-1) / (2 * (D + total)))

    mean = A * x
    pairs = overlap(mean[:, None] - mean, 2 * V)
    within = (pairs.sum() - pairs.diagonal().sum()) / (N * (N - 1))
    return within - 2 * overlap(mean, V + 1).mean() + overlap(torch.zeros(D), 2.0)


@dataclass(frozen=True)
class Case:
    """An objective as it is made, and what is true of it.

    Attributes:
        make: the constructor.
        population: the expectation of its loss on the linear-Gaussian pair, of x, where there is
            a closed form.
    """

    make: Callable[..., Objective]
    population: Callable[[Tensor], Tensor] | None = None


def _elbo(x: Tensor) -> Tensor:
    return (reconstruction(x) + rate(x)).sum()


CASES: dict[str, Case] = {
    "InfoVAE": Case(
        lambda **o: InfoVAE(MMD(), scale=20.0, **o),
        lambda x: reconstruction(x).sum() + N * 20 * mmd(x),
    ),
    "InfoVAE, half": Case(
        lambda **o: InfoVAE(MMD(), alpha=0.5, scale=20.0, **o),
        lambda x: reconstruction(x).sum() + rate(x).sum() / 2 + N * 19.5 * mmd(x),
    ),
    "InfoVAE, ELBO": Case(lambda **o: InfoVAE(alpha=0, **o), _elbo),
    "BetaVAE": Case(
        lambda **o: BetaVAE(4.0, **o), lambda x: reconstruction(x).sum() + 4 * rate(x).sum()
    ),
    "Autoencoder": Case(Autoencoder, lambda x: reconstruction(x).sum()),
    "WAE": Case(
        lambda **o: WAE(MMD(), **o),
        lambda x: (((1 - A) * x) ** 2 + V).sum() + N * 10 * mmd(x),
    ),
    "TCVAE": Case(
        lambda **o: TCVAE(1.0, 1.0, 1.0, size=N, **o),
        _elbo,  # equal weights: the ELBO
    ),
    "CapacityVAE": Case(
        lambda **o: CapacityVAE(2.0, 3.0, **o),
        lambda x: reconstruction(x).sum() + N * 3 * (rate(x).mean() - 2).abs(),
    ),
    "GECO": Case(
        lambda **o: GECO(1.0, Penalty(2.0), **o),
        lambda x: rate(x).sum() + N * 2 * (reconstruction(x).mean() - 1),
    ),
    "IWAE": Case(lambda **o: IWAE(**{"num_particles": 5} | o)),
    "IWAE, one draw": Case(lambda **o: IWAE(**{"num_particles": 1} | o), _elbo),
    "IWAE, DReG": Case(lambda **o: IWAE(**{"num_particles": 5} | o, gradient="dreg")),
    "MutualAutoencoder": Case(lambda **o: MutualAutoencoder(0.5, auxiliary=R(), **o)),
}

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
known = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.population],
    ids=[name for name, case in CASES.items() if case.population],
)


class Given(dist.Normal):  # type: ignore[misc]
    """A normal whose noise is given, so that two runs share it."""

    def __init__(self, loc: Tensor, scale: Tensor, noise: Tensor):
        super().__init__(loc, scale)
        self.noise = noise

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self.noise

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Given":
        return Given(*(t.expand(batch_shape) for t in (self.loc, self.scale, self.noise)))


def data() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(2)).double()


def model(x: Tensor, noise: Tensor | None = None) -> None:
    b = pyro.param("b", torch.tensor(1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(b * z, math.sqrt(S2)).to_event(1), obs=x)


def guide(x: Tensor, noise: Tensor | None = None) -> None:
    a = pyro.param("a", torch.tensor(A))
    scale = pyro.param("s", torch.tensor(math.sqrt(V)), dist.constraints.positive)
    with pyro.plate("data", len(x)):
        fn = dist.Normal(a * x, scale)
        if noise is not None:
            fn = Given(fn.loc, fn.scale, noise)
        pyro.sample("z", fn.to_event(1))


def loss_of(objective: Objective, *args: Any, **how: Any) -> tuple[float, dict[str, Tensor]]:
    programs = [poutine.mask(p, mask=how["mask"]) if how else p for p in (model, guide)]
    pyro.set_rng_seed(5)
    return gradients(lambda: objective.differentiable_loss(*programs, *args))


def test_every_public_objective_has_a_case() -> None:
    public = {
        kind
        for kind in vars(objectives).values()
        if inspect.isclass(kind) and issubclass(kind, Objective) and not inspect.isabstract(kind)
    }
    assert public == {type(case.make()) for case in CASES.values()}


@known
def test_expectation_is_the_closed_form(case: Case) -> None:
    assert case.population is not None
    x, objective = data(), case.make()
    draws = torch.tensor([objective.loss(model, guide, x) for _ in range(300)])
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - case.population(x)).abs() < 4.5 * error + 1e-9


@every
def test_masked_row_is_a_dropped_row(case: Case) -> None:
    """In value, gradients and terms, at the same noise."""
    keep = torch.tensor([0, 2, 3, 5])
    mask = torch.zeros(N, dtype=torch.bool)
    mask[keep] = True
    x, noise = data(), torch.randn(N, D)
    runs = [case.make() for _ in range(2)]
    masked, slopes = loss_of(runs[0], x, noise, mask=mask)
    dropped, expected = loss_of(runs[1], x[keep], noise[keep])
    terms = list(runs[1].terms)
    if isinstance(runs[0], MutualAutoencoder):  # which draws from the model besides
        terms = ["reconstruction/x", "rate/z"]
    else:
        assert masked == pytest.approx(dropped, rel=1e-8)
        for name, gradient in expected.items():
            torch.testing.assert_close(slopes[name], gradient, rtol=1e-8, atol=1e-9)
    for name in terms:
        torch.testing.assert_close(runs[0].terms[name], runs[1].terms[name])


@every
def test_all_rows_masked_is_nothing(case: Case) -> None:
    value, slopes = loss_of(case.make(), data(), mask=torch.zeros(N, dtype=torch.bool))
    assert value == pytest.approx(0.0, abs=1e-9)
    assert all((gradient == 0).all() for gradient in slopes.values())


@every
def test_a_subsample_stands_for_the_data(case: Case) -> None:
    """The plate's scale multiplies the loss of a batch and leaves its terms per datum."""

    def scaled(program: Callable[..., None]) -> Callable[..., None]:
        return poutine.scale(program, scale=3.0)

    x = data()
    objective, other = case.make(), case.make()
    other.load_state_dict(objective.state_dict())
    pyro.set_rng_seed(5)
    value = objective.differentiable_loss(model, guide, x)
    pyro.set_rng_seed(5)
    tripled = other.differentiable_loss(scaled(model), scaled(guide), x)
    if isinstance(objective, MutualAutoencoder):
        # r is fitted to draws of the model, whose number is the batch's.
        torch.testing.assert_close(tripled, 3 * value, rtol=1e-6, atol=1e-6)
        return
    torch.testing.assert_close(tripled, 3 * value)
    for name, term in objective.terms.items():
        torch.testing.assert_close(other.terms[name], term)


@every
def test_three_ways_to_the_loss_agree(case: Case) -> None:
    objective = case.make()
    value, _ = loss_of(copy.deepcopy(objective), data())
    pyro.set_rng_seed(5)
    assert copy.deepcopy(objective).loss(model, guide, data()) == pytest.approx(value, rel=1e-12)
    pyro.set_rng_seed(5)
    again = copy.deepcopy(objective).loss_and_grads(model, guide, data())
    assert again == pytest.approx(value, rel=1e-12)


@every
def test_a_loss_moves_nothing_and_a_step_counts(case: Case) -> None:
    objective = case.make()
    before = copy.deepcopy(objective.state_dict())
    objective.loss(model, guide, data())
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    objective.loss_and_grads(model, guide, data())
    assert int(objective.step) == 1


@every
def test_no_host_synchronisation(case: Case) -> None:
    objective = case.make()
    objective.loss_and_grads(model, guide, data())  # what is said and checked once
    with pyro.validation_enabled(False), Syncs():
        objective.differentiable_loss(model, guide, data())


@every
def test_single_precision(case: Case) -> None:
    exact, _ = loss_of(case.make(), data(), torch.zeros(N, D))
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)
    x = data().float()
    value = case.make().differentiable_loss(model, guide, x, torch.zeros(N, D))
    assert value.dtype == torch.float32
    if not isinstance(case.make(), MutualAutoencoder):
        assert float(value.detach()) == pytest.approx(exact, rel=1e-5)


@every
def test_particles_are_averaged(case: Case) -> None:
    """A loss is no sum over particles, in one run or in several."""
    if isinstance(case.make(), IWAE):
        return  # where particles are inside the logarithm
    x, zeros = data(), torch.zeros(N, D)
    single, _ = loss_of(case.make(), x, zeros)
    several, _ = loss_of(case.make(num_particles=3), x, zeros)
    vectorised = case.make(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    at_once, _ = loss_of(vectorised, x, zeros)
    if isinstance(case.make(), MutualAutoencoder):
        return  # whose draws of the model differ
    assert several == pytest.approx(single, rel=1e-10)
    assert at_once == pytest.approx(single, rel=1e-10)
