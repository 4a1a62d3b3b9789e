"""Names at the top, results in a line or a table, and parts that say what to write."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae import MMD, VAE, WAE, BetaVAE, Experiment, InfoVAE, MeanFieldNormal, Normal
from ppl_vae.data import Dataset
from ppl_vae.diagnostics.calibration import Calibration, Coverage
from ppl_vae.diagnostics.gaps import Gaps
from ppl_vae.diagnostics.importance import ParetoK
from ppl_vae.diagnostics.nuts import NUTSComparison
from ppl_vae.diagnostics.predictive import PredictiveCheck
from ppl_vae.evaluation import Estimate
from ppl_vae.evaluation.codes import ActiveUnits, Codes
from ppl_vae.evaluation.information import Surgery
from ppl_vae.evaluation.matching import Discrepancy
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.objectives import RBF, Memory
from ppl_vae.priors import StandardNormal, VampPrior
from ppl_vae.training.history import History
from ppl_vae.training.optim import Adam

ROWS = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
STUB = Path(ppl_vae.__file__).with_suffix(".pyi")


def test_the_stub_has_the_names_and_their_homes() -> None:
    found = {
        alias.name: node.module
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found == ppl_vae._HOME  # type: ignore[attr-defined]
    assert sorted([*found, "__version__"]) == sorted(ppl_vae.__all__)  # type: ignore[attr-defined]
    assert dir(ppl_vae) == sorted(ppl_vae.__all__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ppl_vae.__all__)  # type: ignore[attr-defined]
def test_names_at_the_top_are_there(name: str) -> None:
    assert getattr(ppl_vae, name) is not None


K = ParetoK(
    k=np.linspace(0.1, 0.9, 300),
    exact=np.zeros(300, bool),
    ess=np.full(300, 10.0),
    log_evidence=np.full(300, -2.0),
    draws=100,
    threshold=0.7,
)
CHECK = PredictiveCheck("x", "posterior", {"mean": 1.0}, {"mean": np.arange(200.0)}, {"mean": 0.5})
COVERAGE = Coverage(
    np.array([0.5, 0.9]), {"z": np.array([[0.4, 0.6], [0.8, 1.0]])}, np.array([0.1, 0.1]), 20
)
CALIBRATION = Calibration(
    {"z": np.zeros((20, 2))},
    {"z": np.zeros((20, 2))},
    {"z": np.array([0.2, 0.3])},
    {"z": np.array([0.9, 0.8])},
    99,
)
GAPS = Gaps(*[np.full(50, float(k)) for k in range(5)], None, None)
RESULTS: dict[str, Any] = {
    "ParetoK": K,
    "PredictiveCheck": CHECK,
    "Coverage": COVERAGE,
    "Calibration": CALIBRATION,
    "Gaps": GAPS,
    "Codes": Codes(torch.zeros(50, 2), torch.ones(50, 2), torch.zeros(50, 2), torch.eye(2), {}),
    "ActiveUnits": ActiveUnits(3, torch.rand(40)),
    "Discrepancy": Discrepancy(Estimate(1.0), Estimate(2.0)),
    "Surgery": Surgery(*[Estimate(1.0)] * 5, torch.rand(40)),
    "History": History([{"epoch": 1, "loss": 2.0} | {f"sd/z[{j}]": 1.0 for j in range(99)}]),
    "Estimate": Estimate(1.0),
    "Adam": Adam(),
    "Experiment": Experiment(Dataset(ROWS, name="rows"), BetaVAE(), dim=2, likelihood=Normal),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_one_line(name: str) -> None:
    shown = repr(RESULTS[name])
    assert "\n" not in shown
    assert len(shown) < 600
    assert " object at " not in shown
    assert shown.startswith(f"{name}(")


def test_arrays_are_shown_by_shape_and_range() -> None:
    assert "k=array of (300,) from 0.1 to 0.9" in repr(K)
    assert "threshold=0.7" in repr(K)
    assert issubclass(NUTSComparison, type(K).__bases__[0])


def test_tables() -> None:
    pytest.importorskip("pandas")
    assert K.to_dataframe().shape == (300, 4)
    assert K.to_dataframe()["k"].iloc[-1] == 0.9
    assert CHECK.to_dataframe().loc["mean", "p_value"] == 0.5
    assert CHECK.to_dataframe().loc["mean", "mean"] == np.arange(200).mean()
    assert COVERAGE.to_dataframe().loc[0.9, "z[1]"] == 1.0
    assert CALIBRATION.to_dataframe().loc["z[1]", "contraction"] == 0.8
    assert list(GAPS.to_dataframe().columns[:2]) == ["evidence", "evidence_error"]
    history = History([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0, "rate": 1.0}])
    assert history.to_dataframe().loc[2].to_dict() == {"loss": 2.0, "rate": 1.0}
    assert History().to_dataframe().empty


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InfoVAE(MMD), "write MMD"),
        (lambda: InfoVAE("mmd"), r"such as MMD\(\)"),
        (lambda: WAE(MMD), "write MMD"),
        (lambda: Memory(MMD), "write MMD"),
        (lambda: BetaVAE(MMD()), "give a number"),
        (lambda: MMD(kernel=RBF), "write RBF"),
        (lambda: MMD(1.0), r"such as RBF\(\)"),
        (lambda: InfoVAE(sites={"z": (MMD, 1.0)}), "write MMD"),
        (lambda: VAE(MeanFieldNormal(4, 2), Normal(2, 4), StandardNormal(2)), "prior, likelihood"),
        (lambda: VAE(Normal(2, 4), StandardNormal(2), MeanFieldNormal(4, 2)), "prior, likelihood"),
        (lambda: VAE(StandardNormal, Normal(2, 4), MeanFieldNormal(4, 2)), "make the part first"),
        (lambda: VAE("normal", Normal(2, 4), MeanFieldNormal(4, 2)), "make the part first"),
        (lambda: Normal((4,), 2), "changed places"),
        (lambda: MeanFieldNormal(2, (4,)), "changed places"),
        (lambda: Normal(2, 0), "at least 1"),
        (lambda: Experiment(Dataset(ROWS), InfoVAE), "class InfoVAE"),
        (lambda: Experiment(Dataset(ROWS), "mmd"), "give a Objective|give an Objective"),
        (lambda: Experiment(Dataset, BetaVAE()), "class Dataset"),
        (lambda: Experiment(Dataset(ROWS), BetaVAE(), prior="vamp"), "known are .*VampPrior"),
        (lambda: Experiment(Dataset(ROWS), BetaVAE(), likelihood=3), "give a part"),
        (
            lambda: Experiment(
                Dataset(ROWS),
                BetaVAE(),
                optimizer=torch.optim.Adam([nn.Parameter(torch.zeros(1))]),
            ),
            "give the class, torch.optim.Adam",
        ),
    ],
)
def test_one_line_says_what_to_write(make: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_parts_by_class_name_instance_and_factory() -> None:
    data = Dataset(ROWS)
    for prior in ("VampPrior", "vamp_prior", VampPrior):
        made = Experiment(data, BetaVAE(), dim=2, prior=prior, likelihood="Bernoulli")
        assert isinstance(made.pair.prior, VampPrior)
        assert isinstance(made.pair.likelihood, Bernoulli)
    prior, likelihood, encoder = StandardNormal(3), Normal(3, 4), MeanFieldNormal(4, 3)
    made = Experiment(data, BetaVAE(), 3, prior=prior, likelihood=likelihood, encoder=encoder)
    assert made.pair.prior is prior
    assert made.pair.likelihood is likelihood
    assert made.pair.encoder is encoder
    with pytest.raises(ValueError, match="over 3 dimensions"):
        Experiment(data, BetaVAE(), 2, prior=prior)


def test_a_number_is_the_size_of_a_vector() -> None:
    assert MeanFieldNormal(300, 5).size == Normal(5, 300).size == (300,)
