"""The infomax bound and its gradient through x ~ p(x|z), held against quadrature."""

import copy
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA
from pyro import poutine
from pyro.infer import SVI
from syncs import Syncs
from torch import Tensor, nn

from ppl_vae.bodies import MLP
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import Dual, InfoVAE, Linear, MutualAutoencoder, Penalty
from ppl_vae.objectives.infomax import Dream
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import StandardNormal
from ppl_vae.program.running import read

pytestmark = pytest.mark.usefixtures("double")

ROWS = 20_000


class R(nn.Module):
    """r(z|x) = N(f(x), v) with f linear in all that is observed."""

    def __init__(self, slopes: list[float], variance: float, event: bool = False):
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor(slopes))
        self.variance, self.event = variance, event

    def forward(self, *x: Tensor) -> Any:
        columns = torch.cat([part.reshape(len(part), -1) for part in x], -1)
        loc = columns.to(self.slopes) @ self.slopes
        scale = math.sqrt(self.variance)
        if self.event:
            return dist.Normal(loc[:, None], scale).to_event(1)
        return dist.Normal(loc, scale)


def guide(*_: Any, rows: int = ROWS) -> None:
    with pyro.plate("data", rows):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def dream(model: Callable[..., None], estimator: Any = "auto", rows: int = ROWS) -> Dream:
    reading = read(model, partial(guide, rows=rows), ())
    return Dream(reading, ["z"], None, estimator, 0.5)


def bounds(
    model: Callable[..., None], r: nn.Module, estimator: Any = "auto", repeats: int = 20
) -> list[Tensor]:
    """Independent estimates of the bound."""
    it = dream(model, estimator)
    return [it.bound(r)[0] for _ in range(repeats)]


def check(estimates: list[Tensor], by: list[Tensor], value: float, slopes: list[float]) -> None:
    """Value and gradients within 4.5 standard errors, which a factor 2 would leave."""
    grads = torch.stack([torch.stack(torch.autograd.grad(e, by)) for e in estimates])
    found = torch.cat([torch.stack(estimates).detach()[:, None], grads], 1)
    for sample, expected in zip(found.T, [value, *slopes], strict=True):
        error = 4.5 * float(sample.std()) / math.sqrt(len(sample)) + 1e-9
        assert error < 0.4 * abs(expected)
        assert float(sample.mean()) == pytest.approx(expected, abs=error)


def quadrature(integrand: Callable[[Tensor, dict[str, Tensor]], Tensor], **at: float) -> Any:
    """The mean over z ~ N(0, 1) and its derivatives in the named parameters."""
    z = torch.linspace(-9, 9, 20_001)
    weight = torch.softmax(-0.5 * z.square(), 0)
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in at.items()}
    value = (weight * integrand(z, leaves)).sum()
    slopes = torch.autograd.grad(value, list(leaves.values()))
    return float(value.detach()), [float(s) for s in slopes]


def log_normal(z: Tensor, loc: Any, variance: float) -> Tensor:
    return -0.5 * (z - loc).square() / variance - 0.5 * math.log(2 * math.pi * variance)


ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


# Value and gradient


@pytest.mark.parametrize("widen", [1.0, 3.0])
def test_bound_of_a_linear_model(widen: float) -> None:
    """I(x, z) with the posterior for r; with a wider r less by their divergence."""
    pair = PPCA.make()

    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return dist.MultivariateNormal(pair.codes(x), pair.covariance * widen)

    objective = MutualAutoencoder(1.0, auxiliary=Posterior())
    x = pair.sample(5000)
    values = []
    for _ in range(20):
        objective.loss(pair.model, pair.guide, x)
        values.append(objective.terms["information/z"])
    found = torch.stack(values)
    gap = 0.5 * 2 * (1 / widen - 1 + math.log(widen))
    expected = pair.mutual_information - gap
    error = 4.5 * float(found.std()) / math.sqrt(len(found))
    assert error < 0.05
    assert float(found.mean()) == pytest.approx(expected, abs=error)
    assert float(objective.terms["constraint/information"]) == pytest.approx(float(found[-1]) - 1)


