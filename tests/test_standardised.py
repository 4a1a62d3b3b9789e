"""Encoders of standardised means: what is constant, what is chosen, and what moves the moments."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import guides
from ppl_vae.bodies import MLP
from ppl_vae.guides.moments import Standardised
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import IWAE, MMD, Autoencoder, BetaVAE, InfoVAE
from ppl_vae.pairs.hierarchical import HierarchicalVAE
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import StandardNormal, VampPrior
from ppl_vae.program.weighing import Weighted
from ppl_vae.training.fit import fit

SIZE, D = (1, 4, 4), 3
SMALL = partial(MLP, hidden=(16,))
GAUSSIAN = [guides.MeanFieldNormal, guides.FullCovarianceNormal]


def _rows(n: int = 20, seed: int = 0) -> Tensor:
    return torch.rand(n, *SIZE, generator=torch.Generator().manual_seed(seed)).double()


def _encoder(kind: Any = guides.MeanFieldNormal, **options: Any) -> Any:
    pyro.set_rng_seed(0)
    return kind(SIZE, D, SMALL, **options).double()


def _kl(q: Any) -> Tensor:
    prior = dist.MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    if not isinstance(q, dist.MultivariateNormal):
        q = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return torch.distributions.kl_divergence(q, prior).mean()


def test_the_mean_kl_is_the_constant_of_the_formula() -> None:
    gamma, s = 0.9, 0.5
    encoder = _encoder(standardise=gamma, sd=s)
    kl = _kl(encoder(_rows()))
    expected = D / 2 * (gamma**2 + s**2 - 1) - D * math.log(s)
    assert kl.item() == pytest.approx(expected, abs=1e-10)
    weights = list(encoder.network.parameters())
    pull = torch.autograd.grad(encoder(_rows()).rsample().pow(3).mean(), weights)
    for g, other in zip(torch.autograd.grad(kl, weights), pull, strict=True):
        assert g.abs().max() < 1e-10
        assert other[: len(other) // 2].abs().max() > 1e-3 or other.dim() == 1


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_a_rate_is_the_rate(kind: Any) -> None:
    """R = -d log s, and the aggregate has the prior's variances."""
    q = _encoder(kind, rate=8.0)(_rows(2000))
    aggregate = q.mean.var(0, correction=0)
    if kind is guides.MeanFieldNormal:  # correlations add to both
        assert float(_kl(q)) == pytest.approx(8.0, abs=1e-3)
        assert torch.allclose(aggregate + q.variance.mean(0), torch.ones(D).double(), atol=1e-3)
    assert torch.allclose(aggregate, torch.full((D,), 1 - math.exp(-16 / D)).double(), atol=1e-3)


def test_a_tied_sd_is_learned_and_keeps_the_aggregate() -> None:
    encoder = _encoder(sd="tied", initial_scale=0.3)
    q = encoder(_rows(2000))
    assert torch.allclose(q.stddev, torch.full_like(q.stddev, 0.3))
    q.stddev.sum().backward()
    assert encoder.moments.raw.grad.abs().min() > 0
    with torch.no_grad():
        encoder.moments.raw.copy_(torch.tensor([-3.0, 0.0, 2.0]))
    q = encoder(_rows(2000))
    assert torch.allclose(
        q.mean.var(0, correction=0) + q.variance[0], torch.ones(D).double(), atol=1e-3
    )


def test_a_free_sd_stays_read_off_x() -> None:
    q = _encoder(standardise=0.98)(_rows())
    assert q.stddev.std(0).min() > 0
    assert torch.allclose(q.mean.std(0, correction=0), torch.full((D,), 0.98).double(), atol=1e-3)


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_a_masked_row_is_one_that_is_not_there(kind: Any) -> None:
    """In means, gradients and running moments; and a row of weight 2 counts as two."""
    x = _rows(12)
    mask = torch.arange(12) % 3 > 0
    one = _encoder(kind, standardise=0.9, sd=0.4)
    other = copy.deepcopy(one)
    weighted = one(x, weights=mask).mean[mask]
    dropped = other(x[mask]).mean
    assert torch.allclose(weighted, dropped, atol=1e-12)
    weighted.pow(3).sum().backward()
    dropped.pow(3).sum().backward()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-10)
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    twice = torch.cat([x, x[:3]])
    weights = torch.where(torch.arange(12) < 3, 2.0, 1.0)
    assert torch.allclose(other(twice).mean[:12], other(x, weights).mean, atol=1e-12)


HANDLERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "fit": lambda guide, weights: lambda x: Weighted(guide, ["data"])(x, weights),
    "mask": lambda guide, weights: poutine.mask(guide, mask=weights > 1),
    "scale": lambda guide, weights: poutine.scale(guide, scale=weights),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_an_encoder_in_a_pair_meets_the_weights_of_its_rows(name: str) -> None:
    """Of `fit(weights=...)` and of Pyro's handlers, without a word in the guide."""
    x, weights = _rows(12), 1.0 + (torch.arange(12) % 3 > 0).double()
    encoder = _encoder(standardise=0.9, sd=0.4)
    vae = VAE(StandardNormal(D), Bernoulli(D, SIZE, body=SMALL), encoder)
    with poutine.trace() as seen:
        HANDLERS[name](vae.guide, weights)(x)
    found = seen.trace.nodes["z"]["fn"].base_dist.loc
    twin = _encoder(standardise=0.9, sd=0.4)
    expected = twin(x, weights=weights > 1 if name == "mask" else weights)
    assert torch.allclose(found, expected.base_dist.loc, atol=1e-12)
    assert not torch.allclose(found, _encoder(standardise=0.9, sd=0.4)(x).base_dist.loc, atol=1e-3)
    assert torch.equal(encoder.moments.standardised.mean, twin.moments.standardised.mean)


