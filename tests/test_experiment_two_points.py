"""Two data points: the ELBO overshoots the variance of q(z) and comes back, MMD keeps it."""

import pytest
import torch

from ppl_vae.reproductions import two_points


@pytest.mark.slow
def test_variance() -> None:
    elbo = two_points.measure(seed=0, objective="ELBO", steps=2200)
    assert elbo["highest E z^2"] > 1.3
    assert 0.85 < elbo["last"] < 1.2
    assert elbo["squared error of x"] < 0.1
    mmd = two_points.measure(seed=0, objective="MMD", steps=1400)
    assert 0.6 <= mmd["lowest"] <= mmd["last"] <= mmd["highest E z^2"] <= 1.1
    assert mmd["squared error of x"] < 0.1  # the two codes are told apart, not just prior draws


def test_the_encoder_starts_as_the_prior() -> None:
    pair = two_points.TwoPoints()
    q = pair.encoder(torch.tensor([[-1.0], [1.0]]).repeat(5000, 1))
    z = q.sample()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, 0]
    assert torch.allclose(q.log_prob(z), prior, atol=0.02)
