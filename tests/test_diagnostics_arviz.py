"""`to_arviz`: values against closed forms, dims and coords, every model shape, bad input."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from ppca import PPCA
from pyro import poutine
from torch import nn

from ppl_vae.diagnostics import to_arviz
from ppl_vae.diagnostics.bridge import GROUPS
from ppl_vae.diagnostics.pair import Pair
from ppl_vae.training.noise import streams


def _array(tree, group, name):
    return np.asarray(tree[group][name].values)


def _within(values, truth, error):
    """The mean over draws within 4.5 standard errors; `error` is the sd of one draw."""
    off = np.abs(values.mean(0) - truth) / (error / math.sqrt(len(values)))
    assert off.max() < 4.5, off.max()


@pytest.fixture(scope="module")
def exact():
    p = PPCA.make(dim=3, features=5)
    x = p.sample(40)
    return (
        p,
        x,
        to_arviz(
            p.model, p.guide, x, draws=600, prior_draws=300, log_likelihood="conditional", seed=1
        ),
    )


def test_groups_and_dims(exact):
    _, _, tree = exact
    for group in GROUPS[:-1]:
        assert group in tree, group
    dims = ("chain", "draw", "data")
    assert tree["posterior"]["z"].dims == (*dims, "z_dim_0")
    assert tree["posterior"]["z"].shape == (1, 600, 40, 3)
    assert tree["posterior_predictive"]["x"].dims == (*dims, "x_dim_0")
    assert tree["log_likelihood"]["x"].dims == dims
    assert tree["prior"]["z"].shape == (1, 300, 40, 3)
    assert tree["prior_predictive"]["x"].shape == (1, 300, 40, 5)
    assert tree["observed_data"]["x"].dims == ("data", "x_dim_0")
    for name in ("log_p", "log_q", "log_weight"):
        assert tree["sample_stats"][name].dims == dims
    assert tree["sample_stats"]["lp"].dims == ("chain", "draw")


def test_posterior_is_the_guide(exact):
    p, x, tree = exact
    z = _array(tree, "posterior", "z")[0]
    sd = p.covariance.diagonal().sqrt().numpy()
    _within(z, p.codes(x).numpy(), sd)
    # The variance of a variance: 2 sd^4 for each draw.
    _within((z - p.codes(x).numpy()) ** 2, sd**2, math.sqrt(2) * sd**2)


def test_densities_are_exact(exact):
    p, x, tree = exact
    z = torch.as_tensor(_array(tree, "posterior", "z")[0])
    likelihood = dist.Normal(z @ p.weight.T + p.mean, p.noise).log_prob(x).sum(-1)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = dist.MultivariateNormal(p.codes(x), p.covariance).log_prob(z)
    stats = {k: _array(tree, "sample_stats", k)[0] for k in ("log_p", "log_q", "log_weight", "lp")}
    np.testing.assert_allclose(_array(tree, "log_likelihood", "x")[0], likelihood, rtol=1e-10)
    np.testing.assert_allclose(stats["log_p"], likelihood + prior, rtol=1e-10)
    np.testing.assert_allclose(stats["log_q"], log_q, rtol=1e-8)
    np.testing.assert_allclose(stats["lp"], (likelihood + prior).sum(-1), rtol=1e-10)
    # The guide is the posterior: every weight is the evidence.
    evidence = p.log_likelihood(x).expand(600, -1)
    np.testing.assert_allclose(stats["log_weight"], evidence, rtol=1e-8)


def test_predictive_draws(exact):
    p, x, tree = exact
    drawn = _array(tree, "posterior_predictive", "x")[0]
    cov = p.weight @ p.covariance @ p.weight.T + p.noise**2 * torch.eye(5, dtype=x.dtype)
    mean = p.codes(x) @ p.weight.T + p.mean
    _within(drawn, mean.numpy(), cov.diagonal().sqrt().numpy())
    _within(
        (drawn - mean.numpy()) ** 2, cov.diagonal().numpy(), math.sqrt(2) * cov.diagonal().numpy()
    )


def test_prior_draws(exact):
    p, _, tree = exact
    z = _array(tree, "prior", "z").reshape(-1, 3)
    x = _array(tree, "prior_predictive", "x").reshape(-1, 5)
    _within(z, 0.0, 1.0)
    _within(z**2, 1.0, math.sqrt(2))
    variance = p.marginal.diagonal().numpy()
    _within(x, p.mean.numpy(), np.sqrt(variance))
    _within((x - p.mean.numpy()) ** 2, variance, math.sqrt(2) * variance)
    # x comes from its own z, not from another draw's.
    residual = x - z @ p.weight.T.numpy() - p.mean.numpy()
    _within(residual**2, p.noise**2, math.sqrt(2) * p.noise**2)


def test_observed_data(exact):
    _, x, tree = exact
    np.testing.assert_array_equal(_array(tree, "observed_data", "x"), x)


def test_coords_and_dims_are_named():
    p = PPCA.make(dim=2, features=3)
    x = p.sample(4)
    tree = to_arviz(
        p.model,
        p.guide,
        x,
        draws=5,
        dims={"z": ["latent"], "x": ["pixel"]},
        coords={"latent": ["a", "b"], "data": [10, 11, 12, 13]},
        log_likelihood="conditional",
    )
    z = tree["posterior"]["z"]
    assert z.dims == ("chain", "draw", "data", "latent")
    np.testing.assert_array_equal(z.sel(latent="b", data=12).values, z.values[:, :, 2, 1])
    assert list(tree["log_likelihood"]["x"].coords["data"].values) == [10, 11, 12, 13]
    assert tree["observed_data"]["x"].dims == ("data", "pixel")


def test_chains_are_seeds():
    p = PPCA.make(dim=2, features=3)
    x, options = p.sample(6), {"draws": 4, "log_likelihood": "pointwise", "block": 9}
    tree = to_arviz(p.model, p.guide, x, chains=3, seed=7, **options)
    for chain in range(3):
        alone = to_arviz(p.model, p.guide, x, seed=7 + chain, **options)
        for group in ("posterior", "posterior_predictive", "log_likelihood", "sample_stats"):
            for name in alone[group].data_vars:
                found = _array(tree, group, name)
                assert found.shape[:2] == (3, 4)
                np.testing.assert_array_equal(found[chain], _array(alone, group, name)[0])
    assert tree["prior"]["z"].shape[:2] == (1, 4)


def test_each_element_has_its_density(exact):
    """As `loo_pit` wants them; their sum is the density of the datum."""
    import arviz as az

    p, x, whole = exact
    tree = to_arviz(
        p.model, p.guide, x, draws=600, prior_draws=2, log_likelihood="pointwise", seed=1
    )
    single = _array(tree, "log_likelihood", "x")
    assert single.shape == (1, 600, 40, 5)
    np.testing.assert_allclose(single.sum(-1), _array(whole, "log_likelihood", "x"), rtol=1e-6)
    if int(az.__version__.split(".")[0]) < 1:
        found = az.loo_pit(tree, y="x")
        assert found.shape == (40, 5)
        assert ((found >= 0) & (found <= 1)).all()
        with pytest.raises(ValueError):
            az.loo_pit(whole, y="x")


def test_elements_that_are_not_independent():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            law = dist.MultivariateNormal(z[..., None].expand(*z.shape, 2), torch.eye(2))
            pyro.sample("x", law, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="'x' has no log-density of single elements"):
        to_arviz(model, guide, torch.randn(3, 2), draws=2, log_likelihood="pointwise")


def test_round_trip(exact, tmp_path):
    import arviz as az

    _, _, tree = exact
    file = tmp_path / "pair.nc"
    tree.to_netcdf(str(file))
    back = az.from_netcdf(str(file))
    for group in GROUPS[:-1]:
        before, after = tree[group], back[group]
        assert set(before.data_vars) == set(after.data_vars)
        for name in before.data_vars:
            assert before[name].dims == after[name].dims
            np.testing.assert_array_equal(before[name].values, after[name].values)


def test_arviz_reads_it(exact):
    import arviz as az

    _, _, tree = exact
    assert az.summary(tree, var_names=["z"]).shape[0] == 40 * 3
    loo = az.loo(tree, pointwise=True)
    assert np.isfinite(float(getattr(loo, "elpd_loo", getattr(loo, "elpd", np.nan))))


def same(a, b):
    """Whether two states of generators, of tensors and numbers, are one."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_seed_repeats_and_leaves_the_generator_alone():
    p = PPCA.make()
    x = p.sample(6)
    before = streams()
    first = to_arviz(p.model, p.guide, x, draws=4, seed=3)
    after = streams()
    assert before.keys() == after.keys()
    assert all(same(before[name], after[name]) for name in before)
    second = to_arviz(p.model, p.guide, x, draws=4, seed=3)
    for group, name in (("posterior", "z"), ("prior_predictive", "x")):
        np.testing.assert_array_equal(_array(first, group, name), _array(second, group, name))


