"""Priors: densities integrate to one, draws match them, parameters get gradients."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import distributions, priors
from ppl_vae.bodies import MLP
from ppl_vae.guides import Flow, FullCovarianceNormal, MeanFieldNormal

SIZE = (1, 4, 4)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _small(inputs, outputs):
    return MLP(inputs, outputs, hidden=(16,))


def _vamp(dim, encoder=MeanFieldNormal, **options):
    # a wide encoder, so that quadrature on a grid resolves its components
    return priors.VampPrior(
        encoder(SIZE, dim, body=_small, initial_scale=0.7), components=3, **options
    )


def _flow(**options):
    def make(dim):
        pytest.importorskip("zuko")
        return priors.FlowPrior(dim, transforms=2, hidden=(16,), **options)

    return make


def _cast(prior, dtype):
    if isinstance(prior, priors.VampPrior):
        prior.encoder.to(dtype)  # not the prior's own, so not cast with it
    return prior.to(dtype)


def _moved(prior):
    """The prior after a random step of its parameters, so that nothing stands at its start."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior


ON_SPACE = {
    "StandardNormal": priors.StandardNormal,
    "Laplace": lambda d: priors.Laplace(d, scale=0.7),
    "StudentT": lambda d: priors.StudentT(d, df=4.5, scale=1.3),
    "DiagonalNormal": priors.DiagonalNormal,
    "GaussianMixture": lambda d: priors.GaussianMixture(d, components=3),
    "GaussianMixture fixed": lambda d: priors.GaussianMixture(d, components=3, learnable=False),
    "VampPrior": _vamp,
    "VampPrior identity": lambda d: _vamp(d, link="identity"),
    "VampPrior full": lambda d: _vamp(d, encoder=FullCovarianceNormal),
    "FlowPrior": _flow(),
    "FlowPrior affine": _flow(flow="affine"),
}
ELSEWHERE = {
    "Uniform": lambda d: priors.Uniform(d, low=-1.0, high=2.0),
    "VonMisesFisher": lambda d: priors.VonMisesFisher(d, concentration=2.0),
    "VonMisesFisher learned": lambda d: priors.VonMisesFisher(
        d, concentration=2.0, learnable=True
    ),
    "VonMisesFisher uniform": priors.VonMisesFisher,
    "RelaxedOneHotCategorical": lambda d: priors.RelaxedOneHotCategorical(d, temperature=0.7),
}
ALL = ON_SPACE | ELSEWHERE


def _quadrature(name, dim):
    """Points of the support, of shape (m, dim), and their weights."""
    if name in ON_SPACE:
        # z = sinh(u) reaches far into heavy tails; 0 is a node, where Laplace has its cusp
        u = torch.linspace(-8, 8, 4001 if dim == 1 else 401, dtype=torch.double)
        axis, weight = u.sinh(), u.cosh() * (u[1] - u[0])
    elif name == "Uniform":
        axis = -1 + 3 * (torch.arange(100, dtype=torch.double) + 0.5) / 100
        weight = torch.full((100,), 0.03, dtype=torch.double)
    elif name == "RelaxedOneHotCategorical":
        u = torch.linspace(-60, 60, 20_001, dtype=torch.double)
        z = torch.stack([u.sigmoid(), (-u).sigmoid()], -1)
        return z, z.prod(-1) * (u[1] - u[0])
    else:
        phi = torch.arange(500, dtype=torch.double) * (2 * math.pi / 500)
        z = torch.stack([phi.cos(), phi.sin()], -1)
        return z, torch.full((500,), 2 * math.pi / 500, dtype=torch.double)
    z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    return z, torch.cartesian_prod(*[weight] * dim).reshape(-1, dim).prod(-1)


@pytest.mark.parametrize(
    ("name", "dim"), [(n, d) for n in ALL for d in (1, 2) if d == 2 or n in {*ON_SPACE, "Uniform"}]
)
@torch.no_grad()
def test_density_integrates_to_one_and_draws_match_it(name, dim):
    p = _moved(_cast(ALL[name](dim), torch.double))()
    z, weight = _quadrature(name, dim)
    mass = torch.cat([p.log_prob(block).exp() for block in z.split(20_000)]) * weight
    assert abs(mass.sum() - 1) < 2e-3
    mass = mass / mass.sum()
    draws = p.sample((20_000,))
    for h in (
        lambda z: z.tanh(),
        lambda z: z.tanh().square(),
        lambda z: (z.abs() < 0.5).double(),
        lambda z: (2 * z.sum(-1, keepdim=True)).sin(),
        lambda z: z[:, :1].tanh() * z[:, -1:].tanh(),
    ):
        got = h(draws)
        error = got.std(0) / len(got) ** 0.5
        # the indicator's quadrature is off by at most one cell
        slack = 0.02 if h(z[:2]).dtype == torch.double and got.unique().numel() <= 2 else 1e-6
        assert ((got.mean(0) - (h(z) * mass[:, None]).sum(0)).abs() < 4.5 * error + slack).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_gradients(name, dtype):
    prior = _cast(ALL[name](3), dtype)
    assert isinstance(prior, priors.Prior)
    p = prior()
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
    if parameters:
        for loss in (log_prob.sum(), (z.square() * torch.tensor([1.0, 2.0, -1.5])).sum()):
            # both the likelihood of codes and a divergence of draws must train the prior
            grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
            for key, grad in zip(parameters, grads, strict=True):
                assert torch.isfinite(grad).all(), key
                assert grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ALL)