def test_reparameterised() -> None:
    w = torch.tensor(1.2, requires_grad=True)
    loc, scale = torch.tensor(0.3, requires_grad=True), torch.tensor(0.8, requires_grad=True)

    def model() -> None:
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", dist.Normal(loc, scale))
            pyro.sample("x", dist.Normal(w * z, 0.5), obs=torch.zeros(ROWS))

    a, v = 0.4, 0.3

    def by_hand(e: Tensor, p: dict[str, Tensor]) -> Tensor:
        z = p["loc"] + p["scale"] * e
        square = (z - a * p["w"] * z).square() + a * a * 0.25
        log_r = -0.5 * square / v - 0.5 * math.log(2 * math.pi * v)
        return ENTROPY + p["scale"].log() + log_r

    value, slopes = quadrature(by_hand, w=1.2, loc=0.3, scale=0.8)
    r = R([a], v)
    check(bounds(model, r, repeats=40), [w, loc, scale], value, slopes)

    bound, fit = dream(model).bound(r)
    assert torch.autograd.grad(bound, r.slopes, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(fit, [w, loc, scale], allow_unused=True, retain_graph=True) == (
        (None,) * 3
    )
    (slope,) = torch.autograd.grad(fit, r.slopes)
    second_moment = 1.44 * (0.64 + 0.09) + 0.25
    expected = (a * second_moment - 1.2 * (0.64 + 0.09)) / v
    assert float(slope) == pytest.approx(expected, abs=4.5 * 3 / v / math.sqrt(ROWS))


def coin(w: Tensor, size: int, rows: int = ROWS) -> Callable[[], None]:
    def model() -> None:
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = w * z[:, None] + torch.tensor([0.5, -0.5])[:size]
            fn = dist.Bernoulli(logits=logits).to_event(1)
            pyro.sample("x", fn, obs=torch.zeros(rows, size))

    return model


def coins_by_hand(size: int, slopes: list[float], v: float) -> Any:
    def integrand(z: Tensor, p: dict[str, Tensor]) -> Tensor:
        total = torch.zeros_like(z)
        for x in torch.cartesian_prod(*[torch.arange(2.0)] * size).reshape(-1, size):
            logits = p["w"] * z[:, None] + torch.tensor([0.5, -0.5])[:size]
            log_p = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
            total = total + log_p.exp() * log_normal(z, float(x @ torch.tensor(slopes)), v)
        return ENTROPY + total

    return quadrature(integrand, w=1.5)


@pytest.mark.parametrize(
    ("estimator", "size"), [("enumerate", 1), ("score", 1), ("score", 2), ("auto", 2)]
)
def test_discrete(estimator: Any, size: int) -> None:
    w = torch.tensor(1.5, requires_grad=True)
    slopes = [1.1, 0.6][:size]
    value, expected = coins_by_hand(size, slopes, 0.7)
    found = bounds(coin(w, size), R(slopes, 0.7, event=True), estimator, 60)
    check(found, [w], value, expected)


def test_baseline_leaves_a_row_out() -> None:
    """With few rows, one that had a part in its own baseline would lose half its gradient."""
    rows, w = 3, torch.tensor(1.5, requires_grad=True)
    _, (expected,) = coins_by_hand(1, [1.1], 0.7)
    it, r = dream(coin(w, 1, rows), "score", rows), R([1.1], 0.7, event=True)
    grads = [torch.autograd.grad(it.bound(r)[0], w)[0] for _ in range(3000)]
    sample = torch.stack(grads)
    error = 4.5 * float(sample.std()) / math.sqrt(len(sample))
    assert error < 0.4 * abs(expected)
    assert float(sample.mean()) == pytest.approx(expected, abs=error)


def test_relaxed_is_close_and_unlike() -> None:
    """Its value is the same; its gradient has the right sign, and is biased."""
    w = torch.tensor(1.5, requires_grad=True)
    value, (slope,) = coins_by_hand(2, [1.1, 0.6], 0.7)
    found = bounds(coin(w, 2), R([1.1, 0.6], 0.7, event=True), "relaxed")
    sample = torch.stack(found).detach()
    assert float(sample.mean()) == pytest.approx(value, abs=4.5 * float(sample.std()) / 4.4)
    grads = torch.stack([torch.autograd.grad(f, w)[0] for f in found])
    assert float(grads.mean()) == pytest.approx(slope, rel=0.5)


def test_enumeration_has_less_variance() -> None:
    w = torch.tensor(1.5, requires_grad=True)
    spread = {}
    for estimator in ("enumerate", "score"):
        found = bounds(coin(w, 1), R([1.1], 0.7, event=True), estimator)
        spread[estimator] = float(torch.stack([torch.autograd.grad(f, w)[0] for f in found]).var())
    assert spread["enumerate"] < 0.3 * spread["score"]


def test_mixed_sites() -> None:
    """A coin y, then x given y and z: the score at y, pathwise at x, each seeing both."""
    w, u = torch.tensor(1.5, requires_grad=True), torch.tensor(0.2, requires_grad=True)

    def model() -> None:
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Bernoulli(logits=w * z), obs=torch.zeros(ROWS))
            pyro.sample("x", dist.Normal(u * (y + z), 0.5), obs=torch.zeros(ROWS))

    b, c, v = 0.7, 0.4, 0.6

    def by_hand(z: Tensor, p: dict[str, Tensor]) -> Tensor:
        total = torch.zeros_like(z)
        for y in (0.0, 1.0):
            prob = torch.sigmoid((2 * y - 1) * p["w"] * z)
            log_r = log_normal(z, b * y + c * p["u"] * (y + z), v) - 0.5 * c * c * 0.25 / v
            total = total + prob * log_r
        return ENTROPY + total

    value, slopes = quadrature(by_hand, w=1.5, u=0.2)
    check(bounds(model, R([b, c], v), repeats=60), [w, u], value, slopes)