@pytest.mark.parametrize("block", [1, 7, 16, 10_000])
def test_blocks_keep_data_and_draws_in_order(block):
    p = PPCA.make(dim=2, features=4)
    x = p.sample(10)
    tree = to_arviz(p.model, p.guide, x, draws=9, block=block, seed=0)
    evidence = p.log_likelihood(x).expand(9, -1)
    np.testing.assert_allclose(_array(tree, "sample_stats", "log_weight")[0], evidence, rtol=1e-8)
    assert len(np.unique(_array(tree, "posterior", "z")[0, :, 0, 0])) == 9


@pytest.mark.filterwarnings("ignore:log_likelihood")
@pytest.mark.parametrize("name", [k for k in PAIRS if k != "subsampled"])
def test_every_model_shape(name, double):
    """The joint density of each draw, scored again by Pyro one draw at a time."""
    built = PAIRS[name]()
    plate = built.keywords.get("plate")
    tree = to_arviz(built.model, built.guide, built.args, draws=6, seed=0, plate=plate)
    pair = Pair(built.model, built.guide, built.args, plate)
    assert pair.vectorise
    posterior, lp = tree["posterior"], _array(tree, "sample_stats", "lp")[0]
    scale = 0.3 if name == "scaled" else 1.0
    for s in range(6):
        values = {
            k: torch.as_tensor(posterior[k].values[0, s]).reshape(pair.sites[k].shape)
            for k in pair.latents
        }
        trace = poutine.trace(poutine.condition(built.model, values)).get_trace(*built.args)
        assert lp[s] == pytest.approx(float(trace.log_prob_sum().detach()) / scale, rel=1e-9)
    stats = tree["sample_stats"]
    total = stats["log_p"].sum("data")
    if pair.globals:
        total = total + stats["log_p_global"]
    np.testing.assert_allclose(total.values[0], lp, rtol=1e-9)
    assert np.isfinite(stats["log_q"].values).all()
    # A latent of the guide alone leaves no density of the model's.
    assert ("log_weight" in stats) == (name != "auxiliary")


