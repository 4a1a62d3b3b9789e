"""Design's strongest claim about MMD: integrated noise keeps the code, sampled noise loses it."""

from collections.abc import Sequence

import pytest

from ppl_vae.reproductions.collapse import EXPERIMENT, MIDDLE, measure, name_of
from ppl_vae.reproductions.common.kept import Measures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:posterior collapse")
def test_sampled_noise_collapses_and_integrated_does_not() -> None:
    cells = {cell.name: cell for cell in EXPERIMENT.cells_at("small")}
    sampled, integrated = (
        measure(seed=0, **cells[name_of(name, *MIDDLE)].settings)
        for name in ("sampled U", "integrated")
    )
    assert integrated["rate"] > 10
    assert integrated["probe"] >= 0.85
    assert abs(integrated["log-det/d"]) < 0.2
    assert sampled["rate"] < integrated["rate"] / 2
    assert sampled["noise / pull"] > 1 > integrated["noise / pull"]


def test_the_grid_around_its_middle() -> None:
    line, whole = (EXPERIMENT.cells_at(scale) for scale in ("small", "medium"))
    assert len(line) == 2 * (1 + 2 + 2 + 1 + 1) + 2
    assert len(whole) == 2 * (2 * 3 * 3 * 2 * 2 + 2)
    assert {cell.name for cell in line} <= {cell.name for cell in whole}


def rates(names: Sequence[str], integrated: float, sampled: float) -> dict[str, Measures]:
    return {
        name: {"rate": integrated if "integrated" in name else sampled, "probe": 0.9}
        for name in names
    }


def test_each_data_set_has_claims_of_its_own() -> None:
    """The digits' are there before any run, those of MNIST once one of its cells is kept."""
    small = [cell.name for cell in EXPERIMENT.cells_at("small")]
    every = [cell.name for cell in EXPERIMENT.cells_at("medium")]
    assert [claim.name for claim in EXPERIMENT.claims({})] == [*"abcd"]
    found = {claim.name: claim for claim in EXPERIMENT.claims({0: rates(small, 12.0, 3.0)})}
    assert [*found] == [*"abcd"]
    assert found["a"].verdict == found["d"].verdict == "reproduced"
    found = {claim.name: claim for claim in EXPERIMENT.claims({0: rates(every, 12.0, 13.0)})}
    assert [*found] == [*"abcdefgh"]
    assert found["h"].verdict == "reproduced"  # within a tenth
    found = {claim.name: claim for claim in EXPERIMENT.claims({0: rates(every, 12.0, 14.0)})}
    assert found["h"].verdict == "contradicted"


def test_points_without_a_code_say_nothing_of_the_grid() -> None:
    names = [cell.name for cell in EXPERIMENT.cells_at("small")]
    assert EXPERIMENT.claims({0: rates(names, 0.01, 0.09)})[3].verdict == "undecided"
