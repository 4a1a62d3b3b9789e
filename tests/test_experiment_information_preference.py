"""The cells, their resumed trainings, and the words that rules come to."""

import json
import math
from pathlib import Path

import pytest
import torch

from ppl_vae.reproductions.common.verdicts import Claim, Condition
from ppl_vae.reproductions.information_preference import EXPERIMENT, cells
from ppl_vae.reproductions.information_preference.cells import OBJECTIVES, Cell, build
from ppl_vae.reproductions.information_preference.claims import claims
from ppl_vae.reproductions.information_preference.tables import tables
from ppl_vae.reproductions.information_preference.training import train


def claim(*runs: list[Condition]) -> Claim:
    return Claim("x", "text", "rule", dict(enumerate(runs)))


def at_least(value: float, error: float = 0.0, nothing: float | None = 1.0) -> Condition:
    return Condition("ratio", value, at_least=3.0, error=error, nothing=nothing)


def test_the_words_of_a_rule() -> None:
    assert claim([at_least(3.5)], [at_least(3.0)]).verdict == "reproduced"
    assert claim([at_least(3.5)], [at_least(2.0)]).verdict == "not reproduced"
    assert claim([at_least(3.5)], [at_least(2.9, 0.1)]).verdict == "undecided"
    assert claim([at_least(3.5)], [at_least(math.nan)]).verdict == "undecided"
    assert claim([at_least(0.5)], [at_least(0.7)]).verdict == "contradicted"
    assert claim([at_least(0.9, 0.1)], [at_least(0.7)]).verdict == "not reproduced"
    assert claim([at_least(0.5)], [at_least(3.7)]).verdict == "not reproduced"
    assert claim([at_least(0.5, nothing=None)]).verdict == "not reproduced"
    assert claim([]).verdict == "undecided"
    cost = Condition("NLL", 0.4, at_most=0.3, error=0.02, nothing=0.0)
    assert (cost.margin, cost.opposite) == (pytest.approx(-0.1), True)
    assert str(cost) == "NLL 0.4 +- 0.02 (<= 0.3: no)"
    assert str(at_least(math.nan)) == "ratio: not measured"


def test_claims_of_nothing_are_undecided_and_of_numbers_are_decided() -> None:
    found = claims({}, range(2), {})
    assert [c.name for c in found] == list("abcdefghi")
    assert {c.verdict for c in found} == {"undecided"}
    rows = torch.linspace(30, 50, 150)

    def measured(usage: float, shift: float, svm: float) -> dict[str, object]:
        numbers = {"usage": usage, "usage error": 0.1, "SVM": svm, "SVM error": 0.01}
        return numbers | {"NLL by row": (rows + shift).tolist()}

    results = {}
    for seed in range(2):
        for name, usage, shift, svm in (
            ("ELBO", 2.0, 0.0, 0.5),
            ("MMD, alpha = .5", 4.0, 0.1, 0.6),
        ):
            results[Cell(14, False, False, name, (), seed).name] = {
                6000: measured(usage, shift, svm)
            }
    half = next(c for c in claims(results, range(2), {}) if c.name == "i")
    assert half.verdict == "reproduced"
    (usage, cost), _ = half.seeds.values()
    assert usage.value == pytest.approx(2.0)
    assert usage.error == pytest.approx(2 * math.hypot(0.1 / 4, 0.1 / 2))
    assert (cost.value, cost.error) == (pytest.approx(0.1, abs=1e-4), pytest.approx(0, abs=1e-5))


def test_cells_have_names_of_their_own() -> None:
    every = cells(3)
    assert len({cell.name for cell in every}) == len(every)
    assert {cell.objective for cell in every} == set(OBJECTIVES)
    for cell in every:
        assert cell.stops == tuple(sorted(cell.stops))
    for name in OBJECTIVES:
        vae, objective = build(Cell(14, True, True, name, (1,)))
        x = torch.bernoulli(torch.full((6, 1, 14, 14), 0.3))
        assert math.isfinite(objective.loss(vae.model, vae.guide, x))


