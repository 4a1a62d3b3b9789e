"""Learned critics: values against quadrature, who trains whom, and use in Pyro."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from pyro import poutine
from pyro.infer import SVI
from syncs import no_waiting
from torch import Tensor, nn

from ppl_vae.objectives import AggregatePosterior, InfoVAE
from ppl_vae.objectives.divergences.adversarial import Adversarial
from ppl_vae.objectives.divergences.f_divergence import Bound, JensenShannon
from ppl_vae.objectives.divergences.wgan import WassersteinGP

F_DIVERGENCES = ["JS", "KL", "reverse KL", "chi-squared", "Hellinger"]
BOUNDS = [*F_DIVERGENCES, "WGAN-GP"]

# q is wide enough for the chi-squared divergence to be finite.
Q_MEAN = torch.tensor([0.8, -0.4])
Q_COVARIANCE = torch.tensor([[1.6, 0.4], [0.4, 1.1]])


def aggregate(dtype: torch.dtype = torch.float32) -> Any:
    return dist.MultivariateNormal(Q_MEAN.to(dtype), Q_COVARIANCE.to(dtype))


def prior(dim: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    return dist.Normal(torch.zeros(dim, dtype=dtype), 1.0).to_event(1)


def log_ratio(z: Tensor) -> Tensor:
    return prior(dtype=z.dtype).log_prob(z) - aggregate(z.dtype).log_prob(z)


def quadrature() -> dict[str, float]:
    """Each f-divergence between the two Gaussians on a grid."""
    t = torch.linspace(-9, 9, 601, dtype=torch.float64)
    z = torch.cartesian_prod(t, t)
    cell = (t[1] - t[0]) ** 2
    log_p, log_q = prior(dtype=z.dtype).log_prob(z), aggregate(z.dtype).log_prob(z)
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    integrands = {
        "JS": 0.5 * (p * (log_p - log_m) + q * (log_q - log_m)),
        "KL": p * (log_p - log_q),
        "reverse KL": q * (log_q - log_p),
        "chi-squared": (p - q).square() / q,
        "Hellinger": (p.sqrt() - q.sqrt()).square(),
    }
    return {name: float((values * cell).sum()) for name, values in integrands.items()}


def closed_forms() -> dict[str, float]:
    """Those with a formula, for p = N(0, I) and q = N(m, S)."""
    m, s = Q_MEAN.double(), Q_COVARIANCE.double()
    eye = torch.eye(2, dtype=torch.float64)
    inverse, log_det = torch.linalg.inv(s), torch.logdet(s)
    overlap = torch.exp(
        0.25 * log_det
        - 0.5 * torch.logdet((s + eye) / 2)
        - 0.125 * m @ torch.linalg.inv((s + eye) / 2) @ m
    )
    # int p^2 / q, a Gaussian integral with precision 2 I - S^-1.
    precision = 2 * eye - inverse
    shift = -inverse @ m
    log_chi = 0.5 * (log_det - torch.logdet(precision)) + 0.5 * (
        shift @ torch.linalg.inv(precision) @ shift + m @ inverse @ m
    )
    forms = {
        "KL": 0.5 * (torch.trace(inverse) + m @ inverse @ m - 2 + log_det),
        "reverse KL": 0.5 * (torch.trace(s) + m @ m - 2 - log_det),
        "chi-squared": log_chi.exp() - 1,
        "Hellinger": 2 - 2 * overlap,
    }
    return {name: float(value) for name, value in forms.items()}


def test_quadrature_against_closed_forms() -> None:
    found = quadrature()
    for name, value in closed_forms().items():
        assert found[name] == pytest.approx(value, rel=1e-6)


class Exact(nn.Module):
    """The best critic of an f-divergence, with a parameter that it starts right at."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        return self.slope * log_ratio(z)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_best_critic_gives_the_divergence(name: str) -> None:
    """At log p / q the bound is the divergence, and its gradient in the critic is zero."""
    adversary = Adversarial(Exact(), bound=name)  # type: ignore[arg-type]
    values, slopes = [], []
    for _ in range(40):
        posterior = AggregatePosterior.of(aggregate().sample((5000,)), prior())
        values.append(float(adversary(posterior).detach()))
        loss = adversary.critic_loss(posterior)
        assert loss is not None
        assert float(loss.detach()) == pytest.approx(-values[-1], rel=1e-4, abs=1e-5)
        (slope,) = torch.autograd.grad(loss, adversary.net.slope)
        slopes.append(float(slope))
    for found, expected in ((values, quadrature()[name]), (slopes, 0.0)):
        draws = torch.tensor(found)
        error = draws.std() / len(draws) ** 0.5
        assert abs(draws.mean() - expected) < 4.5 * error


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_bound_is_the_conjugate_pair(name: str) -> None:
    """b = f*(a) numerically, from f by its supremum, and a = f'."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "JS": lambda u: 0.5 * (u * u.log() - (u + 1) * ((u + 1) / 2).log()),
        "KL": lambda u: u * u.log(),
        "reverse KL": lambda u: -u.log(),
        "chi-squared": lambda u: (u - 1).square(),
        "Hellinger": lambda u: (u.sqrt() - 1).square(),
    }
    bound = Adversarial(dim=1, bound=name).bound  # type: ignore[arg-type]
    logit = torch.linspace(-2, 2, 9, dtype=torch.float64)
    u = logit.exp().requires_grad_()
    (derivative,) = torch.autograd.grad(functions[name](u).sum(), u)
    torch.testing.assert_close(bound.on_prior(logit), derivative)
    ratios = torch.linspace(-3, 3, 60_001, dtype=torch.float64).exp()
    supremum = (ratios * derivative[:, None] - functions[name](ratios)).max(1).values
    torch.testing.assert_close(bound.on_codes(logit), supremum, rtol=0, atol=1e-7)


def train(
    adversary: Adversarial,
    posterior: Callable[[int], AggregatePosterior],
    steps: int,
    lr: float = 5e-3,
    n: int = 512,
) -> None:
    optimiser = torch.optim.Adam(adversary.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = adversary.critic_loss(posterior(n))
        assert loss is not None
        loss.backward()
        optimiser.step()
        schedule.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "log_prior"),
    [*((name, False) for name in F_DIVERGENCES), ("JS", True), ("KL", True)],
)
def test_learned_critic(name: str, log_prior: bool) -> None:
    adversary = Adversarial(
        dim=2,
        hidden=(64, 64),
        bound=name,  # type: ignore[arg-type]
        log_prior=log_prior,
    )

    def posterior(n: int) -> AggregatePosterior:
        return AggregatePosterior.of(aggregate().sample((n,)), prior())

    # the density ratio of chi-squared has the heaviest tail to learn
    train(adversary, posterior, 600 if name == "chi-squared" else 300, lr=1e-2)
    with torch.no_grad():
        value = adversary(posterior(400_000))
    assert float(value) == pytest.approx(quadrature()[name], rel=0.05)


def penalised(shift: float, weight: float) -> float:
    """What the best penalised critic reports for N(shift, 1) against N(0, 1), by quadrature."""
    x = torch.linspace(-9, 9 + shift, 4001, dtype=torch.float64)
    unit = torch.distributions.Normal(0.0, 1.0)
    delta = unit.cdf(x) - unit.cdf(x - shift)
    epsilon = (torch.arange(400, dtype=torch.float64)[:, None] + 0.5) / 400
    spread = (epsilon**2 + (1 - epsilon) ** 2).sqrt()
    h = torch.distributions.Normal(shift * epsilon, spread).log_prob(x).exp().mean(0)
    return float(torch.trapezoid(delta + delta**2 / (2 * weight * h), x))


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_wasserstein_critic_of_two_points(weight: float) -> None:
    """Two points a distance 2 apart in the plane: 2 + 2^2 / (2 weight)."""
    direction = torch.tensor([0.6, 0.8])
    adversary = Adversarial(dim=2, hidden=(32, 32), bound=WassersteinGP(weight))

    def posterior(n: int) -> AggregatePosterior:
        return AggregatePosterior.of(torch.zeros(n, 2), (2 * direction).expand(n, 2))

    train(adversary, posterior, 600, n=64)
    expected = 2 + 4 / (2 * weight)
    assert float(adversary(posterior(64)).detach()) == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "one_sided"), [(1.0, False), (1.0, True), (10.0, True)])
def test_wasserstein_critic_of_two_gaussians(weight: float, one_sided: bool) -> None:
    adversary = Adversarial(dim=1, hidden=(64, 64), bound=WassersteinGP(weight, one_sided))
    shifted = dist.Normal(torch.tensor([1.5]), 1.0).to_event(1)

    def posterior(n: int) -> AggregatePosterior:
        return AggregatePosterior.of(torch.randn(n, 1), shifted)

    train(adversary, posterior, 300, lr=5e-3)
    with torch.no_grad():
        value = float(adversary(posterior(400_000)))
    expected = penalised(1.5, weight)
    assert expected > 1.5
    assert value == pytest.approx(expected, rel=0.05)


def random_posterior(n: int = 12, m: int = 9, **kwargs: Any) -> AggregatePosterior:
    codes = (torch.randn(n, 2) + 0.5).requires_grad_()
    return AggregatePosterior.of(codes, torch.randn(m, 2), **kwargs)


def build(bound: Any = "JS", **kwargs: Any) -> Adversarial:
    return Adversarial(dim=2, hidden=(16, 16), bound=bound, **kwargs)


@pytest.mark.parametrize("non_saturating", [None, True, False])
@pytest.mark.parametrize("name", BOUNDS)
def test_neither_loss_reaches_the_other(name: str, non_saturating: bool | None) -> None:
    adversary = build(name, non_saturating=non_saturating)
    q = random_posterior()
    q.codes.retain_grad()
    adversary(q).backward()
    assert all(p.grad is None for p in adversary.parameters())
    assert q.codes.grad is not None
    assert (q.codes.grad != 0).any()
    q.codes.grad = None
    loss = adversary.critic_loss(q)
    assert loss is not None
    loss.backward()
    assert q.codes.grad is None
    # The last bias cancels in a difference of means.
    inner = [p for p in adversary.parameters() if p is not adversary.net[-1].bias]
    assert all(p.grad is not None and (p.grad != 0).any() for p in inner)


@pytest.mark.parametrize("name", BOUNDS)
def test_critic_does_not_reach_weights(name: str) -> None:
    """Rows of an enumerated guide have its probabilities for weights."""
    weights = torch.rand(12, requires_grad=True)
    adversary, q = build(name), random_posterior(weights=weights)
    loss = adversary.critic_loss(q)
    assert loss is not None
    assert torch.autograd.grad(loss, weights, allow_unused=True) == (None,)
    (gradient,) = torch.autograd.grad(adversary(q), weights)
    assert (gradient != 0).all()


@pytest.mark.parametrize("name", BOUNDS)
def test_value_is_the_bound_whatever_the_gradient(name: str) -> None:
    values, gradients = [], []
    for non_saturating in (False, True):
        torch.manual_seed(0)
        adversary, q = build(name, non_saturating=non_saturating), random_posterior()
        value = adversary(q)
        values.append(value.detach())
        (gradient,) = torch.autograd.grad(value, q.codes)
        gradients.append(gradient)
        logits = adversary.net(q.codes)[:, 0]
        bound = adversary.bound
        terms = -bound.on_prior(logits) if non_saturating else -bound.on_codes(logits)
        (by_hand,) = torch.autograd.grad(terms.mean(), q.codes)
        torch.testing.assert_close(gradient, by_hand)
    assert torch.equal(values[0], values[1])
    assert torch.equal(gradients[0], gradients[1]) == (name == "WGAN-GP")


def test_defaults() -> None:
    adversary = Adversarial(dim=10)
    assert isinstance(adversary.bound, JensenShannon)
    assert adversary.non_saturating
    assert not Adversarial(dim=2, bound="KL").non_saturating


@pytest.mark.parametrize(("dim", "width"), [(1, 64), (10, 320), (100, 512)])
def test_the_default_critic_is_sized_by_the_codes(dim: int, width: int) -> None:
    layers = [layer for layer in Adversarial(dim=dim).net if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [width, width, 1]


def test_surrogate_agrees_with_the_bound_where_the_critic_is_unsure() -> None:
    """At logit 0 the non-saturating gradient is the bound's: no hidden factor of two."""
    gradients = []
    for non_saturating in (False, True):
        net = nn.Linear(2, 1)
        nn.init.zeros_(net.bias)
        net.weight.data = torch.tensor([[1e-6, 2e-6]])
        q = AggregatePosterior.of(torch.ones(4, 2, requires_grad=True), torch.ones(3, 2))
        value = Adversarial(net, non_saturating=non_saturating)(q)
        gradients.append(torch.autograd.grad(value, q.codes)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=0)
    # d/dz of -(1/4) sum b = -(1/4) b'(0) w, with b'(0) = 1/4.
    torch.testing.assert_close(gradients[0], torch.tensor([[1e-6, 2e-6]]).expand(4, 2) / -16)


