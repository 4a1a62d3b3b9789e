"""Sites that the model enumerates and the guide does not sample are summed out of every loss."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from marginals import (
    EVERY,
    MARGINALS,
    as_one_distribution,
    centres,
    data,
    guide,
    mixture_prior,
    normal,
    weights,
)
from pairs import gradients
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from ppl_vae.objectives import (
    IWAE,
    MMD,
    WAE,
    AggregateKL,
    Autoencoder,
    BetaVAE,
    CapacityVAE,
    InfoVAE,
    Objective,
    Stein,
)
from ppl_vae.program import dimensions
from ppl_vae.program.running import read

pytestmark = pytest.mark.usefixtures("double")

every = pytest.mark.parametrize("name", MARGINALS)


def seeded(loss: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    pyro.set_rng_seed(7)
    return gradients(loss)


def agree(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-10)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-8, atol=1e-9, msg=name)


def theirs(pair: Any, scale: float = 1.0, **elbo: Any) -> Tensor:
    """TraceEnum_ELBO's loss with the KL in closed form where there is one."""
    programs = [poutine.scale(p, scale=scale) for p in (pair.model, pair.guide)]
    state = torch.get_rng_state()
    loss = TraceEnum_ELBO(max_plate_nesting=pair.nesting, **elbo).differentiable_loss
    value: Tensor = loss(*programs, *pair.args)
    if not pair.mixed:
        torch.set_rng_state(state)
        reading = read(*programs, pair.args, max_plate_nesting=pair.nesting)
        value = value + reading.kl("z") - reading.guide_log_prob("z") + reading.log_prob("z")
    return value


@every
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_elbo_is_pyros(name: str, scale: float) -> None:
    pair = MARGINALS[name]()
    programs = [poutine.scale(p, scale=scale) for p in (pair.model, pair.guide)]
    objective = InfoVAE(alpha=0, max_plate_nesting=pair.nesting)
    ours = seeded(lambda: objective.differentiable_loss(*programs, *pair.args))
    agree(ours, seeded(lambda: theirs(pair, scale)))


def test_the_elbo_of_vectorised_particles_is_pyros() -> None:
    pair = mixture_prior()
    pair.nesting = 2
    many: Any = {"num_particles": 3, "vectorize_particles": True}
    objective = InfoVAE(alpha=0, max_plate_nesting=2, **many)
    ours = seeded(lambda: objective.differentiable_loss(pair.model, pair.guide, *pair.args))
    agree(ours, seeded(lambda: theirs(pair, **many)))


@every
def test_without_the_rate_the_conditional_is_left(name: str) -> None:
    pair = MARGINALS[name]()

    def by_hand() -> Tensor:
        reading = read(pair.model, pair.guide, pair.args, max_plate_nesting=pair.nesting)
        return -pair.conditional(reading.guide_sites["z"].value)

    objective = Autoencoder(max_plate_nesting=pair.nesting)
    value, slopes = seeded(
        lambda: objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    )
    expected, by = seeded(by_hand)
    assert value == pytest.approx(expected, rel=1e-10)
    for key, slope in slopes.items():  # of the prior nothing is left
        left = by.get(key, torch.zeros_like(slope))
        torch.testing.assert_close(slope, left, rtol=1e-8, atol=1e-9, msg=key)


SAME: dict[str, Callable[..., Objective]] = {
    "ELBO": lambda **o: InfoVAE(alpha=0, **o),
    "beta": lambda **o: BetaVAE(4.0, **o),
    "capacity": lambda **o: CapacityVAE(2.0, **o),
    "stein": lambda **o: InfoVAE(Stein(), alpha=0.5, scale=5.0, **o),
    "aggregate kl": lambda **o: InfoVAE(AggregateKL(), scale=5.0, **o),
    "iwae": lambda **o: IWAE(3, **o),
    "wae": lambda **o: WAE(Stein(), scale=5.0, **o),
}


@pytest.mark.parametrize("name", SAME)
def test_a_mixture_by_sites_is_the_mixture(name: str) -> None:
    """The prior's density and score are those of one distribution."""
    x = data()
    losses = [
        seeded(lambda m=m: SAME[name](max_plate_nesting=1).differentiable_loss(m, guide, x))
        for m in (mixture_prior().model, as_one_distribution)
    ]
    agree(*losses)


def test_a_mixture_is_compared_by_its_own_draws() -> None:
    """MMD to the mixture is nothing for a guide that draws from it, and much else."""

    def own(x: Tensor) -> None:
        locs, logits = centres().expand(len(x), 3, 2), weights().log().expand(len(x), 3)
        with pyro.plate("data", len(x)):
            fn = dist.MixtureOfDiagNormals(locs, torch.full_like(locs, 0.8), logits)
            pyro.sample("z", fn)

    model, x = mixture_prior().model, torch.zeros(200, 2)
    objective = InfoVAE(MMD(), scale=1.0)
    found = []
    for program in (own, guide):
        values = []
        for _ in range(40):
            with torch.no_grad():
                objective.differentiable_loss(model, program, x)
            values.append(objective.terms["divergence/z"])
        found.append(torch.stack(values))
    error = found[0].std() / 40**0.5
    assert found[0].mean().abs() < 4.5 * error
    assert found[1].mean() > 20 * error


