"""A trained pair in use: codes, data, samples and ways, against closed forms and in every form."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae import ConditionalVAE, Experiment, HierarchicalVAE, SemiSupervisedVAE
from ppl_vae.bodies import MLP
from ppl_vae.data import Dataset, GaussianMixture
from ppl_vae.guides import Ladder, MeanFieldNormal
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import BetaVAE
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import ConditionalNormal, DiagonalNormal, FlowPrior, StandardNormal
from ppl_vae.priors import GaussianMixture as Mixture
from ppl_vae.program.missing import with_missing
from ppl_vae.using import Trained
from tests.pairs import PAIRS
from tests.ppca import PPCA

small = partial(MLP, hidden=(8,))


@pytest.fixture
def ppca(double: None) -> PPCA:
    return PPCA.make()


def use(pair: PPCA, n: int = 200) -> Trained:
    return Trained(pair.model, pair.guide, pair.sample(n))


def close(found: Tensor, exact: Tensor | float, error: Tensor | float) -> None:
    """Within 4.5 standard errors, entry by entry."""
    assert bool(((found - exact).abs() <= 4.5 * torch.as_tensor(error)).all()), (found, exact)


# Against closed forms


def test_codes_of_the_linear_gaussian_pair(ppca: PPCA) -> None:
    x, trained = ppca.sample(50), use(ppca)
    torch.testing.assert_close(trained.encode(x), ppca.codes(x))
    sd = ppca.covariance.diagonal().sqrt().expand(50, 2)
    torch.testing.assert_close(trained.encode(x, sd=True), sd)
    drawn = trained.encode(x, 2000, weights=True, seed=0)
    assert drawn.codes.shape == (50, 2000, 2)
    close(drawn.codes.mean(1), ppca.codes(x), sd / 2000**0.5)
    close(drawn.codes.var(1), sd**2, sd**2 * (2 / 1999) ** 0.5)
    # the guide is the posterior: every weight is p(x)
    assert drawn.log_weights is not None
    torch.testing.assert_close(drawn.log_weights, ppca.log_likelihood(x)[:, None].expand(50, 2000))


def test_weights_belong_to_their_draws(double: None) -> None:
    wide = PPCA.make(widen=2.0)
    x = wide.sample(3)
    drawn = use(wide).encode(x, 4, weights=True)
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1).log_prob(drawn.codes)
    loc = drawn.codes @ wide.weight.T + wide.mean
    likelihood = dist.Normal(loc, wide.noise).to_event(1).log_prob(x[:, None])
    centre = wide.codes(x)[:, None]
    proposal = dist.MultivariateNormal(centre, wide.covariance).log_prob(drawn.codes)
    torch.testing.assert_close(drawn.log_weights, likelihood + prior - proposal)


def test_log_likelihood_of_each_row(double: None) -> None:
    wide = PPCA.make(widen=1.5)
    x = wide.sample(20)
    runs = use(wide).log_likelihood(x.repeat(8, 1), 400, seed=0).view(8, 20)
    close(runs.mean(0), wide.log_likelihood(x), runs.std(0) / 8**0.5 * 1.5)  # of 7 degrees


def test_decoding_and_reconstructing(ppca: PPCA) -> None:
    x, trained = ppca.sample(10), use(ppca)
    z = torch.randn(7, 3, 2)
    torch.testing.assert_close(trained.decode(z), z @ ppca.weight.T + ppca.mean)
    torch.testing.assert_close(trained.decode(z[0]), z[0] @ ppca.weight.T + ppca.mean)
    mean = ppca.codes(x) @ ppca.weight.T + ppca.mean
    torch.testing.assert_close(trained.reconstruct(x), mean)
    several = trained.reconstruct(x, 2000, seed=0)
    spread = (ppca.weight @ ppca.covariance @ ppca.weight.T).diagonal().sqrt()
    close(several.mean(1), mean, spread / 2000**0.5)
    noisy = trained.decode(z[:1, :1].expand(1, 4000, 2), mean=False, seed=0)[0]
    close(noisy.var(0), ppca.noise**2, ppca.noise**2 * (2 / 3999) ** 0.5)


@pytest.mark.parametrize("steps", [0, 3])
def test_samples_have_the_model_s_law(ppca: PPCA, steps: int) -> None:
    """By the prior and by the chain, whose stationary law it is as the guide is exact."""
    n = 4000
    x = use(ppca).sample(n, steps=steps, seed=0)
    assert x.shape == (n, 5)
    variance = ppca.marginal.diagonal()
    close(x.mean(0), ppca.mean, (variance / n).sqrt())
    close(x.var(0), variance, variance * (2 / (n - 1)) ** 0.5)


def test_means_of_samples_lack_the_noise(ppca: PPCA) -> None:
    x = use(ppca).sample(4000, mean=True, seed=0)
    variance = (ppca.weight @ ppca.weight.T).diagonal()
    close(x.var(0), variance, variance * (2 / 3999) ** 0.5)


def test_ways_between_rows(ppca: PPCA) -> None:
    a, b = ppca.sample(4), ppca.sample(4, seed=1)
    trained = use(ppca)
    way = trained.interpolate(a, b, 5)
    assert way.shape == (4, 5, 5)
    torch.testing.assert_close(way[:, 0], trained.reconstruct(a))
    torch.testing.assert_close(way[:, -1], trained.reconstruct(b))
    torch.testing.assert_close(way[:, 2], (way[:, 0] + way[:, -1]) / 2)
    # along an arc the length goes from one to the other without a dip
    unit, turned = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    from ppl_vae.using.walks import between

    arc = between(unit, turned, 5, "arc")
    torch.testing.assert_close(arc.norm(dim=-1), torch.full((1, 5), 2.0))
    torch.testing.assert_close(arc[0, 2], torch.full((2,), 2.0**0.5))
    torch.testing.assert_close(between(unit, 2 * unit, 3, "arc")[0, 1], torch.tensor([3.0, 0.0]))


def test_one_coordinate_moves_and_the_others_stay(ppca: PPCA) -> None:
    x, trained = ppca.sample(3), use(ppca)
    found = trained.traverse(x, [-1.0, 0.5], dims=[1])
    assert found.shape == (3, 1, 2, 5)
    z = ppca.codes(x)
    z[:, 1] = 0.5
    torch.testing.assert_close(found[:, 0, 1], z @ ppca.weight.T + ppca.mean)


# Missing values


def holes(x: Tensor, share: float = 0.4) -> Tensor:
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < share
    missing[missing.all(1)] = False
    return missing


def conditional(pair: PPCA, x: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """The exact mean and variance of each value given those of its row that are there."""
    mean, variance = x.clone(), torch.zeros_like(x)
    for i, gone in enumerate(missing):
        if gone.any():
            there = ~gone
            s = pair.marginal
            gain = s[gone][:, there] @ torch.linalg.inv(s[there][:, there])
            mean[i, gone] = pair.mean[gone] + gain @ (x[i, there] - pair.mean[there])
            variance[i, gone] = (s[gone][:, gone] - gain @ s[there][:, gone]).diagonal()
    return mean, variance


@pytest.mark.parametrize(
    ("method", "widen"), [("gibbs", 1.0), ("gibbs", 2.0), ("importance", 4.0)]
)
def test_imputation_is_the_conditional_expectation(
    method: Any, widen: float, double: None
) -> None:
    """By the chain whatever the guide; by weights where it is wide enough a proposal."""
    pair = PPCA.make(widen=widen)
    full = pair.sample(15)
    missing = holes(full)
    if method == "importance":
        missing[:, 1:] = False  # a row short of one value has its codes near the filled row's
    x = torch.where(missing, torch.nan, full)
    exact, variance = conditional(pair, full, missing)
    found = use(pair).impute(x.repeat(8, 1), method=method, num_samples=150, seed=0)
    runs = found.view(8, *x.shape)
    assert torch.equal(runs[0][~missing], full[~missing])
    z = ((runs.mean(0) - exact) / (runs.std(0) / 8**0.5))[missing]
    # squares of Student t of 7 degrees have mean 7/5 and variance 7.84
    count = int(missing.sum())
    assert float(z.square().mean()) < 1.4 + 4.5 * (7.84 / count) ** 0.5
    # and the error against the truth is the noise that is left
    error = ((runs.mean(0) - full).square() / variance)[missing]
    assert abs(float(error.mean()) - 1) < 4.5 * (2 / count) ** 0.5


def test_draws_of_missing_values_spread_as_they_should(ppca: PPCA) -> None:
    full = ppca.sample(1).expand(400, 5)
    missing = torch.zeros(400, 5, dtype=torch.bool)
    missing[:, :2] = True
    mean, variance = conditional(ppca, full, missing)
    x = torch.where(missing, torch.nan, full)
    drawn = use(ppca).impute(x, 1, num_samples=60, seed=0)
    assert drawn.shape == (400, 1, 5)
    found = drawn[:, 0][:, :2]
    close(found.mean(0), mean[0, :2], (variance[0, :2] / 400).sqrt())
    close(found.var(0), variance[0, :2], variance[0, :2] * (2 / 399) ** 0.5)


def test_the_likelihood_of_what_is_there_is_the_marginal(double: None) -> None:
    pair = PPCA.make(widen=4.0)
    full = pair.sample(12)
    missing = holes(full)
    missing[:, 1:] = False
    x = torch.where(missing, torch.nan, full)
    from ppl_vae.using.codes import log_likelihood

    programs = with_missing(pair.model, pair.guide, pair.mean)
    runs = torch.stack([log_likelihood(*programs, x, 2000) for _ in range(8)])
    for i, gone in enumerate(missing):
        there = ~gone
        marginal = dist.MultivariateNormal(pair.mean[there], pair.marginal[there][:, there])
        exact = marginal.log_prob(full[i, there])
        close(runs[:, i].mean(), exact, 1.5 * runs[:, i].std() / 8**0.5)


def test_elements_that_depend_on_each_other_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.MultivariateNormal(z, torch.eye(2)), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.randn(4, 2)
    x[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not independent given"):
        Trained(model, guide).impute(x, method="importance")
    with pytest.raises(ValueError, match="not independent given"):
        Trained(model, guide).impute(x)


# Forms


def test_results_come_back_in_the_rows_form(ppca: PPCA) -> None:
    x, trained = ppca.sample(4), use(ppca)
    z = ppca.codes(x).numpy()
    assert isinstance(trained.encode(x), Tensor)
    for rows in (x.numpy(), x.tolist(), x.numpy().astype(">f8")):
        found = trained.encode(rows)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, z)
    index = pd.Index(["a", "b", "c", "d"], name="who")
    table = pd.DataFrame(x.numpy(), index=index, columns=[*"vwxyz"])
    codes = trained.encode(table)
    assert list(codes.columns) == ["z[0]", "z[1]"]
    pd.testing.assert_index_equal(codes.index, index)
    np.testing.assert_allclose(codes.to_numpy(), z)
    rebuilt = trained.reconstruct(table)
    assert list(rebuilt.columns) == [*"vwxyz"]
    pd.testing.assert_index_equal(rebuilt.index, index)
    drawn = trained.encode(table, 3, weights=True)
    assert drawn.codes.index.names == ["who", "draw"]
    assert drawn.codes.loc[("b", 2)].shape == (2,)
    assert drawn.log_weights.shape == (4, 3)
    scores = trained.log_likelihood(table, 10)
    assert scores.name == "log_likelihood"
    pd.testing.assert_index_equal(scores.index, index)
    back = trained.decode(codes)
    pd.testing.assert_index_equal(back.index, index)
    np.testing.assert_allclose(back.to_numpy(), rebuilt.to_numpy())
    table.iloc[0, 0] = np.nan
    whole = trained.impute(table, num_samples=10)
    assert list(whole.columns) == [*"vwxyz"]
    assert not whole.isna().any().any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda x: x[:, :3], r"shape \(3,\) are given where the training's had \(5,\)"),
        (lambda x: x * 1000, "lie between .* prepare them as the training's rows were"),
        (lambda x: torch.where(x == x[1, 2], torch.nan, x), r"\[1, 2\] is nan .*impute"),
        (lambda x: torch.where(x == x[1, 2], torch.inf, x), r"\[1, 2\] is inf"),
        (lambda x: x[:0], r"rows of \[0\] rows: equal numbers above 0"),
        (lambda x: (x, x), "2 arguments are given where the training had 1"),
        (lambda x: np.array([["a", "b"]]), "not real numbers"),
    ],
)
def test_rows_of_another_kind_are_refused(
    rows: Callable[[Tensor], Any], message: str, ppca: PPCA
) -> None:
    trained = use(ppca)
    with pytest.raises(ValueError, match=message) as caught:
        trained.encode(rows(ppca.sample(6)))
    assert "\n" not in str(caught.value)


def test_a_value_far_outside_warns(ppca: PPCA) -> None:
    x = ppca.sample(6)
    x[0, 0] = 1e3
    with pytest.warns(UserWarning, match=r"\[0, 0\] is 1000 where the training's values lie"):
        use(ppca).encode(x)


def test_other_requests_that_make_no_sense(ppca: PPCA) -> None:
    x, trained = ppca.sample(3), use(ppca)
    for call, message in (
        (lambda: trained.decode(torch.zeros(2, 3)), "codes of shape"),
        (lambda: trained.sample(0), "at least 1"),
        (lambda: trained.interpolate(x, x[:2]), "3 rows to start at and 2 to end at"),
        (lambda: trained.interpolate(x, x, 1), "2 points"),
        (lambda: trained.traverse(x, dims=[2]), "coordinates 0 to 1"),
        (lambda: trained.encode(x, weights=True), "goes without|with it"),
        (lambda: trained.impute(x, method="guess"), None),
        (lambda: Trained(ppca.model, ppca.guide).sample(2), "give some"),
    ):
        if message is not None:
            with pytest.raises(ValueError, match=message):
                call()


# Pairs


@pytest.mark.parametrize("name", sorted(set(PAIRS) - {"subsampled"}))
def test_every_shape_of_pair(name: str) -> None:
    pyro.set_rng_seed(0)
    pair = PAIRS[name]()
    plate = pair.keywords.get("plate")
    trained = Trained(pair.model, pair.guide, pair.args, plate=plate)
    x, *rest = pair.args
    codes = trained.encode(pair.args)
    n, d = codes.shape
    assert n == len(x)
    assert len(trained.code_names) == d
    drawn = trained.encode(pair.args, 2, weights=True)
    assert drawn.codes.shape == (n, 2, d)
    assert drawn.log_weights.shape == (n, 2)
    assert trained.decode(codes).shape == x.shape
    assert trained.decode(drawn.codes).shape == (n, 2, *x.shape[1:])
    assert trained.reconstruct(pair.args).shape == x.shape
    assert trained.sample(3).shape == (3, *x.shape[1:])
    assert trained.interpolate(pair.args, pair.args, 3).shape == (n, 3, *x.shape[1:])
    assert trained.traverse(pair.args, [0.0, 1.0]).shape == (n, d, 2, *x.shape[1:])
    assert trained.log_likelihood(pair.args, 5).shape == (n,)
    holed = x.clone()
    holed[1, 0] = torch.nan
    whole = trained.impute((holed, *rest), num_samples=6)
    assert bool(whole.isfinite().all())
    assert torch.equal(whole[0], x[0])


LIBRARY: dict[str, dict[str, Any]] = {
    "VAE": {"pair": VAE},
    "ConditionalVAE": {
        "pair": ConditionalVAE,
        "prior": partial(ConditionalNormal, body=small),
    },
    "HierarchicalVAE": {
        "pair": HierarchicalVAE,
        "dim": [3, 2],
        "encoder": partial(Ladder, body=small),
    },
    "SemiSupervisedVAE": {"pair": SemiSupervisedVAE},
}


@pytest.mark.parametrize("name", LIBRARY)
def test_every_pair_of_the_library(name: str) -> None:
    settings = {
        "data": GaussianMixture(3, n=60),
        "objective": BetaVAE(),
        "dim": 2,
        "likelihood": partial(Normal, body=small),
        "encoder": partial(MeanFieldNormal, body=small),
    }
    made = Experiment(**settings | LIBRARY[name])
    x, *given = made.rows()
    rows = (x, *given) if name == "ConditionalVAE" else x
    codes = made.encode(rows)
    assert codes.shape == (12, sum(made.pair.codes.values()))
    assert made.reconstruct(rows).shape == (12, 2)
    assert made.decode(codes, *given).shape == (12, 2)
    assert made.sample(5).shape == (5, 2)
    assert made.sample(5, steps=2).shape == (5, 2)
    assert made.log_likelihood(rows, 5).shape == (12,)
    if name == "ConditionalVAE":
        with pytest.raises(ValueError, match="x and its covariates"):
            made.encode(x)


def test_batch_normalisation_uses_what_it_learned() -> None:
    def body(size: torch.Size, out: torch.Size) -> nn.Module:
        return nn.Sequential(nn.Linear(size.numel(), out.numel()), nn.BatchNorm1d(out.numel()))

    vae = VAE(StandardNormal(2), Normal(2, (3,)), MeanFieldNormal((3,), 2, body))
    trained = Trained(vae.model, vae.guide, torch.randn(50, 3))
    x = torch.randn(6, 3)
    torch.testing.assert_close(trained.encode(x)[:2], trained.encode(x[:2]))
    assert vae.training


# Another prior


def two_clouds(x: Tensor) -> Trained:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.3).to_event(1))

    return Trained(model, guide, x)


def test_a_refitted_mixture_is_the_codes_law_and_the_model_s() -> None:
    torch.manual_seed(0)
    n = 2000
    x = 0.5 * torch.randn(n, 2) + torch.where(torch.arange(n)[:, None] % 2 == 0, 3.0, -3.0)
    made = two_clouds(x).refit_prior(partial(Mixture, components=2), epochs=3, seed=0)
    # codes are x with noise 0.3: two normals of variance 0.34, of which half the rows tell each
    drawn = made.sample(4000, seed=1)
    right = drawn[drawn[:, 0] > 0]
    close(torch.tensor(len(right) / 4000), 0.5, (0.25 / 4000) ** 0.5)
    variance = 0.34 + 0.25
    # fitted to 1000 codes, and drawn 2000 times
    error = variance * (2 / 1000 + 2 / 2000) ** 0.5
    close(right.var(0), variance, error)
    close(right.mean(0), 3.0, (variance / 1000 + variance / 2000) ** 0.5)
    few = x[:200]
    exact = dist.Normal(torch.tensor([3.0, 3.0]), variance**0.5).to_event(1)
    both = torch.stack([exact.log_prob(few), exact.log_prob(-few)]).logsumexp(0) - np.log(2)
    found = made.log_likelihood(few, 400, seed=0)
    # a fit to n codes moves the mean log-density by about (number of parameters) / 2n
    assert abs(float((found - both).mean())) < 0.05


def test_priors_to_refit() -> None:
    torch.manual_seed(0)
    x = 2 + 3 * torch.randn(500, 2)
    made = two_clouds(x).refit_prior(DiagonalNormal, epochs=1, seed=0)
    worse = float(made.log_likelihood(x, 50, seed=0).mean())
    prior = DiagonalNormal(2)
    made = two_clouds(x).refit_prior(prior, epochs=100, seed=0)
    assert float(made.log_likelihood(x, 50, seed=0).mean()) > worse
    with pytest.raises(ValueError, match="nothing to fit"):
        two_clouds(x).refit_prior(StandardNormal)
    with pytest.raises(ValueError, match="over 3 dimensions"):
        two_clouds(x).refit_prior(Mixture(3))
    pair = PAIRS["chain_top_down"]()
    with pytest.raises(ValueError, match="depends on"):
        Trained(pair.model, pair.guide, pair.args).refit_prior(site="z1")


def test_a_refitted_flow() -> None:
    pytest.importorskip("zuko")
    torch.manual_seed(0)
    x = 0.5 * torch.randn(600, 2) + torch.where(torch.rand(600, 1) < 0.5, 2.0, -2.0)
    plain = two_clouds(x)
    prior = partial(FlowPrior, transforms=2, hidden=(16,))
    made = plain.refit_prior(prior, epochs=15, seed=0)
    few = x[:100]
    gain = made.log_likelihood(few, 100, seed=0) - plain.log_likelihood(few, 100, seed=0)
    assert float(gain.mean()) > 4.5 * float(gain.std()) / 10


def test_a_mixture_starts_where_its_codes_are() -> None:
    torch.manual_seed(0)
    z = torch.randn(3000, 1) * 0.2 + torch.where(torch.rand(3000, 1) < 0.25, 4.0, 0.0)
    prior = Mixture(1, components=2)
    prior.initialise(z)
    order = prior.loc[:, 0].argsort()
    weights = prior.logits.softmax(0)[order]
    close(weights[1], 0.25, (0.25 * 0.75 / 3000) ** 0.5)
    scale = prior().component_distribution.base_dist.scale[order, 0]
    close(scale[0], 0.2, 0.2 / (2 * 2250) ** 0.5)
    close(scale[1], 0.2, 0.2 / (2 * 750) ** 0.5)
    with pytest.raises(ValueError, match="as many codes"):
        Mixture(1, components=5).initialise(z[:3])


# A data set that is remembered


def test_what_is_known_of_data_is_enough_to_sample() -> None:
    from ppl_vae.data.known import Known

    data = Dataset(torch.rand(20, 3), train_covariates=torch.rand(20, 2)).passing("covariates")
    known = Known.of(data, data.arguments("train"))
    assert Known.of_run(known.plain) == known
    x, c = known.example(30)
    assert x.shape == (30, 3)
    rows = {tuple(row) for row in data.arguments("train")[1].tolist()}
    assert {tuple(row) for row in c.tolist()} == rows


def test_integers_are_data_too() -> None:
    """Classes as they are: of a pair that observes integers."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = torch.stack([z, -z, 0 * z], -1)
            pyro.sample("x", dist.Categorical(logits=logits), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x == 0).float(), 1.0))

    x = torch.tensor([0, 1, 2, 0])
    trained = Trained(model, guide, x)
    torch.testing.assert_close(trained.encode([0, 1])[:, 0], np.array([1.0, 0.0], "float32"))
    assert trained.sample(50, seed=0).unique().tolist() == [0, 1, 2]


def test_a_guide_that_is_no_proposal_gets_a_fitted_one(double: None) -> None:
    narrow = PPCA.make(widen=0.02)
    x = narrow.sample(5)
    found = use(narrow).log_likelihood(x, 400, seed=0)
    assert torch.allclose(found, narrow.log_likelihood(x).to(found), atol=4.5 * 0.1)
