"""Design's strongest claim about MMD: integrated noise keeps the code, sampled noise loses it."""

import pytest

from ppl_vae.reproductions.collapse import run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:posterior collapse")
def test_sampled_noise_collapses_and_integrated_does_not() -> None:
    table = run(seeds=1, estimators=("sampled U", "auto"))
    (_, sampled_rate, *_, noise, warned), (_, rate, probe, log_det, *quiet) = table["rows"]
    assert rate > 10
    assert probe >= 0.85
    assert abs(log_det) < 0.2
    assert sampled_rate < rate / 2
    assert noise > 1
    assert warned
    assert quiet == [0, 0]
