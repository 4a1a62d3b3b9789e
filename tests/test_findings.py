"""What a run's numbers say, by the rules and on runs that were made to be so."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ppl_vae.data import Digits
from ppl_vae.data.dataset import Dataset
from ppl_vae.evaluation.metric import Effort
from ppl_vae.evaluation.weights import threshold
from ppl_vae.experiment import Experiment
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import GECO, MMD, TCVAE, WAE, BetaVAE, CapacityVAE, InfoVAE, Objective
from ppl_vae.priors import VampPrior
from ppl_vae.report.evaluation import evaluate_run
from ppl_vae.report.findings import Facts, Finding, findings, judge
from ppl_vae.training.history import History
from ppl_vae.training.run import Run

FEW = Effort(samples=100, rows=100, simulations=100)


def entry(value: float, error: float | None = None, **more: Any) -> dict[str, Any]:
    return {"value": value, "data_error": error, "standard_error": None, "flag": "", **more}


def facts(history: Any = (), alpha: float = 0.0, standard: bool = True, **metrics: Any) -> Facts:
    named = {name.replace("__", "/"): found for name, found in metrics.items()}
    return Facts(named, History(list(history)), alpha, standard)


def losses(*values: float) -> list[dict[str, float]]:
    return [{"epoch": k, "validation/loss": v} for k, v in enumerate(values, 1)]


def codes(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    """One epoch of codes of a noise and a spread."""
    row = {"epoch": 1.0}
    for j, (noise, spread) in enumerate(pairs):
        row |= {f"sd/z[{j}]": noise, f"spread/z[{j}]": spread}
    return [row]


CASES: dict[str, tuple[Facts, str, str, str]] = {
    "unused": (
        facts(usage=entry(0.05, 0.001)),
        "use of the code", "problem", "0.05 nats; without looking at z",
    ),
    "used by chance": (
        facts(usage=entry(0.4, 0.2)),
        "use of the code", "problem", "0.4 nats; within 3 standard errors (0.2) of none",
    ),
    "used": (facts(usage=entry(9.0, 0.2)), "use of the code", "good", "9 nats; it uses z"),
    "no rate": (facts(rate=entry(0.01, 0.001)), "use of the code", "problem", "the prior"),
    "inactive": (
        facts(codes((1, 0.01), (0.5, 0.9))),
        "codes that say nothing", "note", "1 of 2 codes; a tenth of their noise; z[0]",
    ),
    "silent, and active by its spread": (
        facts(codes((3, 0.2), (0.5, 0.9)), active_units=entry(2.0)),
        "codes that say nothing", "note", "1 of 2 codes; z[0]; above 0.01, are 2",
    ),
    "collapsed": (facts(codes((1, 0.01), (1, 0.1))), "collapse", "problem", "z[0], z[1]"),
    "narrow": (
        facts(codes((0.1, 0.3), (0.6, 0.8)), log_det=entry(-1.1, 0.01), mmd_u=entry(0.2, 0.01)),
        "match of q(z) and the prior", "problem", "narrower; MMD²; z[0] has sd 0.32",
    ),
    "narrow under another prior": (
        facts(codes((0.1, 0.3)), standard=False, mmd_u=entry(0.2, 0.01)),
        "match of q(z) and the prior", "problem", "",
    ),
    "as wide as another prior": (
        facts(standard=False, log_det=entry(1.3, 0.01), mmd_u=entry(0.002, 0.0005)),
        "match of q(z) and the prior", "good", "MMD² 0.002",
    ),
    "wide": (facts(log_det=entry(0.3, 0.01)), "match of q(z) and the prior", "problem", "wider"),
    "perhaps wide": (facts(log_det=entry(0.3, 0.2)), "match of q(z) and the prior", "good", ""),
    "matched": (
        facts(mmd_u=entry(0.002, 0.0005), log_det=entry(0.02, 0.01)),
        "match of q(z) and the prior", "good", "0.002",
    ),
    "too narrow to trust": (
        facts(coverage__90=entry(0.42, 0.01), khat_usable=entry(0.0, 0.01)),
        "q(z|x) as a posterior", "problem", "42%; narrow; 0%",
    ),
    "too few draws to tell": (
        # the threshold at 25 draws is 1 - 1 / log10(25) = 0.28; 0.4 is usable from 47 on
        facts(coverage__90=entry(0.91, 0.01), khat_usable=entry(0.1, 0.07),
              khat_median=entry(0.4)),
        "q(z|x) as a posterior", "note", "10%; for want of draws; 0.4 in the median",
    ),
    "too heavy for any draws": (
        facts(coverage__90=entry(0.91, 0.01), khat_usable=entry(0.1, 0.07),
              khat_median=entry(0.8)),
        "q(z|x) as a posterior", "problem", "10%",
    ),
    "not asked for": (
        facts(alpha=1.0, coverage__90=entry(0.42, 0.01)),
        "q(z|x) as a posterior", "note", "alpha = 1",
    ),
    "too wide": (
        facts(coverage__90=entry(0.97, 0.01)), "q(z|x) as a posterior", "problem", "wide"
    ),
    "trusted": (
        facts(coverage__90=entry(0.91, 0.01), khat_usable=entry(0.98, 0.01), sbc__all=entry(0.4)),
        "q(z|x) as a posterior", "good", "91%; 98%",
    ),
    "close": (
        facts(coverage__90=entry(0.91, 0.01), sbc__all=entry(1e-28)),
        "q(z|x) as a posterior", "note", "< 1e-06",
    ),
    "a likelihood in doubt": (
        facts(log_likelihood=entry(-80.0, 0.1, flag="uneven weights", note="")),
        "likelihood", "problem", "uneven weights",
    ),
    "a likelihood": (
        facts(log_likelihood=entry(-80.0, 0.1, note="1000 draws of a fitted mean field")),
        "likelihood", "good", "fitted to each datum",
    ),
    "statistics": (
        facts(predictive__sd=entry(0.0049, bound="upper"), predictive__mean=entry(0.4)),
        "model and data", "problem", "sd (p <= 0.0049)",
    ),
    "rising": (
        facts(losses(9, 5, 4, 4.5, 5, 5.2)), "held-out loss", "problem", "epoch 3 of 6; 1 nats"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("known", "topic", "level", "words"), CASES.values(), ids=CASES)
def test_each_rule(known: Facts, topic: str, level: str, words: str) -> None:
    (found,) = [finding for finding in judge(known) if finding.topic == topic]
    assert found.level == level
    for word in words.split("; "):
        assert all(part in found.text for part in word.split(": "))
    assert bool(found.advice) or level != "problem" or topic == "collapse"


@pytest.mark.parametrize(
    "known",
    [
        facts(),
        facts(rate=entry(4.0, 0.1)),
        facts(losses(9, 5, 4, 4.01, 4.02, 4.02)),  # a fiftieth of what it fell by is noise
        facts(losses(9, 5, 4, 4.5, 5)),  # the least is among the last
        facts(losses(9, 5, 4)),  # too few epochs to tell
        facts(codes((0.5, 0.9), (0.5, 0.8))),
        facts(predictive__sd=entry(0.03)),
    ],
)
def test_nothing_is_made_up(known: Facts) -> None:
    assert judge(known) == []


@pytest.mark.parametrize(
    ("objective", "ways", "not_its_own"),
    [
        (BetaVAE(), ["Lower beta,", "(InfoVAE, WAE) or train"], ["alpha", "scale="]),
        (InfoVAE(MMD()), ["Raise alpha,", "Raise lambda (scale=)"], ["beta"]),
        (WAE(MMD()), ["Give a strong", "Raise lambda (scale=)"], ["beta", "alpha"]),
        (CapacityVAE(), ["Raise capacity,", "(InfoVAE, WAE) or train"], ["beta", "scale="]),
        (GECO(9.0), ["Lower tolerance,", "(InfoVAE, WAE) or train"], ["beta", "alpha", "scale="]),
        (TCVAE(), ["Lower mutual_information,", "Raise total_corr"], ["beta", "alpha", "scale="]),
    ],
)
def test_advice_is_of_what_the_objective_has(
    objective: Objective, ways: list[str], not_its_own: list[str]
) -> None:
    experiment = Experiment(linear(40), objective, dim=2, likelihood=Normal)
    found = {"metrics": {"usage": entry(0.01, 0.001), "log_det": entry(-1.0, 0.01)}}
    told = {f.topic: f.advice for f in findings(found, History(), experiment)}
    advice = told["use of the code"] + " " + told["match of q(z) and the prior"]
    assert all(way in advice for way in ways)
    assert not any(word in advice for word in not_its_own)


def test_the_draws_that_a_khat_asks_for_are_those_whose_threshold_it_is() -> None:
    median = 0.4
    (told,) = judge(facts(khat_usable=entry(0.1), khat_median=entry(median)))
    (draws,) = map(int, re.findall(r"Take (\d+) draws", told.advice))
    assert threshold(draws - 1) < median <= threshold(draws)


def test_problems_stand_first() -> None:
    told = judge(facts(usage=entry(9.0, 0.1), log_det=entry(1.0, 0.1), alpha=1.0,
                       coverage__90=entry(0.3, 0.01)))  # fmt: skip
    assert [finding.level for finding in told] == ["problem", "note", "good"]


def run(tmp_path: Path, **parts: Any) -> dict[str, Finding]:
    """What is found of a run, by topic."""
    experiment = Experiment(**{"dim": 2, "batch_size": 64} | parts)
    experiment.fit(tmp_path / "run", progress=False)
    folder = Run(tmp_path / "run")
    names = ["usage", "match", "posterior", "log_likelihood"]
    found = evaluate_run(folder, experiment, FEW, names)
    return {f.topic: f for f in findings(found, folder.history, experiment)}


def linear(n: int) -> Dataset:
    """Rows of a linear-Gaussian model: two codes, four numbers, noise of .5."""
    torch.manual_seed(0)
    weight = torch.tensor([[1.5, 0.0], [1.5, 0.0], [0.0, 1.0], [0.0, -1.0]])
    z = torch.randn(n, 2)
    x = z @ weight.T + 0.5 * torch.randn(n, 4)
    return Dataset(x[: n // 2], x[n // 2 :], name="linear")


@pytest.mark.usefixtures("unpainted")
def test_a_sound_run(tmp_path: Path) -> None:
    told = run(tmp_path, data=linear(2000), objective=BetaVAE(), likelihood=Normal, epochs=30)
    assert told["use of the code"].level == "good"
    assert told["match of q(z) and the prior"].level == "good"
    assert told["likelihood"].level == "good"
    assert "collapse" not in told
    assert "held-out loss" not in told


@pytest.mark.usefixtures("unpainted")
def test_a_collapsed_run(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="collapse"):
        told = run(
            tmp_path, data=linear(1000), objective=BetaVAE(200.0), likelihood=Normal, epochs=20
        )
    assert told["use of the code"].level == "problem"
    assert told["collapse"].level == "problem"


@pytest.mark.usefixtures("unpainted")
def test_codes_without_a_prior(tmp_path: Path) -> None:
    """An auto-encoder's codes match nothing, and nothing asks its guide to be a posterior."""
    objective = InfoVAE(MMD(), alpha=1.0, scale=1e-3)
    told = run(tmp_path, data=linear(1000), objective=objective, likelihood=Normal, epochs=15)
    assert told["use of the code"].level == "good"
    assert told["match of q(z) and the prior"].level == "problem"
    posterior = told["q(z|x) as a posterior"]
    assert posterior.level == "note"
    assert "alpha = 1" in posterior.text


@pytest.mark.usefixtures("unpainted")
def test_a_run_that_learns_by_heart(tmp_path: Path) -> None:
    digits = Digits()
    few = Dataset(digits.train[:40], digits.test[:200], name="forty digits")
    told = run(tmp_path, data=few, objective=BetaVAE(0.1), epochs=150, batch_size=40)
    assert told["held-out loss"].level == "problem"


def test_another_prior_s_codes_have_no_spread_to_keep(tmp_path: Path) -> None:
    experiment = Experiment(linear(40), BetaVAE(), dim=2, prior=VampPrior, likelihood=Normal)
    known = judge(facts(codes((0.1, 0.3)), standard=False, mmd_u=entry(0.2, 0.01)))
    assert known[0].level == "problem"
    assert "has sd" not in known[0].text
    found = {"metrics": {"usage": entry(9.0, 0.1)}}
    assert findings(found, History(), experiment)[0].level == "good"
