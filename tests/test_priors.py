"""What one prior does and others do not: starts, pseudo-inputs, flows, covariates."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from shaken import shaken

from ppl_vae import distributions, priors
from ppl_vae.bodies import MLP
from ppl_vae.guides import Flow, MeanFieldNormal

SIZE = (1, 4, 4)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _small(inputs, outputs):
    return MLP(inputs, outputs, hidden=(16,))


def _vamp(dim, encoder=MeanFieldNormal, **options):
    return priors.VampPrior(
        encoder(SIZE, dim, body=_small, initial_scale=0.7), components=3, **options
    )


def _flow(**options):
    def make(dim):
        pytest.importorskip("zuko")
        return priors.FlowPrior(dim, transforms=2, hidden=(16,), **options)

    return make


def _array(tensor):
    return tensor.detach().numpy()


@pytest.mark.parametrize("make", [priors.StandardNormal, priors.DiagonalNormal])
def test_the_default_is_the_standard_normal(make):
    z = torch.randn(5, 3)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(make(3)().log_prob(z), expected)


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
    ("make", "learned", "saved"),
    [
        *(
            (kind, set(), set())
            for kind in (
                priors.StandardNormal,
                priors.Uniform,
                priors.Laplace,
                priors.StudentT,
                priors.RelaxedOneHotCategorical,
                priors.VonMisesFisher,
            )
        ),
        (
            lambda d: priors.VonMisesFisher(d, 2.0, learnable=True),
            {"direction", "kappa"},
            {"direction", "kappa"},
        ),
        (priors.DiagonalNormal, {"loc", "raw_scale"}, {"loc", "raw_scale"}),
        (priors.GaussianMixture, MIXTURE, MIXTURE),
        # its means are drawn, and so are saved
        (lambda d: priors.GaussianMixture(d, learnable=False), set(), MIXTURE),
    ],
)
def test_what_is_learned_and_what_is_saved(make, learned, saved):
    prior = make(2)
    assert set(dict(prior.named_parameters())) == learned
    assert set(prior.state_dict()) == saved


def test_vamp_prior_shares_the_encoder_without_owning_it():
    prior = _vamp(2)
    assert list(prior.state_dict()) == ["raw_inputs"]
    assert isinstance(prior(), distributions.DiagonalNormalMixture)
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
    prior = shaken(priors.VonMisesFisher(3, concentration=5.0, learnable=True))
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
@pytest.mark.parametrize("flow", ["affine", "spline"])
def test_only_a_spline_leaves_what_is_outside_its_box_as_it_is(flow):
    prior = _flow(flow=flow)(3)
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
