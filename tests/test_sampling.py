"""Draws of a model and of its chain: shapes on every model shape, moments by hand, refusals."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, D, N
from ppca import PPCA
from torch import Tensor, nn

from ppl_vae.evaluation.sampling import ancestral, markov_chain

SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "two_latents": {"z1": (D,), "z2": (), "x": (D,)},
    "chain_top_down": {"z2": (D,), "z1": (D,), "x": (D,)},
    "chain_bottom_up": {"z2": (D,), "z1": (D,), "x": (D,)},
    "nested_plates": {"z": (), "u": (D,), "x": (D,)},
    "several_observed": {"z": (D,), "x": (D,), "y": ()},
}


def sizes(name: str) -> dict[str, tuple[int, ...]]:
    return SIZES.get(name, {"z": (D,), "x": (D,)})


def moments(
    draws: Tensor, mean: float | Tensor, variance: float | Tensor, normal: bool = True
) -> None:
    """Holds mean and variance of each column of independent normal rows against the truth."""
    rows = draws.reshape(len(draws), -1).double()
    mean, variance = (torch.as_tensor(v).double().expand(rows.shape[1]) for v in (mean, variance))
    errors = (rows.mean(0) - mean).abs() / (variance / len(rows)).sqrt()
    assert float(errors.max()) < 4.5
    if normal:
        spread = (rows - mean).square().mean(0)
        assert float(((spread / variance - 1).abs() / math.sqrt(2 / len(rows))).max()) < 4.5


def covariance(a: Tensor, b: Tensor, expected: Tensor, variances: Tensor) -> None:
    """Holds the covariance of columns of mean 0 against the truth; `variances`: their product."""
    found = (a * b).mean(0)
    error = ((variances + expected.square()) / len(a)).sqrt()
    assert float(((found - expected).abs() / error).max()) < 4.5


def test_the_probe_of_moments_can_fail() -> None:
    draws = torch.randn(5000, 1)
    moments(draws, 0.0, 1.0)
    for wrong in ((0.1, 1.0), (0.0, 2.0), (0.0, 0.5)):
        with pytest.raises(AssertionError):
            moments(draws, *wrong)


# Every model shape


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("n", [1, 7, 20])
@pytest.mark.parametrize("name", PAIRS)
def test_ancestral_shapes(name: str, n: int, guided: bool) -> None:
    pair = PAIRS[name]()
    guide = pair.guide if guided else None
    draws = ancestral(pair.model, n, *pair.args, guide=guide)
    assert {k: tuple(v.shape) for k, v in draws.items()} == {
        k: (n, *size) for k, size in sizes(name).items()
    }
    rows = [tuple(row) for row in draws["x"].reshape(n, -1).tolist()]
    assert len(set(rows)) == n  # none is a copy of another, nor of the data
    assert not {tuple(row) for row in pair.args[0].tolist()} & set(rows)
    assert not any(draw.requires_grad for draw in draws.values())


@pytest.mark.parametrize(("steps", "every", "kept"), [(1, 1, 1), (6, 2, 3), (5, 3, 1)])
@pytest.mark.parametrize("name", [name for name in PAIRS if name != "subsampled"])
def test_chain_shapes(name: str, steps: int, every: int, kept: int) -> None:
    pair = PAIRS[name]()
    before = [arg.clone() for arg in pair.args]
    draws = markov_chain(pair.model, pair.guide, pair.args, steps, every=every)
    assert {k: tuple(v.shape) for k, v in draws.items()} == {
        k: (kept, N, *size) for k, size in sizes(name).items()
    }
    assert all(torch.equal(a, b) for a, b in zip(pair.args, before, strict=True))
    assert not any(draw.requires_grad for draw in draws.values())


def test_a_chain_keeps_every_so_many_th_step() -> None:
    pair = PAIRS["one_latent"]()

    def chain(every: int) -> Tensor:
        pyro.set_rng_seed(0)
        return markov_chain(pair.model, pair.guide, pair.args, 6, every=every)["x"]

    assert torch.equal(chain(2), chain(1)[1::2])
    assert torch.equal(chain(6), chain(1)[5:])


# Moments


def linear(w: float, s: float, a: float, t: float) -> tuple[Any, Any]:
    """z ~ N(0, 1), x ~ N(w z, s^2); q(z|x) = N(a x, t^2)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w * z, s), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a * x, t))

    return model, guide


@pytest.mark.parametrize("name", ["one_latent", "plate_at_minus_two", "subsampled", "masked"])
def test_ancestral_moments(name: str) -> None:
    """x = w z + 0.7 e with w = (0.6, 0.7, 0.8), whatever the plate."""
    pair = PAIRS[name]()
    draws = ancestral(pair.model, 5000, *pair.args)
    w = torch.tensor([0.6, 0.7, 0.8])
    variance = w.square() + 0.49
    moments(draws["z"], 0.0, 1.0)
    moments(draws["x"], 0.0, variance)
    covariance(draws["z"], draws["x"], w, variance)


