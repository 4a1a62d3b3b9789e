"""The full-data MMD against closed forms, and its errors, memory and bad input."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA

from ppl_vae import evaluation as ev
from ppl_vae.evaluation.ustatistic import MMDTerms, pair_sums
from ppl_vae.objectives.divergences.kernels import (
    IMQ,
    RBF,
    Laplacian,
    MultiScale,
    RationalQuadratic,
)

ROOT = Path(__file__).parents[1]


def standard(dim, **options):
    return dist.Normal(torch.zeros(dim, **options), 1.0).to_event(1)


@pytest.mark.parametrize("kernel", [RBF(), IMQ(), Laplacian(), RationalQuadratic(), MultiScale()])
def test_equals_the_double_sum(kernel, double):
    z, y = torch.randn(37, 3) * 0.7 + 0.3, torch.randn(23, 3)
    found = ev.mmd(z, y, kernel, block=10)
    length = kernel.squared_length(3, z, y)

    def k(a, b):
        return kernel((a[:, None] - b).square().sum(-1), length)

    zz, yy, zy = k(z, z), k(y, y), k(z, y)
    u = (zz.sum() - zz.trace()) / (37 * 36) + (yy.sum() - yy.trace()) / (23 * 22) - 2 * zy.mean()
    v = zz.mean() + yy.mean() - 2 * zy.mean()
    # The Laplacian's floor makes its k(0) 1 - 1e-6.
    assert found.u.value == pytest.approx(float(u), abs=1e-9)
    assert found.v.value == pytest.approx(float(v), abs=1e-6)
    assert found.v.bound == "upper"
    assert found.u.bound is None


@pytest.mark.parametrize("kernel", [RBF(), IMQ(), Laplacian(), MultiScale()])
def test_closed_prior_agrees_with_many_draws(kernel, double):
    z = torch.randn(300, 2) * 0.5 + 0.4
    tril = torch.tensor([[1.0, 0.0], [0.6, 0.5]])
    for prior in (standard(2), dist.MultivariateNormal(torch.ones(2), scale_tril=tril)):
        closed = ev.mmd(z, prior, kernel).u
        draws = prior.sample((3000,))
        sampled = ev.mmd(z, draws, kernel).u
        # The codes are the same: only the draws' part of the error counts.
        reverse = ev.mmd(draws, z, kernel).u
        assert sampled.value == pytest.approx(reverse.value)
        assert abs(closed.value - sampled.value) < 4.5 * sampled.standard_error
        assert abs(closed.value - sampled.value) < 0.15 * abs(closed.value)


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("closed", [True, False])
def test_unbiased_with_errors_that_hold_at_both_orders(shift, closed, double):
    n, m, d, runs = 60, 90, 2, 400
    pair = PPCA.make()
    pair.shift[:] = shift
    truth = pair.mmd(float(d))
    mean, cov = pair.aggregate
    aggregate = dist.MultivariateNormal(mean, cov)
    u, v, error = [], [], []
    for seed in range(runs):
        pyro.set_rng_seed(seed)
        prior = standard(d) if closed else standard(d).sample((m,))
        found = ev.mmd(aggregate.sample((n,)), prior)
        u.append(found.u.value)
        v.append(found.v.value)
        error.append(found.u.standard_error)
    u, v, error = (torch.tensor(t) for t in (u, v, error))
    spread = u.std()
    assert abs(u.mean() - truth) < 4.5 * spread / runs**0.5
    # The V-statistic fails the same test.
    assert abs(v.mean() - truth) > 4.5 * spread / runs**0.5
    # Truncating negative variances makes the error somewhat too large where q = p, never small.
    ratio = float(error.square().mean().sqrt() / spread)
    assert 0.85 < ratio < (1.5 if shift == 0 else 1.2)


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("sizes", [(2, 2), (2, 10**6), (10**6, 2), (9, 30)])
def test_each_part_of_the_variance(shift, sizes, double):
    """Of the linear kernel: the squared distance of means, of unit normals in d dimensions."""
    d, (n, m) = 2, sizes
    # The projections have the variance of (z - y)' times the distance, what is left has d.
    exact = 4 * shift**2 * (1 / n + 1 / m)
    exact += d * (2 / (n * (n - 1)) + 4 / (n * m) + 2 / (m * (m - 1)))
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        z, y = torch.randn(300, d), torch.randn(400, d)
        z[:, 0] += shift
        pairs = (z, z, True), (z, y, False), (y, y, True)
        sums = [pair_sums(lambda k: k, a, b, block=170, same=same) for a, b, same in pairs]
        found.append(MMDTerms(*sums).variance(n, m))
    variances = torch.tensor(found)
    # Where the first order is 0 it cannot be estimated below it: a part of d / 300.
    slack = 4.5 * float(variances.std()) / 20**0.5 + 4 * d / 300 * (1 / n + 1 / m)
    assert abs(float(variances.mean()) - exact) < slack < 0.25 * exact


def test_second_order_of_the_error_where_the_laws_are_equal(double):
    """Against the exact variance: no part of it may be missing, and little may be too much."""
    n, m, h, runs = 60, 40, 2.0, 200
    # E k, E k^2 and E (E' k)^2 under exp(-r^2 / 2 h) in two dimensions.
    once, twice, row = 1 / (1 + 2 / h), 1 / (1 + 4 / h), 1 / ((1 + 1 / h) ** 2 * (1 + 2 / (h + 1)))
    kernel = twice - 2 * row + once**2
    exact = kernel * (2 / (n * (n - 1)) + 4 / (n * m) + 2 / (m * (m - 1)))
    found = []
    for seed in range(runs):
        torch.manual_seed(seed)
        found.append(ev.mmd(torch.randn(n, 2), torch.randn(m, 2)).u.standard_error)
    square = torch.tensor(found).square()
    error = float(square.std()) / runs**0.5
    # The first order is 0 and cannot be estimated below it.
    assert exact - 4.5 * error < float(square.mean()) < 1.7 * exact


def test_a_prior_with_a_covariance_need_not_be_gaussian():
    z = torch.randn(50, 2)
    prior = dist.MultivariateStudentT(torch.tensor(3.0), torch.zeros(2), torch.eye(2))
    assert "50 prior draws" in ev.mmd(z, prior).u.note


def test_of_a_pair(double):
    pair = PPCA.make(noise=1.5).mean_field(0.4)
    pair.shift[0] = 0.3
    x = pair.sample(3000)
    truth = pair.mmd(2.0)
    closed = ev.full_mmd(pair.model, pair.guide, x, block=700)
    assert "closed form" in closed.u.note
    assert abs(closed.u.value - truth) < 4.5 * closed.u.standard_error < truth
    sampled = ev.full_mmd(pair.model, pair.guide, x, draws=4000)
    assert "4000 prior draws" in sampled.u.note
    assert abs(sampled.u.value - truth) < 4.5 * sampled.u.standard_error
    tutorial = ev.full_mmd(pair.model, pair.guide, x, kernel=RBF("median"), closed=False)
    assert "3000 prior draws" in tutorial.u.note


def test_prior_draws_of_a_chain_never_call_the_decoder(double):
    calls = []

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            calls.append(len(x))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x / 3, (2 / 3) ** 0.5))
            pyro.sample("z1", dist.Normal((x + z2) / 2, 0.5**0.5))

    x = torch.randn(1500) * 3**0.5
    found = ev.full_mmd(model, guide, x)
    assert "draws" in found.u.note
    assert abs(found.u.value) < 4.5 * found.u.standard_error
    # Only the two looks at its rows ran to the end.
    assert calls == [3, 2]
    with pytest.raises(ValueError, match="closed=True needs a prior of z2, z1"):
        ev.full_mmd(model, guide, x, closed=True)


def test_float32_far_from_the_origin():
    z, y = torch.randn(2, 2000, 5)
    near, far = ev.mmd(z, y).u.value, ev.mmd(z + 2048, y + 2048).u.value
    assert far == pytest.approx(near, abs=1e-5)


def test_bad_input():
    z = torch.randn(10, 2)
    for bad in (torch.randn(10, 3), torch.randn(1, 2), torch.randn(10)):
        with pytest.raises(ValueError, match="prior draws of shape"):
            ev.mmd(z, bad)
    with pytest.raises(ValueError, match="codes of shape"):
        ev.mmd(z[:1], standard(2))
    with pytest.raises(ValueError, match="block is 0"):
        ev.mmd(z, z, block=0)


def extra_memory(rows):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "full_mmd.py"),
            "--rows",
            str(rows),
            "--rounds",
            "1",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    print(done.stdout)
    return float(re.search(r"extra memory (\d+) MiB", done.stdout)[1])


def test_memory_does_not_grow_with_the_pairs():
    # One 12,000 x 12,000 float32 matrix is 549 MiB.
    assert extra_memory(12_000) < 200


@pytest.mark.parametrize("order", [[-1.0, 1.0] * 50, [-1.0] * 50 + [1.0] * 50])
def test_a_prior_that_differs_through_a_chain_is_refused(order: list[float]) -> None:
    """p(z1 | z2, c): a guide wrong in every row has the right marginals."""

    def model(c: torch.Tensor) -> None:
        with pyro.plate("data", len(c)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(3 * c + 0.1 * z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=torch.zeros_like(c))

    def guide(c: torch.Tensor) -> None:
        with pyro.plate("data", len(c)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(len(c), 1), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(-3 * c + 0.1 * z2, 1.0).to_event(1))

    c = torch.tensor(order)[:, None]
    with pytest.raises(ValueError, match="prior of 'z1' differs between data"):
        ev.full_mmd(model, guide, c)


def test_codes_of_a_discrete_latent():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(k.to(x), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.tensor([0.1, 0.2, 0.7]).expand(len(x), 3)))

    torch.manual_seed(0)
    x, draws = torch.zeros(600), 64
    codes = ev.posterior_codes(model, guide, x, num_samples=draws)
    # k is 1.6 on average, of variance 0.44
    assert codes.mean.mean().item() == pytest.approx(1.6, abs=4.5 * (0.44 / 600 / draws) ** 0.5)
    # in the prior's third and the guide's shares, of numbers 0, 1, 2
    levels = torch.repeat_interleave(torch.arange(3.0), torch.tensor([60, 120, 420]))[:, None]
    direct = ev.mmd(levels, torch.arange(600.0)[:, None] % 3)
    found = ev.full_mmd(model, guide, x)
    assert found.u.value > 4.5 * found.u.standard_error
    assert abs(found.u.value - direct.u.value) < 4.5 * found.u.standard_error


@pytest.mark.parametrize("same", [True, False])
def test_sums_over_pairs_are_those_of_the_kernel_matrix(same):
    from ppl_vae.evaluation.ustatistic import pair_sums

    left = torch.randn(3, 2).double()
    right = left if same else torch.randn(4, 2).double()
    found = pair_sums(torch.exp, left, right, block=2, same=same)
    kept = ~torch.eye(3, dtype=torch.bool) if same else torch.ones(3, 4, dtype=torch.bool)
    kernel = (left @ right.T).exp() * kept
    torch.testing.assert_close(found.rows, kernel.sum(1) / kept.sum(1))
    torch.testing.assert_close(found.columns, kernel.sum(0) / kept.sum(0))
    assert found.mean == pytest.approx(float(kernel[kept].mean()))
    assert found.square == pytest.approx(float(kernel[kept].square().mean()))