@pytest.mark.parametrize("name", BOUNDS)
def test_masked_row_is_a_dropped_row(name: str) -> None:
    torch.manual_seed(1)
    adversary = build(name)
    codes, draws = torch.randn(5, 2), torch.randn(7, 2)
    weights = torch.tensor([2.0, 0.0, 2.0, 1.0, 0.0])
    kept = torch.tensor([0, 2, 3])
    masked = AggregatePosterior.of(codes, draws, weights=weights)
    dropped = AggregatePosterior.of(codes[kept], draws, weights=weights[kept])
    torch.testing.assert_close(adversary(masked), adversary(dropped))
    scaled = AggregatePosterior.of(codes, draws, weights=0.01 * weights)
    torch.testing.assert_close(adversary(masked), adversary(scaled))
    losses = []
    for q in (masked, scaled):
        torch.manual_seed(0)
        loss = adversary.critic_loss(q)
        assert loss is not None
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1])
    if name != "WGAN-GP":
        torch.testing.assert_close(losses[0], adversary.critic_loss(dropped))
    nothing = AggregatePosterior.of(codes, draws, weights=torch.zeros(5))
    assert adversary(nothing) == 0
    none = adversary.critic_loss(nothing)
    assert none is not None
    none.backward()
    assert all(not p.grad.any() for p in adversary.parameters() if p.grad is not None)


