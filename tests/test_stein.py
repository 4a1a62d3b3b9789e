"""Stein's direction and discrepancy against hand-derived ones and closed forms."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussians import MU, V, deviation, estimates, rows, standard
from pairs import PAIRS, gradients
from torch import Tensor

from ppl_vae.objectives import (
    IMQ,
    RBF,
    AggregatePosterior,
    InfoVAE,
    Kernel,
    Laplacian,
    MultiScale,
    RationalQuadratic,
    Stein,
)
from ppl_vae.objectives.divergences.joint import aggregate_posteriors
from ppl_vae.program.running import read

pytestmark = pytest.mark.usefixtures("double")

KERNELS: list[Kernel] = [RBF(), IMQ(), RationalQuadratic(alpha=0.7), MultiScale()]


def direction(codes: Tensor, scores: Tensor, h2: float, statistic: str = "V") -> Tensor:
    """phi by its definition under exp(-r^2 / 2 h^2), a pair at a time."""
    n = len(codes)
    phi = torch.zeros_like(codes)
    for i in range(n):
        for j in range(n):
            if i == j and statistic == "U":
                continue
            difference = codes[j] - codes[i]
            k = torch.exp(-difference.square().sum() / (2 * h2))
            phi[i] += k * scores[j] - k * difference / h2
    return phi / (n if statistic == "V" else n - 1)


def population(d: int, h2: float) -> float:
    """KSD^2 of N(MU, V)^d from N(0, 1)^d: E k delta.delta', delta the scores' difference.

    Under the tilted law of (z, z'), density q q' k, the two have covariance c, and
    delta = (1/V - 1)(z - MU) - MU.
    """
    within = (1 + 2 * V / h2) ** (-d / 2)
    c = (1 / h2) / ((1 / V) * (1 / V + 2 / h2))
    return within * d * ((1 / V - 1) ** 2 * c + MU**2)


@pytest.mark.parametrize("d", [1, 2, 10])
@pytest.mark.parametrize("n", [2, 10, 100])
def test_value_against_the_closed_form(n: int, d: int) -> None:
    """U is unbiased; V counts E u(z, z) = E|z|^2 + d / h^2 at weight 1/n."""
    h2 = float(d)
    truth = population(d, h2)
    repeats = 700 if n < 100 else 100
    u = estimates(Stein(RBF()), n, d, repeats, one_by_one=True)
    assert deviation(u, truth) < 4.5
    diagonal = d * (MU**2 + V) + d / h2
    v = estimates(Stein(RBF(), statistic="V"), n, d, repeats, one_by_one=True)
    assert deviation(v, truth + (diagonal - truth) / n) < 4.5
    if n < 100:
        assert deviation(v, truth) > 4.5


@pytest.mark.parametrize("statistic", ["U", "V"])
def test_direction_is_zero_at_the_prior(statistic: Any) -> None:
    """A fixed code among draws of p is not moved; the V-statistic's j = i pulls by score / n."""
    n, d = 10, 3
    fixed = torch.tensor([0.5, -1.0, 1.5])
    found = []
    for _ in range(700):
        codes = torch.cat([fixed[None], torch.randn(n - 1, d)]).requires_grad_()
        value = Stein(statistic=statistic)(AggregatePosterior.of(codes, standard(d)))
        found.append(-n * torch.autograd.grad(value, codes)[0][0])
    expected = torch.zeros(d) if statistic == "U" else -fixed / n
    assert deviation(torch.stack(found), expected) < 4.5
    if statistic == "V":
        assert deviation(torch.stack(found), torch.zeros(d)) > 4.5


@pytest.mark.parametrize("statistic", ["U", "V"])
def test_direction_of_a_linear_map(statistic: Any) -> None:
    """For z = A x + b: the loss's gradient is -1/n sum phi_i x_i^T, and the value KSD^2."""
    n, d = 9, 2
    x = torch.randn(n, 3)
    a = torch.randn(d, 3, requires_grad=True)
    b = torch.randn(d, requires_grad=True)
    codes = x @ a.T + b
    q = AggregatePosterior.of(codes, standard(d))
    value = Stein(RBF(1.3), statistic)(q)
    phi = direction(codes.detach(), -codes.detach(), 1.3**2, statistic)
    grad_a, grad_b = torch.autograd.grad(value, [a, b])
    torch.testing.assert_close(grad_a, -phi.T @ x / n)
    torch.testing.assert_close(grad_b, -phi.mean(0))
    assert value.item() == pytest.approx(discrepancy(RBF(1.3), codes, 1.3**2, statistic).item())


def discrepancy(kernel: Kernel, codes: Tensor, h2: Tensor | float, statistic: str) -> Tensor:
    """KSD^2 against N(0, I) by differentiating the kernel, a pair at a time."""
    n, d = codes.shape
    total = torch.zeros(())
    for i in range(n):
        for j in range(n):
            if i == j and statistic == "U":
                continue
            x, y = (codes[m].detach().clone().requires_grad_() for m in (i, j))
            k = kernel((x - y).square().sum(), h2)
            gx, gy = torch.autograd.grad(k, [x, y], create_graph=True)
            cross = sum(torch.autograd.grad(gx[c], y, retain_graph=True)[0][c] for c in range(d))
            total = total + (k * x @ y - x @ gy - y @ gx + cross).detach()
    return total / (n * n if statistic == "V" else n * (n - 1))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("statistic", ["U", "V"])
def test_every_kernel_is_differentiated(kernel: Kernel, statistic: Any) -> None:
    codes = 1.5 * torch.randn(6, 3)
    h2 = kernel.squared_length(3, codes)
    value = Stein(kernel, statistic)(AggregatePosterior.of(codes, standard(3)))
    torch.testing.assert_close(value, discrepancy(kernel, codes, h2, statistic))


def test_descent_approaches_the_prior() -> None:
    """The sign: codes off to one side move back and spread."""
    codes = (2 + 0.3 * torch.randn(50, 2)).requires_grad_()
    optimizer = torch.optim.SGD([codes], lr=5.0)
    for _ in range(150):
        optimizer.zero_grad()
        Stein(statistic="V")(AggregatePosterior.of(codes, standard(2))).backward()
        optimizer.step()
    assert codes.mean().abs() < 0.2
    assert 0.8 < codes.std() < 1.1


@pytest.mark.parametrize(
    ("prior", "score"),
    [
        (dist.Laplace(torch.zeros(3), 2.0), lambda z: -z.sign() / 2),
        (dist.StudentT(4.0, torch.zeros(3), 1.0), lambda z: -5 * z / (4 + z.square())),
    ],
    ids=["Laplace", "StudentT"],
)
def test_score_of_other_priors(prior: Any, score: Callable[[Tensor], Tensor]) -> None:
    codes = torch.randn(7, 3)
    q = AggregatePosterior.of(codes.requires_grad_(), prior.to_event(1))
    torch.testing.assert_close(q.prior.score(codes), score(codes))
    assert not q.prior.score(codes).requires_grad


def mixture() -> tuple[Any, Callable[[Tensor], Tensor]]:
    means = torch.tensor([[-1.0, 0.5], [1.5, 0.0], [0.0, -2.0]])
    scales = torch.tensor([[0.5, 1.0], [1.0, 0.7], [0.8, 0.8]])
    logits = torch.tensor([0.1, -0.4, 0.3])
    fn = dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Normal(means, scales).to_event(1)
    )

    def score(z: Tensor) -> Tensor:
        density = dist.Normal(means, scales).to_event(1).log_prob(z[:, None]) + logits
        parts = -(z[:, None] - means) / scales.square()
        return (density.softmax(1)[..., None] * parts).sum(1)

    return fn, score


