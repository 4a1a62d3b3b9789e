"""Objectives through Pyro's own losses: the pair with one factor more."""

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from marginals import EVERY, MARGINALS, data, normal
from pairs import gradients
from pyro.distributions import constraints
from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.autoguide import AutoNormalMessenger
from torch import Tensor, nn

from ppl_vae.objectives import (
    MMD,
    TCVAE,
    WAE,
    Adversarial,
    AggregatePosterior,
    Autoencoder,
    BetaVAE,
    Divergence,
    InfoVAE,
    Objective,
)
from ppl_vae.program.running import read

pytestmark = pytest.mark.usefixtures("double")

N, S2 = 5, 0.5


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(0.4))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + 0.3 * b, S2**0.5), obs=x)


def chance(x: Tensor) -> Tensor:
    return torch.sigmoid(pyro.param("w", torch.tensor([0.2, 0.7])) @ torch.stack([x**0, x]))


def loc(b: Tensor, x: Tensor) -> Tensor:
    return pyro.param("shift", torch.tensor(1.5)) * b + 0.4 * x


def guide(x: Tensor, infer: Any = None) -> None:
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(chance(x)), infer=infer)
        pyro.sample("z", dist.Normal(loc(b, x), 0.6))


def xs() -> Tensor:
    return torch.tensor([-1.2, 0.4, 0.9, -0.3, 1.6])


def exact(scale: float, path: bool = False) -> Tensor:
    """The loss at alpha = 1 of z, b's KL in full, over all choices of the guide's b. With `path`
    the penalty's are weighed by detached probabilities, as a sum outside an ELBO has it."""
    x, total = xs(), torch.zeros(())
    prior = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    for choice in itertools.product((0.0, 1.0), repeat=N):
        b = torch.tensor(choice)
        q, p = dist.Bernoulli(chance(x)).log_prob(b), dist.Bernoulli(0.4).log_prob(b)
        mean = loc(b, x)
        square = (x - mean - 0.3 * b) ** 2 + 0.36
        fit = 0.5 * torch.log(2 * torch.pi * torch.tensor(S2)) + square / (2 * S2)
        codes = dist.Normal(mean[:, None], 0.6 * torch.ones(N, 1)).to_event(1)
        penalty = N * scale * MMD()(AggregatePosterior.of(codes, prior))
        weight = q.sum().exp()
        total = total + weight * (fit + q - p).sum()
        total = total + (weight.detach() if path else weight) * penalty
    return total


@pytest.mark.parametrize("elbo", [TraceGraph_ELBO, Trace_ELBO])
def test_a_penalty_is_credited_to_draws_upstream(elbo: Callable[[], ELBO]) -> None:
    """The gradient by w, with which b is drawn, is that of the sum over all b."""
    x, draws, scale = xs(), 250, 20.0
    objective = InfoVAE(MMD(), scale=scale, sites=["z"], elbo=elbo())
    found = []
    for _ in range(draws):
        objective.loss_and_grads(model, guide, x)
        w = pyro.get_param_store()["w"]
        found.append(w.grad.clone())
        w.grad = None
    slopes = torch.stack(found)
    error = slopes.std(0) / draws**0.5
    (expected,) = torch.autograd.grad(exact(scale), [w])
    (wrong,) = torch.autograd.grad(exact(scale, path=True), [w])
    assert ((slopes.mean(0) - expected).abs() < 4.5 * error).all()
    assert ((wrong - expected).abs() > 6 * error).any()


def test_enumerated_guide_sites_through_pyro() -> None:
    """What the guide enumerates needs no credit: the sum itself, to the noise of z."""
    x, objective = xs(), InfoVAE(MMD(), scale=20.0, sites=["z"], elbo=TraceEnum_ELBO())
    values = [objective.loss(model, lambda x: guide(x, EVERY), x) for _ in range(100)]
    plain = InfoVAE(MMD(), scale=20.0, sites=["z"])
    ours = [plain.loss(model, lambda x: guide(x, EVERY), x) for _ in range(100)]
    one, other = torch.tensor(values), torch.tensor(ours)
    error = ((one.var() + other.var()) / 100).sqrt()
    assert (one.mean() - other.mean()).abs() < 4.5 * error


def smooth(x: Tensor) -> None:
    a = pyro.param("a", torch.tensor(0.4))
    s = pyro.param("s", torch.tensor(0.7), constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(a * x, s))


