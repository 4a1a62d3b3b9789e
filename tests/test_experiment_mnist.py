"""The experiments on MNIST, from end to end on the small digits."""

import math

import pytest

from ppl_vae.data import Digits
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.reproductions import divergences


def test_the_table_of_divergences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergences, "mnist", lambda *_, **__: Digits())
    two = {"ELBO": BetaVAE, "MMD": lambda: InfoVAE(MMD(), scale=64.0)}
    monkeypatch.setattr(divergences, "objectives", lambda: two)
    for name in two:
        found = divergences.measure(seed=0, divergence=name, images=1, epochs=1, rows=20)
        assert set(divergences.EXPERIMENT.columns) == set(found)
        assert all(math.isfinite(number) for number in found.values())


def test_every_divergence_of_the_table_weighs_one() -> None:
    for name, make in divergences.objectives().items():
        objective = make()
        assert name == "ELBO" or objective.joints[0][2] == float(name.rsplit(", ", 1)[1])