def test_penalty_of_a_masked_row_is_none() -> None:
    codes, draws = torch.randn(4, 2), torch.randn(4, 2)

    def critic(z: Tensor) -> Tensor:
        return z.square().sum(-1)

    weights = torch.tensor([1.0, 0.0, 3.0, 0.0])
    torch.manual_seed(0)
    value = WassersteinGP(10.0).penalty(critic, draws, codes, weights)
    torch.manual_seed(0)
    between = torch.lerp(codes, draws, torch.rand(4, 1))
    each = 10 * (2 * between.norm(dim=1) - 1).square()
    torch.testing.assert_close(value, (each[0] + 3 * each[2]) / 4)
    torch.manual_seed(0)
    flat = WassersteinGP(10.0, one_sided=True).penalty(
        lambda z: z.sum(-1) / 2, draws, codes, weights
    )
    assert flat == 0


def test_running_statistics_move_only_in_training_and_once() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    adversary = Adversarial(net)
    q = random_posterior()
    adversary(q)
    adversary.critic_loss(q)
    adversary(replace(q, moving=True))
    assert net[1].num_batches_tracked == 0
    assert torch.equal(net[1].running_mean, torch.zeros(8))
    still = adversary.critic_loss(q)
    moving = adversary.critic_loss(replace(q, moving=True))
    assert still is not None
    assert moving is not None
    torch.testing.assert_close(still, moving)
    assert net[1].num_batches_tracked == 1
    moving.backward()
    assert net[0].weight.grad is not None