@every
def test_it_trains_with_mmd(name: str) -> None:
    pair = MARGINALS[name]()
    objective = InfoVAE(MMD(), scale=20.0)
    adam = pyro.optim.Adam({"lr": 0.02})
    svi = pyro.infer.SVI(pair.model, pair.guide, adam, loss=objective)
    losses = torch.tensor([svi.step(*pair.args) for _ in range(60)])
    assert losses[-20:].mean() < losses[:20].mean()
    reconstruction = {k for k in objective.terms if k.startswith("reconstruction")}
    named = {"topics": "w", "hidden_markov": "x_0+...+x_3"}.get(name, "x")
    assert reconstruction == {f"reconstruction/{named}"}
    assert "divergence/z" in objective.terms


@every
def test_a_masked_row_is_a_dropped_one(name: str) -> None:
    if name == "topics":
        return  # whose rows are columns
    pair, keep = MARGINALS[name](), torch.tensor([0, 2, 3])
    mask = torch.zeros(len(pair.args[0]), dtype=torch.bool).index_fill(0, keep, True)

    def still(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x / 2, event_dim=1))

    for objective in (InfoVAE(alpha=0), BetaVAE(3.0)):
        masked = objective.loss(*(poutine.mask(p, mask=mask) for p in (pair.model, still)), data())
        dropped = objective.loss(pair.model, still, data()[keep])
        assert masked == pytest.approx(dropped, rel=1e-10)


def test_refusals() -> None:
    def unmarked(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", normal(z + k[..., None], 0.6), obs=x)

    def shared(x: Tensor) -> None:
        k = pyro.sample("k", dist.Bernoulli(0.4), infer=EVERY)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(k[..., None].expand(*k.shape, 2), 1.0))
            pyro.sample("x", normal(z, 0.6), obs=x)

    def scaled(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4), infer=EVERY)
            z = pyro.sample("z", normal(0.0, 1.0))
            with poutine.scale(scale=2.0):
                pyro.sample("x", normal(z + k[..., None], 0.6), obs=x)

    def two(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4), infer=EVERY)[..., None]
            u = pyro.sample("u", normal(k + torch.zeros(2), 1.0))
            z = pyro.sample("z", normal(k + torch.zeros(2), 1.0))
            pyro.sample("x", normal(z + u, 0.6), obs=x)

    def of_two(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("u", normal(x / 3, 0.6))
            pyro.sample("z", normal(x / 2, 0.6))

    likelihood = MARGINALS["mixture_likelihood"]().model
    cases: list[tuple[Objective, Any, Any, str]] = [
        (
            InfoVAE(alpha=0),
            unmarked,
            guide,
            r"'k' of the model is not in the guide: sample it there, or sum over the values of "
            r"this Bernoulli: pyro.infer.config_enumerate\(model\)",
        ),
        (
            InfoVAE(MMD(), scale=5.0),
            shared,
            guide,
            r"'k' of the model is summed over outside plate \('data',\), and 'z' depends on it",
        ),
        (InfoVAE(alpha=0), scaled, guide, "'k' and 'x', summed together, are scaled unlike"),
        (WAE(MMD()), likelihood, guide, "'x' has a mean for each value of a site that the model"),
        (
            InfoVAE(MMD(), scale=5.0, sites=["z"]),
            two,
            of_two,
            r"sites \['u', 'z'\] share a density, as \['k'\] are summed out of it",
        ),
    ]
    for objective, model, program, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            objective.loss(model, program, data())
        assert "\n" not in str(caught.value)
    marked = config_enumerate(unmarked)
    assert InfoVAE(alpha=0).loss(marked, guide, data()) < float("inf")
    assert InfoVAE(alpha=0).loss(shared, guide, data()) < float("inf")
    together = BetaVAE(2.0).loss(two, of_two, data())
    assert together < float("inf")


def test_pyro_still_says_where_it_enumerates() -> None:
    """The one thing of Pyro's that is not public; without it `dimensions` goes by shapes."""
    pair = MARGINALS["mixture_prior"]()
    run = poutine.trace(poutine.enum(pair.model, first_available_dim=-2)).get_trace(*pair.args)
    infer = run.nodes["k"]["infer"]
    assert infer["_enumerate_dim"] == -2
    assert infer["_dim_to_id"].keys() == {-2}
    assert run.nodes["x"]["infer"]["_dim_to_id"].keys() == {-2}


@every
def test_shapes_say_where_it_enumerates_if_pyro_does_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = MARGINALS[name]()
    objective = InfoVAE(alpha=0, max_plate_nesting=pair.nesting)

    def loss() -> tuple[float, dict[str, Tensor]]:
        return seeded(lambda: objective.differentiable_loss(pair.model, pair.guide, *pair.args))

    said = loss()
    monkeypatch.setattr(dimensions, "_DIMENSION", "of another version")
    monkeypatch.setattr(dimensions, "_VARIABLES", "of another version")
    if name == "hidden_markov":
        message = r"'k_.' and 'k_.' are enumerated along one dimension, .* take pyro.markov away"
        with pytest.raises(ValueError, match=message):
            loss()
    else:
        agree(loss(), said)
