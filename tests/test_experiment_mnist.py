"""The experiments on MNIST, from end to end on the small digits."""

import math
from pathlib import Path

import pytest

from ppl_vae.data import Digits
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.reproductions import divergences


def test_the_table_of_divergences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergences, "MNIST", lambda *_, **__: Digits())
    monkeypatch.setattr(divergences, "SEEDS", 2)
    two = {"ELBO": BetaVAE, "MMD": lambda: InfoVAE(MMD(), scale=64.0)}
    monkeypatch.setattr(divergences, "objectives", lambda: two)
    table = divergences.run(tmp_path, seed=0)
    assert [row[0] for row in table["rows"]] == ["ELBO", "MMD"]
    for row in table["rows"]:
        assert len(row) == len(table["columns"])
        assert all(math.isfinite(value) for value in row[1:-1])
    # two seeds: the median is their middle, between the ends of the range
    low, high = map(float, table["rows"][1][-1].split(" to "))
    assert low <= table["rows"][1][-2] <= high


def test_every_divergence_of_the_table_weighs_one() -> None:
    for name, make in divergences.objectives().items():
        objective = make()
        assert name == "ELBO" or objective.joints[0][2] == float(name.rsplit(", ", 1)[1])
