"""What every prior must do. A new one is a line of `CASES`, and inherits all of it."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyro
import pytest
import quadrature
import torch
from scipy import special, stats
from shaken import shaken
from torch import Tensor, nn

from ppl_vae import priors
from ppl_vae.bodies import MLP
from ppl_vae.guides import FullCovarianceNormal, MeanFieldNormal

SMALL = partial(MLP, hidden=(16,))
POSITIVE = (0.0, -1.0, math.nan, math.inf)
COUNT = (0, -2, 1.5)
Moments = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Case:
    """A prior as it is made, and what is true of it.

    Attributes:
        make: the constructor, of the dimension and of options.
        density: log p(z) by hand, of the prior and of z `(n, d)`.
        moments: mean and variance of each coordinate, of the prior, where they have a closed form
            and draws have a fourth moment; the variance may have none.
        nodes: points of the support in 2 dimensions and their weights.
        dims: the dimensions in which it is integrated.
        at: the distribution, of the prior.
        refused: values that its arguments must not have.
    """

    make: Callable[..., nn.Module]
    density: Callable[[Any, np.ndarray], np.ndarray]
    moments: Callable[[Any], Moments] | None = None
    nodes: Callable[[int], quadrature.Nodes] = quadrature.space
    dims: tuple[int, ...] = (1, 2)
    at: Callable[[nn.Module], Any] = lambda prior: prior()
    refused: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def on_space(self) -> bool:
        return self.nodes is quadrature.space


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def positive(raw: Tensor, start: float) -> np.ndarray:
    """The softplus above a floor of 1e-6 that is `start` at 0, written out."""
    return 1e-6 + np.logaddexp(0, array(raw) + np.log(np.expm1(start - 1e-6)))


def product(law: Any) -> Callable[[Any, np.ndarray], np.ndarray]:
    return lambda _, z: law.logpdf(z).sum(-1)


def fixed(mean: float, variance: float) -> Callable[[Any], Moments]:
    return lambda prior: (torch.full((prior.dim,), mean), torch.full((prior.dim,), variance))


def normal(prior: Any, z: np.ndarray) -> np.ndarray:
    return stats.norm(array(prior.loc), positive(prior.raw_scale, 1.0)).logpdf(z).sum(-1)


def normal_moments(prior: Any) -> Moments:
    return prior.loc, torch.from_numpy(positive(prior.raw_scale, 1.0)) ** 2


def mixture(prior: Any, z: np.ndarray) -> np.ndarray:
    law = stats.norm(array(prior.loc), positive(prior.raw_scale, 0.7))
    weights = special.log_softmax(array(prior.logits))
    return special.logsumexp(weights + law.logpdf(z[:, None]).sum(-1), -1)


def mixed(weights: Tensor, means: Tensor, variances: Tensor) -> Moments:
    mean = weights @ means
    return mean, weights @ (variances + means**2) - mean**2


def mixture_moments(prior: Any) -> Moments:
    scale = torch.from_numpy(positive(prior.raw_scale, 0.7))
    return mixed(prior.logits.softmax(0), prior.loc, scale**2)


def vamp(d: int, encoder: Any = MeanFieldNormal, **options: Any) -> nn.Module:
    # A wide encoder, so that quadrature resolves its components.
    q = encoder((1, 4, 4), d, body=SMALL, initial_scale=0.7)
    return priors.VampPrior(q, **({"components": 3} | options))


def of_pseudo_inputs(prior: Any, z: np.ndarray) -> np.ndarray:
    q = prior.encoder(prior.pseudo_inputs)
    return array(q.log_prob(torch.from_numpy(z)[:, None]).logsumexp(-1) - math.log(3))


def vamp_moments(prior: Any) -> Moments:
    q = prior.encoder(prior.pseudo_inputs)
    return mixed(torch.full_like(q.mean[:, 0], 1 / 3), q.mean, q.variance)


def flow(d: int, **options: Any) -> nn.Module:
    return priors.FlowPrior(d, **({"transforms": 2, "hidden": (16,)} | options))


def of_noise(prior: Any, z: np.ndarray) -> np.ndarray:
    noise, log_det = prior.flow.transform().call_and_ladj(torch.from_numpy(z))
    return stats.norm(0, 1).logpdf(array(noise)).sum(-1) + array(log_det)


def concrete(_: Any, z: np.ndarray, temperature: float = 0.7) -> np.ndarray:
    d, log_z = z.shape[-1], np.log(z)
    constant = special.gammaln(d) + (d - 1) * np.log(temperature)
    top = -(temperature + 1) * log_z.sum(-1)
    return constant + top - d * special.logsumexp(-temperature * log_z, -1)


def kappa(prior: Any) -> float:
    return float(positive(prior.kappa, 2.3)) if prior.learnable else prior.concentration


def von_mises_fisher(prior: Any, z: np.ndarray) -> np.ndarray:
    mu = array(prior.direction)
    if kappa(prior) > 0:
        return stats.vonmises_fisher(mu / np.linalg.norm(mu), kappa(prior)).logpdf(z)
    half = z.shape[-1] / 2  # the area is 2 pi^(d/2) / Gamma(d/2)
    constant = special.gammaln(half) - np.log(2) - half * np.log(np.pi)
    return np.full(z.shape[:-1], constant)


def sphere_moments(prior: Any) -> Moments:
    """In 3 dimensions: E t = coth k - 1/k of t = mu . z, and E t^2 = 1 - 2 E t / k."""
    k, mu = kappa(prior), nn.functional.normalize(prior.direction, dim=-1)
    first = 1 / math.tanh(k) - 1 / k if k else 0.0
    second = 1 - 2 * first / k if k else 1 / 3
    across = (1 - second) / 2
    return first * mu, across + (second - across - first**2) * mu**2


C = torch.tensor([0.5, -1.0, 2.0])


def conditional(d: int, **options: Any) -> nn.Module:
    return priors.ConditionalNormal(d, (3,), **({"body": lambda i, o: nn.Linear(3, *o)} | options))


def read_off(prior: Any, _: Any = None) -> tuple[np.ndarray, np.ndarray]:
    loc, raw = (C.to(prior.network.weight) @ prior.network.weight.T + prior.network.bias).chunk(2)
    return array(loc), positive(raw, 1.0)


SPHERE: dict[str, Any] = {"nodes": quadrature.sphere, "dims": (2,)}
CASES: dict[str, Case] = {
    "StandardNormal": Case(priors.StandardNormal, product(stats.norm(0, 1)), fixed(0, 1)),
    "Uniform": Case(
        lambda d, **o: priors.Uniform(d, **({"low": -0.5, "high": 2.2} | o)),
        product(stats.uniform(-0.5, 2.7)),
        fixed(0.85, 2.7**2 / 12),
        lambda d: quadrature.interval(d, -0.5, 2.2),
        refused={"low": (2.2, 3.0, math.nan, -math.inf), "high": (-0.5, math.nan, math.inf)},
    ),
    "Laplace": Case(
        lambda d, **o: priors.Laplace(d, **({"scale": 0.7} | o)),
        product(stats.laplace(0, 0.7)),
        fixed(0, 2 * 0.7**2),
        refused={"scale": POSITIVE},
    ),
    "StudentT": Case(
        lambda d, **o: priors.StudentT(d, **({"df": 9.0, "scale": 1.3} | o)),
        product(stats.t(9, 0, 1.3)),
        fixed(0, 1.3**2 * 9 / 7),
        refused={"df": POSITIVE, "scale": POSITIVE},
    ),
    "StudentT, heavy": Case(
        lambda d: priors.StudentT(d, df=3.6, scale=1.7), product(stats.t(3.6, 0, 1.7))
    ),
    "RelaxedOneHotCategorical": Case(
        lambda d, **o: priors.RelaxedOneHotCategorical(d, **({"temperature": 0.7} | o)),
        concrete,
        lambda prior: (torch.full((prior.dim,), 1 / prior.dim), None),
        quadrature.simplex,
        (2,),
        refused={"dim": (*COUNT, 1), "temperature": POSITIVE},
    ),
    "DiagonalNormal": Case(priors.DiagonalNormal, normal, normal_moments),
    "ConditionalNormal": Case(
        conditional,
        lambda prior, z: stats.norm(*read_off(prior)).logpdf(z).sum(-1),
        lambda prior: tuple(torch.from_numpy(v) ** p for p, v in enumerate(read_off(prior), 1)),
        at=lambda prior: prior(C.to(prior.network.weight)),
    ),
    "GaussianMixture": Case(
        lambda d, **o: priors.GaussianMixture(d, **({"components": 3, "scale": 0.7} | o)),
        mixture,
        mixture_moments,
        refused={"components": COUNT, "scale": POSITIVE, "spread": POSITIVE},
    ),
    "GaussianMixture, fixed": Case(
        lambda d: priors.GaussianMixture(d, 3, learnable=False, scale=0.7),
        mixture,
        mixture_moments,
    ),
    "VampPrior": Case(
        vamp, of_pseudo_inputs, vamp_moments, refused={"components": COUNT, "link": ("tanh",)}
    ),
    "VampPrior, identity": Case(
        lambda d: vamp(d, link="identity"), of_pseudo_inputs, vamp_moments
    ),
    "VampPrior, full": Case(
        lambda d: vamp(d, encoder=FullCovarianceNormal), of_pseudo_inputs, vamp_moments
    ),
    "VonMisesFisher": Case(
        lambda d, **o: priors.VonMisesFisher(d, **({"concentration": 2.3} | o)),
        von_mises_fisher,
        sphere_moments,
        refused={"dim": (*COUNT, 1), "concentration": (-1.0, math.nan, math.inf)},
        **SPHERE,
    ),
    "VonMisesFisher, uniform": Case(
        priors.VonMisesFisher, von_mises_fisher, sphere_moments, **SPHERE
    ),
    "VonMisesFisher, learned": Case(
        lambda d, **o: priors.VonMisesFisher(d, learnable=True, **({"concentration": 2.3} | o)),
        von_mises_fisher,
        sphere_moments,
        refused={"concentration": POSITIVE},
        **SPHERE,
    ),
}
if find_spec("zuko"):
    CASES["FlowPrior"] = Case(
        flow, of_noise, refused={"flow": ("radial",), "transforms": COUNT, "hidden": ([0],)}
    )
    CASES["FlowPrior, affine"] = Case(partial(flow, flow="affine"), of_noise)

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def made(case: Case, d: int, dtype: torch.dtype = torch.float64) -> Any:
    """The prior after a random step of its parameters, so that nothing stands at its start."""
    return shaken(cast(case.make(d), dtype))


def cast(prior: Any, dtype: torch.dtype) -> Any:
    if isinstance(prior, priors.VampPrior):
        prior.encoder.to(dtype)  # not the prior's own, so not cast with it
    return prior.to(dtype)


def test_every_public_prior_has_a_case() -> None:
    public = {kind for kind in vars(priors).values() if inspect.isclass(kind)} - {priors.Prior}
    if not find_spec("zuko"):
        public -= {priors.FlowPrior}
    assert public == {type(case.make(2)) for case in CASES.values()}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_gradients(case: Case, dtype: torch.dtype) -> None:
    """Both the log-density of codes and a divergence of draws must train every parameter."""
    prior = made(case, 3, dtype)
    assert isinstance(prior, nn.Module)
    p = case.at(prior)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    assert prior.dim == 3
    with pyro.plate("data", 5):
        z = pyro.sample("z", p)
    assert z.shape == (5, 3)
    assert z.dtype == dtype
    assert p.support.check(z).all()
    log_prob = p.log_prob(z.detach())
    assert log_prob.shape == (5,)
    assert log_prob.dtype == dtype
    parameters = dict(prior.named_parameters())
    for loss in (log_prob.sum(), (z.square() * torch.tensor([1.0, 2.0, -1.5])).sum()):
        if not parameters:
            return
        slopes = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for key, slope in zip(parameters, slopes, strict=True):
            assert slope.isfinite().all(), key
            assert slope.abs().sum() > 0, key


@every
@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_density_is_the_one_by_hand(case: Case, d: int) -> None:
    prior = made(case, d)
    with torch.no_grad():
        p = case.at(prior)
        z = p.sample((30,))
        if case.on_space:  # where there are no draws, too
            z = torch.cat([z, 3 * torch.randn(20, d, dtype=z.dtype)])
        expected = case.density(prior, z.numpy())
        torch.testing.assert_close(p.log_prob(z), torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("case", "d"),
    [(case, d) for case in CASES.values() for d in case.dims],
    ids=[f"{name}-{d}" for name, case in CASES.items() for d in case.dims],
)
def test_density_integrates_to_one_and_draws_match_it(case: Case, d: int) -> None:
    quadrature.check(case.at(made(case, d)), case.nodes(d))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.moments],
    ids=[name for name, case in CASES.items() if case.moments],
)
@torch.no_grad()
def test_draws_have_the_moments_by_hand(case: Case) -> None:
    assert case.moments is not None
    prior = made(case, 3)
    mean, variance = case.moments(prior)
    z = case.at(prior).sample((20_000,))
    for got, expected in ((z, mean), ((z - mean).square(), variance)):
        if expected is not None:
            error = got.std(0) / len(got) ** 0.5
            assert ((got.mean(0) - expected).abs() < 4.5 * error).all()


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.on_space],
    ids=[name for name, case in CASES.items() if case.on_space],
)
def test_the_score_of_draws(case: Case) -> None:
    """E grad log p = 0, and E z_i (grad log p)_j = -1 where i = j, else 0: Stein's identity."""
    p = case.at(made(case, 2))
    z = p.sample((10_000,)).requires_grad_()
    (score,) = torch.autograd.grad(p.log_prob(z).sum(), z)
    products = z.detach()[:, :, None] * score[:, None]
    for got, expected in ((score, torch.zeros(2)), (products, -torch.eye(2))):
        error = got.std(0) / len(got) ** 0.5
        assert ((got.mean(0) - expected).abs() < 4.5 * error).all()


