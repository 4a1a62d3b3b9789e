"""What design decides once: plates, sites, priors, refusals, and what is never evaluated."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, Pair
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae.objectives import (
    IWAE,
    MMD,
    RBF,
    WAE,
    AbsoluteError,
    Autoencoder,
    BetaVAE,
    CapacityVAE,
    Divergence,
    Euclidean,
    InfoVAE,
    Objective,
    SquaredError,
)
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior

N, D = 8, 2


def data() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(5))


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    a = pyro.param("a", torch.tensor(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(a * x, 0.4).to_event(1))


class Probe(Divergence):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[AggregatePosterior] = []

    def forward(self, q: AggregatePosterior) -> Tensor:
        self.seen.append(q)
        return q.codes.square().mean()


def shown(pair: Pair, *args: Any, **options: Any) -> list[AggregatePosterior]:
    probe = Probe()
    InfoVAE(probe, **options).differentiable_loss(pair.model, pair.guide, *(args or pair.args))
    return probe.seen


# Rows, plates and sites


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


# What enters the comparison


def test_conditionals_integrate_leaves_alone() -> None:
    (q,) = shown(PAIRS["two_latents"]())
    assert q.conditional is not None
    assert q.conditional.covariance is not None
    assert (q.conditional.covariance > 0).all()  # two independent sites: both leaves
    (q,) = shown(PAIRS["chain_top_down"]())
    assert q.conditional is not None
    variances = q.conditional.covariance
    assert variances is not None
    assert (variances[:, :3] == 0).all()  # z2 has z1 below it
    assert (variances[:, 3:] > 0).all()
    torch.testing.assert_close(q.conditional.mean[:, :3], q.codes[:, :3])
    # Bottom-up, z2 is the guide's leaf and z1's parent in the model: nothing can be integrated.
    (q,) = shown(PAIRS["chain_bottom_up"]())
    assert q.conditional is None


def test_codes_are_in_the_prior_s_units() -> None:
    def shifted(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(3.0 + x, 2.0).to_event(1))
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)

    def exact(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(3.0 + x + 1.0, 1.0).to_event(1))

    (q,) = shown(Pair(shifted, exact, (data(),)))
    assert q.conditional is not None
    torch.testing.assert_close(q.conditional.mean, torch.full((N, D), 0.5))
    torch.testing.assert_close(q.conditional.covariance, torch.full((N, D), 0.25))
    assert q.prior.gaussian is not None


def test_prior_that_varies_is_not_compared_by_its_marginals() -> None:
    """q is p shifted by +-3 according to c: marginals agree, KL does not, and MMD sees it."""
    c = torch.tensor([-3.0, 3.0]).repeat(50)[:, None]

    def model(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(c)))

    def guide(c: Tensor, shift: float = 6.0) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(-c, 1.0).to_event(1))

    objective = InfoVAE(MMD(RBF(1.0)), alpha=1, scale=1.0)
    objective.differentiable_loss(model, guide, c)
    assert objective.terms["divergence/z"] > 0.3
    assert objective.terms["rate/z"] == pytest.approx(18.0)


def test_other_varying_priors_need_given() -> None:
    c = torch.tensor([0.5, 4.0]).repeat(50)[:, None]

    def model(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Gamma(c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(c)))

    def swapped(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Gamma(4.5 - c, 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"prior of site 'z' varies along plate.*given="):
        InfoVAE(MMD(), scale=1.0).differentiable_loss(model, swapped, c)

    def discrepancy(guide: Callable[[Tensor], None]) -> Tensor:
        objective = InfoVAE(MMD(RBF(1.0)), scale=1.0, given=lambda c: c)
        values = []
        for _ in range(50):
            objective.differentiable_loss(model, guide, c)
            values.append(objective.terms["divergence/z"])
        return torch.stack(values)

    right, wrong = discrepancy(model_only(model)), discrepancy(swapped)
    assert abs(right.mean()) < 4.5 * right.std() / 50**0.5
    assert wrong.mean() > 0.1


def model_only(model: Callable[..., None]) -> Callable[..., None]:
    """The model's own latents as a guide."""
    return poutine.block(
        model, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"]
    )


@pytest.mark.parametrize("expanded", [True, False])
def test_a_constant_prior_may_be_written_out_in_rows(expanded: bool) -> None:
    def model(x: Tensor) -> None:
        rate = torch.ones(D) if expanded else torch.ones(len(x), D)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Exponential(rate).to_event(1))
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)

    (q,) = shown(Pair(model, model_only(model), (data(),)))
    assert q.prior_draws(20).shape == (20, D)


