"""One answer to each shape of a pair, by losses, evaluation, diagnostics and sampling alike."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from shapes import LOSSES, SHAPES, Shape
from torch import Tensor

from ppl_vae.evaluation.sampling import ancestral
from ppl_vae.objectives import (
    IWAE,
    MMD,
    WAE,
    AggregatePosterior,
    BetaVAE,
    Divergence,
    InfoVAE,
    Objective,
)
from ppl_vae.program import NoDataPlate
from ppl_vae.program.running import read

MAKE: dict[str, Callable[..., Objective]] = {
    "mmd": lambda **asked: InfoVAE(MMD(), scale=10.0, **asked),
    "beta": lambda **asked: BetaVAE(4.0, **asked),
    "wae": lambda **asked: WAE(MMD(), **asked),
    "iwae": lambda **asked: IWAE(5, **asked),
}


DRAWS = 40


class Seen(Divergence):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[AggregatePosterior] = []

    def forward(self, q: AggregatePosterior) -> Tensor:
        self.seen.append(q)
        return q.codes.sum() * 0


def loss(name: str, shape: Shape, **asked: Any) -> float:
    return MAKE[name](**asked).loss_and_grads(shape.model, shape.guide, *shape.args)


def sample(shape: Shape, **asked: Any) -> dict[str, Tensor]:
    return ancestral(shape.model, 4, *shape.args, **asked)


@pytest.mark.parametrize("caller", LOSSES)
@pytest.mark.parametrize("name", SHAPES)
def test_losses(name: str, caller: str) -> None:
    shape = SHAPES[name]()
    rowless = shape.rows is None and not shape.asked and caller != "iwae"
    if caller in shape.refused or rowless:
        with pytest.raises(ValueError) as caught:
            loss(caller, shape, **shape.asked)
        assert "\n" not in str(caught.value)
        return
    if shape.rows is None and caller != "iwae":
        with pytest.raises(NoDataPlate, match="several plates could be the data's"):
            loss(caller, shape)
    assert abs(loss(caller, shape, **shape.asked)) < float("inf")


@pytest.mark.parametrize("name", SHAPES)
def test_rows(name: str) -> None:
    """The rows and codes that a divergence is shown."""
    shape = SHAPES[name]()
    if "mmd" in shape.refused:
        return
    probe = Seen()
    objective = InfoVAE(probe, scale=2.0, **shape.asked)
    objective.differentiable_loss(shape.model, shape.guide, *shape.args)
    (q,) = probe.seen
    reading = read(shape.model, shape.guide, shape.args)
    plate = shape.asked.get("plate")
    assert q.name == "+".join(shape.local)
    assert reading.local(plate) == [n for n in reading.latent if n in shape.local]
    data = len(q) if q.groups is None else int(q.groups.max()) + 1
    if shape.rows is not None:
        assert data == shape.rows


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.usefixtures("double")
def test_the_elbo_never_asks(name: str) -> None:
    """At alpha = 0 no plate is needed, and the loss is Pyro's in expectation."""
    if name in ("enumerated_in_the_model", "enumerated_in_the_guide"):
        return  # Pyro sums over these by another class: test_enumeration
    shape = SHAPES[name]()
    args = tuple(a.double() for a in shape.args)
    ours, theirs = (
        torch.tensor([elbo.loss(shape.model, shape.guide, *args) for _ in range(DRAWS)])
        for elbo in (InfoVAE(alpha=0, scale=1), Trace_ELBO())
    )
    if name == "partly_observed":
        # Pyro counts what the model draws for missing data; it integrates to one.
        assert ours.mean() < theirs.mean()
        return
    error = ((ours.var() + theirs.var()) / DRAWS).sqrt()
    assert (ours.mean() - theirs.mean()).abs() < 4.5 * error


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.filterwarnings("ignore:the model observes no variable")
def test_sampling(name: str) -> None:
    shape = SHAPES[name]()
    if name in ("loop_of_latents", "batch_in_the_event"):
        with pytest.raises(NoDataPlate, match="no plate holds a latent site and an obs"):
            sample(shape)
        return
    if shape.rows is None and shape.asked:
        with pytest.raises(NoDataPlate, match="several plates could be the data's"):
            sample(shape)
    draws = sample(shape, **shape.asked)
    assert all(len(value) == 4 for value in draws.values())
    assert set(shape.local) <= set(draws)