@every
@torch.no_grad()
def test_single_precision(case: Case) -> None:
    single = made(case, 3, torch.float32)
    z = case.at(single).sample((20,))
    log_prob = case.at(single).log_prob(z)
    if not case.on_space:  # off the support by rounding
        pyro.enable_validation(False)
    double = cast(copy.deepcopy(single), torch.float64)
    exact = case.at(double).log_prob(z.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-4, atol=1e-4)


@every
def test_a_change_of_type_rounds_the_arguments_anew(case: Case) -> None:
    """There and back, what the constructor was told is what it was."""
    prior = case.make(2)
    if any(True for _ in prior.parameters()):
        return  # whose weights are rounded
    prior = prior.half().double()
    for name, value in case.make(2).double().named_buffers():
        if value.is_floating_point() and name not in prior.state_dict():
            assert torch.equal(prior.get_buffer(name), value), name


@every
@torch.no_grad()
def test_a_copy_is_another(case: Case) -> None:
    prior = made(case, 2)
    other = copy.deepcopy(prior)
    z = case.at(prior).sample((4,))
    before = case.at(prior).log_prob(z)
    torch.testing.assert_close(case.at(other).log_prob(z), before)
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.zero_()
    torch.testing.assert_close(case.at(prior).log_prob(z), before)


@every
@torch.no_grad()
def test_weights_save_and_load(case: Case) -> None:
    saved, fresh = made(case, 2), made(case, 2)
    if isinstance(saved, priors.VampPrior):
        fresh.encoder.load_state_dict(saved.encoder.state_dict())
    fresh.load_state_dict(saved.state_dict())
    z = case.at(saved).sample((4,))
    torch.testing.assert_close(case.at(saved).log_prob(z), case.at(fresh).log_prob(z))


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [
        pytest.param(case, name, value, id=f"{key}-{name}={value}")
        for key, case in CASES.items()
        for name, values in ({"dim": COUNT} | case.refused).items()
        for value in values
    ],
)
def test_bad_arguments_get_one_line(case: Case, name: str, value: Any) -> None:
    """That names the argument or the part, and the value."""
    make = partial(case.make, value) if name == "dim" else partial(case.make, 2, **{name: value})
    with pytest.raises(ValueError) as error:
        make()
    line = str(error.value)
    assert "\n" not in line
    assert name in line or type(case.make(2)).__name__ in line
    assert str(value) in line or f"{value:g}" in line
