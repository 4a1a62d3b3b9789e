"""Training that goes on from a run, and what stays frozen in it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae import VAE, fit
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import MMD, Adversarial, BetaVAE, InfoVAE
from ppl_vae.priors import GaussianMixture
from ppl_vae.training.run import Run

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))


def body(size: torch.Size, out: torch.Size) -> nn.Module:
    return nn.Sequential(
        nn.Linear(size.numel(), 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.5),
        nn.BatchNorm1d(8, affine=False),
        nn.Linear(8, out.numel()),
    )


def vae() -> VAE:
    return VAE(GaussianMixture(2, components=3), Normal(2, (4,)), MeanFieldNormal((4,), 2, body))


def trained(pair: VAE, **options: Any) -> VAE:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 30, "progress": False} | options
    fit(pair.model, pair.guide, X, settings.pop("objective", BetaVAE()), **settings)
    return pair


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "run"
    trained(vae(), out=folder)
    return folder


def moved(pair: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {
        name for name, value in pair.state_dict().items() if not torch.equal(value, before[name])
    }


def saved(run: Path) -> dict[str, Tensor]:
    tensors = Run(run).load_weights()
    return {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}


@pytest.mark.parametrize(
    ("freeze", "stays"),
    [
        (["encoder"], lambda name: name.startswith("encoder.")),
        ("model.encoder", lambda name: name.startswith("encoder.")),
        (["likelihood", "prior.loc"], lambda n: n.startswith("likelihood.") or n == "prior.loc"),
        (["encoder.network.1"], lambda name: name.startswith("encoder.network.1.")),
        (["encoder.network.*"], lambda name: name.startswith("encoder.")),
        (["*.weight"], lambda name: name.endswith(".weight")),
        ([], lambda name: False),
    ],
)  # fmt: skip
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves(
    freeze: Any, stays: Callable[[str], bool], run: Path
) -> None:
    """Weight decay and momentum would move what has no gradient; buffers move without any."""
    optimizer = pyro.optim.Adam({"lr": 0.01, "weight_decay": 0.1})
    pair = trained(vae(), start=run, freeze=freeze, optimizer=optimizer, epochs=2)
    before = saved(run)
    assert moved(pair, before) == {name for name in before if not stays(name)}


def test_the_start_is_the_run(run: Path) -> None:
    optimizer = pyro.optim.Adam({"lr": 0.0})
    pair = trained(vae(), start=Run(run), optimizer=optimizer)
    assert moved(pair, saved(run)) <= {
        n for n in pair.state_dict() if "running" in n or "num_" in n
    }


def test_modules_are_left_in_training_mode(run: Path) -> None:
    pair = trained(vae(), start=run, freeze=["encoder"])
    assert all(module.training for module in pair.modules())


def test_modules_behind_plain_functions_are_frozen_with_their_buffers() -> None:
    pyro.clear_param_store()
    net = body(torch.Size([4]), torch.Size([4]))

    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", torch.ones(2, 4))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            loc, raw = net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    options: dict[str, Any] = {"epochs": 1, "progress": False}
    before, loadings = copy.deepcopy(net.state_dict()), torch.ones(2, 4)
    fit(model, guide, X, BetaVAE(), freeze=["net"], **options)
    assert moved(net, before) == set()
    assert not torch.equal(pyro.param("loadings"), loadings)
    loadings = pyro.param("loadings").detach().clone()
    fit(model, guide, X, BetaVAE(), freeze=["loadings"], **options)
    assert torch.equal(pyro.param("loadings"), loadings)
    assert moved(net, before)


def test_a_critic_goes_on_where_the_run_has_one(tmp_path: Path) -> None:
    def objective() -> InfoVAE:
        return InfoVAE(Adversarial(dim=2), scale=1.0)

    pair = vae()
    first = objective()
    trained(pair, objective=first, out=tmp_path / "a")
    weights = {k: v.clone() for k, v in first.state_dict().items()}
    second = objective()
    frozen = trained(vae(), objective=second, start=tmp_path / "a", freeze=["objective"])
    assert moved(second, weights) == {"step"}  # which counts on
    assert moved(frozen, pair.state_dict())
    trained(vae(), objective=InfoVAE(MMD()), start=tmp_path / "a")  # another objective


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": ["enc"]}, "'enc', and there is no such module .* prior, likelihood, encoder"),
        ({"freeze": ["model"]}, "nothing to train"),
        ({"start": "nowhere"}, "holds no run"),
    ],
)
def test_refusals(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trained(vae(), out=tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_rows_of_another_kind_are_refused(run: Path) -> None:
    pair = vae()
    for rows, message in ((X[:, :3], r"shape \(3,\)"), (1e3 * X, "prepare them")):
        with pytest.raises(ValueError, match=f"start=.*{message}"):
            fit(pair.model, pair.guide, rows, BetaVAE(), start=run, progress=False)


def test_weights_of_another_pair_are_refused(run: Path) -> None:
    other = VAE(GaussianMixture(3), Normal(3, (4,)), MeanFieldNormal((4,), 3, body))
    with pytest.raises(ValueError, match="another model"):
        trained(other, start=run)