def test_log_q_of_globals_and_locals(double):
    built = PAIRS["global_and_local"]()
    groups = ("posterior", "sample_stats")
    tree = to_arviz(built.model, built.guide, built.args, draws=3, groups=groups, seed=0)
    for s in range(3):
        values = {k: torch.as_tensor(v.values[0, s]) for k, v in tree["posterior"].items()}
        trace = poutine.trace(poutine.condition(built.guide, values)).get_trace(*built.args)
        stats = {k: v.values[0, s].sum() for k, v in tree["sample_stats"].items()}
        total = stats["log_q"] + stats["log_q_global"]
        assert total == pytest.approx(float(trace.log_prob_sum().detach()), rel=1e-9)


class _Flat(nn.Module):
    """A decoder that takes (n, d) alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.ConvTranspose1d(2, 1, 4)

    def forward(self, z):
        n, d = z.shape
        return self.conv(z.reshape(n, d, 1)).reshape(n, 4)


@pytest.mark.parametrize("kind", ["shape", "batch"])
def test_a_model_of_one_batch_dimension_runs_draw_by_draw(kind):
    net = _Flat() if kind == "shape" else None
    weight = torch.randn(2, 4)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            # Centring over dim 0 runs with any number of dimensions, and means another thing.
            loc = net(z) if net is not None else (z - z.mean(0)) @ weight
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 0.5).to_event(1))

    x = torch.randn(5, 4)
    assert not Pair(model, guide, x).vectorise
    tree = to_arviz(model, guide, x, draws=3, seed=0)
    for s in range(3):
        z = torch.as_tensor(_array(tree, "posterior", "z")[0, s])
        trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
        lp = float(_array(tree, "sample_stats", "lp")[0, s])
        assert lp == pytest.approx(float(trace.log_prob_sum().detach()), rel=1e-5)


def test_deterministic_factor_and_missing_sites():
    mask = torch.tensor([True, False, True, True])

    def model(x, y):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            twice = pyro.deterministic("twice", 2 * z)
            pyro.factor("bonus", 0.1 * twice)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=mask)

    def guide(x, y):
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(x, 0.5))

    x = torch.randn(4)
    args = (x, torch.arange(4.0))
    tree = to_arviz(model, guide, args, draws=50, log_likelihood="conditional", seed=0)
    z = _array(tree, "posterior", "z")
    np.testing.assert_allclose(_array(tree, "posterior", "twice"), 2 * z)
    assert "bonus" not in tree["log_likelihood"]
    prior = dist.Normal(0.0, 1.0).log_prob(torch.as_tensor(z))
    fit = dist.Normal(torch.as_tensor(z), 1.0).log_prob(x) * mask
    expected = prior + fit + 0.2 * torch.as_tensor(z)
    np.testing.assert_allclose(_array(tree, "sample_stats", "log_p"), expected, rtol=1e-4)
    assert tree["posterior"]["x_unobserved"].shape == (1, 50, 4)
    np.testing.assert_array_equal(_array(tree, "constant_data", "y"), np.arange(4.0))
    drawn = _array(tree, "prior_predictive", "x_observed") - _array(tree, "prior", "z")
    assert 0.8 < drawn.std() < 1.2


def test_constant_data_holds_covariates():
    def model(x, c, scale):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, c, scale):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    c = torch.randn(5)
    tree = to_arviz(model, guide, (torch.randn(5), c, 2.0), draws=2)
    assert tree["constant_data"]["c"].dims == ("data",)
    np.testing.assert_array_equal(_array(tree, "constant_data", "c"), c)
    assert float(tree["constant_data"]["scale"]) == 2.0
    assert "x" not in tree["constant_data"]


def test_a_point_mass_has_no_weights():
    p = PPCA.make()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(p.codes(x), event_dim=1))

    x = p.sample(3)
    tree = to_arviz(p.model, guide, x, draws=4)
    assert "log_q" not in tree["sample_stats"]
    assert "log_weight" not in tree["sample_stats"]
    np.testing.assert_allclose(_array(tree, "posterior", "z")[0, 3], p.codes(x))


def test_groups_can_be_left_out():
    p = PPCA.make()
    tree = to_arviz(p.model, p.guide, p.sample(3), draws=4, groups=("posterior", "sample_stats"))
    assert "posterior" in tree
    assert "prior" not in tree
    assert "posterior_predictive" not in tree


def test_eval_mode_and_its_return():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.drop(z), 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0))

    pair = Noisy()
    x = torch.randn(4)
    tree = to_arviz(pair.model, pair.guide, x, draws=20, log_likelihood="conditional")
    z = torch.as_tensor(_array(tree, "posterior", "z"))
    expected = dist.Normal(z, 1.0).log_prob(x)
    np.testing.assert_allclose(_array(tree, "log_likelihood", "x"), expected, rtol=1e-5)
    assert pair.drop.training


def _no_plate(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)


def _sequential(x):
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i, 0])


def _two_plates(x):
    with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _nothing_observed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def _guide_of(shape=(2,), name="z", plate="data"):
    def guide(x):
        with pyro.plate(plate, len(x)):
            pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))

    return guide


_P = PPCA.make(dim=2, features=3, dtype=torch.float32)


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (_no_plate, _no_plate, "no plate holds a latent site and an observation"),
        (_sequential, _sequential, "the sequential plate 'data' has no rows"),
        (_two_plates, _two_plates, "several plates could be the data's"),
        (_nothing_observed, _nothing_observed, "no plate holds a latent site and an obs"),
        (_P.model, _guide_of((3,)), "of shape"),
        (_P.model, _guide_of(()), "of shape"),
        (_P.model, _guide_of(name="y"), "not in the guide"),
        (_P.model, _guide_of(plate="other"), "no plate holds a latent site"),
    ],
)
def test_bad_pairs(model, guide, message):
    with pytest.raises(ValueError, match=message) as caught:
        to_arviz(model, guide, torch.randn(4, 3), draws=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be"),
        ({"dims": {"w": ["a"]}}, "no site"),
        ({"dims": {"z": ["a", "b"]}}, "needs 1"),
        ({"dims": {"z": ["z"]}}, "name of a variable"),
        ({"dims": {"z": ["k"], "x": ["k"]}}, "long in"),
        ({"coords": {"pixel": [0, 1]}}, "no dimension"),
        ({"coords": {"data": [0, 1]}}, "2 labels for 4"),
        ({"groups": ["posteriors"]}, "unknown groups"),
        ({"plate": "rows"}, "'rows' holds no latent site"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        to_arviz(_P.model, _P.guide, torch.randn(4, 3), **{"draws": 2, **options})


def test_a_subsampled_plate_is_refused():
    built = PAIRS["subsampled"]()
    with pytest.raises(ValueError, match="subsampled"):
        to_arviz(built.model, built.guide, built.args, draws=2)


def test_two_plates_with_a_choice():
    tree = to_arviz(_two_plates, _two_plates_guide, torch.randn(4, 3), draws=2, plate="columns")
    assert tree["posterior"]["z"].dims == ("chain", "draw", "columns", "rows")
    assert tree["sample_stats"]["log_p"].shape == (1, 2, 3)


def _two_plates_guide(x):
    with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", x.shape[1], dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0))


def test_imports_are_lazy():
    code = (
        "import sys, ppl_vae.diagnostics;"
        "print([m for m in ('arviz', 'matplotlib.pyplot', 'xarray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_half_the_variance_is_seen():
    """The checks above can fail: a guide of half the variance is told from the exact one."""
    p = PPCA.make(dim=3, features=5)
    half = dataclasses.replace(p, covariance=p.covariance / 2)
    x = p.sample(40)
    tree = to_arviz(half.model, half.guide, x, draws=600, seed=1, groups=("posterior",))
    z = _array(tree, "posterior", "z")[0]
    variance = p.covariance.diagonal().numpy()
    with pytest.raises(AssertionError):
        _within((z - p.codes(x).numpy()) ** 2, variance, math.sqrt(2) * variance)