def test_score_of_a_mixture_in_a_model() -> None:
    """Through the model, not the distribution: the site's prior is no location-scale family."""
    fn, score = mixture()
    x = torch.randn(8, 2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", fn)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * pyro.param("a", torch.tensor(1.3)), 0.5).to_event(1))

    (q,) = aggregate_posteriors(read(model, guide, (x,)))
    torch.testing.assert_close(q.prior.score(q.codes), score(q.codes.detach()))

    objective = InfoVAE(Stein(RBF(0.9), "V"), scale=3.0)
    objective.reconstruction = lambda traces, name: torch.zeros(())  # type: ignore[method-assign]
    pyro.set_rng_seed(1)
    _, grads = gradients(lambda: objective.differentiable_loss(model, guide, x))
    pyro.set_rng_seed(1)
    codes = guide_codes(guide, ["z"], x)
    phi = direction(codes, score(codes), 0.81)
    torch.testing.assert_close(grads["a"], -3.0 * (phi * x).sum())


def guide_codes(guide: Callable[..., Any], sites: list[str], *args: Any) -> Tensor:
    trace = pyro.poutine.trace(guide).get_trace(*args)
    return torch.cat([trace.nodes[name]["value"] for name in sites], -1).detach()


def chain(fn: Callable[[Tensor], Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """z2 -> z1 -> x with a top-down guide, z1 drawn given z2 from fn."""
    pair = PAIRS["chain_top_down"]()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            z1 = pyro.sample("z1", fn(z2))
            pyro.sample("x", dist.Normal(z1, 0.7).to_event(1), obs=x)

    return model, pair.guide


def test_autoregressive_guide() -> None:
    """The score of p(z2, z1) is partial in z2: no part comes through the guide's z1(z2)."""
    slope = 0.8

    def student(z2: Tensor) -> Any:
        return dist.StudentT(5.0, slope * z2, 0.6).to_event(1)

    model, guide = chain(student)
    x = PAIRS["chain_top_down"]().args[0]
    d = x.shape[1]
    guide(x)
    objective = InfoVAE(Stein(RBF(1.7), "V"), scale=2.0, sites=["z2", "z1"])
    objective.reconstruction = lambda traces, name: torch.zeros(())  # type: ignore[method-assign]
    pyro.set_rng_seed(5)
    _, grads = gradients(lambda: objective.differentiable_loss(model, guide, x))

    pyro.set_rng_seed(5)
    codes = guide_codes(guide, ["z2", "z1"], x)
    z2, z1 = codes.split(d, 1)
    residual = (z1 - slope * z2) / 0.6
    inner = -6 * residual / (5 + residual.square()) / 0.6  # d log p(z1 | z2) / d z1
    scores = torch.cat([-z2 - slope * inner, inner], 1)
    phi = direction(codes, scores, 1.7**2)
    phi2, phi1 = phi.split(d, 1)
    # z2 = a x + s e2 and z1 = b x + z2 + s e1.
    s = pyro.param("s").detach()
    e2, e1 = (z2 - pyro.param("a").detach() * x) / s, (z1 - pyro.param("b").detach() * x - z2) / s
    expected = {
        "a": ((phi2 + phi1) * x).sum(0),
        "b": (phi1 * x).sum(0),
        "s": ((phi2 + phi1) * e2 + phi1 * e1).sum(0) * s,  # of its logarithm
    }
    for name, value in expected.items():
        torch.testing.assert_close(grads[name], -2.0 * value)  # n data, and 1/n in the surrogate


def test_autoregressive_guide_in_the_prior_s_units() -> None:
    """The matrix's chain: a Normal prior's codes are its noise, and v gets a gradient."""
    pair = PAIRS["chain_top_down"]()
    (x,) = pair.args
    pair.guide(x)
    objective = InfoVAE(Stein(RBF(1.7), "V"), scale=2.0, sites=["z2", "z1"])
    objective.reconstruction = lambda traces, name: torch.zeros(())  # type: ignore[method-assign]
    pyro.set_rng_seed(5)
    _, grads = gradients(lambda: objective.differentiable_loss(pair.model, pair.guide, x))
    pyro.set_rng_seed(5)
    z2, z1 = guide_codes(pair.guide, ["z2", "z1"], x).split(x.shape[1], 1)
    v = pyro.param("v").detach()
    noise = torch.cat([z2, (z1 - v * z2) / 0.6], 1)
    phi2, phi1 = direction(noise, -noise, 1.7**2).split(x.shape[1], 1)
    expected = {
        "a": (phi2 + phi1 * (1 - v) / 0.6) * x,
        "b": phi1 * x / 0.6,
        "v": -phi1 * z2 / 0.6,
    }
    for name, value in expected.items():
        torch.testing.assert_close(grads[name], -2.0 * value.sum(0))


@pytest.mark.parametrize("statistic", ["U", "V"])
def test_zero_weight_is_a_dropped_row(statistic: Any) -> None:
    n, d = 8, 3
    codes = torch.randn(n, d, requires_grad=True)
    keep = torch.tensor([0, 2, 3, 5, 6])
    weights = torch.zeros(n)
    weights[keep] = 2.5
    stein = Stein(statistic=statistic)
    value = stein(AggregatePosterior.of(codes, standard(d), weights=weights))
    (grad,) = torch.autograd.grad(value, codes)
    dropped = stein(AggregatePosterior.of(codes[keep], standard(d)))
    torch.testing.assert_close(value, dropped)
    torch.testing.assert_close(grad, torch.autograd.grad(dropped, codes)[0])


def test_groups_are_not_paired() -> None:
    once = torch.randn(6, 2)
    groups = torch.arange(6).repeat_interleave(2)
    twice = AggregatePosterior.of(once.repeat_interleave(2, 0), standard(2), groups=groups)
    torch.testing.assert_close(Stein()(twice), Stein()(AggregatePosterior.of(once, standard(2))))


def test_all_rows_masked_is_zero() -> None:
    q = AggregatePosterior.of(torch.randn(4, 2), standard(2), weights=torch.zeros(4))
    assert Stein()(q) == 0


def test_single_precision() -> None:
    codes = rows(200, 10).sample()
    prior = standard(10)
    value = Stein()(AggregatePosterior.of(codes, prior))
    single = dist.Normal(torch.zeros(10, dtype=torch.float32), 1.0).to_event(1)
    found = Stein()(AggregatePosterior.of(codes.float(), single))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stein(statistic="W"), "Stein statistic='W': use one of U, V"),  # type: ignore[arg-type]
        (lambda: Stein(Laplacian()), "smooth at zero"),
        (lambda: Stein(MultiScale(Laplacian())), "smooth at zero"),
        (
            lambda: Stein()(AggregatePosterior.of(torch.randn(1, 2), standard(2))),
            "Stein needs two rows or more",
        ),
        (
            lambda: Stein()(AggregatePosterior.of(torch.randn(4, 2), torch.randn(4, 2))),
            "known by draws alone",
        ),
        (
            lambda: Stein()(
                AggregatePosterior.of(
                    torch.rand(4, 2), dist.Uniform(torch.zeros(2), torch.ones(2)).to_event(1)
                )
            ),
            "no score: use a divergence of draws",
        ),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_one_row_with_a_v_statistic() -> None:
    """KSD^2 of a point: |z|^2 - 2 d k'(0) = |z|^2 + d / h^2."""
    codes = torch.tensor([[1.0, 2.0]])
    value = Stein(RBF(2.0), "V")(AggregatePosterior.of(codes, standard(2)))
    assert value.item() == pytest.approx(5 + 2 / 4)


@pytest.mark.slow
def test_particles_alone_underestimate_entropy() -> None:
    """The claim: within 5% of -1.13, -3.45 and -19.5, and .05 of -.06."""
    from ppl_vae.reproductions.stein_particles import descend, log_det

    torch.set_default_dtype(torch.float32)
    assert log_det(descend(4))[0] == pytest.approx(-0.06, abs=0.05)
    for d, value in {16: -1.13, 32: -3.45, 64: -19.5}.items():
        assert log_det(descend(d))[0] == pytest.approx(value, rel=0.05)