def test_weights_of_a_fit_leave_rows_out() -> None:
    """The running moments after steps that move no weight are those of the rows that count."""
    x = _rows(40).float().bernoulli()
    weights = (torch.arange(40) % 2).float()
    ends = []
    for rows, given in ((x, weights), (x[weights > 0], None)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        encoder = guides.MeanFieldNormal(SIZE, D, SMALL, rate=4.0)
        vae = VAE(StandardNormal(D), Bernoulli(D, SIZE, body=SMALL), encoder)
        fit(
            vae.model, vae.guide, rows, BetaVAE(), pyro.optim.SGD({"lr": 0.0}),
            epochs=3, batch_size=len(rows), weights=given, progress=False,
        )  # fmt: skip
        ends.append(encoder.moments.standardised)
    assert torch.allclose(ends[0].mean, ends[1].mean, atol=1e-6)
    assert torch.allclose(ends[0].variance, ends[1].variance, rtol=1e-5)


def test_one_row_is_refused_in_training_only() -> None:
    encoder = _encoder(standardise=0.9)
    with pytest.raises(ValueError, match="given 1 row in training"):
        encoder(_rows(1))
    with pytest.raises(ValueError, match="given 1 row in training"):
        encoder(_rows(3), weights=torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="given 1 row in training"):
        Standardised(D)(torch.zeros(D))
    assert encoder.eval()(_rows(1)).batch_shape == (1,)


def test_evaluation_uses_running_moments() -> None:
    """After many batches of one population, its moments; then a row's code is its own."""
    encoder = _encoder(standardise=0.9, sd=0.4)
    for seed in range(100):
        encoder(_rows(200, seed))
    encoder.eval()
    x = _rows(2000, 1000)
    with torch.no_grad():
        error = 4.5 / math.sqrt(200 / 0.1 * 2)  # a running mean is over about 2 / momentum batches
        assert ((encoder(x).mean.mean(0)) / 0.9).abs().max() < error + 4.5 / math.sqrt(2000)
        ratio = encoder(x).mean.var(0) / 0.81
        assert (ratio - 1).abs().max() < 4.5 * math.sqrt(2 / 4000) * 2
        assert torch.allclose(encoder(x[:1]).mean, encoder(x).mean[:1])


def _vae(encoder: Any, prior: Any = None) -> VAE:
    return VAE(prior or StandardNormal(D), Bernoulli(D, SIZE, body=SMALL), encoder)


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the moments were taken of, each time they moved."""
    seen: list[int] = []
    batch = Standardised._batch

    def counted(self: Any, loc: Tensor, weights: Tensor | None) -> Any:
        seen.append(loc[..., 0].numel())
        return batch(self, loc, weights)

    monkeypatch.setattr(Standardised, "_batch", counted)
    return seen


def test_only_training_steps_move_the_moments(updates: list[int]) -> None:
    """Checks before training, validation and evaluation do not."""
    x = _rows(20).float()
    vae = _vae(guides.MeanFieldNormal(SIZE, D, SMALL, standardise=0.9, sd=0.436))
    fit(vae.model, vae.guide, x, InfoVAE(MMD()), epochs=2, batch_size=10, validation=x[:7])
    assert updates == [10] * 4
    objective = BetaVAE()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    vae.train()
    svi.step(x)
    assert updates[4:] == [20]


def test_particles_see_the_moments_of_the_batch(updates: list[int]) -> None:
    """x is encoded once for vectorised particles, and once for each of others."""
    x = _rows(20).float()
    vae = _vae(guides.MeanFieldNormal(SIZE, D, SMALL, rate=4.0))
    for vectorised, runs in ((True, 1), (False, 3)):
        updates.clear()
        objective = IWAE(3, vectorised, max_plate_nesting=1)
        objective.differentiable_loss(vae.model, vae.guide, x)
        assert updates == [20] * runs


def test_pseudo_inputs_are_no_batch_of_data(updates: list[int]) -> None:
    encoder = guides.MeanFieldNormal(SIZE, D, SMALL, standardise=0.9, sd=0.4)
    vae = _vae(encoder, VampPrior(encoder, components=5))
    BetaVAE().differentiable_loss(vae.model, vae.guide, _rows(20).float())
    assert updates == [20]


def test_the_elbo_and_the_autoencoder_have_one_gradient() -> None:
    x = _rows(20)
    found = []
    for objective in (BetaVAE(), BetaVAE(4.0), Autoencoder()):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        vae = _vae(guides.MeanFieldNormal(SIZE, D, SMALL, standardise=0.9, sd=0.436)).double()
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in vae.encoder.parameters()]))
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=1e-8, atol=1e-10)


def test_the_lowest_layer_of_a_ladder() -> None:
    pyro.set_rng_seed(0)
    ladder = guides.Ladder(SIZE, (D, 2), SMALL, features=8, hidden=(8,), standardise=0.9, sd=0.4)
    lower, upper = ladder(_rows(50).float())
    assert torch.allclose(lower.mean.std(0, correction=0), torch.full((D,), 0.9), atol=1e-3)
    assert torch.allclose(lower.stddev, torch.full((50, D), 0.4))
    assert upper.stddev.std(0).min() > 0
    vae = HierarchicalVAE(StandardNormal(2), Bernoulli(D, SIZE, body=SMALL), ladder)
    assert math.isfinite(BetaVAE().loss(vae.model, vae.guide, _rows(20).float()))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rate and sd": ({"rate": 4.0, "sd": 0.4}, "rate=4 sets the spread"),
    "tied and gamma": ({"sd": "tied", "standardise": 0.9}, "leave standardise=0.9 out"),
    "word": ({"sd": "free"}, "give a number, 'tied', or None"),
    "tied and wide": ({"sd": "tied", "initial_scale": 1.2}, "initial_scale=1.2 must be between"),
    "wide": ({"standardise": 1.2}, "standardise=1.2 must be above 0 and at most 1"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kind", GAUSSIAN)
def test_settings_that_exclude_each_other(case: str, kind: Callable[..., Any]) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        kind(SIZE, D, SMALL, **options)


def test_a_run_keeps_the_running_moments(tmp_path: Any) -> None:
    import ppl_vae
    from ppl_vae.cli.main import main

    run = tmp_path / "run"
    words = ["--dim", "3", "--epochs", "1", "--encoder.rate", "6", "--objective", "BetaVAE"]
    assert main(["fit", *words, "--out", str(run)]) == 0
    pair = ppl_vae.load(run).pair
    moments = pair.encoder.moments.standardised
    assert (moments.mean != 0).all()
    assert float(moments.variance.sub(1).abs().min()) > 0
