"""The noise of a penalty's gradient against the pull of the data."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA
from probe import data as few
from probe import guide as narrow
from probe import model as plain
from pyro import poutine
from torch import Tensor, nn

from ppl_vae import fit
from ppl_vae.objectives import (
    MMD,
    AggregatePosterior,
    BetaVAE,
    Divergence,
    InfoVAE,
    SlicedWasserstein,
    penalty_noise,
)
from ppl_vae.objectives.noise import PenaltyNoise, _statistics
from ppl_vae.training import watch

D, N, S, NOISE = 2, 12, 0.6, 0.8
WEIGHT = torch.tensor([[1.0, 0.4], [-0.3, 0.7], [0.5, -0.2]])
GAIN = torch.tensor([[0.5, 0.0, 0.1], [0.2, 0.4, 0.0]])


class HalfSquare(Divergence):
    """E |z|^2 / 2, whose gradient at a code is the code."""

    def forward(self, q: AggregatePosterior) -> Tensor:
        return 0.5 * (q.weights @ q.codes.square().sum(-1)) / q.weights.sum()


def rows() -> Tensor:
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(3))


def pair(
    n: int, size: int | None = None, mask: Tensor | None = None
) -> tuple[Callable[..., None], Callable[..., None]]:
    """x | z ~ N(Wz, NOISE^2) and q = N(Gx, S^2), in a plate that may sample, or under a mask."""
    keep = torch.tensor(True) if mask is None else mask

    def model(x: Tensor) -> None:
        with pyro.plate("data", n, subsample_size=size) as i, poutine.mask(mask=keep):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            fn = dist.Normal(z @ WEIGHT.T, NOISE).to_event(1)
            pyro.sample("x", fn, obs=x if size is None else x[i])

    def guide(x: Tensor) -> None:
        gain = pyro.param("gain", GAIN.clone())
        with pyro.plate("data", n, subsample_size=size) as i, poutine.mask(mask=keep):
            mean = (x if size is None else x[i]) @ gain.T
            pyro.sample("z", dist.Normal(mean, S).to_event(1))

    return model, guide


def exact(x: Tensor, scale: float) -> tuple[float, float, float]:
    """Noise, signal and pull by hand, means over data."""
    means = x @ GAIN.T
    slope = (means @ WEIGHT.T - x) @ WEIGHT / NOISE**2
    spread = S**2 * (WEIGHT.T @ WEIGHT / NOISE**2).square().sum()
    signal = means.square().sum(-1).mean()
    pull = slope.square().sum(-1).mean() + spread
    return scale**2 * S**2 * D, scale**2 * float(signal), float(pull)


def repeated(repeats: int, measure: Callable[[], PenaltyNoise]) -> list[PenaltyNoise]:
    found = []
    for seed in range(repeats):
        torch.manual_seed(seed)
        found.append(measure())
    return found


def check(values: list[float], truth: float) -> None:
    found = torch.tensor(values, dtype=torch.float64)
    error = found.std() / math.sqrt(len(found))
    assert abs(float(found.mean()) - truth) < 4.5 * error
    assert error < 0.12 * truth


@pytest.mark.parametrize("form", ["plain", "masked", "rescaled", "sliced"])
def test_against_the_exact_values(form: str) -> None:
    """Whatever a row weighs: the figures are per datum."""
    x, scale = rows(), 3.0
    data, (model, guide) = x, pair(N)
    if form == "masked":
        keep = torch.arange(N) % 3 > 0
        data, (model, guide) = x[keep], pair(N, mask=keep)
    if form == "rescaled":
        model, guide = (poutine.scale(p, 7.0) for p in (model, guide))
    if form == "sliced":
        model, guide = pair(N, N)  # all of them, in another order
    objective = InfoVAE(HalfSquare(), scale=scale)
    found = repeated(40, lambda: penalty_noise(objective, model, guide, x, draws=4)["z"])
    noise, signal, pull = exact(data, scale)
    check([f.noise for f in found], noise)
    check([f.signal for f in found], signal)
    check([f.pull for f in found], pull)


def test_a_sampled_plate_keeps_its_rows() -> None:
    """Else the noise would be that of the rows too, 50 times as large."""
    x = 10 * rows()
    objective = InfoVAE(HalfSquare(), scale=1.0)
    found = repeated(40, lambda: penalty_noise(objective, *pair(N, 4), x, draws=4)["z"])
    check([f.noise for f in found], exact(x, 1.0)[0])


@pytest.mark.parametrize("vectorised", [False, True])
def test_particles_average(vectorised: bool) -> None:
    """Noise falls with their number, the square of the mean does not."""
    x = rows()
    options: dict[str, Any] = {"num_particles": 2, "vectorize_particles": vectorised}
    objective = InfoVAE(HalfSquare(), scale=1.0, max_plate_nesting=1, **options)
    found = repeated(40, lambda: penalty_noise(objective, *pair(N), x, draws=4)["z"])
    noise, signal, _ = exact(x, 1.0)
    check([f.noise for f in found], noise / 2)
    check([f.signal for f in found], signal)


@pytest.mark.parametrize("draws", [4, 16])
def test_the_error_is_the_spread_of_the_ratio(draws: int) -> None:
    """Of normal gradients; the jackknife as it is would be off by 1.5 in the variance."""
    torch.manual_seed(0)
    repeats, shape = 2000, (draws, 40, 5)
    found = [
        _statistics(torch.randn(shape).double(), torch.randn(shape).double() + 1)
        for _ in range(repeats)
    ]
    logs = torch.tensor([math.log(f.ratio) for f in found], dtype=torch.float64)
    squares = torch.tensor([f.log_error**2 for f in found], dtype=torch.float64)
    error = math.sqrt(2 / (repeats - 1) + float(squares.var() / squares.mean() ** 2) / repeats)
    assert abs(math.log(logs.var() / squares.mean())) < 4.5 * error
    assert error < 0.08


def test_sampled_noise_and_none() -> None:
    """MMD against a long run by hand, over its encoder's noise and prior draws; in closed form
    nothing is drawn."""
    x = rows()
    sampled = InfoVAE(MMD(prior="sampled", noise="sampled"), scale=50.0)
    model, guide = pair(N)
    torch.manual_seed(0)
    means = x @ GAIN.T
    prior = dist.Normal(torch.zeros(D), 1.0).to_event(1)
    blocks = []
    for _ in range(15):
        slopes = []
        for _ in range(80):
            at = means.clone().requires_grad_()
            q = AggregatePosterior.of(at + S * torch.randn(N, D), prior)
            value = 50 * N * MMD(prior="sampled", noise="sampled")(q)
            slopes.append(torch.autograd.grad(value, at)[0])
        blocks.append(float(torch.stack(slopes).var(0).sum()) / N)
    found = repeated(40, lambda: penalty_noise(sampled, model, guide, x, draws=4)["z"])
    ours, long = (torch.tensor(v) for v in ([f.noise for f in found], blocks))
    error = (ours.var() / len(ours) + long.var() / len(long)).sqrt()
    assert (ours.mean() - long.mean()).abs() < 4.5 * error
    assert error < 0.1 * long.mean()
    integrated = penalty_noise(InfoVAE(MMD(), scale=50.0), model, guide, x)["z"]
    assert (integrated.noise, integrated.ratio, integrated.exceeds) == (0.0, 0.0, False)
    assert integrated.signal > 0


def test_a_match_alone_is_no_reason() -> None:
    """At q(z) = p(z), the exact posterior of a code that is used, the noise is as large as the
    penalty's own signal, and the data's pull far above both."""
    ppca = PPCA.make(noise=0.3)
    x = ppca.sample(100)

    def trained(x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(2, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            fn = dist.MultivariateNormal(ppca.codes(x) + shift, ppca.covariance)
            pyro.sample("z", fn)

    objective = InfoVAE(MMD(prior="sampled", noise="sampled"), scale="auto")
    torch.manual_seed(0)
    found = penalty_noise(objective, ppca.model, trained, x, draws=64)["z"]
    assert found.ratio < 0.01
    assert found.noise / found.signal > 100 * found.ratio
    assert not found.exceeds


def test_noise_exceeds_a_pull_that_is_not_there() -> None:
    """Under a decoder that does not hear the code the data pull at nothing."""

    def deaf(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def lone(x: Tensor) -> None:
        at = pyro.param("at", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(at + 0 * x[:, None], 0.5).to_event(1))

    pyro.clear_param_store()
    torch.manual_seed(0)
    objective = InfoVAE(MMD(prior="sampled", noise="sampled"), scale=10.0)
    found = penalty_noise(objective, deaf, lone, torch.randn(50), draws=8)["z"]
    assert found.pull == 0
    assert found.noise > 0
    assert found.exceeds


def test_refusals_and_what_is_left_out() -> None:
    with pytest.raises(ValueError, match="no divergence"):
        penalty_noise(BetaVAE(), plain, narrow, few())
    with pytest.raises(ValueError, match="draws=2: three or more"):
        penalty_noise(InfoVAE(MMD()), plain, narrow, few(), draws=2)

    def frozen(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5).to_event(1))

    assert penalty_noise(InfoVAE(MMD()), plain, frozen, few()) == {}


def test_nothing_moves() -> None:
    """No generator, no running statistic, no queue, no step."""
    norm = nn.BatchNorm1d(2)

    def guide(x: Tensor) -> None:
        pyro.module("norm", norm)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(norm(x), 0.5).to_event(1))

    objective = InfoVAE(MMD(noise="sampled"))
    before, state = copy.deepcopy(norm.state_dict()), torch.get_rng_state()
    penalty_noise(objective, plain, guide, few(), draws=3)
    assert torch.equal(state, torch.get_rng_state())
    assert int(objective.step) == 0
    assert norm.training
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key])


def idle(x: Tensor) -> None:
    """A decoder that has no use for the code: x is noise."""
    w = pyro.param("w", 0.01 * torch.ones(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w * z, 1.0).to_event(1), obs=x)


def wide(x: Tensor) -> None:
    a = pyro.param("a", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(a * x, 0.9).to_event(1))


@pytest.mark.parametrize(
    ("divergence", "warns"),
    [
        (MMD(prior="sampled", noise="sampled"), True),
        (SlicedWasserstein(), True),
        (MMD(), False),
    ],
    ids=["sampled", "sliced", "integrated"],
)
def test_fit_says_so(divergence: Divergence, warns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, at the third check."""
    monkeypatch.setattr(watch, "_FIRST", 8)
    x = torch.randn(16 * 20, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(idle, wide, x, InfoVAE(divergence, scale=20.0), epochs=4, batch_size=16)
    said = [str(w.message) for w in caught if "the penalty's gradient" in str(w.message)]
    assert len(said) == warns
    if warns:
        assert said[0].startswith("step 32: the noise of the penalty's gradient on the codes of")
        assert any(w.filename == __file__ for w in caught if "penalty" in str(w.message))


def noise(ratio: float, pull: float, error: float = 0.1) -> PenaltyNoise:
    return PenaltyNoise(ratio * pull, 0.0, pull, 0.1 * pull, ratio, error)


STUCK = noise(9.0, 1.0)


@pytest.mark.parametrize(
    ("checks", "at"),
    [
        ([STUCK] * 4, 256),
        ([STUCK, STUCK, noise(0.5, 1.0), STUCK, STUCK, STUCK], 2048),
        ([STUCK, STUCK, noise(1.2, 1.0), STUCK], None),  # 1.8 standard errors are no evidence
        ([STUCK, noise(9.0, 2.0), noise(9.0, 5.0), noise(9.0, 5.0)], None),  # coming into use
        ([STUCK, noise(9.0, 2.0), noise(9.0, 5.0), noise(9.0, 0.9)], 512),  # and out of it
    ],
)
def test_when_it_says_so(
    checks: list[PenaltyNoise], at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = iter([*checks, *[noise(0.1, 1.0)] * 9])
    monkeypatch.setattr(watch, "penalty_noise", lambda *_, **__: {"z": next(rest)})
    watcher = watch.NoiseWatch(plain, narrow, InfoVAE(MMD()))
    said = []
    for step in range(1, 4096):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watcher.after(step, [few()])
        said += [step] * len(caught)
    assert said == ([] if at is None else [at])


@pytest.mark.filterwarnings("ignore:posterior collapse")
def test_a_training_is_what_it_was_without(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = []
    for is_watched in (True, False):
        pyro.clear_param_store()
        if not is_watched:
            monkeypatch.setattr(watch.NoiseWatch, "after", lambda *_: None)
        objective = InfoVAE(MMD(noise="sampled"), scale=20.0)
        x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        histories.append(fit(idle, wide, x, objective, epochs=20, batch_size=16).rows)
    assert histories[0] == histories[1]
