"""What every likelihood must do. A new one is a line of `CASES`, and inherits all of it."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import quadrature
import torch
from scipy import special, stats
from torch import Tensor

from ppl_vae import likelihoods
from ppl_vae.bodies import DCGAN, MLP, ResNet
from ppl_vae.data.columns import Column
from ppl_vae.likelihoods import Normal
from ppl_vae.training.guard import check_support

D = 3
SMALL = partial(MLP, hidden=(16,))
PAIR = (1, 2)
"""The event shape where densities are summed: two elements, an image to those that want one."""
POSITIVE = (0.0, -1.0, math.nan, math.inf)
COUNT = (0, -2, 1.5)
LEVELS = (1, 0, -2, 2.5)


@dataclass(frozen=True)
class Case:
    """A likelihood as it is made, and what is true of it.

    Attributes:
        make: the constructor, of the dimension, the event shape and options.
        nodes: points of the support of two elements, of the distribution, and their weights; None
            where there is no density.
        density: log p of each element by hand, of the likelihood, of the network's outputs, each
            of x's shape, and of x.
        bad: a value outside the support, where there is one.
        has_mean: whether the mean has a closed form.
        has_variance: whether the variance has.
        images: whether x is an image, and the network its own.
        refused: values that its arguments must not have.
        size: the event shape, where it is that of the case alone.
    """

    make: Callable[..., likelihoods.Likelihood]
    nodes: Callable[[Any], quadrature.Nodes] | None
    density: Callable[[Any, list[np.ndarray], np.ndarray], np.ndarray] | None = None
    bad: float | None = None
    has_mean: bool = True
    has_variance: bool = True
    images: bool = False
    refused: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    size: tuple[int, ...] | None = None


def positive(raw: Any, start: float, floor: float = 1e-6) -> np.ndarray:
    """The softplus above a floor that is `start` at 0, written out."""
    return floor + np.logaddexp(0, np.asarray(raw) + np.log(np.expm1(start - floor)))


def line(p: Any) -> quadrature.Nodes:
    """The plane about the location, where a Laplace density has its cusp."""
    return quadrature.moved(quadrature.space(2), p.mean.reshape(2), p.stddev.reshape(2))


def on_levels(count: int, last: float = 1.0) -> Callable[[Any], quadrature.Nodes]:
    return lambda _: quadrature.levels(count, last)(2)


def bernoulli(p: Any, raw: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    return stats.bernoulli(special.expit(raw[0])).logpmf(x)


def continuous_bernoulli(p: Any, raw: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    pi = special.expit(raw[0])
    return np.log(pi**x * (1 - pi) ** (1 - x) * 2 * np.arctanh(1 - 2 * pi) / (1 - 2 * pi))


def categorical(p: Any, raw: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    logits = special.log_softmax(np.stack(raw, -1), -1)
    index = np.round(x * (len(raw) - 1)).astype(int)[..., None]
    return np.take_along_axis(logits, index, -1)[..., 0]


def located(law: Any) -> Callable[[Any, list[np.ndarray], np.ndarray], np.ndarray]:
    def density(p: Any, raw: list[np.ndarray], x: np.ndarray) -> np.ndarray:
        scale: Any = 0.3
        if p.noise != "fixed":
            free = raw[1] if p.noise == "network" else p.raw_scale.detach()
            scale = positive(free, 0.3, 0.005)
        return law(special.expit(raw[0]), scale).logpdf(x)

    return density


def poisson(p: Any, raw: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    return stats.poisson(3 * positive(raw[0], 1.0)).logpmf(x)


def negative_binomial(p: Any, raw: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    mean = 4 * positive(raw[0], 1.0)
    free = raw[-1] if p.dispersion == "network" else p.raw_count.detach()
    count = positive(free, 2.0, 1e-4)
    return stats.nbinom(count, count / (count + mean)).logpmf(x)


def zero_inflated(p: Any, raw: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    gate = special.expit(raw[1])
    return np.log(gate * (x == 0) + (1 - gate) * np.exp(negative_binomial(p, raw, x)))


def told(make: Any, **options: Any) -> Callable[..., likelihoods.Likelihood]:
    return lambda d, size, **o: make(d, size, **(options | o))


def cnn(pixels: likelihoods.Pixels) -> Any:
    small = {"width": 4, "depth": 2, "kernel": 3, "first": 3, "head": 8}
    return told(likelihoods.PixelCNN, pixels=pixels, **small)


MIXED = (
    Column("smoker", "binary"),
    Column("age"),
    Column("stage", "class", ("I", "II")),
)


def columns(d: int, size: tuple[int, ...], **options: Any) -> likelihoods.Columns:
    small = {"features": 8} | options
    return likelihoods.Columns({"age": Normal}, **small).build(d, MIXED)


def mixed(p: Any) -> quadrature.Nodes:
    """Points of a binary number, a real one and a class of two levels."""
    x, weight = quadrature.moved(quadrature.space(1), p.mean[1:2], p.stddev[1:2])
    corners = torch.tensor([[b, *c] for b in (0, 1) for c in ((0, 1), (1, 0))]).double()
    first, rest = corners[:, :1].repeat(len(x), 1), corners[:, 1:].repeat(len(x), 1)
    return torch.cat([first, x.repeat_interleave(4, 0), rest], 1), weight.repeat_interleave(4)


IMAGES: dict[str, Any] = {"has_mean": False, "images": True, "bad": 0.4}
CASES: dict[str, Case] = {
    "Bernoulli": Case(likelihoods.Bernoulli, on_levels(2), bernoulli, 1.5),
    "ContinuousBernoulli": Case(
        likelihoods.ContinuousBernoulli,
        lambda _: quadrature.interval(2),
        continuous_bernoulli,
        -0.1,
    ),
    "Categorical": Case(
        told(likelihoods.Categorical, levels=17),
        on_levels(17),
        categorical,
        0.51,
        refused={"levels": LEVELS},
    ),
    "Columns": Case(columns, mixed, refused={"features": COUNT}, size=(4,)),
    "Deterministic": Case(likelihoods.Deterministic, None, refused={"link": ("tanh",)}),
    "Deterministic, sigmoid": Case(told(likelihoods.Deterministic, link="sigmoid"), None),
    "Poisson": Case(
        told(likelihoods.Poisson, mean=3.0),
        on_levels(61, 60.0),
        poisson,
        0.5,
        refused={"mean": POSITIVE},
    ),
    "LogisticMixture": Case(
        told(likelihoods.LogisticMixture, components=2, levels=5),
        on_levels(5),
        bad=0.4,
        has_variance=False,
        refused={"components": COUNT, "levels": LEVELS},
    ),
    "PixelCNN": Case(
        cnn(likelihoods.BinaryPixels()),
        on_levels(2),
        refused={"depth": COUNT, "kernel": (2, 1, 3.5), "first": (4, 1), "width": COUNT},
        **IMAGES,
    ),
    "PixelCNN, levels": Case(cnn(likelihoods.CategoricalPixels(4)), on_levels(4), **IMAGES),
    "PixelCNNpp": Case(
        told(likelihoods.PixelCNNpp, pixels=likelihoods.LogisticPixels(2, 4), width=4, depth=1),
        on_levels(4),
        refused={"depth": COUNT, "scales": COUNT, "width": COUNT, "dropout": (-0.1, 1.5)},
        **IMAGES,
    ),
}
for name, law in (("Normal", stats.norm), ("Laplace", stats.laplace)):
    for noise in ("fixed", "shared", "pixel", "network"):
        CASES[f"{name}, {noise}"] = Case(
            told(getattr(likelihoods, name), noise=noise, scale=0.3, link="sigmoid"),
            line,
            located(law),
            refused={"scale": POSITIVE, "noise": ("learned",), "link": ("tanh",)},
        )
for name, by_hand in (
    ("NegativeBinomial", negative_binomial),
    ("ZeroInflatedNegativeBinomial", zero_inflated),
):
    for dispersion in ("shared", "element", "network"):
        CASES[f"{name}, {dispersion}"] = Case(
            told(getattr(likelihoods, name), dispersion=dispersion, mean=4.0, count=2.0),
            on_levels(301, 300.0),
            by_hand,
            0.5,
            refused={"mean": POSITIVE, "count": POSITIVE, "dispersion": ("gene",)},
        )

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dense = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.nodes],
    ids=[name for name, case in CASES.items() if case.nodes],
)


def made(case: Case, size: tuple[int, ...] = PAIR, by: float = 0.2) -> Any:
    """A small likelihood after a random step of its parameters."""
    body = {} if case.images else {"body": SMALL}
    p = case.make(D, case.size or size, **body).double()
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return p


def test_every_public_likelihood_has_a_case() -> None:
    abstract = {
        likelihoods.AutoregressiveLikelihood,
        likelihoods.Likelihood,
        likelihoods.Pixels,
    }
    public = {kind for kind in vars(likelihoods).values() if inspect.isclass(kind)} - abstract
    parts = [case.make(D, (4, 4)) for case in CASES.values()]
    pixels = {type(p.pixels) for p in parts if isinstance(p, likelihoods.AutoregressiveLikelihood)}
    assert public == {type(p) for p in parts} | pixels


@pytest.mark.parametrize(
    ("case", "size", "body"),
    [
        pytest.param(case, size, body, id=f"{name}-{size}")
        for name, case in CASES.items()
        for size, body in (
            ((), SMALL),
            ((5,), SMALL),
            ((2, 3), SMALL),
            ((4,), SMALL),
            ((1, 8, 8), DCGAN),
            ((3, 8, 8), ResNet),
        )
        if (len(size) > 1 or not case.images) and size == (case.size or size)
        if case.size or size != (4,)
    ],
)
def test_shapes_types_supports_and_gradients(case: Case, size: tuple[int, ...], body: Any) -> None:
    p = case.make(D, size, **({} if case.images else {"body": body})).double()
    assert isinstance(p, likelihoods.Likelihood)
    assert (p.dim, p.size) == (D, size)
    for batch in ((), (1,), (2, 3)):
        z = torch.randn(*batch, D, dtype=torch.double).requires_grad_()
        d = p(z)
        assert (d.batch_shape, d.event_shape) == (batch, size)
        x = d.sample()
        assert x.shape == (*batch, *size)
        assert x.dtype == torch.double
        assert d.support.check(x).all()
        assert not d.support.check(torch.full_like(x, math.nan)).any()
        if case.has_mean and (case.has_variance or size != (3, 8, 8)):
            assert d.mean.shape == x.shape
        if case.nodes:
            log_prob = d.log_prob(x)
            assert log_prob.shape == batch
            wide = d.expand((2, *batch))
            torch.testing.assert_close(wide.log_prob(x), log_prob.expand(2, *batch))
            assert wide.sample((3,)).shape == (3, 2, *batch, *size)
    loss = d.log_prob(x).sum() if case.nodes else d.mean.sum()
    loss.backward()
    assert z.grad is not None
    assert (z.grad.abs().sum(-1) > 0).all()
    for key, parameter in p.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if case.images and size != (3, 8, 8):
            continue  # some kernels reach past a small image or its only channel
        assert parameter.grad.abs().sum() > 0, key


@dense
def test_density_sums_to_one_and_draws_match_it(case: Case) -> None:
    assert case.nodes is not None
    with torch.no_grad():
        d = made(case)(torch.randn(D, dtype=torch.double))
        quadrature.check(d, case.nodes(d))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.density],
    ids=[name for name, case in CASES.items() if case.density],
)
@torch.no_grad()
def test_the_density_is_the_one_of_the_networks_output(case: Case) -> None:
    assert case.density is not None
    p = made(case, (4,))
    z = torch.randn(50, D, dtype=torch.double)
    x = p(z).sample()
    raw = [feature.numpy() for feature in p.features(z)]
    expected = case.density(p, raw, x.numpy()).sum(-1)
    np.testing.assert_allclose(p(z).log_prob(x).numpy(), expected, rtol=1e-8)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.has_mean],
    ids=[name for name, case in CASES.items() if case.has_mean],
)
@torch.no_grad()
def test_draws_have_the_mean_and_variance_said(case: Case) -> None:
    d = made(case, (4,))(torch.randn(D, dtype=torch.double))
    x = d.sample((20_000,))
    moments = [(x, d.mean)]
    if case.has_variance:
        moments.append(((x - d.mean).square(), d.variance))
    for got, expected in moments:
        error = got.std(0) / 20_000**0.5
        assert ((got.mean(0) - expected).abs() < 4.5 * error + 1e-12).all()


@dense
@torch.no_grad()
def test_a_row_depends_on_its_own_code_alone(case: Case) -> None:
    """Its law is that of a batch of one row, and of no batch."""
    p = made(case).eval()
    z = torch.randn(5, D, dtype=torch.double)
    x = p(z).sample()
    expected = p(z).log_prob(x)[2]
    torch.testing.assert_close(p(z[2:3]).log_prob(x[2:3])[0], expected)
    torch.testing.assert_close(p(z[2]).log_prob(x[2]), expected)
    other = torch.cat([5 + z[:2], z[2:]])
    torch.testing.assert_close(p(other).log_prob(x[2].expand_as(x))[2], expected)


@dense
@torch.no_grad()
def test_single_precision(case: Case) -> None:
    single = made(case).float()
    z = torch.randn(5, D)
    x = single(z).sample()
    assert x.dtype == torch.float32
    log_prob = single(z).log_prob(x)
    assert log_prob.dtype == torch.float32
    exact = copy.deepcopy(single).double()(z.double()).log_prob(x.double())
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-4, atol=1e-4)


@every
@torch.no_grad()
def test_weights_save_and_load_and_a_copy_is_another(case: Case) -> None:
    saved, fresh = made(case), made(case)
    fresh.load_state_dict(saved.state_dict())
    other = copy.deepcopy(saved)
    z = torch.randn(5, D, dtype=torch.double)

    def draw(p: likelihoods.Likelihood) -> Tensor:
        pyro.set_rng_seed(4)
        return p(z).sample()

    expected = draw(saved)
    for p in (fresh, other):
        torch.testing.assert_close(draw(p), expected)
    for parameter in other.parameters():
        parameter.zero_()
    torch.testing.assert_close(draw(saved), expected)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.bad is not None],
    ids=[name for name, case in CASES.items() if case.bad is not None],
)
def test_data_outside_the_support_get_one_line(case: Case) -> None:
    """That names the site, the distribution, the place and the value; before training or in it."""
    p = made(case)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D).double(), 1.0).to_event(1))
            pyro.sample("x", p(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(D).double(), 1.0).to_event(1))

    x = torch.zeros(3, *PAIR).double()
    check_support(model, guide, (x,), x)
    x[1, 0, 1] = case.bad
    assert p(torch.zeros(3, D).double()).support.check(x).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=rf"'x' is .*: \[1, 0, 1\] is {case.bad}") as error:
        check_support(model, guide, (x,), x)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="support"):
        p(torch.zeros(3, D).double()).log_prob(x)


@every
def test_codes_of_another_width_get_one_line(case: Case) -> None:
    with pytest.raises(ValueError, match=r"3\).*\(5, 4\)") as error:
        made(case)(torch.zeros(5, 4, dtype=torch.double))
    assert "\n" not in str(error.value)


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
    arguments = {"d": D} | {"d" if name == "dim" else name: value}
    make = partial(case.make, arguments.pop("d"), (4, 4), **arguments)
    with pytest.raises(ValueError) as error:
        make()
    line = str(error.value)
    assert "\n" not in line
    assert name in line or type(case.make(D, (4, 4))).__name__ in line
    assert str(value) in line or f"{value:g}" in line