def test_statistics_through_the_objective() -> None:
    pair = PAIRS["one_latent"]()
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    objective = InfoVAE(Adversarial(net), scale=3.0)
    pyro.set_rng_seed(0)
    before = objective.loss(pair.model, pair.guide, *pair.args)
    assert net[1].num_batches_tracked == 0
    pyro.set_rng_seed(0)
    assert objective.loss_and_grads(pair.model, pair.guide, *pair.args) == before
    assert net[1].num_batches_tracked == 1


@pytest.mark.parametrize("log_prior", [False, True])
@pytest.mark.parametrize("name", ["JS", "reverse KL"])
def test_learnable_prior(name: str, log_prior: bool) -> None:
    """Reparameterised draws carry the gradient to the prior; the critic's loss carries none."""
    loc = torch.zeros(2, requires_grad=True)
    adversary = build(name, log_prior=log_prior)
    p = dist.Normal(loc, 1.0).to_event(1)
    q = AggregatePosterior.of(torch.randn(6, 2) + 1, p)
    loss = adversary.critic_loss(q)
    assert loss is not None
    assert torch.autograd.grad(loss, loc, allow_unused=True, retain_graph=True) == (None,)
    (gradient,) = torch.autograd.grad(adversary(q), loc)
    draws = q.prior_draws().detach().requires_grad_()
    by_draws = AggregatePosterior.of(q.codes, draws)
    if log_prior:
        fixed = dist.Normal(loc.detach(), 1.0).to_event(1)
        by_draws.prior.log_prob = fixed.log_prob  # type: ignore[method-assign]
    (each,) = torch.autograd.grad(adversary(by_draws), draws)
    torch.testing.assert_close(gradient, each.sum(0))