# Prior draws leave no trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(D)
        self.calls = 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(z)


def test_prior_draws_stop_above_the_decoder() -> None:
    net = Net()

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 40, subsample_size=N) as index:
            z = pyro.sample("z", dist.Gamma(torch.ones(D), 1.0).to_event(1))
            try:
                z = net(z)
            except Exception as error:
                raise AssertionError from error
            pyro.sample("x", dist.Normal(w * z, 1.0).to_event(1), obs=x[index])

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 0.1))
        with pyro.plate("data", 40, subsample_size=N) as index:
            pyro.sample("z", dist.Gamma(x[index].abs() + 1, 1.0).to_event(1))

    x = torch.randn(40, D)
    InfoVAE(MMD(), scale=2.0).differentiable_loss(model, guide, x)
    assert net.calls == 1
    assert net.norm.num_batches_tracked == 1
    assert not poutine.runtime._PYRO_STACK


def test_prior_draws_keep_globals_and_draw_local_parents() -> None:
    """z | w has the guide's w; an unpicked local parent is drawn from the prior."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(100.0, 1e-3))
            pyro.sample("z", dist.Gamma((w + u) * 1e4, 1e4))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(x)))

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Delta(torch.tensor(7.0)))
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(1.0, 1e-3))
            pyro.sample("z", dist.Gamma(torch.full((len(x),), 5.0), 1.0))

    (q,) = shown(Pair(model, guide, (data(),)), sites=["z"])
    assert ((q.prior_draws() - 107).abs() < 5).all()


def test_score_is_the_prior_s_at_fixed_codes() -> None:
    """Not a total derivative through the guide: z1's draw moves with z2, its score does not."""
    pair = PAIRS["chain_top_down"]()
    (q,) = shown(pair)
    torch.testing.assert_close(q.prior.score(q.codes), -q.codes)  # the noise of both is normal

    def gamma(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Gamma(3.0, 2.0))
            pyro.sample("z1", dist.Gamma(2.0, z2))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(x)))

    (q,) = shown(Pair(gamma, model_only(gamma), (data(),)))
    z2, z1 = q.codes.unbind(-1)
    # log p = 2 log z2 - 2 z2 + 2 log z2 + log z1 - z2 z1 + constants
    expected = torch.stack([4 / z2 - 2 - z1, 1 / z1 - z2], -1)
    torch.testing.assert_close(q.prior.score(q.codes), expected)


# Coefficients


