"""Priors: densities integrate to one, draws match them, parameters get gradients."""

import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

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


def _positive(raw, start):
    """The softplus above a floor of 1e-6 that is `start` at 0, written out."""
    return 1e-6 + np.logaddexp(0, np.asarray(raw) + np.log(np.expm1(start - 1e-6)))


def _array(tensor):
    return tensor.detach().numpy()


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


def _quadrature(name, dim, halvings=0):
    """Points of the support, of shape (m, dim), and their weights."""
    finer = 2**halvings
    if name in ON_SPACE:
        # z = sinh(u) reaches far into heavy tails; 0 is a node, where Laplace has its cusp
        count = (4000 if dim == 1 else 400) * finer + 1
        u = torch.linspace(-8, 8, count, dtype=torch.double)
        axis, weight = u.sinh(), u.cosh() * (u[1] - u[0])
    elif name == "Uniform":
        axis = -1 + 3 * (torch.arange(100, dtype=torch.double) + 0.5) / 100
        weight = torch.full((100,), 0.03, dtype=torch.double)
    elif name == "RelaxedOneHotCategorical":
        u = torch.linspace(-60, 60, 20_000 * finer + 1, dtype=torch.double)
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
    masses = []
    for halvings in (0, 1):
        z, weight = _quadrature(name, dim, halvings)
        mass = torch.cat([p.log_prob(block).exp() for block in z.split(20_000)]) * weight
        masses.append(mass.sum())
    # what halving the step changes is more than what is left
    assert abs(masses[1] - 1) < abs(masses[1] - masses[0]) + 1e-6
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


def _concrete(z, temperature):
    """The log-density of the concrete distribution of equal classes."""
    d = z.shape[-1]
    log_z = np.log(z)
    constant = special.gammaln(d) + (d - 1) * np.log(temperature)
    top = -(temperature + 1) * log_z.sum(-1)
    return constant + top - d * special.logsumexp(-temperature * log_z, -1)


def _on_sphere(dim, kappa):
    return stats.vonmises_fisher(np.eye(dim)[0], kappa).logpdf


def _product(law):
    return lambda z: law.logpdf(z).sum(-1)


