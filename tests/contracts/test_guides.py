"""What every encoder must do. A new one is a line of `CASES`, and inherits all of it."""

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
import pyro.distributions as dist
import pytest
import quadrature
import torch
from scipy import special, stats
from shaken import shaken
from torch import Tensor, nn

from ppl_vae import guides
from ppl_vae.bodies import DCGAN, MLP, ResNet

SIZE = (1, 8, 8)
SMALL = partial(MLP, hidden=(16,))
POSITIVE = (0.0, -1.0, math.nan, math.inf)
COUNT = (0, -2, 1.5)


@dataclass(frozen=True)
class Case:
    """An encoder as it is made, and what is true of it.

    Attributes:
        make: the constructor, of the event shape, the dimension and options.
        outputs: how many numbers the network returns, of the dimension.
        density: log q(z|x) by hand, of the encoder, of the network's numbers for one x and of z
            `(m, d)`; None where there is no density.
        nodes: points of the support of one row's distribution in 2 dimensions, and their weights;
            by default of space about the draws.
        dims: the dimensions in which it is integrated.
        is_continuous: whether draws pass a gradient.
        refused: values that its arguments must not have.
    """

    make: Callable[..., guides.Encoder]
    outputs: Callable[[int], int]
    density: Callable[[Any, np.ndarray, np.ndarray], np.ndarray] | None
    nodes: Callable[[Any, int], quadrature.Nodes] | None = None
    dims: tuple[int, ...] = (1, 2)
    is_continuous: bool = True
    refused: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def positive(raw: np.ndarray, start: float, floor: float = 1e-6) -> np.ndarray:
    """The softplus above a floor that is `start` at 0, written out."""
    return floor + np.logaddexp(0, raw + np.log(np.expm1(start - floor)))


