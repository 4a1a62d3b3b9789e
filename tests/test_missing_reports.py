"""What compares data with a reconstruction or a simulation leaves missing values out."""

import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae import plots
from ppl_vae.diagnostics import predictive_check, to_arviz
from ppl_vae.evaluation import reconstruction_error
from ppl_vae.objectives import WAE
from ppl_vae.plots.rows import canvas
from ppl_vae.program.missing import with_missing

pytestmark = pytest.mark.usefixtures("double")

N = 400


class Model(nn.Module):
    """Binary or real numbers at logits or means z + (0, 1, 2)."""

    def __init__(self, binary: bool) -> None:
        super().__init__()
        self.binary, self.shift = binary, nn.Parameter(torch.arange(3.0))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            at = z + self.shift
            fn = dist.Bernoulli(logits=at) if self.binary else dist.Normal(at, 0.5)
            pyro.sample("x", fn.to_event(1), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(1), 1e-3).to_event(1))


def holed(binary: bool) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(N, 3) + torch.arange(3.0)
    x = (x > 1).double() if binary else x
    x[torch.rand(N, 3) < 0.4] = torch.nan
    x[0] = torch.nan
    model = Model(binary)
    mean = model.shift.sigmoid() if binary else model.shift
    return with_missing(model, guide, torch.zeros(3)), x, mean.detach()


@pytest.mark.parametrize("binary", [False, True])
def test_the_reconstruction_error_is_of_what_is_there(binary: bool) -> None:
    """Each row's mean over its present elements; the codes are all but 0."""
    pair, x, mean = holed(binary)
    rows = (x - mean).square().nanmean(1)
    rows = rows[~rows.isnan()]
    found = reconstruction_error(*pair, x, num_samples=4)
    # the codes' 1e-3 moves an error by 2e-3 of its root at most
    assert abs(found.value - float(rows.mean())) < 4.5 * 2e-3 * math.sqrt(1.0 / N) + 1e-4
    with pytest.raises(ValueError, match="every value is missing"):
        reconstruction_error(*pair, torch.full((3, 3), torch.nan))


@pytest.mark.parametrize("binary", [False, True])
def test_a_cost_is_of_what_is_there(binary: bool) -> None:
    pair, x, mean = holed(binary)
    expected = float((x - mean).square().nansum())
    objective = WAE(scale=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = objective.loss(*pair, x)
    assert abs(float(found) - expected) < 4.5 * 2e-3 * math.sqrt(3 * N) * 2


def test_diagnostics_show_and_simulate_what_is_there() -> None:
    pair, x, _ = holed(False)
    seen = to_arviz(*pair, x, draws=5, groups=("observed_data",))
    values = torch.as_tensor(seen["observed_data"]["x"].values.reshape(N, 3))
    torch.testing.assert_close(values, x, equal_nan=True)

    def share(data: Tensor) -> Tensor:
        return data.isnan().double().mean()

    def mean(data: Tensor) -> Tensor:
        return data.nanmean()

    check = predictive_check(*pair, x, statistics={"share": share, "mean": mean}, draws=20)
    assert (check.replicated["share"] == check.observed["share"]).all()
    assert check.observed["mean"] == pytest.approx(float(x.float().nanmean()), abs=1e-5)
    with pytest.raises(ValueError, match="statistics= that leave NaN out"):
        predictive_check(*pair, x, draws=2)


def test_pictures_of_rows_with_holes(tmp_path: Any) -> None:
    images = torch.rand(2, 1, 4, 4)
    images[0, 0, 1, 2] = torch.nan
    drawn = canvas([[images]])
    assert drawn[1, 2, 3] == 0  # clear
    assert drawn[..., 3].sum() == 31
    x = torch.randn(50, 1)
    x[3] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(plots.reconstructions(x, x.nan_to_num()), tmp_path / "x.png")
        plots.save(plots.reconstructions(images, images.nan_to_num()), tmp_path / "y.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
