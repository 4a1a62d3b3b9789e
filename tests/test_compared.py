"""What enters the comparison with the prior: codes, conditionals, the prior's draws and score."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, Pair
from probe import D, N, data, model_only, shown
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.objectives import (
    MMD,
    RBF,
    InfoVAE,
)


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


@pytest.mark.parametrize("expanded", [True, False])
def test_a_constant_prior_may_be_written_out_in_rows(expanded: bool) -> None:
    def model(x: Tensor) -> None:
        rate = torch.ones(D) if expanded else torch.ones(len(x), D)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Exponential(rate).to_event(1))
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)

    (q,) = shown(Pair(model, model_only(model), (data(),)))
    assert q.prior_draws(20).shape == (20, D)


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


def test_a_site_whose_prior_depends_on_its_own_draw_is_compared_as_it_is_drawn() -> None:
    """The guide samples z2 given z1, and p(z1 | z2) sets z1's units: the integral over q(z1 | x)
    at a fixed z2 would be of another law."""
    values = []
    for noise in ("auto", "sampled"):
        pair = PAIRS["chain_bottom_up"]()
        objective = InfoVAE(MMD(noise=noise), scale=10.0, sites=["z1"])  # type: ignore[arg-type]
        draws = []
        for _ in range(150):
            objective.loss(pair.model, pair.guide, *pair.args)
            draws.append(float(objective.terms["divergence/z1"]))
        values.append(torch.tensor(draws))
    error = sum(v.var() / len(v) for v in values) ** 0.5
    assert (values[0].mean() - values[1].mean()).abs() < 4.5 * error
