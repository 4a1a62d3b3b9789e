"""Encoders: densities, draws, starts, supports, gradients."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from ppl_vae import guides, priors
from ppl_vae.bodies import DCGAN, MLP, ResNet

SIZE = (1, 8, 8)
NARROW = math.exp(-2)
SMALL = partial(MLP, hidden=(16,))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _flow(size, dim, **options):
    pytest.importorskip("zuko")
    return guides.Flow(size, dim, **({"hidden": (16,), "transforms": 2} | options))


DENSE = {
    "MeanFieldNormal": guides.MeanFieldNormal,
    "FullCovarianceNormal": guides.FullCovarianceNormal,
    "LowRankNormal": partial(guides.LowRankNormal, rank=3),
    "Flow": _flow,
    "Flow spline": partial(_flow, flow="spline"),
}
ALL = DENSE | {
    "Deterministic": guides.Deterministic,
    "Implicit": guides.Implicit,
    "UniformBox": guides.UniformBox,
    "RelaxedCategorical": guides.RelaxedCategorical,
    "VonMisesFisher": guides.VonMisesFisher,
}


def _shaken(module, by=0.3):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_supports(name, dtype):
    encoder = ALL[name](SIZE, 3, body=SMALL).to(dtype)
    assert isinstance(encoder, guides.Encoder)
    assert (encoder.size, encoder.dim) == (SIZE, 3)
    for batch in ((), (6,), (2, 6)):
        x = torch.rand(*batch, *SIZE, dtype=dtype)
        q = encoder(x)
        assert (q.batch_shape, q.event_shape) == (batch, (3,))
        assert q.has_rsample
        z = q.rsample()
        assert z.shape == (*batch, 3)
        assert z.dtype == dtype
        assert q.support.check(z).all()
        assert q.expand((4, *batch)).rsample().shape == (4, *batch, 3)
        if name != "Implicit":
            assert q.log_prob(z).shape == batch
            assert q.log_prob(z).dtype == dtype


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("body", [SMALL, DCGAN, ResNet])
def test_gradients_reach_all_parameters_through_draws(name, body):
    encoder = ALL[name](SIZE, 3, body=body)
    z = encoder(torch.rand(8, *SIZE)).rsample((4,))
    (z.square() * torch.tensor([1.0, 2.0, -1.5])).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("Implicit", "Deterministic")])
def test_gradients_reach_all_parameters_through_the_density(name):
    encoder = ALL[name](SIZE, 3, body=SMALL)
    q = encoder(torch.rand(8, *SIZE))
    # of fixed points; a uniform's place has none there, but its draws have
    q.log_prob(q.sample()).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("dim", [1, 2])
@torch.no_grad()
def test_density_integrates_to_one_and_draws_match_it(name, dim):
    encoder = _shaken(ALL[name](SIZE, dim, body=SMALL).double(), by=0.1)
    q = encoder(torch.rand(*SIZE, dtype=torch.double))
    draws = q.sample((20_000,))
    centre, spread = draws.mean(0), draws.std(0)
    axis = torch.linspace(-9, 9, 241, dtype=torch.double)
    grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim) * spread + centre
    mass = q.log_prob(grid).exp() * spread.prod() * (axis[1] - axis[0]) ** dim
    assert abs(mass.sum() - 1) < 2e-3
    for h in (lambda z: z, lambda z: z.square(), lambda z: z.prod(-1, keepdim=True).sin()):
        got = h((draws - centre) / spread)
        expected = (h((grid - centre) / spread) * (mass / mass.sum())[:, None]).sum(0)
        error = got.std(0) / 20_000**0.5
        assert ((got.mean(0) - expected).abs() < 4.5 * error + 1e-4).all()


@pytest.mark.parametrize("name", [*DENSE, "VonMisesFisher"])
def test_encoders_start_narrow_or_where_told(name):
    x = torch.rand(50, *SIZE)
    for scale in (NARROW, 0.5):
        options = {} if scale == NARROW else {"initial_scale": scale}
        q = ALL[name](SIZE, 3, **options)(x)
        got = q.rsample((200,)).std(0).mean()
        # on the sphere, only two of three directions have the scale
        assert 0.6 * scale < got < 1.4 * scale


def test_full_covariance_is_a_scaled_unit_triangular_factor():
    q = _shaken(guides.FullCovarianceNormal(SIZE, 4, body=SMALL).double())
    x = torch.rand(5, *SIZE, dtype=torch.double)
    p = q(x)
    factor = p.scale_tril
    assert (factor.triu(1) == 0).all()
    unit = factor / factor.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    torch.testing.assert_close(unit.diagonal(dim1=-2, dim2=-1), torch.ones(5, 4).double())
    below = q.features(x)[:, 8:]
    torch.testing.assert_close(unit[:, q.rows, q.columns], below)
    assert (unit.tril(-1).abs().amax(0)[q.rows, q.columns] > 0).all()


def test_low_rank_covariance():
    q = _shaken(guides.LowRankNormal(SIZE, 4, rank=2, body=SMALL).double())
    x = torch.rand(5, *SIZE, dtype=torch.double)
    p = q(x)
    scale = p.cov_diag.sqrt()
    excess = p.covariance_matrix / (scale[:, :, None] * scale[:, None]) - torch.eye(4)
    assert (torch.linalg.matrix_rank(excess, atol=1e-9) == 2).all()
    w = q.features(x)[:, 8:].reshape(5, 4, 2) / 2**0.5
    torch.testing.assert_close(excess, w @ w.mT)


@pytest.mark.parametrize("by", [0.3, 30.0])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 0.1), (-100.0, 7.0)])
def test_boxes_stay_inside_the_prior_and_their_kl_is_the_sum_of_log_widths(by, low, high):
    encoder = _shaken(guides.UniformBox(SIZE, 3, low=low, high=high, body=SMALL), by)
    prior = priors.Uniform(3, low=low, high=high)()
    q = encoder(torch.rand(500, *SIZE))
    z = q.rsample((20,))
    assert prior.support.check(z).all()
    width = q.base_dist.high - q.base_dist.low
    kl = ((high - low) / width).log().sum(-1)
    torch.testing.assert_close(kl_divergence(q, prior), kl)
    sampled = q.log_prob(z) - prior.log_prob(z)
    torch.testing.assert_close(sampled, kl.expand_as(sampled), rtol=1e-4, atol=1e-3)


def test_boxes_start_at_the_width_told():
    for share in (0.1, 0.5):
        q = guides.UniformBox(SIZE, 3, initial_width=share)(torch.rand(50, *SIZE))
        width = (q.base_dist.high - q.base_dist.low) / 2
        assert abs(width.mean() / share - 1) < 0.2


def test_the_deterministic_encoder_has_no_noise():
    encoder = guides.Deterministic(SIZE, 3, body=SMALL)
    x = torch.rand(5, *SIZE)
    q = encoder(x)
    assert isinstance(q, dist.Delta)
    assert torch.equal(q.rsample(), q.rsample())
    torch.testing.assert_close(q.mean, encoder.features(x))


def test_the_implicit_encoder_refuses_a_density_and_says_what_to_use():
    q = guides.Implicit(SIZE, 3, body=SMALL)(torch.rand(5, *SIZE))
    assert (q.rsample((50,)).std(0) > 0).all()
    with pytest.raises(NotImplementedError, match=r"MMD\(\), alpha=1"):
        q.log_prob(q.rsample())


def test_flow_encoders_compute_the_density_with_the_draw():
    q = _flow(SIZE, 4, body=SMALL).double()(torch.rand(5, *SIZE, dtype=torch.double))
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), q.dist.log_prob(z))


def test_the_relaxed_encoder_tends_to_the_categorical():
    encoder = guides.RelaxedCategorical(SIZE, 4, temperature=0.02, body=SMALL)
    x = torch.rand(*SIZE)
    z = encoder(x).rsample((20_000,))
    probs = encoder.features(x).softmax(-1)
    share = torch.nn.functional.one_hot(z.argmax(-1), 4).float().mean(0)
    assert ((share - probs).abs() < 4.5 * (probs * (1 - probs) / 20_000).sqrt()).all()
    assert z.amax(-1).mean() > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guides.MeanFieldNormal(SIZE, 0), "at least 1"),
        (
            lambda: guides.MeanFieldNormal(SIZE, 2, initial_scale=0.0)(torch.rand(1, *SIZE)),
            "floor",
        ),
        (lambda: guides.LowRankNormal(SIZE, 2, rank=0), "rank"),
        (lambda: guides.UniformBox(SIZE, 2, low=1.0, high=0.0), "below high"),
        (lambda: guides.UniformBox(SIZE, 2, initial_width=1.0), "share"),
        (lambda: guides.RelaxedCategorical(SIZE, 1), "2 classes"),
        (lambda: guides.VonMisesFisher(SIZE, 1), "2 dimensions"),
        (lambda: guides.MeanFieldNormal((1, 9, 8), 2, body=DCGAN), "divisible"),
        (lambda: guides.MeanFieldNormal(SIZE, 2)(torch.rand(3, 64)), "1, 8, 8"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
