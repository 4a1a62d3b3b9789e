"""What one encoder does and others do not: starts, factors, boxes, passes through flows."""

import math
from functools import partial
from itertools import combinations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from shaken import shaken
from torch import nn
from torch.distributions import kl_divergence

from ppl_vae import guides, priors
from ppl_vae.bodies import DCGAN, MLP

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


def _silenced(encoder):
    """The encoder with a network, and a flow, whose weights are all zero."""
    for parameter in encoder.parameters():
        nn.init.zeros_(parameter)
    return encoder


def _read_off(inputs, outputs):
    """A body without weights, for encoders of exactly as many inputs as the network returns."""
    assert inputs == outputs
    return nn.Identity()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("scale", [None, 0.4], ids=["default", "told"])
@pytest.mark.parametrize("name", [*DENSE, "Ladder", "VonMisesFisher"])
def test_encoders_start_narrow_or_where_told(name, scale):
    options = {} if scale is None else {"initial_scale": scale}
    scale = NARROW if scale is None else scale
    if name == "VonMisesFisher":
        # a direction cannot be zero
        q = guides.VonMisesFisher((4,), 3, body=_read_off, **options)(torch.eye(4)[0])
        torch.testing.assert_close(q.concentration, torch.tensor(scale**-2))
        return
    x = torch.rand(5, *SIZE)
    if name == "Ladder":
        laws = _silenced(guides.Ladder(SIZE, (3, 3), features=8, **options))(x)
    else:
        laws = [_silenced(DENSE[name](SIZE, 3, **options))(x)]
    z = 2 * scale * torch.randn(5, 3)
    expected = torch.from_numpy(stats.norm(0, scale).logpdf(z).sum(-1))
    for q in laws:
        torch.testing.assert_close(q.log_prob(z).detach(), expected)


def _positive(raw, start, floor=1e-6):
    """The softplus above a floor that is `start` at 0, written out."""
    return floor + np.logaddexp(0, raw + np.log(np.expm1(start - floor)))


def _box(raw):
    """The left ends and the widths inside [-3, 0.5], 0.3 as wide at the start."""
    share = 1e-4 + (1 - 1e-4) * special.expit(
        raw[..., 3:] + special.logit((0.3 - 1e-4) / (1 - 1e-4))
    )
    return -3 + 3.5 * (1 - share) * special.expit(raw[..., :3]), 3.5 * share


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("flow", ["affine", "spline"])
def test_only_a_spline_leaves_noise_outside_its_box_as_it_is(flow):
    encoder = _flow((11,), 3, body=_read_off, flow=flow, context=5)
    bend = encoder.flow.transform(torch.randn(6, 5))
    outside = torch.tensor([5.5, -7.0, 6.0]).expand(6, 3)
    assert torch.equal(bend(outside), outside) == (flow == "spline")


def test_a_flow_encoder_has_the_transforms_and_widths_told():
    encoder = _flow(SIZE, 3, transforms=4, hidden=(16, 8), context=5)
    layers = [m for m in encoder.flow.modules() if isinstance(m, nn.Linear)]
    # a shift and a scale for each dimension
    assert [m.out_features for m in layers] == [16, 8, 2 * 3] * 4
    assert [m.in_features for m in layers] == [3 + 5, 16, 8] * 4


def test_drawing_from_a_flow_encoder_takes_one_pass_and_scoring_one_for_each_dimension():
    encoder = _flow(SIZE, 3, body=SMALL)
    passes = []
    for transform in encoder.flow.transform.transforms:
        transform.hyper.register_forward_hook(lambda *_: passes.append(1))
    q = encoder(torch.rand(5, *SIZE))
    z = q.rsample()
    q.log_prob(z)
    assert len(passes) == 2
    passes.clear()
    q.log_prob(z + 1)
    # and one more, for the derivative
    assert len(passes) == (3 + 1) * 2


@pytest.mark.usefixtures("double")
def test_each_layer_of_a_ladder_reads_the_one_before():
    ladder = guides.Ladder((6,), (3, 2), body=SMALL, features=5, hidden=(7,), initial_scale=0.4)
    widths = [m.out_features for m in ladder.bodies[1].modules() if isinstance(m, nn.Linear)]
    assert widths == [7, 5]
    h = torch.randn(4, 6)
    for body, head, q in zip(ladder.bodies, ladder.heads, ladder(h), strict=True):
        h = body(h).relu()
        loc, raw = (h @ head.weight.T + head.bias).detach().chunk(2, -1)
        z = q.sample()
        law = stats.norm(loc, _positive(raw.numpy(), 0.4))
        expected = torch.from_numpy(law.logpdf(z).sum(-1))
        torch.testing.assert_close(q.log_prob(z).detach(), expected)