def test_log_prior_is_added() -> None:
    codes, draws = torch.randn(5, 2), torch.randn(5, 2)
    adversary = build("reverse KL", log_prior=True)
    q = AggregatePosterior.of(codes, prior())
    q.drawn[5] = draws
    a, b = adversary.net(codes)[:, 0], adversary.net(draws)[:, 0]
    expected = (
        -torch.exp(-b - prior().log_prob(draws)).mean() - (a + prior().log_prob(codes) - 1).mean()
    )
    torch.testing.assert_close(adversary(q), expected)


def test_log_prior_of_a_drawn_prior_in_any_number() -> None:
    """A mixture prior is scored by the model, in blocks of a batch's rows."""
    locs = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [2.0, -1.0]])

    def mixture() -> Any:
        return dist.MixtureSameFamily(
            dist.Categorical(torch.ones(3)), dist.Normal(locs, 0.7).to_event(1)
        )

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", mixture())
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.5).to_event(1))

    objective = InfoVAE(build(log_prior=True, draws=17), scale=2.0)
    seen: list[AggregatePosterior] = []
    objective.divergences[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss = objective.loss_and_grads(model, guide, torch.randn(7, 2))
    assert math.isfinite(loss)
    points = torch.randn(17, 2)
    torch.testing.assert_close(seen[0].prior.log_prob(points), mixture().log_prob(points))


WIDTH = {"two_latents": 4, "chain_top_down": 6, "chain_bottom_up": 6, "nested_plates": 4}


def objective_for(name: str, bound: Any = "JS", **options: Any) -> tuple[Any, InfoVAE]:
    pair = PAIRS[name]()
    pyro.set_rng_seed(4)
    adversary = Adversarial(dim=WIDTH.get(name, 3), hidden=(8,), bound=bound)
    return pair, InfoVAE(adversary, **{"alpha": 0.5, "scale": 3.0} | pair.keywords | options)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("bound", ["JS", "Hellinger", "WGAN-GP"])
@pytest.mark.parametrize("name", PAIRS)
def test_over_pairs(name: str, bound: str) -> None:
    pair, objective = objective_for(name, bound)
    objective.loss(pair.model, pair.guide, *pair.args)
    losses = []
    for call in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        pyro.set_rng_seed(1)
        losses.append(float(torch.as_tensor(call(pair.model, pair.guide, *pair.args)).detach()))
    assert losses[0] == losses[1] == losses[2]
    assert f"divergence/{'+'.join(pair.local)}" in objective.terms
    before = [p.detach().clone() for p in objective.parameters()]
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), objective)
    assert all(math.isfinite(svi.step(*pair.args)) for _ in range(3))
    moved = [not torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True)]
    assert all(moved[:-1])  # the last bias cancels for WGAN-GP


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("bound", BOUNDS)
def test_both_ways_through_the_whole_objective(bound: str) -> None:
    """The guide's gradient with a critic that learns is that with one that is frozen; the
    critic's does not depend on how the objective weighs the divergence."""
    by_scale: dict[float, list[Tensor]] = {}
    guides: list[dict[str, Tensor]] = []
    for scale, is_frozen in ((3.0, False), (3.0, True), (40.0, False)):
        pyro.clear_param_store()
        pair, objective = objective_for("one_latent", bound, scale=scale)
        objective.requires_grad_(not is_frozen)
        pyro.set_rng_seed(1)
        with poutine.trace(param_only=True) as capture:
            loss = objective.differentiable_loss(pair.model, pair.guide, *pair.args)
        leaves = {n: s["value"].unconstrained() for n, s in capture.trace.nodes.items()}
        loss.backward()
        guides.append({name: leaf.grad for name, leaf in leaves.items()})
        if not is_frozen:
            by_scale[scale] = [torch.as_tensor(p.grad) for p in objective.parameters()]
    for name, gradient in guides[0].items():
        assert torch.equal(gradient, guides[1][name])
    for a, b in zip(by_scale[3.0], by_scale[40.0], strict=True):
        assert torch.equal(a, b)