def mean_field(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    d = q.dim
    return stats.norm(raw[:d], positive(raw[d:], 0.4)).logpdf(z).sum(-1)


def full_covariance(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    d = q.dim
    unit = np.eye(d)
    unit[np.tril_indices(d, -1)] = raw[2 * d :]
    factor = np.diag(positive(raw[d : 2 * d], 0.4)) @ unit
    return np.atleast_1d(stats.multivariate_normal(raw[:d], factor @ factor.T).logpdf(z))


def low_rank(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    d = q.dim
    s, w = np.diag(positive(raw[d : 2 * d], 0.4)), raw[2 * d :].reshape(d, 3) / math.sqrt(3)
    covariance = s @ (np.eye(d) + w @ w.T) @ s
    return np.atleast_1d(stats.multivariate_normal(raw[:d], covariance).logpdf(z))


def on_sphere(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    d, s = q.dim, positive(raw[q.dim], 0.4, floor=0.01)
    return stats.vonmises_fisher(raw[:d] / np.linalg.norm(raw[:d]), s**-2).logpdf(z)


def in_box(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Inside [-3, 0.5], 0.3 of it wide at the start."""
    d = q.dim
    share = 1e-4 + (1 - 1e-4) * special.expit(raw[d:] + special.logit((0.3 - 1e-4) / (1 - 1e-4)))
    left = -3 + 3.5 * (1 - share) * special.expit(raw[:d])
    return stats.uniform(left, 3.5 * share).logpdf(z).sum(-1)


def concrete(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    log_z, d = np.log(z), q.dim
    constant = special.gammaln(d) + (d - 1) * np.log(0.8) + (raw - 1.8 * log_z).sum(-1)
    return constant - d * special.logsumexp(raw - 0.8 * log_z, -1)


def one_hot(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (z * special.log_softmax(raw)).sum(-1)


def bent(q: Any, raw: np.ndarray, z: np.ndarray) -> np.ndarray:
    d = q.dim
    scale = positive(raw[d : 2 * d], 0.4)
    bend = q.flow.transform(torch.from_numpy(raw[2 * d :]).expand(len(z), -1))
    with torch.no_grad():
        noise, log_det = bend.inv.call_and_ladj(torch.from_numpy((z - raw[:d]) / scale))
    return stats.norm(0, 1).logpdf(noise).sum(-1) + log_det.numpy() - np.log(scale).sum()


def box(q: Any, d: int) -> quadrature.Nodes:
    low, high = q.base_dist.low, q.base_dist.high
    return quadrature.moved(quadrature.interval(d), low, high - low)


def told(make: Any, **options: Any) -> Callable[..., guides.Encoder]:
    return lambda size, d, **o: make(size, d, **(options | o))


SCALE: dict[str, tuple[Any, ...]] = {"initial_scale": POSITIVE}
SHARE = (0.0, -0.1, 1.1, math.nan)
STANDARDISED = SCALE | {"standardise": SHARE, "sd": (*SHARE, "free"), "rate": POSITIVE}
NARROW = {"initial_scale": 0.4}
CASES: dict[str, Case] = {
    "MeanFieldNormal": Case(
        told(guides.MeanFieldNormal, **NARROW), lambda d: 2 * d, mean_field, refused=STANDARDISED
    ),
    "FullCovarianceNormal": Case(
        told(guides.FullCovarianceNormal, **NARROW),
        lambda d: d * (d + 3) // 2,
        full_covariance,
        refused=STANDARDISED,
    ),
    "LowRankNormal": Case(
        told(guides.LowRankNormal, rank=3, **NARROW),
        lambda d: 5 * d,
        low_rank,
        refused=SCALE | {"rank": COUNT},
    ),
    "UniformBox": Case(
        told(guides.UniformBox, low=-3.0, high=0.5, initial_width=0.3),
        lambda d: 2 * d,
        in_box,
        box,
        refused={
            "low": (0.5, math.nan, -math.inf),
            "high": (-3.0, math.nan, math.inf),
            "initial_width": (0.0, 1.0, math.nan),
        },
    ),
    "VonMisesFisher": Case(
        told(guides.VonMisesFisher, **NARROW),
        lambda d: d + 1,
        on_sphere,
        lambda q, d: quadrature.sphere(d),
        (2,),
        refused=SCALE | {"dim": (*COUNT, 1)},
    ),
    "RelaxedCategorical": Case(
        told(guides.RelaxedCategorical, temperature=0.8),
        lambda d: d,
        concrete,
        lambda q, d: quadrature.simplex(d),
        (2,),
        refused={"temperature": POSITIVE, "dim": (*COUNT, 1)},
    ),
    "OneHotCategorical": Case(
        guides.OneHotCategorical,
        lambda d: d,
        one_hot,
        lambda q, d: quadrature.corners(d),
        (2,),
        is_continuous=False,
        refused={"dim": (*COUNT, 1)},
    ),
    "Deterministic": Case(guides.Deterministic, lambda d: d, None),
    "Implicit": Case(
        told(guides.Implicit, features=8),
        lambda d: 8,
        None,
        refused={"features": COUNT, "noise": COUNT},
    ),
}
if find_spec("zuko"):
    small = {"hidden": (16,), "transforms": 2, "context": 5} | NARROW
    CASES["Flow"] = Case(
        told(guides.Flow, **small),
        lambda d: 2 * d + 5,
        bent,
        refused=SCALE | {"flow": ("radial",), "transforms": COUNT, "context": (-1, 1.5)},
    )
    CASES["Flow, spline"] = Case(
        told(guides.Flow, flow="spline", **small), lambda d: 2 * d + 5, bent
    )

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dense = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.density],
    ids=[name for name, case in CASES.items() if case.density],
)


def read_off(inputs: Any, outputs: Any) -> nn.Module:
    """A body without weights, for encoders of exactly as many inputs as the network returns."""
    assert inputs == outputs
    return nn.Identity()


def normalising(inputs: torch.Size, outputs: torch.Size) -> nn.Module:
    """A body whose rows know each other in training."""
    width = inputs.numel()
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, *outputs)
    )


def test_every_public_encoder_has_a_case() -> None:
    public = {
        kind
        for kind in vars(guides).values()
        if inspect.isclass(kind)
        and issubclass(kind, guides.Encoder)
        and kind is not guides.Encoder
    }
    if not find_spec("zuko"):
        public -= {guides.Flow}
    assert public == {type(case.make(SIZE, 2)) for case in CASES.values()}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_supports(case: Case, dtype: torch.dtype) -> None:
    encoder = case.make(SIZE, 3, body=SMALL).to(dtype)
    assert isinstance(encoder, guides.Encoder)
    assert (encoder.size, encoder.dim) == (SIZE, 3)
    for batch in ((), (1,), (6,), (2, 6)):
        q = encoder(torch.rand(*batch, *SIZE, dtype=dtype))
        assert (q.batch_shape, q.event_shape) == (batch, (3,))
        assert q.has_rsample == case.is_continuous
        z = q.sample()
        assert z.shape == (*batch, 3)
        assert z.dtype == dtype
        assert q.support.check(z).all()
        assert q.expand((4, *batch)).sample().shape == (4, *batch, 3)
        if case.density:
            assert q.log_prob(z).shape == batch
            assert q.log_prob(z).dtype == dtype


@every
@pytest.mark.parametrize("body", [SMALL, DCGAN, ResNet])
def test_gradients_reach_all_parameters(case: Case, body: Any) -> None:
    """Through draws, where these pass any, and through the density of points that stay.

    A uniform's place has no gradient there, but its draws have.
    """
    encoder = case.make(SIZE, 3, body=body)
    q = encoder(torch.rand(8, *SIZE))
    losses = []
    if case.is_continuous:
        losses.append((q.rsample((4,)).square() * torch.tensor([1.0, 2.0, -1.5])).sum())
    if case.density and (body is SMALL or not losses):
        losses.append(q.log_prob(q.sample()).sum())
    for loss in losses:
        slopes = torch.autograd.grad(loss, list(encoder.parameters()), retain_graph=True)
        for (key, _), slope in zip(encoder.named_parameters(), slopes, strict=True):
            assert slope.isfinite().all(), key
            assert slope.abs().sum() > 0, key


@pytest.mark.usefixtures("double")
@dense
@pytest.mark.parametrize("d", [3, 4])
@torch.no_grad()
def test_the_density_is_the_one_of_the_networks_output(case: Case, d: int) -> None:
    assert case.density is not None
    encoder = case.make((case.outputs(d),), d, body=read_off)
    raw = torch.randn(6, case.outputs(d))
    q = encoder(raw)
    z = q.sample((10,))
    expected = [case.density(encoder, raw[i].numpy(), z[:, i].numpy()) for i in range(6)]
    torch.testing.assert_close(q.log_prob(z), torch.from_numpy(np.stack(expected, -1)))
    if not list(encoder.parameters()):  # what is not learned is not saved
        assert not encoder.state_dict()


@pytest.mark.parametrize(
    ("case", "d"),
    [(case, d) for case in CASES.values() if case.density for d in case.dims],
    ids=[f"{name}-{d}" for name, case in CASES.items() if case.density for d in case.dims],
)
@torch.no_grad()
def test_density_integrates_to_one_and_draws_match_it(case: Case, d: int) -> None:
    encoder = shaken(case.make(SIZE, d, body=SMALL).double(), by=0.1)
    q = encoder(torch.rand(*SIZE, dtype=torch.double))
    if case.nodes:
        nodes = case.nodes(q, d)
    else:
        z = q.sample((1000,))
        nodes = quadrature.moved(
            quadrature.space(d, 0 if d == 1 else 301), z.median(0).values, z.std(0)
        )
    quadrature.check(q, nodes)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if not case.density],
    ids=[name for name, case in CASES.items() if not case.density],
)
def test_what_has_no_density_says_so(case: Case) -> None:
    q = case.make(SIZE, 3, body=SMALL)(torch.rand(5, *SIZE))
    if isinstance(q, dist.Delta):  # a point mass, which objectives look for
        assert torch.equal(q.sample(), q.mean)
        return
    with pytest.raises(NotImplementedError, match="alpha=1") as error:
        q.log_prob(q.sample())
    assert "\n" not in str(error.value)


@every
def test_a_row_depends_on_itself_alone(case: Case) -> None:
    """In evaluation: its law is that of a batch of one row, whatever stands around."""
    encoder = shaken(case.make(SIZE, 3, body=normalising)).eval()
    x = torch.rand(6, *SIZE).requires_grad_()
    if case.is_continuous:
        (slope,) = torch.autograd.grad(encoder(x).rsample()[2].sum(), x)
        assert slope.flatten(1).any(1).tolist() == [False, False, True, False, False, False]
    if case.density:
        pyro.enable_validation(False)  # a draw of one row is no point of another's box
        z = encoder(x[2:3]).sample()
        expected = encoder(x[2:3]).log_prob(z)[0]
        for rows in (x, torch.cat([5 + torch.randn(2, *SIZE), x[2:3]])):
            q = encoder(rows)
            torch.testing.assert_close(q.log_prob(z.expand(len(rows), 3))[2], expected)


@dense
@torch.no_grad()
def test_single_precision(case: Case) -> None:
    single = shaken(case.make(SIZE, 3, body=SMALL))
    x = torch.rand(5, *SIZE)
    z = single(x).sample()
    log_prob = single(x).log_prob(z)
    pyro.enable_validation(False)  # a point of the support may be off by rounding
    exact = copy.deepcopy(single).double()(x.double()).log_prob(z.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-4, atol=1e-3)


@every
def test_a_change_of_type_keeps_the_arguments(case: Case) -> None:
    """There and back, the law of the same network's numbers is what it was."""
    d = 3
    raw = torch.randn(4, case.outputs(d), dtype=torch.double)
    encoder = case.make((case.outputs(d),), d, body=read_off).double()
    if list(encoder.parameters()) or not case.density:
        return  # whose weights are rounded
    z = encoder(raw).sample()
    before = encoder(raw).log_prob(z)
    torch.testing.assert_close(encoder.half().double()(raw).log_prob(z), before)


@every
@torch.no_grad()
def test_weights_save_and_load_and_a_copy_is_another(case: Case) -> None:
    saved, fresh = (shaken(case.make(SIZE, 3, body=SMALL)) for _ in range(2))
    fresh.load_state_dict(saved.state_dict())
    other = copy.deepcopy(saved)
    x = torch.rand(5, *SIZE)

    def draw(encoder: guides.Encoder) -> Tensor:
        pyro.set_rng_seed(4)
        return encoder(x).sample()

    expected = draw(saved)
    for encoder in (fresh, other):
        torch.testing.assert_close(draw(encoder), expected)
    for parameter in other.parameters():
        parameter.zero_()
    torch.testing.assert_close(draw(saved), expected)


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
    arguments = {"size": SIZE, "d": 2} | {"d" if name == "dim" else name: value}
    make = partial(case.make, arguments.pop("size"), arguments.pop("d"), **arguments)
    with pytest.raises(ValueError) as error:
        make()
    line = str(error.value)
    assert "\n" not in line
    assert name in line or type(case.make(SIZE, 2)).__name__ in line
    assert str(value) in line or f"{value:g}" in line


@every
def test_rows_of_another_shape_get_one_line(case: Case) -> None:
    encoder = case.make(SIZE, 3, body=SMALL)
    with pytest.raises(ValueError, match=r"1, 8, 8.*\(3, 64\)") as error:
        encoder(torch.rand(3, 64))
    assert "\n" not in str(error.value)