def test_each_plate_its_own_divergence() -> None:
    """Users and items, and labelled and unlabelled data, in plates of their own."""
    for name, sites in (("users_and_items", "uv"), ("labelled_and_unlabelled", "ab")):
        shape = SHAPES[name]()
        probes = [Seen(), Seen()]
        joints: Any = {s: (probe, 10.0) for s, probe in zip(sites, probes, strict=True)}
        objective = InfoVAE(sites=joints)
        objective.differentiable_loss(shape.model, shape.guide, *shape.args)
        rows = [len(probe.seen[0]) for probe in probes]
        assert rows == {"users_and_items": [6, 2], "labelled_and_unlabelled": [2, 4]}[name]
        pyro.set_rng_seed(0)
        beta = BetaVAE(4.0, sites=list(sites))
        value = float(beta.differentiable_loss(shape.model, shape.guide, *shape.args))
        terms = beta.terms  # of all data: no one plate says how many there are
        rates = sum(float(terms[f"rate/{s}"]) for s in sites)
        rest = sum(float(v) for k, v in terms.items() if k.startswith("reconstruction"))
        assert value == pytest.approx(rest + 4 * rates, rel=1e-5)


def test_the_message() -> None:
    shape = SHAPES["users_and_items"]()
    with pytest.raises(NoDataPlate) as caught:
        loss("mmd", shape)
    assert str(caught.value) == (
        "several plates could be the data's, ['users', 'items']; sites by plate: u ['users'], "
        "v ['items'], x ['users', 'items']. Name one with plate='users', or give each site its "
        "own divergence with sites={...}, or put what belongs to a datum under one `with "
        'pyro.plate("data", len(x)):` in model and guide.'
    )
    shape = SHAPES["loop_of_latents"]()
    with pytest.raises(NoDataPlate, match="the sequential plate 'data' has no rows"):
        loss("mmd", shape)


@pytest.mark.parametrize("caller", [caller for caller in LOSSES if caller != "iwae"])
def test_the_message_of_global_latents(caller: str) -> None:
    """A parameter of all data has no aggregate posterior, and no place in the data plate."""
    shape = SHAPES["global_only"]()
    with pytest.raises(NoDataPlate) as caught:
        loss(caller, shape)
    assert str(caught.value) == (
        "no plate holds a latent site and an observation: 'w' is a global latent, the same for "
        "all data, so there are no codes by row and no aggregate posterior; sites by plate: "
        "w outside, x ['data']. Train with BetaVAE(), InfoVAE(alpha=0) or "
        "pyro.infer.TraceMeanField_ELBO(); "
        "ppl_vae.evaluation gives elbo, rate, distortion and nll in total."
    )


def test_latents_named_by_plate_need_no_observation_there() -> None:
    """As in a Gaussian process' latent variables, where all data share one density."""

    def program(x: Tensor, observed: bool) -> None:
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(0.0 if observed else x[:, 0], 0.9))
        if observed:
            cov = torch.exp(-((z[:, None] - z) ** 2)) + torch.eye(len(x))
            joint = pyro.distributions.MultivariateNormal(torch.zeros(len(x)), cov)
            pyro.sample("x", joint, obs=x[:, 1])

    shape = SHAPES["flat"]()
    pair = (lambda x: program(x, True), lambda x: program(x, False))
    with pytest.raises(NoDataPlate, match="no plate holds a latent site and an observation"):
        InfoVAE(MMD(), scale=10.0).loss_and_grads(*pair, *shape.args)
    probe = Seen()
    InfoVAE(probe, scale=10.0, plate="points").loss_and_grads(*pair, *shape.args)
    assert len(probe.seen[0]) == 6


def test_data_without_rows_are_refused_in_one_line() -> None:
    shape = SHAPES["flat"]()
    for name in MAKE:
        with pytest.raises(ValueError, match="a plate has no entries: give data of one row"):
            MAKE[name]().loss(shape.model, shape.guide, torch.zeros(0, 2))
