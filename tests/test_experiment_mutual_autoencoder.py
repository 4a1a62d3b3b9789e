"""The mutual auto-encoder's two experiments, to the figures of the claims."""

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import pytest
import torch

from ppl_vae.reproductions.mutual_autoencoder import measure
from ppl_vae.reproductions.mutual_autoencoder import training as experiment
from ppl_vae.reproductions.mutual_autoencoder.pictures import draw_categorical, draw_normal
from ppl_vae.reproductions.mutual_autoencoder.training import CATEGORICAL, NORMAL, truth

# Nets this small gain nothing from a second core.


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_categorical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, best = {}, -math.log(10)
    # the finest intervals of z take longest to part
    for target, steps in zip(CATEGORICAL, (1200, 1200, 2000), strict=True):
        monkeypatch.setattr(experiment, "STEPS", {"categorical": steps})
        models[f"M = {target}"] = measure(0, "categorical", target, normal_r=False)
    monkeypatch.setattr(experiment, "STEPS", {"VAE": 300})
    vae = truth(experiment.train_categorical(None))
    assert vae["information"] < 0.05
    assert vae["log_p"] == pytest.approx(best, abs=0.01)
    for target, found in zip(CATEGORICAL, models.values(), strict=True):
        assert found["information"] == pytest.approx(target, abs=0.05)
        assert found["log_p"] == pytest.approx(best, abs=0.01)
        assert found["log_p"] <= best + 1e-6
    is_picture(draw_categorical(models, tmp_path / "5.png"))


@pytest.mark.slow
def test_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "STEPS", {"normal": 600, "VAE": 300})
    models = {target: measure(0, "normal", target, normal_r=False) for target in (None, *NORMAL)}
    best = -0.5 * math.log(2 * math.pi * math.e)
    vae = models.pop(None)
    assert vae["information"] < 0.05
    assert vae["scale"] == pytest.approx(1.0, abs=0.03)
    for target, found in models.items():
        assert found["information"] == pytest.approx(target, abs=0.1)
        assert found["scale"] == pytest.approx(math.exp(-target), rel=0.1)
        assert found["log_p"] == pytest.approx(best, abs=0.02)
        assert found["log_p"] <= best + 1e-6
    is_picture(draw_normal({f"M = {m}": found for m, found in models.items()}, tmp_path / "6.png"))


def is_picture(path: Path) -> None:
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05


def test_truth_of_known_models() -> None:
    """The quadrature, on decoders whose information is known."""

    class Known(torch.nn.Module):
        def __init__(self, fn: object):
            super().__init__()
            self.likelihood = fn

    def halves(z: torch.Tensor) -> object:
        return experiment.dist.Categorical(logits=torch.cat([1e3 * z, -1e3 * z], -1))

    found = truth(Known(halves))  # type: ignore[arg-type]
    assert found["information"] == pytest.approx(math.log(2), abs=1e-3)
    assert found["log_p"] == pytest.approx(-math.log(2), abs=1e-3)

    def line(z: torch.Tensor) -> object:
        return experiment.dist.Normal(0.8 * z, 0.6).to_event(1)

    found = truth(Known(line))  # type: ignore[arg-type]
    assert found["information"] == pytest.approx(-math.log(0.6), abs=1e-4)
    assert found["log_p"] == pytest.approx(-0.5 * math.log(2 * math.pi * math.e), abs=1e-4)
    assert found["scale"] == pytest.approx(0.6)
