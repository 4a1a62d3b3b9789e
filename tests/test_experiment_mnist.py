"""The experiments on MNIST, from end to end on the small digits."""

import math
from pathlib import Path
from typing import Any

import pytest

from ppl_vae.data import Digits
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.reproductions import divergences, log_likelihood
from ppl_vae.reproductions.common.reproduction import Reproduction


def test_the_table_of_divergences(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(factor: float = 1.0) -> dict[str, Any]:
        return {"ELBO": BetaVAE, "MMD": lambda: InfoVAE(MMD(), scale=64.0 * factor)}

    monkeypatch.setattr(divergences, "mnist", lambda *_, **__: Digits())
    monkeypatch.setattr(divergences, "objectives", two)
    for name, factors in (("ELBO", (1.0,)), ("MMD", (0.5, 2.0))):
        found = divergences.measure(0, name, images=1, epochs=1, rows=10, factors=factors)
        assert set(divergences.EXPERIMENT.columns) == set(found)
        assert all(math.isfinite(number) for number in found.values())
        assert found["factor"] in factors


def test_every_divergence_of_the_table_weighs_one() -> None:
    for name, make in divergences.objectives().items():
        objective = make()
        assert name == "ELBO" or objective.joints[0][2] == float(name.rsplit(", ", 1)[1])


@pytest.mark.parametrize("decoder", ["perceptron", "PixelCNN"])
def test_table_1(decoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every row is there, that of the PixelCNN without a code too, which needs no proposal."""
    monkeypatch.setattr(log_likelihood, "mnist", lambda *_, **__: Digits())
    monkeypatch.setattr(log_likelihood, "ROWS", 4)
    made = log_likelihood.EXPERIMENT
    settings = {"without": 2, "steps": 2, "images": 1, "side": 8, "hidden": 8, "decoder": decoder}
    tiny = Reproduction(
        {"small": settings}, made.cells, made.columns, made.claims, made.draw
    )  # fmt: skip
    results = tiny.run(tmp_path, "small", range(1))
    alone = {row[0]: row for row in results.rows}[log_likelihood.ALONE]
    assert float(alone[1]) > 0
    assert alone[3] == "-"
    assert len(results.rows) == 5
    for claim in results.claims:
        ((condition,),) = claim.seeds.values()
        assert math.isfinite(condition.value)
        assert condition.error > 0
    assert len(results.pictures) == 1