def test_nested_plates_keep_their_entries_together() -> None:
    """x = 0.6 z + u + 0.7 e: z is shared by the entries of the inner plate, u is not."""
    pair = PAIRS["nested_plates"]()
    draws = ancestral(pair.model, 5000, *pair.args)
    z, u, x = draws["z"], draws["u"], draws["x"]
    one, variance = torch.ones(D), torch.tensor(0.36 + 1 + 0.49)
    moments(x, 0.0, variance)
    covariance(z[:, None], x, 0.6 * one, variance)
    covariance(u, x, one, variance)
    covariance(u, x.roll(1, -1), 0 * one, variance)
    covariance(x, x.roll(1, -1), 0.36 * one, variance.square())


def test_several_observed_sites_are_drawn_together() -> None:
    """y ~ Bernoulli(sigmoid(sum z)): a mean of 1/2, and z is larger where y is 1."""
    pair = PAIRS["several_observed"]()
    draws = ancestral(pair.model, 5000, *pair.args)
    assert set(draws["y"].tolist()) == {0.0, 1.0}
    moments(draws["y"], 0.5, 0.25, normal=False)
    total = draws["z"].sum(-1)
    expected = total.sigmoid()
    moments((draws["y"] - expected) / (expected * (1 - expected)).sqrt(), 0.0, 1.0, normal=False)


ROWS, RUNS = 10, 500


def _global_model(x: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(1.0, 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _global_guide(x: Tensor) -> None:
    pyro.sample("m", dist.Normal(-3.0, 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(100.0, 1.0))


@pytest.mark.parametrize(
    ("guide", "mean", "sd"), [(None, 1.0, 2.0), (_global_guide, -3.0, 0.1)], ids=["prior", "guide"]
)
def test_globals_are_drawn_once_a_run(guide: Any, mean: float, sd: float) -> None:
    """From the prior or the guide; codes are the model's own in either case."""
    draws = ancestral(_global_model, ROWS * RUNS, torch.zeros(ROWS), guide=guide)
    x = draws["x"].reshape(RUNS, ROWS)
    moments(x.mean(1), mean, sd**2 + 1.25 / ROWS)
    within = x - x.mean(1, keepdim=True)
    share = 1.25 * (1 - 1 / ROWS)
    error = 1.25 * math.sqrt(2 / (RUNS * (ROWS - 1)))
    assert float(within.square().mean()) == pytest.approx(share, abs=4.5 * error)


W, S, A, T = 1.5, 0.4, 0.5, 0.6


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_chain_moments(steps: int) -> None:
    """x_k is normal: its mean is (w a)^k x_0 and v_k = (w a)^2 v_(k-1) + w^2 t^2 + s^2."""
    model, guide = linear(W, S, A, T)
    draws = markov_chain(model, guide, torch.full((5000,), 4.0), steps, every=steps)
    mean, variance = 4.0, 0.0
    for _ in range(steps):
        code = A * mean, A**2 * variance + T**2
        mean, variance = W * A * mean, (W * A) ** 2 * variance + W**2 * T**2 + S**2
    moments(draws["z"][0], *code)
    moments(draws["x"][0], mean, variance)


def test_chain_steps_are_one_chain() -> None:
    """Codes lead to the x of their own step, and x to the codes of the next."""
    model, guide = linear(W, S, A, T)
    draws = markov_chain(model, guide, torch.zeros(4000), 3)
    z, x = draws["z"], draws["x"]
    for step in (0, 1, 2):
        moments((x - W * z)[step], 0.0, S**2)
    for step in (1, 2):
        moments((z[step] - A * x[step - 1]), 0.0, T**2)


@pytest.mark.usefixtures("double")
def test_the_exact_posterior_s_chain_keeps_the_model_s_law() -> None:
    """Probabilistic PCA: rows that start in the marginal stay in it; a narrow guide's shrink."""
    exact, narrow = PPCA.make(noise=1.0), PPCA.make(noise=1.0, widen=0.25)
    x = exact.sample(5000)
    for pair, kept in ((exact, True), (narrow, False)):
        end = markov_chain(pair.model, pair.guide, x, 5, every=5)["x"][0]
        if kept:
            moments(end, exact.mean, exact.marginal.diagonal())
        else:
            ratio = (end - exact.mean).square().mean(0) / exact.marginal.diagonal()
            assert float(ratio.max()) < 1 - 4.5 * math.sqrt(2 / 5000)


def test_all_observed_arguments_move_and_covariates_stay() -> None:
    def model(c: Tensor, y: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5).expand([len(x)]), obs=x.reshape(-1))
            pyro.sample("y", dist.Bernoulli(logits=z), obs=y)

    seen: list[tuple[Tensor, ...]] = []

    def guide(c: Tensor, y: Tensor, x: Tensor) -> None:
        seen.append((c, y, x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.reshape(-1) + y, 0.1))

    c = torch.linspace(-1.0, 1.0, 6)
    start = (c, torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0]), torch.randn(6, 1))
    draws = markov_chain(model, guide, start, 3)
    *_, second, third = seen
    assert all(args[0] is c for args in seen)
    for step, args in ((0, second), (1, third)):
        assert torch.equal(args[1], draws["y"][step])
        assert torch.equal(args[2], draws["x"][step][:, None])  # in the argument's own shape