def decoder(x: Tensor) -> None:
    c = pyro.param("c", torch.tensor(1.2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(pyro.param("m", torch.tensor([0.1, -0.2])), 1.1))
        pyro.sample("x", normal(c * z, 0.8), obs=x)


def run(objective: Objective, *pair: Any) -> tuple[float, dict[str, Tensor]]:
    pyro.set_rng_seed(3)
    return gradients(lambda: objective.differentiable_loss(*pair))


def agree(one: Objective, other: Objective) -> None:
    pair = (decoder, smooth, data())
    ours, theirs = run(one, *pair), run(other, *pair)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-10)
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-8, atol=1e-9, msg=name)
    assert one.terms.keys() == other.terms.keys()
    for name, term in one.terms.items():
        torch.testing.assert_close(term, other.terms[name], msg=name)


PARTICLES: dict[str, dict[str, Any]] = {
    "one": {"max_plate_nesting": 1},
    "three": {"num_particles": 3, "max_plate_nesting": 1},
    "vectorised": {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 2},
}
MAKE: dict[str, Callable[..., Objective]] = {
    "half": lambda **o: InfoVAE(MMD(), alpha=0.5, scale=9.0, **o),
    "mmd": lambda **o: InfoVAE(MMD(), scale=9.0, **o),
    "sampled": lambda **o: InfoVAE(MMD(prior="sampled", noise="sampled"), scale=9.0, **o),
    "elbo": lambda **o: InfoVAE(alpha=0, **o),
    "beta": lambda **o: BetaVAE(4.0, **o),
    "autoencoder": lambda **o: Autoencoder(**o),
    "wae": lambda **o: WAE(MMD(), scale=9.0, **o),
}


@pytest.mark.parametrize("how", PARTICLES)
@pytest.mark.parametrize("name", MAKE)
def test_through_the_mean_field_elbo_it_is_infovae(name: str, how: str) -> None:
    particles = PARTICLES[how]
    agree(MAKE[name](elbo=TraceMeanField_ELBO(**particles)), MAKE[name](**particles))