def test_prior_without_closed_forms() -> None:
    """A learned mixture: its entropy at the draws, its gradient by the score function."""
    logit = torch.tensor(0.4, requires_grad=True)

    def model() -> None:
        with pyro.plate("data", ROWS):
            parts = dist.Normal(torch.tensor([-1.0, 1.5]), torch.tensor([0.4, 0.8]))
            mixing = dist.Categorical(logits=torch.stack([logit, -logit]))
            z = pyro.sample("z", dist.MixtureSameFamily(mixing, parts))
            pyro.sample("x", dist.Normal(z, 0.5), obs=torch.zeros(ROWS))

    z = torch.linspace(-9, 9, 20_001)
    leaf = torch.tensor(0.4, requires_grad=True)
    parts = torch.distributions.Normal(torch.tensor([-1.0, 1.5]), torch.tensor([0.4, 0.8]))
    log_mix = torch.stack([leaf, -leaf]).log_softmax(0)
    log_p = (log_mix + parts.log_prob(z[:, None])).logsumexp(-1)
    log_r = log_normal(z, 0.9 * z, 0.3) - 0.5 * 0.81 * 0.25 / 0.3
    value = (log_p.exp() * (log_r - log_p)).sum() * (z[1] - z[0])
    (slope,) = torch.autograd.grad(value, leaf)
    found = bounds(model, R([0.9], 0.3), repeats=60)
    check(found, [logit], float(value.detach()), [float(slope)])


# The two players