def test_weights_save_and_load(name):
    saved, fresh = _moved(ALL[name](2)), ALL[name](2)
    if name.startswith("VampPrior"):
        fresh.encoder.load_state_dict(saved.encoder.state_dict())
    fresh.load_state_dict(saved.state_dict())
    z = saved().sample((4,))
    torch.testing.assert_close(saved().log_prob(z), fresh().log_prob(z))


@pytest.mark.parametrize("name", ["StandardNormal", "DiagonalNormal"])
def test_the_default_is_the_standard_normal(name):
    z = torch.randn(5, 3)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(ALL[name](3)().log_prob(z), expected)


def test_the_uniform_prior_has_no_mass_outside():
    p = priors.Uniform(2)()
    inside = torch.tensor([[-1.0, 1.0], [0.3, 0.0]])
    torch.testing.assert_close(p.log_prob(inside), torch.full((2,), -math.log(4)))
    assert not p.support.check(torch.tensor([0.0, 1.001]))


def test_a_fixed_mixture_has_nothing_to_train_and_is_saved():
    prior = priors.GaussianMixture(2, components=4, learnable=False, spread=3.0)
    assert not list(prior.parameters())
    assert set(prior.state_dict()) == {"logits", "loc", "raw_scale"}


def test_vamp_prior_is_the_mean_of_the_encoder_at_its_pseudo_inputs():
    prior = _vamp(2)
    z = torch.randn(7, 2)
    q = prior.encoder(prior.pseudo_inputs)
    expected = q.log_prob(z[:, None]).logsumexp(-1) - math.log(3)
    torch.testing.assert_close(prior().log_prob(z), expected)
    assert isinstance(prior(), distributions.DiagonalNormalMixture)


def test_vamp_prior_shares_the_encoder_without_owning_it():
    prior = _vamp(2)
    assert list(prior.state_dict()) == ["raw_inputs"]
    pair = torch.nn.ModuleDict({"prior": prior, "encoder": prior.encoder})
    clone = copy.deepcopy(pair)
    assert clone["prior"].encoder is clone["encoder"]
    assert clone["encoder"] is not pair["encoder"]
    clone.double()
    assert clone["prior"]().log_prob(torch.zeros(2).double()).dtype == torch.double
    # the encoder learns through the prior, too
    prior().log_prob(torch.zeros(2)).backward()
    assert all(p.grad.abs().sum() > 0 for p in prior.encoder.parameters())


def test_vamp_prior_starts_at_data_when_told():
    x = torch.rand(20, *SIZE) * 0.9 + 0.05
    for link in ("sigmoid", "identity"):
        prior = _vamp(2, link=link)
        prior.initialise(x)
        distance = (prior.pseudo_inputs[:, None] - x).abs().flatten(2).amax(-1)
        assert (distance.amin(1) < 1e-5).all()
        assert len(distance.argmin(1).unique()) == 3
    with pytest.raises(ValueError, match="need as many data"):
        prior.initialise(x[:2])


def test_vamp_prior_works_with_a_flow_encoder():
    pytest.importorskip("zuko")
    prior = _vamp(2, encoder=Flow)
    z = prior().rsample((5,))
    assert z.shape == (5, 2)
    assert prior().log_prob(z).shape == (5,)


def test_a_learned_direction_stays_on_the_sphere():
    prior = _moved(priors.VonMisesFisher(3, concentration=5.0, learnable=True))
    p = prior()
    torch.testing.assert_close(p.loc.norm().item(), 1.0)
    assert prior.direction.norm() != 1


def test_conditional_normal():
    prior = priors.ConditionalNormal(2, (3,), body=_small)
    c = torch.randn(4, 5, 3)
    p = prior(c)
    assert (p.batch_shape, p.event_shape) == ((4, 5), (2,))
    torch.testing.assert_close(p.mean[1, 2], prior(c[1, 2]).mean)
    p.log_prob(p.rsample()).sum().backward()
    assert all(q.grad.abs().sum() > 0 for q in prior.parameters())
    assert prior.double()(c.double()).rsample().dtype == torch.double
    # starts near the standard normal
    assert ((p.stddev > 0.5) & (p.stddev < 2)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.StandardNormal(0), "at least 1"),
        (lambda: priors.ConditionalNormal(0, (3,)), "at least 1"),
        (lambda: priors.Uniform(2, low=1.0, high=1.0), "below high"),
        (lambda: priors.GaussianMixture(2, components=0), "at least one component"),
        (lambda: _vamp(2).__class__(MeanFieldNormal(SIZE, 2), components=0), "at least one"),
        (lambda: priors.RelaxedOneHotCategorical(1), "at least 2 classes"),
        (lambda: priors.VonMisesFisher(1), "at least 2 dimensions"),
        (lambda: priors.VonMisesFisher(3, concentration=-1.0), "at least 0"),
        (lambda: priors.VonMisesFisher(3, learnable=True), "above 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