def test_a_critic_learns_outside_the_factor() -> None:
    torch.manual_seed(0)
    critic = Adversarial(dim=2, hidden=(4,))
    objectives = [InfoVAE(critic, scale=3.0, elbo=TraceMeanField_ELBO(max_plate_nesting=1))]
    objectives += [InfoVAE(critic, scale=3.0, max_plate_nesting=1)]
    slopes = []
    for objective in objectives:
        pyro.set_rng_seed(1)
        objective.zero_grad()
        loss = objective.differentiable_loss(decoder, smooth, data())
        loss.backward()
        slopes.append([float(loss.detach()), *(p.grad.clone() for p in objective.parameters())])
    assert slopes[0][0] == pytest.approx(slopes[1][0])
    for one, other in zip(slopes[0][1:], slopes[1][1:], strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("name", MARGINALS)
def test_through_the_enumerating_elbo(name: str) -> None:
    """At alpha = 0 it is Pyro's, and at alpha = 1 without D the conditional is left."""
    pair = MARGINALS[name]()

    def value(loss: Callable[..., Tensor]) -> tuple[float, dict[str, Tensor]]:
        pyro.set_rng_seed(3)
        return gradients(lambda: loss(pair.model, pair.guide, *pair.args))

    def enum() -> ELBO:
        return TraceEnum_ELBO(max_plate_nesting=pair.nesting)

    def by_hand(*_: Any) -> Tensor:
        reading = read(pair.model, pair.guide, pair.args, max_plate_nesting=pair.nesting)
        return -pair.conditional(reading.guide_sites["z"].value)

    cases = [
        (InfoVAE(alpha=0, elbo=enum()), enum().differentiable_loss),
        (Autoencoder(elbo=enum()), by_hand),
    ]
    for objective, theirs in cases:
        ours, expected = value(objective.differentiable_loss), value(theirs)
        assert ours[0] == pytest.approx(expected[0], rel=1e-10)
        for key, slope in ours[1].items():
            left = expected[1].get(key, torch.zeros_like(slope))
            torch.testing.assert_close(slope, left, rtol=1e-8, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", MARGINALS)
def test_the_penalty_through_the_enumerating_elbo(name: str) -> None:
    """The loss is that without `elbo=` in expectation, MMD and all."""
    pair, losses = MARGINALS[name](), []
    for elbo in (TraceEnum_ELBO(max_plate_nesting=pair.nesting), None):
        objective = InfoVAE(MMD(), alpha=0.5, scale=20.0, elbo=elbo)
        args = (pair.model, pair.guide, *pair.args)
        losses.append(torch.tensor([objective.loss(*args) for _ in range(30)]))
    error = ((losses[0].var() + losses[1].var()) / 30).sqrt()
    assert (losses[0].mean() - losses[1].mean()).abs() < 4.5 * error


def test_a_guide_with_baselines_trains() -> None:
    """The structure of AIR: whether a thing is there is drawn before what it is."""
    baseline = nn.Linear(1, 1)

    def baselined(x: Tensor) -> None:
        pyro.module("baseline", baseline)
        own = {"baseline": {"baseline_value": baseline(x[:, None])[:, 0]}}
        guide(x, own)

    objective = InfoVAE(MMD(), scale=5.0, sites=["z"], elbo=TraceGraph_ELBO())
    svi = pyro.infer.SVI(model, baselined, pyro.optim.Adam({"lr": 0.02}), loss=objective)
    before = baseline.weight.detach().clone()
    x = xs().repeat(6)
    losses = torch.tensor([svi.step(x) for _ in range(100)])
    assert losses[-40:].mean() < losses[:40].mean()
    assert not torch.equal(before, baseline.weight)
    assert {"reconstruction/x", "divergence/z", "rate/b"} <= objective.terms.keys()
    assert all(type(term) is Tensor for term in objective.terms.values())


class Broken(Divergence):
    def forward(self, q: AggregatePosterior) -> Tensor:
        return q.codes.sum() * float("nan")


def test_a_term_that_is_no_number_leaves_no_gradient() -> None:
    for elbo in (TraceGraph_ELBO(), TraceMeanField_ELBO(), None):
        objective = InfoVAE(Broken(), scale=5.0, elbo=elbo)
        with pytest.raises(FloatingPointError, match="term 'divergence/z' is nan at step 1"):
            objective.loss_and_grads(decoder, smooth, data())
        for param in pyro.get_param_store().values():
            grad = param.unconstrained().grad
            assert grad is None or (grad == 0).all()


def test_refused_when_made() -> None:
    means = "takes the logarithm of a mean over particles"
    cases: list[tuple[Any, str]] = [
        (RenyiELBO(0.5), rf"elbo=RenyiELBO\(...\) {means}.*: use IWAE"),
        (TraceTMC_ELBO(), rf"elbo=TraceTMC_ELBO\(...\) {means}"),
        (TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True), "by their rank"),
        (ReweightedWakeSleep(), "a loss for the model and another for the guide"),
        (Trace_MMD(kernel={}), "compares data and holds no latent against its prior"),
        (JitTrace_ELBO(), r"records its first call, .* change: use Trace_ELBO"),
        (BetaVAE(), "is an objective of its own"),
    ]
    for elbo, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            InfoVAE(MMD(), scale=5.0, elbo=elbo)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"give a pyro.infer.ELBO, such as TraceEnum_ELBO\(\)"):
        InfoVAE(MMD(), scale=5.0, elbo=TraceEnum_ELBO)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_particles: give Trace_ELBO itself"):
        InfoVAE(MMD(), scale=5.0, elbo=Trace_ELBO(), num_particles=3)
    with pytest.raises(ValueError, match="free_bits=1 frees a part of a KL that elbo= weighs"):
        BetaVAE(2.0, free_bits=1.0, elbo=Trace_ELBO())
    with pytest.raises(ValueError, match="TCVAE weighs parts of the KL, which no other loss has"):
        TCVAE(elbo=Trace_ELBO())


def test_refused_when_called() -> None:
    marginal = MARGINALS["mixture_prior"]()
    graph, enum = TraceGraph_ELBO(), TraceEnum_ELBO()
    penalty: dict[str, Any] = {"scale": 5.0, "sites": ["z"]}
    cases: list[tuple[Objective, Callable[..., Any], Callable[..., Any], Tensor, str]] = [
        (
            InfoVAE(MMD(), **penalty, elbo=enum),
            model,
            guide,
            xs(),
            "'b' of the guide, Bernoulli, is sampled, and TraceEnum_ELBO would not credit it .*"
            r"use elbo=TraceGraph_ELBO\(\)",
        ),
        (
            InfoVAE(MMD(), **penalty, elbo=Trace_ELBO()),
            marginal.model,
            marginal.guide,
            data(),
            r"'k' of the model is enumerated, which Trace_ELBO does not do: use "
            r"elbo=TraceEnum_ELBO\(\)",
        ),
        (
            InfoVAE(MMD(), scale=5.0, plate="batch", elbo=Trace_ELBO()),
            decoder,
            smooth,
            data(),
            "plate 'batch' holds no latent site of the guide",
        ),
        (
            InfoVAE(MMD(), scale=5.0, elbo=Trace_ELBO()),
            decoder,
            AutoNormalMessenger(decoder),
            data(),
            "an AutoGuideMessenger does not: use an AutoGuide such as AutoNormal",
        ),
    ]
    for objective, program, encoder, x, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            objective.loss(program, encoder, x)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="TraceGraph_ELBO has gradients by loss_and_grads alone"):
        InfoVAE(MMD(), **penalty, elbo=graph).differentiable_loss(model, guide, xs())
