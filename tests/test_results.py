"""What a result file says, and what of a run is shown."""

from typing import Any

import pytest
import torch

from ppl_vae.data.dataset import Dataset
from ppl_vae.experiment import Experiment
from ppl_vae.likelihoods import PixelCNN
from ppl_vae.objectives import BetaVAE
from ppl_vae.report.results import folded, lines
from ppl_vae.report.shown import Shown
from ppl_vae.using.decoding import decode


def entry(value: float | None, note: str = "") -> dict[str, Any]:
    return {
        "value": value, "standard_error": 0.5, "data_error": 0.5, "bound": None, "flag": "",
        "note": note, "unit": "units", "group": "samples", "settings": {},
    }  # fmt: skip


def wide(count: int) -> dict[str, Any]:
    """A metric of each of so many columns, the k-th of them k, in no order."""
    order = [(7 * k) % count for k in range(count)]
    return {f"column_rmse/c{k}": entry(float(k)) for k in order}


def test_a_metric_of_many_columns_is_shown_by_its_median_and_ends() -> None:
    found = {"rate": entry(3.0), **wide(13), "column_rmse/gone": entry(None, "all are missing")}
    told = folded(found)
    assert list(told) == ["rate", "column_rmse/the median of 13"]
    assert told["rate"] == found["rate"]
    middle = told["column_rmse/the median of 13"]
    assert middle["value"] == 6
    # the error of a median is not that of any column
    assert middle["standard_error"] is middle["data_error"] is None
    assert middle["note"] == "from 0 of c0 to 12 of c12; each is in summary.json"
    rate, median = lines({"metrics": found, "skipped": {}})
    assert rate.split()[:2] == ["rate", "3"]
    assert "the median of 13" in median
    assert " 6 " in median


def test_few_columns_and_none_with_a_value_are_shown_one_by_one() -> None:
    assert folded(wide(12)) == wide(12)
    none = {f"column_rmse/{k}": entry(None, "missing") for k in range(20)}
    assert folded(none) == none


def test_ways_between_rows_of_a_decoder_that_reads_x() -> None:
    """Half a pixel is none that a model of binary pixels would take for x."""
    torch.manual_seed(0)
    data = Dataset(torch.rand(6, 1, 4, 4).round())
    parts = {"likelihood": PixelCNN, "dim": 2}
    shown = Shown(Experiment(data, BetaVAE(), **parts), seed=0)
    halves, codes = shown.x[:2].mean(0, keepdim=True), {k: v[:1] for k, v in shown.latents.items()}
    with pytest.raises(ValueError, match="within the support"):
        decode(*shown.programs, (halves,), codes)
    way = shown.between(0, 1, torch.linspace(0, 1, 3)[:, None])
    assert way.shape == (3, 1, 4, 4)