def test_r_is_fitted_whatever_the_sign() -> None:
    """Above and below M the model moves in opposite ways; r and the encoder do not notice."""
    size = (5,)
    body: Any = lambda i, o: MLP(i, o, hidden=(4,))  # noqa: E731
    vae = VAE(StandardNormal(2), Bernoulli(2, size, body), MeanFieldNormal(size, 2, body))
    r = MeanFieldNormal(size, 2, body, initial_scale=1.0)
    x = torch.bernoulli(torch.full((8, 5), 0.5))
    grads: dict[str, list[Tensor]] = {}
    for name, objective in {
        "elbo": InfoVAE(alpha=0),
        "raise": MutualAutoencoder(9.0, Penalty(3.0), auxiliary=r),
        "lower": MutualAutoencoder(0.0, Penalty(3.0), auxiliary=r),
    }.items():
        if name == "lower":
            objective.target = -9.0  # type: ignore[attr-defined]
        pyro.set_rng_seed(1)
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        parameters = [*vae.likelihood.parameters(), *vae.encoder.parameters(), *r.parameters()]
        grads[name] = list(torch.autograd.grad(loss, parameters, allow_unused=True))
    split = len(list(vae.likelihood.parameters()))
    until = split + len(list(vae.encoder.parameters()))
    both = list(zip(*grads.values(), strict=True))
    for elbo, up, down in both[:split]:
        torch.testing.assert_close((up + down) / 2, elbo)
    assert any(not torch.allclose(up, down) for _, up, down in both[:split])
    for elbo, up, down in both[split:until]:
        torch.testing.assert_close(up, elbo)
        torch.testing.assert_close(down, elbo)
    for elbo, up, down in both[until:]:
        assert elbo is None
        torch.testing.assert_close(up, down)
        assert up.abs().max() > 0


def test_penalty_is_data_times_weight_times_gap() -> None:
    pair = PPCA.make()
    x = pair.sample(50)

    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return dist.MultivariateNormal(pair.codes(x), pair.covariance)

    losses = {}
    for weight in (1.0, 5.0):
        objective = MutualAutoencoder(0.25, weight, auxiliary=Posterior())
        pyro.set_rng_seed(2)
        losses[weight] = objective.loss(pair.model, pair.guide, x)
    gap = float(objective.terms["constraint/information"])
    assert losses[5.0] - losses[1.0] == pytest.approx(50 * 4 * abs(gap))
    scaled = [poutine.scale(f, scale=0.3) for f in (pair.model, pair.guide)]
    pyro.set_rng_seed(2)
    assert objective.loss(*scaled, x) == pytest.approx(0.3 * losses[5.0])