BY_HAND = {
    "StandardNormal": (priors.StandardNormal, _product(stats.norm(0, 1))),
    "Uniform": (
        lambda d: priors.Uniform(d, low=-0.5, high=2.2),
        _product(stats.uniform(-0.5, 2.7)),
    ),
    "Laplace": (lambda d: priors.Laplace(d, scale=0.7), _product(stats.laplace(0, 0.7))),
    "StudentT": (
        lambda d: priors.StudentT(d, df=3.6, scale=1.7),
        _product(stats.t(3.6, 0, 1.7)),
    ),
    "RelaxedOneHotCategorical": (
        lambda d: priors.RelaxedOneHotCategorical(d, temperature=0.8),
        lambda z: _concrete(z, 0.8),
    ),
    "VonMisesFisher": (
        lambda d: priors.VonMisesFisher(d, concentration=2.3),
        lambda z: _on_sphere(z.shape[-1], 2.3)(z),
    ),
    "VonMisesFisher at the start": (
        lambda d: priors.VonMisesFisher(d, concentration=2.3, learnable=True),
        lambda z: _on_sphere(z.shape[-1], 2.3)(z),
    ),
    "VonMisesFisher uniform": (
        priors.VonMisesFisher,
        # the sphere's area is 2 pi^(d/2) / Gamma(d/2)
        lambda z: np.full(
            z.shape[:-1],
            special.gammaln(z.shape[-1] / 2) - np.log(2) - z.shape[-1] / 2 * np.log(np.pi),
        ),
    ),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_density_is_the_one_its_arguments_name(name, dim):
    make, log_density = BY_HAND[name]
    raw = torch.randn(50, dim)
    if name == "Uniform":
        z = -0.5 + 2.7 * raw.sigmoid()
    elif name.startswith("Relaxed"):
        z = raw.softmax(-1)
    elif name.startswith("VonMisesFisher"):
        z = torch.nn.functional.normalize(raw, dim=-1)
    else:
        z = 2 * raw
    expected = torch.from_numpy(log_density(z.numpy()))
    torch.testing.assert_close(make(dim)().log_prob(z).detach(), expected)


@pytest.mark.usefixtures("double")
def test_learned_parameters_are_those_of_the_density():
    z = torch.randn(20, 3)
    normal = _moved(priors.DiagonalNormal(3))
    law = stats.norm(_array(normal.loc), _positive(_array(normal.raw_scale), 1.0))
    expected = torch.from_numpy(law.logpdf(z).sum(-1))
    torch.testing.assert_close(normal().log_prob(z).detach(), expected)

    mixture = _moved(priors.GaussianMixture(3, components=4, spread=2.0, scale=0.7))
    law = stats.norm(_array(mixture.loc), _positive(_array(mixture.raw_scale), 0.7))
    weights = np.log(special.softmax(_array(mixture.logits)))
    terms = weights + law.logpdf(z[:, None]).sum(-1)
    expected = torch.from_numpy(special.logsumexp(terms, -1))
    torch.testing.assert_close(mixture().log_prob(z).detach(), expected)

    sphere = _moved(priors.VonMisesFisher(3, concentration=2.3, learnable=True))
    direction = _array(sphere.direction)
    direction = direction / np.linalg.norm(direction)
    law = stats.vonmises_fisher(direction, _positive(_array(sphere.kappa), 2.3))
    z = torch.nn.functional.normalize(z, dim=-1)
    expected = torch.from_numpy(law.logpdf(z.numpy()))
    torch.testing.assert_close(sphere().log_prob(z).detach(), expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("learnable", [True, False])
def test_a_mixture_starts_at_equal_weights_and_the_scale_and_spread_told(learnable):
    z = torch.randn(20, 3)
    prior = priors.GaussianMixture(3, 4, learnable, spread=2.5, scale=0.7)
    terms = stats.norm(_array(prior.loc), 0.7).logpdf(z[:, None]).sum(-1)
    expected = torch.from_numpy(special.logsumexp(terms, -1)) - math.log(4)
    torch.testing.assert_close(prior().log_prob(z).detach(), expected)
    means = priors.GaussianMixture(2, 5000, learnable, spread=2.5, scale=0.7).loc
    # seven in a million is the chance of 4.5 standard errors
    assert stats.kstest(_array(means).ravel(), stats.norm(0, 2.5).cdf).pvalue > 7e-6


def test_the_uniform_prior_has_no_mass_outside():
    p = priors.Uniform(2)()
    inside = torch.tensor([[-1.0, 1.0], [0.3, 0.0]])
    torch.testing.assert_close(p.log_prob(inside), torch.full((2,), -math.log(4)))
    assert not p.support.check(torch.tensor([0.0, 1.001]))


MIXTURE = {"logits", "loc", "raw_scale"}


@pytest.mark.parametrize(
    ("name", "learned", "saved"),
    [
        *((name, set(), set()) for name in ("StandardNormal", "Uniform", "Laplace", "StudentT")),
        ("RelaxedOneHotCategorical", set(), set()),
        ("VonMisesFisher", set(), set()),
        ("VonMisesFisher learned", {"direction", "kappa"}, {"direction", "kappa"}),
        ("DiagonalNormal", {"loc", "raw_scale"}, {"loc", "raw_scale"}),
        ("GaussianMixture", MIXTURE, MIXTURE),
        # its means are drawn, and so are saved
        ("GaussianMixture fixed", set(), MIXTURE),
    ],
)
def test_what_is_learned_and_what_is_saved(name, learned, saved):
    prior = ALL[name](2)
    assert set(dict(prior.named_parameters())) == learned
    assert set(prior.state_dict()) == saved


def test_a_change_of_type_rounds_the_arguments_anew():
    prior = priors.StudentT(2, df=3.6, scale=1.7).half().double()
    assert prior.df.tolist() == [3.6] * 2
    assert prior.scale.tolist() == [1.7] * 2


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


def test_vamp_prior_starts_at_a_random_choice_of_the_data():
    n, repeats = 8, 400
    x = torch.arange(float(n))[:, None]
    encoder = MeanFieldNormal((1,), 2, body=_small)
    prior = priors.VampPrior(encoder, components=3, link="identity")
    counts = torch.zeros(n)
    for _ in range(repeats):
        prior.initialise(x)
        chosen = prior.pseudo_inputs.detach().flatten().long()
        assert len(chosen.unique()) == 3
        counts[chosen] += 1
    # each row is chosen with probability 3 / n
    error = math.sqrt(repeats * 3 / n * (1 - 3 / n))
    assert ((counts - repeats * 3 / n).abs() < 4.5 * error).all()


def test_vamp_prior_starts_inside_the_unit_interval_at_black_and_white_data():
    x = torch.randint(2, (3, *SIZE)).float()
    prior = _vamp(2)
    prior.initialise(x)
    assert prior.raw_inputs.isfinite().all()
    black_and_white = prior.pseudo_inputs.round()
    assert all(any(torch.equal(u, row) for row in x) for u in black_and_white)


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


@pytest.mark.usefixtures("double")
def test_a_conditional_normal_reads_its_mean_and_scales_off_the_network():
    prior = priors.ConditionalNormal(2, (3,), body=lambda i, o: torch.nn.Linear(3, 4))
    c, z = torch.randn(6, 3), torch.randn(6, 2)
    raw = _array(c @ prior.network.weight.T + prior.network.bias)
    law = stats.norm(raw[:, :2], _positive(raw[:, 2:], 1.0))
    expected = torch.from_numpy(law.logpdf(z).sum(-1))
    torch.testing.assert_close(prior(c).log_prob(z).detach(), expected)
    # where the network's output is zero, it is the standard normal
    for parameter in prior.parameters():
        torch.nn.init.zeros_(parameter)
    expected = torch.from_numpy(stats.norm(0, 1).logpdf(z).sum(-1))
    torch.testing.assert_close(prior(c).log_prob(z).detach(), expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("flow", ["affine", "spline"])
def test_a_flow_prior_is_the_normal_law_of_the_flow_of_z(flow):
    prior = _flow(flow=flow)(3)
    z = 2 * torch.randn(6, 3)
    noise, log_det = prior.flow.transform().call_and_ladj(z)
    expected = torch.from_numpy(stats.norm(0, 1).logpdf(_array(noise)).sum(-1)) + log_det
    torch.testing.assert_close(prior().log_prob(z), expected)
    # only a spline leaves what is outside its box as it is
    outside = torch.tensor([[5.5, -7.0, 6.0]])
    assert torch.equal(prior.flow.transform()(outside), outside) == (flow == "spline")


def test_a_flow_prior_has_the_transforms_and_widths_told():
    pytest.importorskip("zuko")
    prior = priors.FlowPrior(3, "affine", transforms=4, hidden=(16, 8))
    widths = [m.out_features for m in prior.flow.modules() if isinstance(m, torch.nn.Linear)]
    # a shift and a scale for each dimension
    assert widths == [16, 8, 2 * 3] * 4


def test_scoring_a_flow_prior_takes_one_pass_and_drawing_one_for_each_dimension():
    prior = _flow()(3)
    passes = []
    for transform in prior.flow.transform.transforms:
        transform.hyper.register_forward_hook(lambda *_: passes.append(1))
    z = prior().sample((5,))
    # and one more, for the density that is remembered with the draw
    assert len(passes) == (3 + 1) * 2
    passes.clear()
    prior().log_prob(z + 1)
    assert len(passes) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.StandardNormal(0), "at least 1"),
        (lambda: priors.ConditionalNormal(0, (3,)), "at least 1"),
        (lambda: priors.Uniform(2, low=1.0, high=1.0), "below high"),
        (lambda: priors.Laplace(2, scale=0.0), "scale must be above 0"),
        (lambda: priors.StudentT(2, df=-1.0), "df must be above 0"),
        (lambda: priors.StudentT(2, scale=math.nan), "scale must be above 0"),
        (lambda: priors.RelaxedOneHotCategorical(2, temperature=0.0), "temperature must be"),
        (lambda: priors.GaussianMixture(2, scale=0.0), "scale must be above 0"),
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