@pytest.mark.parametrize("objective", ["ELBO", "adversarial"])
def test_a_training_goes_on_where_it_stopped(objective: str, tmp_path: Path) -> None:
    """The weights of a resumed one are those of one that was not interrupted, to the bit."""
    data = torch.rand(30, 1, 14, 14)
    cell = Cell(14, True, True, objective, (1, 3), 1)
    train(cell, data, tmp_path / "whole", 3)
    train(cell, data, tmp_path / "parts", 1)
    torch.manual_seed(77)
    train(cell, data, tmp_path / "parts", 3)
    whole, parts = (
        torch.load(tmp_path / name / "3.pt", weights_only=True)["pair"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_is_kept_is_read_without_a_run(tmp_path: Path) -> None:
    """The table and verdicts come from the files of the cells, of whichever seeds are there."""
    cell = next(c for c in cells(1) if c.objective == "ELBO" and c.side == 14)
    numbers = dict.fromkeys(
        ("rate", "I at least", "usage", "NLL", "NLL error", "size", "own NLL", "own size", "SVM",
         "log-det/d", "MMD^2", "classes", "FID", "CPU seconds"), 2.0,
    )  # fmt: skip
    folder = tmp_path / cell.name
    folder.mkdir()
    (folder / f"{cell.stops[0]}.json").write_text(json.dumps(numbers | {"size": None}))
    found = EXPERIMENT.results(tmp_path, "medium")
    assert [row[:3] for row in found.rows] == [[cell.name, str(cell.stops[0]), "2"]]
    assert found.rows[0][7] == "-"
    assert (found.seeds, found.seconds) == (1, 2.0)
    assert {claim.verdict for claim in found.claims} == {"undecided"}
    with pytest.raises(ValueError, match="scale is 'small': this experiment has medium"):
        EXPERIMENT.results(tmp_path, "small")  # type: ignore[arg-type]


def test_the_page_of_results_has_the_tables_of_what_is_kept() -> None:
    """Each figure there is one that was measured: the page holds what the command writes."""
    docs = Path(__file__).parent.parent / "docs"
    folder = docs / "reproductions" / "information_preference"
    every = cells(3)
    kept = {
        cell.name: {
            int(path.stem): json.loads(path.read_text())
            for path in folder.glob(f"{cell.name}/*0.json")
        }
        for cell in every
    }
    found = tables(every, kept)
    assert (folder / "tables.md").read_text() == found
    assert found in (docs / "results.md").read_text()
    assert "| no maps, MMD |" in found


def test_tables_say_numbers_as_they_are() -> None:
    numbers = {
        "rate": 17702.3, "I at least": 0.0044, "usage": 0.996, "NLL": 41.656, "size": 24.3,
        "own NLL": 17494.2, "own size": 1.45, "SVM": 0.5, "log-det/d": -0.004,
        "MMD^2": -8e-5, "classes": 1.3034, "FID": 8.196,
    }  # fmt: skip
    rows = torch.linspace(30, 50, 5)
    elbo = numbers | {"NLL by row": rows.tolist()}
    shift = torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3])
    mmd = numbers | {"NLL by row": (rows + shift).tolist()}
    every = [Cell(14, True, False, name, (1000,)) for name in ("ELBO", "MMD")]
    text = tables(every, {every[0].name: {1000: elbo}, every[1].name: {1000: mmd}})
    row = "17,702 | .00 | 1.00 | 41.66 (24) | {} | 17,494 (1) | .500 | .00 | −.0001 | 1.303 | 8.2"
    # the error of a mean: sd of five differences, .1, over the root of 5
    assert f"| maps, ELBO | {row.format('')} |" in text
    assert f"| maps, MMD | {row.format('+.20 ± .04')} |" in text
    assert tables(every, {}) == ""