def test_dual_variable_meets_the_target() -> None:
    """x ~ N(0, 1) split by a linear decoder, whose I is known; a schedule leads there."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.s = (nn.Parameter(torch.tensor(v)) for v in (0.3, 0.0))
            self.a, self.t = (nn.Parameter(torch.tensor(v)) for v in (0.3, 0.0))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.w * z, self.s.exp()), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.a * x, self.t.exp()))

    class Linear1(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.t = (nn.Parameter(torch.tensor(v)) for v in (0.0, 0.0))

        def forward(self, x: Tensor) -> Any:
            return dist.Normal(self.a * x, self.t.exp())

    pair = Line()
    dual = Dual(speed=3.0, damping=3.0)
    objective = MutualAutoencoder(Linear(0.0, 1.0, over=0.2), dual, auxiliary=Linear1())
    objective.plan(700)
    loss = objective(pair.model, pair.guide)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, 2 - t / 350))
    for _ in range(700):
        optimizer.zero_grad()
        (loss(torch.randn(300)) / 300).backward()
        optimizer.step()
        fall.step()
    w, s = float(pair.w.detach()), float(pair.s.detach().exp())
    information = 0.5 * math.log1p((w / s) ** 2)
    assert information == pytest.approx(1.0, abs=0.05)
    assert w * w + s * s == pytest.approx(1.0, abs=0.06)


# Rows, globals, particles


def test_globals_are_the_guides() -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 10.0))
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w * z, 0.5), obs=torch.zeros(ROWS))

    def with_global() -> None:
        pyro.sample("w", dist.Delta(torch.tensor(2.0)))
        guide()

    v = 1 / (1 + 4 / 0.25)
    r = R([2 * v / 0.25], v)
    objective = MutualAutoencoder(1.0, auxiliary=r)
    objective.loss(model, with_global)
    found = float(objective.terms["information/z"])
    assert found == pytest.approx(-0.5 * math.log(v), abs=4.5 * math.sqrt(0.5 / ROWS))


@pytest.mark.parametrize(
    "particles",
    [
        {"num_particles": 3},
        {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1},
        {"draws": 3},
    ],
    ids=["loop", "vectorised", "draws"],
)
def test_particles_and_draws_are_averaged(particles: dict[str, Any]) -> None:
    pair = PPCA.make()
    x = pair.sample(200)

    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return dist.MultivariateNormal(pair.codes(x), pair.covariance)

    spread = {}
    for name, options in {"one": {}, "more": particles}.items():
        objective = MutualAutoencoder(1.0, auxiliary=Posterior(), **options)
        values = []
        for _ in range(200):
            objective.loss(pair.model, pair.guide, x)
            values.append(objective.terms["information/z"])
        sample = torch.stack(values)
        error = 4.5 * float(sample.std()) / math.sqrt(len(sample))
        assert float(sample.mean()) == pytest.approx(pair.mutual_information, abs=error)
        spread[name] = float(sample.var())
    assert 1.9 < spread["one"] / spread["more"] < 4.7  # 3 in expectation


def test_masked_rows_are_left_out() -> None:
    covariate = torch.where(torch.arange(ROWS) % 2 == 0, 1.0, 1e6)

    def model() -> None:
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(covariate * z, 0.5), obs=torch.zeros(ROWS))

    v = 1 / (1 + 1 / 0.25)
    mask = torch.arange(ROWS) % 2 == 0
    objective = MutualAutoencoder(1.0, auxiliary=R([v / 0.25], v))
    objective.loss(poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask))
    found = float(objective.terms["information/z"])
    assert found == pytest.approx(-0.5 * math.log(v), abs=4.5 * math.sqrt(0.5 / (ROWS / 2)))


# Which estimator


def observe(fn: Any, after: bool = False) -> Callable[..., None]:
    def model(*_: Any) -> None:
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            it = fn(z)
            pyro.sample("x", it, obs=it.sample())
            if after:
                pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(ROWS))
        pyro.factor("penalty", torch.tensor(-1.0))

    return model


def categories(values: int) -> Callable[[Tensor], Any]:
    return lambda z: dist.Categorical(logits=z[:, None].expand(-1, values))


CHOICES: dict[str, tuple[Callable[..., None], str]] = {
    "normal": (observe(lambda z: dist.Normal(z, 1.0)), "reparameterised"),
    "categorical": (observe(categories(256)), "enumerate"),
    "too many": (observe(categories(257)), "score"),
    "one element": (observe(lambda z: dist.Bernoulli(logits=z[:, None]).to_event(1)), "enumerate"),
    "two elements": (
        observe(lambda z: dist.Bernoulli(logits=z[:, None].expand(-1, 2)).to_event(1)),
        "score",
    ),
    "not the last": (observe(categories(3), after=True), "score"),
    "counts": (observe(lambda z: dist.Poisson(z.exp())), "score"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_auto(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, expected = CHOICES[name]

    class Any1(nn.Module):
        def forward(self, x: Tensor, *_: Tensor) -> Any:
            return dist.Normal(x.to(torch.get_default_dtype()).reshape(len(x), -1).sum(-1), 1.0)

    objective = MutualAutoencoder(1.0, auxiliary=Any1())
    with caplog.at_level(logging.INFO, "ppl_vae.objectives.mutual"):
        for _ in range(2):
            objective.loss(model, guide)
    assert objective.taken == expected
    sites = "x, y" if name == "not the last" else "x"
    said = [record.message for record in caplog.records if expected in record.message]
    assert said == [f"the gradient of I(x, z) passes {sites} by: {expected}"]
    with pyro.validation_enabled(False), Syncs():
        objective.differentiable_loss(model, guide)


def test_deterministic_sites_are_no_variables() -> None:
    """A value on record, and missing data: x is what its own distribution draws, all of it."""
    mask, x = torch.arange(ROWS) % 2 == 0, torch.zeros(ROWS)
    w = torch.tensor(1.5, requires_grad=True)

    def model() -> None:
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = pyro.deterministic("logits", w * z + 0.5)
            pyro.sample("x", dist.Bernoulli(logits=logits), obs=x, obs_mask=mask)

    def with_missing() -> None:
        with pyro.plate("data", ROWS):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=~mask):
                pyro.sample("x_unobserved", dist.Normal(torch.zeros(ROWS), 1.0))

    pyro.enable_validation(False)  # a stand-in for x_unobserved that is no Bernoulli
    it = Dream(read(model, with_missing, ()), ["z"], None, "score", 0.5)
    assert it.names == ["x_observed"]
    value, expected = coins_by_hand(1, [1.1], 0.7)
    found = [it.bound(R([1.1], 0.7))[0] for _ in range(60)]
    check(found, [w], value, expected)


@pytest.mark.parametrize(
    ("name", "estimator", "message"),
    [
        ("categorical", "reparameterised", "site 'x', Categorical, passes no pathwise gradient"),
        ("too many", "enumerate", "at most 256 values, which x is not"),
        ("two elements", "enumerate", "of one element and at most 256 values, which x is not"),
        ("not the last", "enumerate", "the last of the model"),
        ("categorical", "relaxed", "no relaxation of site 'x', Categorical"),
        ("counts", "relaxed", "no relaxation of site 'x', Poisson"),
    ],
)
def test_estimators_that_do_not_fit(name: str, estimator: Any, message: str) -> None:
    objective = MutualAutoencoder(1.0, auxiliary=R([1.0], 1.0), estimator=estimator)
    with pytest.raises(ValueError, match=message) as caught:
        objective.loss(CHOICES[name][0], guide)
    assert "\n" not in str(caught.value)


def test_refusals() -> None:
    normal, _ = CHOICES["normal"]
    with pytest.raises(ValueError, match="give auxiliary=, the module"):
        MutualAutoencoder(1.0)
    with pytest.raises(ValueError, match=r"information=-1\.0"):
        MutualAutoencoder(-1.0, auxiliary=R([1.0], 1.0))
    with pytest.raises(ValueError, match="estimator='gumbel': use one of auto"):
        MutualAutoencoder(1.0, auxiliary=R([1.0], 1.0), estimator="gumbel")  # type: ignore[arg-type]

    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)

    with pytest.raises(ValueError, match=r"shape \(20000, 2\) where z has 20000 rows of shape"):
        MutualAutoencoder(1.0, auxiliary=Wide()).loss(normal, guide)

    def nothing_observed() -> None:
        with pyro.plate("data", ROWS):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="observes nothing in plate"):
        MutualAutoencoder(1.0, auxiliary=R([1.0], 1.0), plate="data").loss(nothing_observed, guide)


def test_codes_on_a_simplex_need_an_r_that_is_on_it() -> None:
    """A density over all vectors grows without end around the simplex, and with it the bound."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(x.exp()))

    class Simplex(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return dist.Dirichlet(x.exp())

    pair = (model, guide, torch.randn(6, 3))
    r = MeanFieldNormal((3,), 3)
    with pytest.raises(ValueError, match=r"site 'z' is on the simplex, .* such as Dirichlet"):
        MutualAutoencoder(1.0, auxiliary=r).loss(*pair)
    assert math.isfinite(MutualAutoencoder(1.0, auxiliary=Simplex()).loss(*pair))


def test_in_svi_with_a_guide_of_the_library() -> None:
    size = (1, 4, 4)
    vae = VAE(StandardNormal(2), Bernoulli(2, size), MeanFieldNormal(size, 2))
    objective = MutualAutoencoder(2.0, auxiliary=MeanFieldNormal(size, 2, initial_scale=1.0))
    x = torch.bernoulli(torch.full((16, *size), 0.5))
    before = copy.deepcopy(objective.auxiliary.state_dict())
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), loss=objective)
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert objective.taken == "score"
    assert any(not torch.equal(before[k], v) for k, v in objective.auxiliary.state_dict().items())
