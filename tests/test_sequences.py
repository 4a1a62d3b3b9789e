"""Deep Markov models: steps as rows, and sequences of several lengths by either kind of mask."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import gradients
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from ppl_vae.objectives import (
    GECO,
    IWAE,
    MMD,
    TCVAE,
    WAE,
    AggregatePosterior,
    Autoencoder,
    BetaVAE,
    CapacityVAE,
    Energy,
    InfoVAE,
    Objective,
    SlicedWasserstein,
    Stein,
)

pytestmark = pytest.mark.usefixtures("double")

N, STEPS, D = 6, 4, 2
LENGTHS = torch.tensor([4, 2, 3, 4, 1, 3])


def data() -> Tensor:
    x = torch.randn(N, STEPS, D, generator=torch.Generator().manual_seed(5))
    return x.to(torch.get_default_dtype())


def mask() -> Tensor:
    return torch.arange(STEPS) < LENGTHS[:, None]


def step(name: str, fn: Any, keep: Tensor, how: str, **obs: Any) -> Any:
    if how == "fn.mask":
        return pyro.sample(name, fn.mask(keep), **obs)
    with poutine.mask(mask=keep):
        return pyro.sample(name, fn, **obs)


def pair(how: str = "poutine.mask", spread: float = 0.5) -> tuple[Any, Any]:
    """A transition z_t | z_{t-1}, and a guide that filters."""
    move, see = nn.Linear(D, D), nn.Linear(2 * D, D)
    with torch.no_grad():
        move.weight.copy_(torch.tensor([[0.7, 0.2], [-0.3, 0.6]]))
        for layer in (move, see):
            layer.bias.copy_(torch.tensor([0.2, -0.1]))
        see.weight.copy_(torch.tensor([[0.5, 0.1, 0.2, 0.0], [0.0, 0.6, 0.1, 0.3]]))

    def model(x: Tensor, keep: Tensor) -> None:
        pyro.module("move", move)
        z: Any = torch.zeros(D)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                fn = dist.Normal(torch.tanh(move(z)), 0.8).to_event(1)
                z = step(f"z_{t}", fn, keep[:, t], how)
                x_t = dist.Normal(z, 0.6).to_event(1)
                step(f"x_{t}", x_t, keep[:, t], how, obs=x[:, t])

    def guide(x: Tensor, keep: Tensor) -> None:
        pyro.module("see", see)
        z: Any = torch.zeros(len(x), D)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                loc = see(torch.cat([x[:, t], z], -1))
                if spread:
                    fn: Any = dist.Normal(loc, spread).to_event(1)
                else:
                    fn = dist.Delta(loc, event_dim=1)
                z = step(f"z_{t}", fn, keep[:, t], how)

    return model, guide


def noise(model: Any, guide: Any, x: Tensor, keep: Tensor) -> Tensor:
    """The codes of all steps in prior units, by hand, one step below the other."""
    run = poutine.trace(guide).get_trace(x, keep)
    replay = poutine.trace(poutine.replay(model, trace=run)).get_trace(x, keep)
    sites = [replay.nodes[f"z_{t}"] for t in range(x.shape[1])]
    return torch.cat([(s["value"] - s["fn"].base_dist.loc) / 0.8 for s in sites])


def agree(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-9)
    assert one[1].keys() == other[1].keys()
    for name, slope in one[1].items():
        torch.testing.assert_close(slope, other[1][name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "divergence", [MMD(noise="sampled"), SlicedWasserstein(), Energy(noise="sampled"), Stein()]
)
def test_pooled_steps_are_stacked_rows(divergence: Any) -> None:
    model, guide = pair(spread=0.0)
    x, keep = data(), mask()
    if isinstance(divergence, SlicedWasserstein):
        keep = torch.ones_like(keep)  # whose draws would otherwise be of other rows
    prior = dist.Normal(torch.zeros(D), 1.0).to_event(1)
    codes = noise(model, guide, x, keep)
    kept = keep.T.reshape(-1)
    stacked = AggregatePosterior.of(codes[kept], prior, None, torch.arange(N).repeat(STEPS)[kept])
    objective = InfoVAE(divergence, scale=7.0, pool=True)
    pyro.set_rng_seed(1)
    loss = objective.loss(model, guide, x, keep)
    pyro.set_rng_seed(1)
    expected = divergence(stacked)
    found = objective.terms["divergence/z_0+...+z_3"]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-8, atol=1e-10)
    rest = Autoencoder().loss(model, guide, x, keep)
    assert loss - rest == pytest.approx(
        7.0 * float(kept.sum()) * float(expected.detach()), rel=1e-8
    )


def test_pooled_noise_is_integrated() -> None:
    """In expectation that of sampled noise, at less variance."""
    model, guide = pair()
    values = []
    for how in ("integrated", "sampled"):
        objective = InfoVAE(MMD(noise=how), scale=7.0, pool=True)  # type: ignore[arg-type]
        found = []
        for _ in range(60):
            objective.loss(model, guide, data(), mask())
            found.append(objective.terms["divergence/z_0+...+z_3"])
        values.append(torch.stack(found))
    error = ((values[0].var() + values[1].var()) / 60).sqrt()
    assert (values[0].mean() - values[1].mean()).abs() < 4.5 * error
    assert values[0].var() < values[1].var()


def test_steps_drawn_from_the_prior_are_at_no_distance() -> None:
    model, _ = pair()
    free = poutine.block(poutine.uncondition(model), hide_fn=lambda s: s["name"][0] == "x")
    objective, found = InfoVAE(MMD(noise="sampled"), scale=7.0, pool=True), []
    for _ in range(80):
        objective.loss(model, free, data(), mask())
        found.append(objective.terms["divergence/z_0+...+z_3"])
    values = torch.stack(found)
    assert values.mean().abs() < 4.5 * values.std() / 80**0.5
    exact = InfoVAE(MMD(), scale=7.0, pool=True)  # the noise integrated, nothing is left
    exact.loss(model, free, data(), mask())
    assert exact.terms["divergence/z_0+...+z_3"].abs() < 1e-12


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, Trace_ELBO])
@pytest.mark.parametrize("how", ["poutine.mask", "fn.mask"])
def test_pooled_steps_through_a_loss_of_pyros(how: str, elbo: Callable[..., ELBO]) -> None:
    """At a coefficient of 0 it is that loss, and the penalty is the one without it."""
    model, guide = pair(how)

    def run(loss: Callable[..., Tensor]) -> tuple[float, dict[str, Tensor]]:
        pyro.set_rng_seed(2)
        return gradients(lambda: loss(model, guide, data(), mask()))

    def weighed(scale: float, **through: Any) -> Objective:
        # A schedule, as a number would take the term out.
        return InfoVAE(MMD(), 0.0, lambda _: torch.tensor(scale), pool=True, **through)

    def penalty(**through: Any) -> tuple[float, dict[str, Tensor]]:
        """What a coefficient of 8 for 0 adds."""
        found = []
        for scale in (9.0, 1.0):
            found.append(run(weighed(scale, **through).differentiable_loss))
        slopes = {name: slope - found[1][1][name] for name, slope in found[0][1].items()}
        return found[0][0] - found[1][0], slopes

    agree(
        run(weighed(1.0, elbo=elbo(max_plate_nesting=1)).differentiable_loss),
        run(elbo(max_plate_nesting=1).differentiable_loss),
    )
    ours, theirs = penalty(max_plate_nesting=1), penalty(elbo=elbo(max_plate_nesting=1))
    agree(theirs, ours)
    assert abs(ours[0]) > 0.1
    assert any(slope.abs().sum() > 0.1 for slope in ours[1].values())


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "elbo": lambda: InfoVAE(alpha=0),
    "beta": lambda: BetaVAE(3.0),
    "joint": lambda: InfoVAE(MMD(), alpha=0.5, scale=5.0, sites=["z_0"]),
    "pooled": lambda: InfoVAE(MMD(), scale=5.0, pool=True),
    "each": lambda: InfoVAE(sites={f"z_{t}": (MMD(), 2.0) for t in range(STEPS)}),
    "wae": lambda: WAE(MMD(), scale=5.0, pool=True),
    "capacity": lambda: CapacityVAE(2.0),
    "geco": lambda: GECO(1.0),
    "iwae": lambda: IWAE(3),
    "autoencoder": lambda: Autoencoder(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_masked_steps_add_nothing(name: str) -> None:
    """By either mask the same, whatever x holds after the end, value and gradient."""
    other = torch.where(mask()[..., None], data(), torch.full((), 9.0))
    found = []
    for how, x in (("poutine.mask", data()), ("fn.mask", data()), ("fn.mask", other)):
        pyro.clear_param_store()
        model, guide = pair(how)
        loss = partial(OBJECTIVES[name]().differentiable_loss, model, guide, x, mask())
        pyro.set_rng_seed(4)
        found.append(gradients(loss))
    for value, slopes in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-9)
        for key, slope in found[0][1].items():
            torch.testing.assert_close(slopes[key], slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("objective", [InfoVAE(alpha=0), BetaVAE(3.0), Autoencoder()])
def test_a_ragged_batch_is_its_sequences(objective: Objective) -> None:
    model, guide = pair(spread=0.0)
    whole = objective.loss(model, guide, data(), mask())
    parts = [
        objective.loss(model, guide, data()[i : i + 1, :n], torch.ones(1, n, dtype=torch.bool))
        for i, n in enumerate(LENGTHS.tolist())
    ]
    assert whole == pytest.approx(sum(parts), rel=1e-9)


def test_refusals() -> None:
    def other(x: Tensor, keep: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z_0", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("z_1", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("z_2", dist.Gamma(torch.ones(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, 0])

    def encode(x: Tensor, keep: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z_0", dist.Normal(x[:, 0], 1.0).to_event(1))
            pyro.sample("z_1", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("z_2", dist.LogNormal(x[:, 0], 1.0).to_event(1))

    cases = [
        (["z_0", "z_1"], "sites 'z_0' and 'z_1' differ in size or in the family of their priors"),
        (["z_0", "z_2"], "the prior of site 'z_2' is no location-scale family"),
    ]
    for sites, message in cases:
        objective = InfoVAE(MMD(), scale=3.0, pool=True, sites=sites)
        with pytest.raises(ValueError, match=f"pool=True: {message}") as caught:
            objective.loss(other, encode, data(), mask())
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="scale='auto' is per datum, pool=True per step"):
        InfoVAE(MMD(), scale="auto", pool=True)
    with pytest.raises(ValueError, match=r"pool=True compares noise, .*: no given="):
        InfoVAE(MMD(), scale=3.0, pool=True, given=lambda x: x)
    with pytest.raises(ValueError, match="TCVAE takes a joint apart, which pool=True has none of"):
        TCVAE(pool=True)