def test_arguments_may_be_named() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=2 * x)

    _, guide = linear(1.0, 1.0, 0.5, 0.1)
    with pytest.raises(ValueError, match=r"observes none of the arguments.*arguments=\{'x': 0\}"):
        markov_chain(model, guide, torch.ones(4), 2)
    draws = markov_chain(model, guide, torch.ones(4), 2, arguments={"x": 0})
    assert draws["x"].shape == (2, 4)


class Dropping(nn.Module):
    """A decoder that remembers in which mode it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.modes: list[bool] = []

    def forward(self, z: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.layer(z)


def test_modules_are_in_evaluation_mode_meanwhile() -> None:
    decoder = Dropping()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.zeros(3, 1)
    ancestral(model, 5, x)
    markov_chain(model, guide, x, 2)
    assert decoder.modes
    assert not any(decoder.modes)
    assert decoder.training
    assert decoder.layer.training


# Refusals


def _no_plate(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def _guide_without_plate(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def _closed() -> None:
    with pyro.plate("data", len(X)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(len(X)))


def _closed_guide() -> None:
    with pyro.plate("data", len(X)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def _twice(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x + 0)


def _guide_of_two(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


MODEL, GUIDE = linear(W, S, A, T)
X = torch.randn(4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ancestral(MODEL, 0, X), "n=0: one draw or more"),
        (lambda: ancestral(_no_plate, 3, X), "no plate holds a latent site and an observation"),
        (lambda: ancestral(MODEL, 3, X, plate="rows"), "plate 'rows' holds no latent site"),
        (lambda: markov_chain(MODEL, GUIDE, X, 0), "steps=0, every=1"),
        (lambda: markov_chain(MODEL, GUIDE, X, 3, every=4), "steps=3, every=4"),
        (lambda: markov_chain(MODEL, GUIDE, X, 3, every=0), "steps=3, every=0"),
        (
            lambda: markov_chain(_no_plate, _guide_without_plate, X, 3),
            "no plate holds a latent site and an observation",
        ),
        (
            lambda: markov_chain(MODEL, GUIDE, X, 3, plate="rows"),
            "plate 'rows' holds no latent site",
        ),
        (lambda: markov_chain(_twice, _guide_of_two, (X, X), 3), "observes several of the arg"),
        (
            lambda: markov_chain(MODEL, GUIDE, X, 3, arguments={"y": 0}),
            r"arguments=\{'y': 0\}: give an observed site, of \['x'\]",
        ),
        (
            lambda: markov_chain(MODEL, GUIDE, X, 3, arguments={"x": 1}),
            r"arguments=\{'x': 1\}.*the place of an argument that is a tensor, of \[0\]",
        ),
        (
            lambda: markov_chain(_closed, _closed_guide, (), 3),
            "make it one if model and guide read x",
        ),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_two_plates_over_all_sites_are_told_apart_by_name() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("groups", 3, dim=-2), pyro.plate("data", 5, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.zeros(3, 5)
    assert ancestral(model, 4, x)["x"].shape == (4, 3)  # the rows are the data's
    for plate, size in (("groups", (7, 5)), ("data", (7, 3))):
        draws = ancestral(model, 7, x, plate=plate)
        assert draws["x"].shape == draws["z"].shape == size


@pytest.mark.parametrize("arguments", [None, {"x": 0}])
def test_a_chain_of_a_subsample_is_refused(arguments: dict[str, int] | None) -> None:
    """A step gives 4 of the 7 rows, which do not make the next step's argument."""
    pair = PAIRS["subsampled"]()
    with pytest.raises(ValueError, match="'x'"):
        markov_chain(pair.model, pair.guide, pair.args, 2, arguments=arguments)


def test_deterministic_sites_are_no_variables() -> None:
    """A value on record is not drawn; of a site with missing data the chain replaces all."""
    x = torch.zeros(5)

    def model(x: Tensor) -> None:
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = pyro.deterministic("loc", 2 * z)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x, obs_mask=torch.arange(5) < 3)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("x_unobserved", dist.Normal(x, 1.0))

    assert list(ancestral(model, 4, x)) == ["z", "x_observed", "x_unobserved"]
    chain = markov_chain(model, guide, x, 3)
    assert "loc" not in chain
    assert chain["x_observed"].shape == (3, 5)
    assert (chain["x_observed"] != 0).all()
