"""What a guide adds to a loss: changes of variables, and what it observes or factors."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.contrib.easyguide
import pyro.distributions as dist
import pytest
import torch
from pairs import gradients
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from torch import Tensor

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
)

pytestmark = pytest.mark.usefixtures("double")

N = 4


def constrained(x: Tensor) -> None:
    """Positive, simplex and interval latents, of all data and of each."""
    g = pyro.sample("g", dist.Gamma(2.0, 1.0))
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(x)):
        s = pyro.sample("s", dist.Gamma(2.0, 1.0))
        b = pyro.sample("b", dist.Beta(2.0, 2.0))
        q = pyro.sample("q", dist.Dirichlet(torch.ones(3)))
        pyro.sample("x", dist.Normal(b + (q * p).sum(-1), g + s), obs=x)


def moved(guide: Any, x: Tensor) -> Any:
    """The guide with each parameter moved from where the Jacobian's mean is nearly 0."""
    guide(x)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return guide


def grads_of(loss: Any, model: Any, guide: Any, *args: Any) -> tuple[float, dict[str, Tensor]]:
    pyro.set_rng_seed(7)
    return gradients(lambda: loss.differentiable_loss(model, guide, *args))


@pytest.mark.parametrize(
    "auto",
    [
        AutoNormal,
        AutoDiagonalNormal,
        AutoMultivariateNormal,
        AutoLowRankMultivariateNormal,
        AutoIAFNormal,
        AutoDelta,
    ],
)
def test_automatic_guides_equal_trace_elbo_draw_by_draw(auto: Any) -> None:
    """The change of variables counts: Pyro's mean-field ELBO leaves it out."""
    x = torch.tensor([0.3, -0.4, 1.2, 0.8])
    guide = moved(auto(constrained), x)
    expected, expected_grads = grads_of(Trace_ELBO(), constrained, guide, x)
    for loss in (InfoVAE(alpha=0, scale=1), BetaVAE(1.0)):
        value, grads = grads_of(loss, constrained, guide, x)
        assert value == pytest.approx(expected, rel=1e-10)
        assert grads.keys() == expected_grads.keys()
        for name, gradient in expected_grads.items():
            torch.testing.assert_close(grads[name], gradient, rtol=1e-8, atol=1e-9)


def test_a_log_normal_is_its_elbo() -> None:
    """-ELBO of LogNormal(1.5, .5) under LogNormal(0, 1) is the normals' KL, 1.443."""

    def model() -> None:
        pyro.sample("s", dist.LogNormal(0.0, 1.0))

    start = init_to_value(values={"s": torch.tensor(1.5).exp()})
    guide = AutoNormal(model, init_loc_fn=start, init_scale=0.5)
    guide()
    loss = InfoVAE(alpha=0, scale=1)
    draws = torch.tensor([loss.loss(model, guide) for _ in range(500)])
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(1.5, 0.5), torch.distributions.Normal(0.0, 1.0)
    )
    assert (draws.mean() - exact).abs() < 4.5 * draws.std() / len(draws) ** 0.5


class Easy(pyro.contrib.easyguide.EasyGuide):  # type: ignore[misc]
    """A normal in unconstrained space, mapped to the local Gamma and Beta."""

    def init(self, site: Any) -> Tensor:
        return site["fn"]().detach()

    def guide(self, x: Tensor) -> None:
        rows = self.plate("data", len(x))
        for name in "gpq":
            self.map_estimate(name)
        group = self.group(match="s|b")
        loc = pyro.param("loc", torch.linspace(-0.6, 0.6, 2 * len(x)).reshape(len(x), 2))
        with rows:
            group.sample("group", dist.Normal(loc, 0.3).to_event(1))


def test_an_easy_guide_equals_trace_elbo_draw_by_draw() -> None:
    x = torch.tensor([0.3, -0.4, 1.2, 0.8])
    guide = Easy(constrained)
    guide(x)
    ours, theirs = (
        grads_of(loss, constrained, guide, x) for loss in (InfoVAE(alpha=0, scale=1), Trace_ELBO())
    )
    assert ours[0] == pytest.approx(theirs[0], rel=1e-10)
    torch.testing.assert_close(ours[1]["loc"], theirs[1]["loc"], rtol=1e-8, atol=1e-9)


# What the guide observes


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_with(observe: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))
            observe(x, z)

    return guide


def _parameter() -> Tensor:
    c: Tensor = pyro.param("c", torch.tensor(0.8))
    return c


def by_factor(x: Tensor, z: Tensor) -> None:
    """A classifier's loss, as in scANVI: Pyro reads the flag as a density sampled by hand."""
    pyro.factor("class", -_parameter() * (z * x).sum(-1), has_rsample=False)


def by_rsample(x: Tensor, z: Tensor) -> None:
    pyro.factor("class", -_parameter() * (z * x).sum(-1), has_rsample=True)


def by_observation(x: Tensor, z: Tensor) -> None:
    """An auxiliary fit, as in the causal-effect VAE."""
    pyro.sample("y", dist.Bernoulli(logits=_parameter() * z.sum(-1)), obs=(x[:, 0] > 0).double())