def test_full_covariance_is_a_scaled_unit_triangular_factor():
    q = shaken(guides.FullCovarianceNormal(SIZE, 4, body=SMALL).double())
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
    q = shaken(guides.LowRankNormal(SIZE, 4, rank=2, body=SMALL).double())
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
    encoder = shaken(guides.UniformBox(SIZE, 3, low=low, high=high, body=SMALL), by)
    prior = priors.Uniform(3, low=low, high=high)()
    q = encoder(torch.rand(500, *SIZE))
    z = q.rsample((20,))
    assert prior.support.check(z).all()
    width = q.base_dist.high - q.base_dist.low
    kl = ((high - low) / width).log().sum(-1)
    torch.testing.assert_close(kl_divergence(q, prior), kl)
    sampled = q.log_prob(z) - prior.log_prob(z)
    torch.testing.assert_close(sampled, kl.expand_as(sampled), rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("double")
def test_boxes_have_the_ends_the_network_says_and_start_in_the_middle_at_the_width_told():
    encoder = guides.UniformBox((6,), 3, _read_off, low=-3.0, high=0.5, initial_width=0.3)
    raw = torch.randn(6, 6)
    left, width = (torch.from_numpy(v) for v in _box(raw.numpy()))
    q = encoder(raw).base_dist
    torch.testing.assert_close(q.low, left)
    torch.testing.assert_close(q.high, left + width)
    start = encoder(torch.zeros(6)).base_dist
    torch.testing.assert_close(start.high - start.low, torch.full((3,), 0.3 * 3.5))
    torch.testing.assert_close(start.high + start.low, torch.full((3,), 0.5 - 3.0))


def test_the_deterministic_encoder_has_no_noise():
    encoder = guides.Deterministic(SIZE, 3, body=SMALL)
    x = torch.rand(5, *SIZE)
    q = encoder(x)
    assert isinstance(q, dist.Delta)
    assert torch.equal(q.rsample(), q.rsample())
    torch.testing.assert_close(q.mean, encoder.features(x))


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_the_implicit_encoder_draws_from_the_generator_at_normal_noise():
    rows, dim, noise, n = 3, 4, 2, 4000
    encoder = guides.Implicit(SIZE, dim, body=SMALL, features=7, noise=noise, hidden=())
    x = torch.rand(rows, *SIZE)
    z = encoder(x).rsample((n,))
    # without hidden layers g is affine, and its noise can be told from its values
    (affine,) = (m for m in encoder.generator.modules() if isinstance(m, nn.Linear))
    assert affine.weight.shape == (dim, 7 + noise)
    of_x, of_noise = affine.weight.split([7, noise], -1)
    rest = z - encoder.features(x) @ of_x.T - affine.bias
    epsilon = rest @ torch.linalg.pinv(of_noise).T
    torch.testing.assert_close(epsilon @ of_noise.T, rest)
    assert stats.kstest(epsilon.flatten(), stats.norm(0, 1).cdf).pvalue > 7e-6
    # each row has noise of its own, and so has each of its dimensions
    correlation = torch.corrcoef(epsilon.flatten(1).T) - torch.eye(rows * noise)
    assert (correlation.abs() < 4.5 / n**0.5).all()


def test_the_implicit_encoder_has_the_widths_told():
    encoder = guides.Implicit(SIZE, 3, body=SMALL, features=7, noise=2, hidden=(6, 5))
    widths = [m.out_features for m in encoder.generator.modules() if isinstance(m, nn.Linear)]
    assert widths == [6, 5, 3]


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
    # of two classes the lesser has sigmoid(-|g| / t) at most, for a logistic g, whose density
    # is at most 1/4: a mean of t log(2) / 2 at most for each of the 6 pairs
    rest = 1 - z.amax(-1)
    assert rest.mean() < 6 * 0.02 * math.log(2) / 2 + 4.5 * rest.std() / 20_000**0.5


@pytest.mark.usefixtures("double")
def test_log_odds_of_the_relaxed_encoders_draws_are_logistic():
    logits, temperature = torch.tensor([0.5, -1.0, 2.0]), 0.8
    encoder = guides.RelaxedCategorical((3,), 3, body=_read_off, temperature=temperature)
    z = encoder(logits).rsample((5000,))
    for i, j in combinations(range(3), 2):
        odds = temperature * (z[:, i] / z[:, j]).log()
        law = stats.logistic((logits[i] - logits[j]).item())
        assert stats.kstest(odds, law.cdf).pvalue > 7e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guides.Ladder(SIZE, (3, 2), initial_scale=0.0), "above 0"),
        (
            lambda: guides.MeanFieldNormal(SIZE, 2, initial_scale=1e-7)(torch.rand(1, *SIZE)),
            "floor",
        ),
        (lambda: guides.MeanFieldNormal((1, 9, 8), 2, body=DCGAN), "divisible"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