def test_a_zero_coefficient_takes_its_term_out() -> None:
    """A uniform prior scores -inf outside its box: at alpha = 1 it is never asked."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(-torch.ones(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def delta(x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(a * x).to_event(1))

    for encoder in (guide, delta):
        for objective in (InfoVAE(MMD(), alpha=1, scale=5.0), Autoencoder(), WAE(MMD())):
            pyro.clear_param_store()
            svi = SVI(model, encoder, pyro.optim.Adam({"lr": 0.01}), objective)
            assert abs(svi.step(data())) < float("inf")
    with pytest.raises(FloatingPointError, match="term 'rate/z' is inf at step"):
        BetaVAE(1.0).loss_and_grads(model, guide, data())


def test_a_scheduled_coefficient_at_zero_keeps_its_term() -> None:
    objective = BetaVAE(lambda step: 0.0 * step)
    objective.differentiable_loss(model, guide, data())
    pyro.set_rng_seed(0)
    a = objective.differentiable_loss(model, guide, data())
    assert "rate/z" in objective.terms
    pyro.set_rng_seed(0)
    torch.testing.assert_close(a, Autoencoder().differentiable_loss(model, guide, data()))


def test_schedules_count_training_steps() -> None:
    objective = BetaVAE(lambda step: 0.5 * step)
    seen = []
    for _ in range(3):
        pyro.set_rng_seed(0)
        seen.append(objective.loss_and_grads(model, guide, data()))
        objective.loss(model, guide, data())  # does not move the step
    assert seen[2] - seen[1] == pytest.approx(seen[1] - seen[0], rel=1e-5)
    assert seen[1] > seen[0]
    assert int(objective.step) == 3


def test_named_limits_coincide() -> None:
    def value(objective: Objective) -> Tensor:
        pyro.set_rng_seed(0)
        return objective.differentiable_loss(model, guide, data())

    mmd = MMD(RBF(1.0))
    torch.testing.assert_close(value(InfoVAE(alpha=1, scale=0)), value(Autoencoder()))
    torch.testing.assert_close(value(InfoVAE(alpha=-3, scale=4)), value(BetaVAE(4.0)))
    torch.testing.assert_close(value(BetaVAE(0.0)), value(Autoencoder()))
    both = value(InfoVAE(mmd, alpha=0.25, scale=8.0))
    parts = InfoVAE(mmd, alpha=0.25, scale=8.0)
    value(parts)
    t = parts.terms
    expected = t["reconstruction/x"] + 0.75 * t["rate/z"] + 7.25 * t["divergence/z"]
    torch.testing.assert_close(both, N * expected)


# WAE


@pytest.mark.parametrize(
    ("cost", "by_hand"),
    [
        (SquaredError(0.05), lambda r: 0.05 * r.square().sum()),
        (Euclidean(0.2), lambda r: 0.2 * r.square().sum(-1).sqrt().sum()),
        (AbsoluteError(0.02), lambda r: 0.02 * r.abs().sum()),
    ],
)
@pytest.mark.parametrize("likelihood", ["delta", "normal"])
def test_wae_costs(cost: Any, by_hand: Callable[[Tensor], Tensor], likelihood: str) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            fn = dist.Delta(2 * z) if likelihood == "delta" else dist.Normal(2 * z, 0.1)
            pyro.sample("x", fn.to_event(1), obs=x)

    def delta(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(0.3 * x).to_event(1))

    x = data()
    objective = WAE(MMD(RBF(1.0), prior="closed"), scale=7.0, cost=cost)
    loss = objective.differentiable_loss(model, delta, x)
    expected = by_hand(x - 0.6 * x) + 7.0 * N * objective.terms["divergence/z"]
    torch.testing.assert_close(loss, expected)


def test_wae_linear_gaussian_distance() -> None:
    """With codes that match the prior, the best linear decoder's cost is a known W_2^2.

    Data N(0, S) with S = diag(4, 1, 1/4); a decoder from one code reaches
    inf E|x - G(z)|^2 = W_2^2(N(0, S), rank-one fit) = the two smaller variances.
    """
    torch.manual_seed(0)
    x = torch.randn(4000, 3) * torch.tensor([2.0, 1.0, 0.5])

    def model(x: Tensor) -> None:
        w = pyro.param("w", torch.tensor([0.5, 0.5, 0.5]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Delta(z * w).to_event(1), obs=x)

    def encoder(x: Tensor) -> None:
        v = pyro.param("v", torch.tensor([0.3, 0.2, 0.1]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta((x @ v)[:, None]).to_event(1))

    objective = WAE(MMD(RBF(1.0)), scale=200.0)
    svi = SVI(model, encoder, pyro.optim.Adam({"lr": 0.02}), objective)
    for i in range(600):
        svi.step(x[(i % 16) * 250 : (i % 16 + 1) * 250])
    svi.evaluate_loss(x[:2000])
    truth = x[:2000].var(0)[1:].sum()
    # Cost terms of 2,000 rows: the standard error of a sum of two scaled chi-squares.
    error = (2 * (1.0 + 0.0625) / 2000) ** 0.5
    assert abs(objective.terms["reconstruction/x"] - truth) < 4.5 * error
    assert abs(pyro.param("w").detach().abs()[0] - 2) < 0.1


# As an ELBO and as a module


class WithNet(Probe):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(D, 1)

    def forward(self, q: AggregatePosterior) -> Tensor:
        return self.net(q.codes).square().mean()


def test_registers_itself_in_svi() -> None:
    objective = InfoVAE(WithNet(), scale=2.0)
    before = objective.divergences[0].net.weight.detach().clone()
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective).step(data())
    assert not torch.equal(before, objective.divergences[0].net.weight)


def test_two_objectives_both_train() -> None:
    first, second = InfoVAE(WithNet(), scale=2.0), InfoVAE(WithNet(), scale=2.0)
    for objective in (first, second):
        before = objective.divergences[0].net.weight.detach().clone()
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective).step(data())
        assert not torch.equal(before, objective.divergences[0].net.weight)
    assert {key.partition("$$$")[0] for key in pyro.get_param_store() if "$$$" in key} == {
        "InfoVAE",
        "InfoVAE_2",
    }


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(D, D)

    def model(self, x: Tensor) -> None:
        model(x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.4).to_event(1))


def test_as_a_module_with_a_torch_optimiser() -> None:
    owner, objective = Owner(), InfoVAE(WithNet(), scale=2.0)
    loss = objective(owner.model, owner.guide)
    assert {id(p) for p in loss.parameters()} == {
        id(p) for p in (*owner.parameters(), *objective.parameters())
    }
    optimiser = torch.optim.SGD(loss.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in loss.parameters()]
    loss(data()).backward()
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


@pytest.mark.parametrize(
    "make",
    [lambda: InfoVAE(MMD(), scale=9.0), lambda: BetaVAE(4.0), lambda: WAE(MMD()), Autoencoder],
)
def test_three_ways_to_the_loss_agree(make: Callable[[], Objective]) -> None:
    objective = make()
    values = []
    for call in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        pyro.set_rng_seed(0)
        loss = call(model, guide, data())
        values.append(loss.item() if isinstance(loss, Tensor) else loss)
    with torch.no_grad():
        pyro.set_rng_seed(0)
        values.append(float(objective.loss(model, guide, data())))
    assert values[0] == values[1] == values[2] == values[3]


class Syncs(TorchDispatchMode):
    """Raises where a tensor's data would be read by the host."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "equal",
        "item",
        "unique",
        "masked_select",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        if name == "index":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "boolean index"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("alpha", [0, 1])
