"""Free bits: each site's mean KL counts at least so many nats, without a gradient below."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from ppl_vae.objectives import MMD, TCVAE, WAE, Autoencoder, BetaVAE, InfoVAE

N = 8


@contextmanager
def _rows(x: Tensor, mask: Tensor | None) -> Iterator[None]:
    mask = torch.ones(len(x), dtype=torch.bool) if mask is None else mask
    with pyro.plate("data", 5 * len(x), subsample_size=len(x)), poutine.mask(mask=mask):
        yield


def model(x: Tensor, mask: Tensor | None = None) -> None:
    with _rows(x, mask):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1) + w, 1.0), obs=x)


def guide(x: Tensor, mask: Tensor | None = None) -> None:
    loc = pyro.param("loc", torch.tensor([2.0, 0.1]))
    with _rows(x, mask):
        pyro.sample("z", dist.Normal(loc[0].expand(len(x), 2), 1.0).to_event(1))
        pyro.sample("w", dist.Normal(loc[1].expand(len(x)), 1.0))


def _loss(objective: object, *args: Tensor) -> tuple[float, Tensor]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    loss = objective.differentiable_loss(model, guide, *args)  # type: ignore[attr-defined]
    loss.backward()
    return loss.item(), pyro.param("loc").grad.clone()


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_floors_by_site(beta: float) -> None:
    """KL of z is 4 nats a datum, that of w .005: at .5 free nats w counts .5, with no pull."""
    x = torch.zeros(N)
    plain, slope = _loss(BetaVAE(beta), x)
    free, moved = _loss(BetaVAE(beta, free_bits=0.5), x)
    data = 5 * N
    assert free - plain == pytest.approx(beta * data * (0.5 - 0.005), rel=1e-5)
    assert (slope - moved).tolist() == pytest.approx([0.0, beta * data * 0.1], abs=1e-3)


def test_the_terms_keep_the_rate() -> None:
    objective = BetaVAE(free_bits=10.0)
    _loss(objective, torch.zeros(N))
    assert float(objective.terms["rate/z"]) == pytest.approx(4.0, rel=1e-5)
    assert float(objective.terms["rate/w"]) == pytest.approx(0.005, rel=1e-4)


def test_a_masked_row_has_no_free_bits() -> None:
    """Masked rows are dropped rows: the floor is by the data that count."""
    x, mask = torch.zeros(N), torch.arange(N) < 4
    plain, free = (_loss(BetaVAE(free_bits=f), x, mask)[0] for f in (0.0, 0.5))
    assert free - plain == pytest.approx(5 * 4 * (0.5 - 0.005), rel=1e-4)


def test_none_is_the_elbo_to_the_bit() -> None:
    x = torch.randn(N)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    expected = TraceMeanField_ELBO().differentiable_loss(model, guide, x).item()
    assert _loss(BetaVAE(free_bits=0.0), x)[0] == pytest.approx(expected, rel=1e-6)
    assert _loss(BetaVAE(), x)[0] == _loss(BetaVAE(free_bits=0.0), x)[0]


def test_particles_are_averaged_before_and_after() -> None:
    """Vectorised particles share a floor of their mean KL, sequential ones have one each; in
    closed form both are one particle's."""
    x = torch.zeros(N)
    added = []
    for options in ({}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}):
        plain, free = (_loss(BetaVAE(free_bits=f, **options), x)[0] for f in (0.0, 0.5))
        added.append(free - plain)
    assert added == pytest.approx([5 * N * 0.495] * 3, rel=1e-4)


def test_with_a_divergence() -> None:
    x = torch.zeros(N)
    plain, free = (_loss(InfoVAE(MMD(), alpha=0.5, free_bits=f), x)[0] for f in (0.0, 0.5))
    assert free - plain == pytest.approx(0.5 * 5 * N * 0.495, rel=1e-4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="free_bits=-1 must be finite and not negative"):
        BetaVAE(free_bits=-1)
    for make in (lambda: InfoVAE(MMD(), free_bits=1.0), lambda: Autoencoder(free_bits=1.0)):
        with pytest.raises(ValueError, match="alpha=1 leaves out"):
            make()
    with pytest.raises((ValueError, TypeError)):
        WAE(MMD(), free_bits=1.0)
    with pytest.raises(ValueError, match="TCVAE weighs parts of the KL"):
        TCVAE(free_bits=1.0)
