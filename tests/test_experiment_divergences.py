"""Every divergence on MNIST: where lambda is chosen, it is chosen on training rows."""

from types import SimpleNamespace
from typing import Any

import pytest

from ppl_vae.objectives import InfoVAE
from ppl_vae.reproductions import divergences
from ppl_vae.reproductions.divergences import EXPERIMENT, measure, objectives


def test_lambda_is_chosen_on_training_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor with the least NLL there, whatever the held-out rows say."""
    nlls = {
        "training": {0.25: 3.0, 1.0: 2.0, 4.0: 1.0},
        "held out": {0.25: 7.0, 1.0: 8.0, 4.0: 9.0},
    }

    def trained(divergence: str, factor: float, *_: Any) -> Any:
        data = SimpleNamespace(train="training")
        return SimpleNamespace(factor=factor, data=data, rows=lambda: ("held out",))

    def nll(experiment: Any, x: str) -> Any:
        return SimpleNamespace(value=nlls[x][experiment.factor], sizes={"q": 1.0}, proposal="q")

    names = ("rate", "distortion", "probe_linear", "mmd_u", "log_det")
    values = {name: SimpleNamespace(value=0.0) for name in names}
    monkeypatch.setattr(divergences, "mnist", lambda *_, **__: None)
    monkeypatch.setattr(divergences, "_trained", trained)
    monkeypatch.setattr(divergences, "_nll", nll)
    monkeypatch.setattr(divergences, "subject_of", lambda experiment: None)
    monkeypatch.setattr(divergences, "evaluate", lambda *_: SimpleNamespace(found=values))
    found = measure(0, "MMD, RBF, 64", 10, 1, 10, factors=(0.25, 1.0, 4.0))
    assert (found["factor"], found["NLL"]) == (4.0, 9.0)
    found = measure(0, "MMD, RBF, 64", 10, 1, 10)
    assert (found["factor"], found["NLL"]) == (1.0, 8.0)


def test_a_factor_is_of_lambda() -> None:
    for name, make in objectives().items():
        more = objectives(4.0)[name]()
        if name != "ELBO":
            one = make()
            assert isinstance(one, InfoVAE)
            assert isinstance(more, InfoVAE)
            assert float(more.scale) == 4 * float(one.scale)  # type: ignore[arg-type]


def test_the_elbo_has_no_lambda_to_choose() -> None:
    settings = {cell.name: cell.settings for cell in EXPERIMENT.cells_at("medium")}
    assert "factors" not in settings["ELBO"]
    assert all("factors" in settings[name] for name in settings if name != "ELBO")
    assert not any("factors" in cell.settings for cell in EXPERIMENT.cells_at("small"))