def test_no_host_synchronisation(name: str, alpha: int) -> None:
    pair = PAIRS[name]()
    objective = InfoVAE(MMD(), alpha=alpha, scale=8.0, **pair.keywords)
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    with pyro.validation_enabled(False), Syncs():
        objective.differentiable_loss(pair.model, pair.guide, *pair.args)


def test_the_sync_probe_can_fail() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), Syncs():
        float(torch.ones(()))


# Refusals


def refuse(model: Any, guide: Any, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        InfoVAE(MMD(), **{"scale": 2.0} | options).differentiable_loss(model, guide, data())


def test_refusals() -> None:
    def no_plate(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(N, D), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    refuse(no_plate, model_only(no_plate), r"with pyro.plate\('data', len\(x\)\)")
    refuse(no_plate, model_only(no_plate), r"no plate holds all of \['z'\]", sites=["z"])

    def sequential(x: Tensor) -> None:
        for i in pyro.plate("data", 3):
            z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i, 0])

    refuse(sequential, model_only(sequential), "sequential plate 'data'", sites=["z_0"])

    def discrete(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k[:, None], 1.0).to_event(1), obs=x)

    refuse(discrete, model_only(discrete), "'k' of the guide, Bernoulli, is not reparameterised")
    enumerated = pyro.infer.config_enumerate(model_only(discrete), "sequential")
    refuse(discrete, enumerated, "'k' of the guide is enumerated in a way that")
    refuse(poutine.scale(model, scale=2.0), guide, "'z' has another scale in the model than")
    masked = poutine.mask(model, mask=torch.arange(N) < 3)
    refuse(masked, guide, "'z' has another mask in the model than")
    refuse(model, guide, "'w' is no latent site: the model has", sites=["w"])
    refuse(model, guide, "plate 'batch' does not hold all of", plate="batch", sites=["z"])
    refuse(model, lambda x: None, "latent site 'z' of the model is not in the guide")


def test_refused_at_construction() -> None:
    for make, message in [
        (lambda: InfoVAE(MMD(), alpha=0.2, scale=0.5), "add up to less than 1"),
        (lambda: InfoVAE(), "none is given: pass one, such as MMD"),
        (lambda: InfoVAE(MMD(), scale=2.0, sites="z"), "give a list, \\['z'\\]"),
        (lambda: InfoVAE(MMD(), sites={"z": (MMD(), 1.0)}), "not both"),
        (lambda: BetaVAE(-1.0), "beta=-1.0 must not be negative"),
        (lambda: InfoVAE(MMD(), num_particles=0), "num_particles=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_mask_inside_a_row_is_refused() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    pair = grid("")
    ragged = Pair(
        poutine.mask(pair.model, mask=mask), poutine.mask(pair.guide, mask=mask), pair.args
    )
    with pytest.raises(ValueError, match="mask of site 'z' varies inside a row"):
        shown(ragged, plate="data")
    assert len(shown(ragged, plate=("time", "data"))[0].weights) == 6


def test_a_single_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="MMD needs two rows or more"):
        InfoVAE(MMD(), scale=2.0).differentiable_loss(model, guide, data()[:1])


def test_nan_stops_before_the_optimiser_moves() -> None:
    x = data()
    x[3, 0] = float("nan")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), InfoVAE(MMD(), scale=2.0))
    pyro.enable_validation(False)
    with pytest.raises(FloatingPointError, match="term 'reconstruction/x' is nan at step"):
        svi.step(x)
    assert pyro.param("a") == 0.5


# What a closer look found


