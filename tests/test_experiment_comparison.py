"""Leave-one-out at z drawn from q(z|x) against the evidence, on briefly trained models."""

import math

import pytest

from ppl_vae.data import Digits
from ppl_vae.objectives import BetaVAE, Objective
from ppl_vae.reproductions import comparison


def test_the_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two betas after two epochs: the columns are what their names say."""
    betas: dict[str, Objective] = {"elbo": BetaVAE(), "beta": BetaVAE(2.0)}

    def digits(seed: int) -> Digits:
        data = Digits(seed=seed)
        assert data.test is not None
        data.train, data.test = data.train[:256], data.test[:40]
        return data

    monkeypatch.setattr(comparison, "Digits", digits)
    monkeypatch.setattr(comparison, "objectives", lambda: betas)
    found = comparison.measure(seed=0, epochs=2, rows=20, draws=400)
    assert set(found) == {
        f"{name}: {what}" for name in betas for what in ("LOO at q", "k-hat", "log p(x)", "size")
    }
    assert all(math.isfinite(number) for number in found.values())
    # nats by datum of 64 pixels, both
    for name in betas:
        assert -60 < found[f"{name}: LOO at q"] < -10
        assert -60 < found[f"{name}: log p(x)"] < -10
        assert 1 <= found[f"{name}: size"] <= 400
