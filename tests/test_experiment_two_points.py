"""Two data points: the ELBO overshoots the variance of q(z) and comes back, MMD keeps it."""

from pathlib import Path

import matplotlib.image
import pytest
import torch

from ppl_vae.reproductions import two_points


@pytest.mark.slow
def test_variance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_points, "STEPS", {"ELBO": 2200, "MMD": 1400})
    result = two_points.run(tmp_path)
    elbo, mmd = result["rows"]
    name, highest, _, last, error = elbo
    assert name == "ELBO"
    assert highest > 1.3
    assert 0.85 < last < 1.2
    assert error < 0.1
    name, highest, lowest, last, error = mmd
    assert name == "MMD"
    assert 0.6 <= lowest <= last <= highest <= 1.1
    assert error < 0.1  # the two codes are told apart, not just prior draws
    (picture,) = result["pictures"]
    assert matplotlib.image.imread(picture)[..., :3].std() > 0.05


def test_the_encoder_starts_as_the_prior() -> None:
    pair = two_points.TwoPoints()
    q = pair.encoder(torch.tensor([[-1.0], [1.0]]).repeat(5000, 1))
    z = q.sample()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, 0]
    assert torch.allclose(q.log_prob(z), prior, atol=0.02)