def test_with_a_torch_optimiser() -> None:
    pair, objective = objective_for("pyro_modules")
    loss = objective(pair.model, pair.guide)
    critic = list(objective.parameters())
    loss(*pair.args)
    assert {id(p) for p in critic} < {id(p) for p in loss.parameters()}
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.01)
    before = [p.detach().clone() for p in loss.parameters()]
    for _ in range(3):
        optimiser.zero_grad()
        loss(*pair.args).backward()
        optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


@pytest.mark.parametrize("particles", [{}, {"vectorize_particles": True, "max_plate_nesting": 2}])
def test_particles_share_one_critic_step(particles: dict[str, Any]) -> None:
    pair, objective = objective_for("one_latent", num_particles=4, **particles)
    loss = objective.loss_and_grads(pair.model, pair.guide, *pair.args)
    assert math.isfinite(loss)


def test_two_adversaries_both_train() -> None:
    pair = PAIRS["one_latent"]()
    for _ in range(2):
        objective = InfoVAE(Adversarial(dim=3, hidden=(8,)), scale=3.0)
        before = [p.detach().clone() for p in objective.parameters()]
        SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), objective).step(*pair.args)
        after = list(objective.parameters())
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["JS", "reverse KL", "WGAN-GP"])
def test_game_brings_the_codes_to_the_prior(bound: str) -> None:
    """A point encoder of two clusters, far off the prior, under a penalty weight above 1."""
    x = torch.randn(128, 2)
    x = (x - x.mean(0)) / x.std(0)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1e3).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([2.0, -1.5]))
        scale = pyro.param("scale", torch.tensor([0.4, 0.5]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(loc + scale * x, event_dim=1))

    adversary = Adversarial(dim=2, hidden=(32, 32), bound=bound)  # type: ignore[arg-type]
    objective = InfoVAE(adversary, scale=5.0)
    optimiser = pyro.optim.Adam({"lr": 0.02, "betas": (0.5, 0.9)})
    svi = SVI(model, guide, optimiser, objective)
    path = []
    for _ in range(400):
        svi.step(x)
        path.append(torch.cat([pyro.param("loc"), pyro.param("scale").abs()]).detach())
    mean = torch.stack(path[-200:]).mean(0)
    assert (mean - torch.tensor([0.0, 0.0, 1.0, 1.0])).abs().max() < 0.25


@pytest.mark.parametrize("bound", BOUNDS)
def test_no_host_synchronisation(bound: str) -> None:
    pair, objective = objective_for("masked", bound)
    objective.loss(pair.model, pair.guide, *pair.args)
    no_waiting(objective, pair)


def test_own_bound_and_own_network() -> None:
    class Quadratic(Bound):
        is_ratio = False

        def on_prior(self, logit: Tensor) -> Tensor:
            return logit

        def on_codes(self, logit: Tensor) -> Tensor:
            return logit + logit.square() / 4

    def flat(inputs: torch.Size, outputs: torch.Size) -> nn.Module:
        assert (inputs, outputs) == ((2,), (1,))
        return nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))

    adversary = Adversarial(flat, bound=Quadratic(), dim=2)
    assert adversary(random_posterior()).isfinite()


def test_frozen_critic_has_no_loss() -> None:
    adversary = build().requires_grad_(False)
    assert adversary.critic_loss(random_posterior()) is None


def test_uniform_prior_with_its_constant_density() -> None:
    box = dist.Uniform(-torch.ones(2), 1.0).to_event(1)
    q = AggregatePosterior.of(torch.rand(6, 2) - 0.5, box)
    assert build(log_prior=True)(q).isfinite()


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"critic is not made yet: give a module, or dim="):
        Adversarial()(random_posterior())
    with pytest.raises(ValueError, match=r"reads codes of 3 dimensions, and those of 'z' have 2"):
        Adversarial(dim=3)(random_posterior())
    with pytest.raises(ValueError, match="chi-squared"):
        Adversarial(dim=2, bound="chi2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log_prior=True"):
        Adversarial(dim=2, bound="WGAN-GP", log_prior=True)
    with pytest.raises(ValueError, match="draws=0"):
        Adversarial(dim=2, draws=0)
    with pytest.raises(ValueError, match="must be positive"):
        WassersteinGP(0.0)
    with pytest.raises(ValueError, match="one logit a row"):
        Adversarial(nn.Linear(2, 3))(random_posterior())
    with pytest.raises(ValueError, match="draws alone"):
        build(log_prior=True)(random_posterior())
