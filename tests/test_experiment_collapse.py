"""Design's strongest claim about MMD: integrated noise keeps the code, sampled noise loses it."""

import pytest

from ppl_vae.reproductions.collapse import EXPERIMENT, MIDDLE, measure, name_of


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
    assert len(whole) == 2 * 3 * 3 * 2 * 2 + 2
    assert {cell.name for cell in line} <= {cell.name for cell in whole}