def test_auxiliary_sites_weigh_as_the_latents_on_them() -> None:
    """AutoNormal's density is in an auxiliary site: alpha takes it with the rest of the KL."""
    x = data()
    auto = pyro.infer.autoguide.AutoNormal(model, init_scale=0.4)
    auto(x)
    loc = auto.median(x)["z"].detach()

    def by_hand(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))

    for beta in (0.0, 1.0, 4.0):
        both = []
        for encoder in (auto, by_hand):
            objective = BetaVAE(beta)
            losses = [objective.loss(model, encoder, x) for _ in range(400)]
            both.append(torch.tensor(losses))
        a, b = both
        assert abs(a.mean() - b.mean()) < 4.5 * ((a.var() + b.var()) / 400) ** 0.5


def test_an_auxiliary_site_behind_two_weights_is_refused() -> None:
    pair = PAIRS["two_latents"]()
    joint = pyro.infer.autoguide.AutoMultivariateNormal(pair.model)
    with pytest.raises(
        ValueError, match=r"depend on the guide's auxiliary site .* have different"
    ):
        BetaVAE(4.0, sites=["z1"]).differentiable_loss(pair.model, joint, *pair.args)
    BetaVAE(4.0).differentiable_loss(pair.model, joint, *pair.args)


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


def test_what_an_enumerated_site_hangs_on_is_not_integrated() -> None:
    """q(y | z) depends on z, the prior has them independent: only draws of z show it."""

    def independent(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(x)))

    def dependent(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("y", dist.Bernoulli(logits=5 * z), infer={"enumerate": "parallel"})

    objective = InfoVAE(MMD(RBF(1.0)), scale=2.0)
    values = []
    for _ in range(60):
        objective.differentiable_loss(independent, dependent, torch.zeros(40))
        values.append(objective.terms["divergence/z+y"])
    seen = torch.stack(values)
    assert seen.mean() > 4.5 * seen.std() / 60**0.5


def test_given_with_a_mask_and_with_few_draws() -> None:
    c = torch.linspace(0.5, 4.0, 60)[:, None]

    def model(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Gamma(c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(c)))

    mask = torch.arange(60) < 40
    exact = model_only(model)
    for mmd, wrap in [
        (MMD(RBF(1.0)), lambda fn: poutine.mask(fn, mask=mask)),
        (MMD(RBF(1.0), draws=20), lambda fn: fn),
    ]:
        objective = InfoVAE(mmd, scale=1.0, given=lambda c: c)
        values = []
        for _ in range(60):
            objective.differentiable_loss(wrap(model), wrap(exact), c)
            values.append(objective.terms["divergence/z"])
        seen = torch.stack(values)
        assert abs(seen.mean()) < 4.5 * seen.std() / 60**0.5


def test_names_that_nothing_has_are_refused_without_a_divergence_too() -> None:
    def no_plate(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(N, D), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    for objective, pair, message in [
        (BetaVAE(4.0, plate="batch"), (model, guide), "plate 'batch' holds no latent site"),
        (BetaVAE(4.0, sites=["zz"]), (model, guide), "'zz' is no latent site"),
        (Autoencoder(plate="batch"), (model, guide), "plate 'batch' holds no latent site"),
        (
            BetaVAE(4.0),
            (no_plate, model_only(no_plate)),
            "no plate holds a latent site and an obs",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            objective.differentiable_loss(*pair, data())


def test_a_global_in_a_feature_plate_is_not_taken_for_local() -> None:
    def features(x: Tensor) -> None:
        with pyro.plate("features", D, dim=-1):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)

    (q,) = shown(Pair(features, model_only(features), (data(),)))
    assert (q.name, q.codes.shape) == ("z", (N, D))


def test_a_later_site_s_prior_may_not_vary_unseen() -> None:
    c = torch.tensor([0.5, 4.0]).repeat(20)

    def model(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("z", dist.Gamma(c, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(len(c)))

    for options in ({}, {"sites": ["z"]}):
        with pytest.raises(ValueError, match="prior of site 'z' varies along plate"):
            InfoVAE(MMD(), scale=2.0, **options).differentiable_loss(model, model_only(model), c)


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


def test_a_copy_of_a_scheduled_objective_has_its_own_schedule() -> None:
    from ppl_vae.objectives import Linear

    first = BetaVAE(Linear(over=0.5))
    first.plan(100)
    second = copy.deepcopy(first)
    second.plan(1000)
    assert float(second.alpha(torch.tensor(100))) == pytest.approx(0.8)  # type: ignore[operator]
    assert float(first.alpha(torch.tensor(100))) == pytest.approx(0.0)  # type: ignore[operator]