def by_repetition(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Normal(_parameter() * z, 1.0).to_event(1), obs=x)


OBSERVE = [by_factor, by_rsample, by_observation, by_repetition]


class R(torch.nn.Module):
    def forward(self, x: Tensor) -> Any:
        return dist.Normal(x / 2, 1.0).to_event(1)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "ELBO": lambda: InfoVAE(alpha=0, scale=1),
    "InfoVAE": lambda: InfoVAE(MMD(), scale=10.0),
    "InfoVAE, half": lambda: InfoVAE(MMD(), alpha=0.5, scale=10.0),
    "BetaVAE": lambda: BetaVAE(4.0),
    "WAE": lambda: WAE(MMD()),
    "Autoencoder": Autoencoder,
    "TCVAE": lambda: TCVAE(size=N),
    "CapacityVAE": lambda: CapacityVAE(2.0),
    "GECO": lambda: GECO(3.0),
    "MutualAutoencoder": lambda: MutualAutoencoder(0.5, auxiliary=R()),
}


@pytest.mark.parametrize("observe", OBSERVE)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_guide_observes_counts_once_and_is_differentiated(
    name: str, observe: Callable[[Tensor, Tensor], None]
) -> None:
    """The loss with it minus the loss without is its log-density, at the very same draws."""
    x = torch.randn(N, 2, generator=torch.Generator().manual_seed(1)).double()
    z: list[Tensor] = []
    bare = guide_with(lambda x, value: z.append(value))
    without = OBJECTIVES[name]()
    pyro.set_rng_seed(7)
    expected = without.differentiable_loss(model, bare, x)
    pyro.param("c", torch.tensor(0.8))
    c = pyro.param("c").unconstrained()
    logits = c * z[0].sum(-1)
    added = {
        by_factor: lambda: -c * (z[0] * x).sum(),
        by_rsample: lambda: -c * (z[0] * x).sum(),
        by_observation: lambda: (
            -torch.nn.functional.binary_cross_entropy_with_logits(
                logits, (x[:, 0] > 0).double(), reduction="sum"
            )
        ),
        by_repetition: lambda: dist.Normal(c * z[0], 1.0).log_prob(x).sum(),
    }[observe]()
    (gradient,) = torch.autograd.grad(added, c)
    objective = OBJECTIVES[name]()
    value, grads = grads_of(objective, model, guide_with(observe), x)
    assert value == pytest.approx(float((expected + added).detach()), rel=1e-8)
    torch.testing.assert_close(grads["c"], gradient, rtol=1e-8, atol=1e-9)
    site = {by_observation: "y", by_repetition: "x"}.get(observe, "class")
    torch.testing.assert_close(objective.terms[f"guide/{site}"], (added / N).detach())


@pytest.mark.parametrize("gradient", ["pathwise", "dreg"])
@pytest.mark.parametrize("observe", OBSERVE)
def test_it_divides_the_importance_weight(
    observe: Callable[[Tensor, Tensor], None], gradient: Any
) -> None:
    """By K draws' log-mean, and with the whole gradient of its parameters."""
    x = torch.randn(N, 2, generator=torch.Generator().manual_seed(1)).double()
    pyro.param("c", torch.tensor(0.8))
    c = pyro.param("c").unconstrained()
    z: list[Tensor] = []
    pyro.set_rng_seed(7)
    way = {"vectorize_particles": False}  # so that each draw is a run of the guide
    IWAE(3, **way).differentiable_loss(model, guide_with(lambda x, value: z.append(value)), x)
    weights = []
    for draw in z:
        draw = draw.detach()
        log_p = dist.Normal(0.0, 1.0).log_prob(draw) + dist.Normal(draw, 1.0).log_prob(x)
        log_q = dist.Normal(x / 2, 0.7).log_prob(draw)
        extra = {
            by_factor: lambda v: -c * (v * x).sum(-1),
            by_rsample: lambda v: -c * (v * x).sum(-1),
            by_observation: lambda v: dist.Bernoulli(logits=c * v.sum(-1)).log_prob(
                (x[:, 0] > 0).double()
            ),
            by_repetition: lambda v: dist.Normal(c * v, 1.0).log_prob(x).sum(-1),
        }[observe](draw)
        weights.append((log_p - log_q).sum(-1) - extra)
    expected = -(torch.stack(weights).logsumexp(0) - torch.tensor(3.0).log()).sum()
    (expected_gradient,) = torch.autograd.grad(expected, c)
    value, grads = grads_of(IWAE(3, gradient=gradient, **way), model, guide_with(observe), x)
    assert value == pytest.approx(float(expected.detach()), rel=1e-8)
    torch.testing.assert_close(grads["c"], expected_gradient, rtol=1e-8, atol=1e-9)


def test_what_is_observed_in_the_guide_is_not_latent_in_the_model() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1), obs=x)

    with pytest.raises(ValueError, match="'z' is observed in the guide and latent in the model"):
        BetaVAE(1.0).differentiable_loss(model, guide, torch.zeros(N, 2))
