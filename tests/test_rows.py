"""The rows of an aggregate posterior: plates, sites, weights and masks."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, Pair
from probe import D, N, Probe, data, guide, model, model_only, refuse, shown
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives import (
    IWAE,
    MMD,
    CapacityVAE,
    InfoVAE,
    Objective,
)


def grid(rows: str) -> Pair:
    """One latent in two plates, time at -2 and data at -1, with codes that tell their cell."""
    values = torch.arange(6.0).reshape(2, 3)

    def model(x: Tensor) -> None:
        with pyro.plate("time", 2, dim=-2), pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("time", 2, dim=-2), pyro.plate("data", 3, dim=-1):
            pyro.sample("z", dist.Delta(values))

    return Pair(model, guide, (torch.zeros(2, 3),))


def test_joint_of_all_local_sites_in_the_model_s_order() -> None:
    (q,) = shown(PAIRS["chain_bottom_up"]())
    assert (q.name, q.codes.shape) == ("z2+z1", (7, 6))


def test_globals_are_not_rows() -> None:
    (q,) = shown(PAIRS["global_and_local"]())
    assert q.name == "z"


def test_weights_are_scale_times_mask() -> None:
    pair = PAIRS["masked"]()
    (q,) = shown(
        Pair(poutine.scale(pair.model, scale=0.5), poutine.scale(pair.guide, scale=0.5), pair.args)
    )
    assert q.weights.tolist() == [0.5, 0.0, 0.5, 0.5, 0.5, 0.0, 0.5]
    (q,) = shown(PAIRS["subsampled"]())
    assert q.weights.tolist() == [7 / 4] * 4


def test_several_plates_are_chosen_from() -> None:
    assert shown(grid(""))[0].codes.tolist() == [[0, 3], [1, 4], [2, 5]]  # the one named data
    assert shown(grid(""), plate="data")[0].codes.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert shown(grid(""), plate="time")[0].codes.tolist() == [[0, 1, 2], [3, 4, 5]]
    pooled = shown(grid(""), plate=("time", "data"))[0].codes
    assert pooled.tolist() == [[0], [1], [2], [3], [4], [5]]


def test_sites_pick_and_the_others_keep_their_kl() -> None:
    pair = PAIRS["two_latents"]()
    (q,) = shown(pair, sites=["z2"])
    assert (q.name, q.codes.shape) == ("z2", (7, 1))
    pyro.set_rng_seed(0)
    objective = InfoVAE(Probe(), alpha=1, scale=1.0, sites=["z2"])
    loss = objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    terms = objective.terms
    expected = terms["reconstruction/x"] + terms["rate/z1"] + terms["divergence/z2"]
    torch.testing.assert_close(loss, 7 * expected)


def test_a_mapping_gives_each_site_its_own_divergence() -> None:
    pair = PAIRS["two_latents"]()
    first, second = Probe(), Probe()
    objective = InfoVAE(sites={"z1": (first, 3.0), "z2": (second, 5.0)}, alpha=0.5)
    loss = objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    terms = objective.terms
    expected = (
        terms["reconstruction/x"]
        + 0.5 * (terms["rate/z1"] + terms["rate/z2"])
        + 2.5 * terms["divergence/z1"]
        + 4.5 * terms["divergence/z2"]
    )
    torch.testing.assert_close(loss, 7 * expected)
    assert [q.name for q in first.seen + second.seen] == ["z1", "z2"]


def test_missing_data_is_not_a_code() -> None:
    mask = torch.arange(N) % 2 == 0

    def with_missing(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.sum(-1), obs_mask=mask)

    def impute(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.4).to_event(1))
            with poutine.mask(mask=~mask):
                pyro.sample("x_unobserved", dist.Normal(0.0, 1.0))

    (q,) = shown(Pair(with_missing, impute, (data(),)))
    assert q.name == "z"


def test_a_global_in_a_feature_plate_is_not_taken_for_local() -> None:
    def features(x: Tensor) -> None:
        with pyro.plate("features", D, dim=-1):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)

    (q,) = shown(Pair(features, model_only(features), (data(),)))
    assert (q.name, q.codes.shape) == ("z", (N, D))


def test_mask_inside_a_row_is_refused() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    pair = grid("")
    ragged = Pair(
        poutine.mask(pair.model, mask=mask), poutine.mask(pair.guide, mask=mask), pair.args
    )
    with pytest.raises(ValueError, match="mask of site 'z' varies inside a row"):
        shown(ragged, plate="data")
    assert len(shown(ragged, plate=("time", "data"))[0].weights) == 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: InfoVAE(MMD(), scale=20.0),
        lambda: InfoVAE(alpha=0, scale=1),
        lambda: InfoVAE(MMD(), alpha=0.5, scale=20.0),
        lambda: IWAE(5),
        lambda: CapacityVAE(2.0),
    ],
)
def test_a_distribution_s_own_mask_is_row_weights(make: Callable[[], Objective]) -> None:
    mask = torch.arange(N) < 5

    def program(own: bool, observed: bool) -> Callable[[Tensor], None]:
        def run(x: Tensor) -> None:
            a = pyro.param("a", torch.tensor(0.5)) if not observed else 0.0
            with pyro.plate("data", len(x)), poutine.mask(mask=True if own else mask):
                z = dist.Normal(a * x, 0.9).to_event(1)
                z = pyro.sample("z", z.mask(mask) if own else z)
                if observed:
                    fn = dist.Normal(z, 1.0).to_event(1)
                    pyro.sample("x", fn.mask(mask) if own else fn, obs=x)

        return run

    losses = []
    for own in (True, False):
        pyro.set_rng_seed(2)
        pair = (program(own, True), program(own, False))
        losses.append(make().differentiable_loss(*pair, data()))
    torch.testing.assert_close(losses[0], losses[1])


def test_a_mask_inside_the_event_is_refused() -> None:
    def masked(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = dist.Normal(torch.zeros(len(x), D), 1.0).mask(torch.arange(D) < 1).to_event(1)
            pyro.sample("z", z)
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(x)))

    refuse(masked, model_only(masked), "distribution of site 'z' has a mask inside to_event")


@pytest.mark.parametrize("mmd", [MMD(), MMD(prior="sampled", noise="sampled")], ids=repr)
def test_one_unmasked_row_has_no_divergence(mmd: MMD) -> None:
    mask = torch.arange(N) == 3
    objective = InfoVAE(mmd, scale=5.0)
    objective.differentiable_loss(
        poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask), data()
    )
    assert objective.terms["divergence/z"] == 0


def test_a_fully_masked_batch_is_zero() -> None:
    none = torch.zeros(N, dtype=torch.bool)
    objective = InfoVAE(MMD(), scale=5.0)
    loss = objective.loss_and_grads(
        poutine.mask(model, mask=none), poutine.mask(guide, mask=none), data()
    )
    assert loss == 0


def test_a_single_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="MMD needs two rows or more"):
        InfoVAE(MMD(), scale=2.0).differentiable_loss(model, guide, data()[:1])
