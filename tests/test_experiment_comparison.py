"""Leave-one-out at z drawn from q(z|x) against the evidence, on briefly trained models."""

import math
from pathlib import Path

import pytest

from ppl_vae.data import Digits
from ppl_vae.objectives import BetaVAE, Objective
from ppl_vae.reproductions import comparison


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two betas after two epochs: the columns are what their names say."""
    betas: dict[str, Objective] = {"elbo": BetaVAE(), "beta": BetaVAE(2.0)}

    def digits(seed: int) -> Digits:
        data = Digits(seed=seed)
        assert data.test is not None
        data.train, data.test = data.train[:256], data.test[:40]
        return data

    monkeypatch.setattr(comparison, "Digits", digits)
    monkeypatch.setattr(comparison, "objectives", lambda: betas)
    table = comparison.run(tmp_path, epochs=2, rows=20, draws=400)
    first, second = table["rows"]
    assert {first[0], second[0]} == set(betas)
    for row in (first, second):
        assert len(row) == len(table["columns"])
        assert all(math.isfinite(value) for value in row[1:])
    # to the best of each: of the sums over data, and of the means by datum
    assert max(row[2] for row in (first, second)) == 0
    assert first[1] - second[1] == pytest.approx(first[2] - second[2])
    assert first[4] >= second[4]
    assert second[5] == pytest.approx(second[4] - first[4])
    assert (first[5], first[6]) == (0, 0)
    assert second[6] > 0
    # nats by datum against a sum over 40
    assert 20 < first[1] / first[4] < 80
    assert "20 data, 400 draws each" in (tmp_path / "evidence.txt").read_text()
