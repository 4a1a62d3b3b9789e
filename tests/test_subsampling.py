"""A model that is given the rows of its plate, and guides that are given them or take others."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae import fit
from ppl_vae.objectives import IWAE, MMD, BetaVAE, InfoVAE

N, B = 40, 8
X = torch.arange(float(N)) * 0.1


def model(rows: Tensor) -> None:
    with pyro.plate("data", N, subsample=rows):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        pyro.sample("x", dist.Normal(z, 0.1), obs=X[rows])


def locations() -> Tensor:
    return pyro.param("loc", torch.zeros(N))


def guided(rows: Any, *, size: int = N, **options: Any) -> None:
    with pyro.plate("data", size, **options) as index:
        pyro.sample("z", dist.Normal(locations()[index], 0.1))


STRANGE: dict[str, Callable[[], Any]] = {
    "automatic": lambda: AutoNormal(model),
    "draws": lambda: lambda rows: guided(rows, subsample_size=len(rows)),
    "draws fewer": lambda: lambda rows: guided(rows, subsample_size=len(rows) - 1),
    "given others": lambda: lambda rows: guided(rows, subsample=rows.flip(0)),
    "whole": lambda: guided,
    "of the batch": lambda: lambda rows: guided(rows, size=len(rows)),
}


def by_svi(guide: Any, objective: Any) -> None:
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), objective)
    for _ in range(3):
        svi.step(torch.randperm(N)[:B])


def by_fit(guide: Any, objective: Any) -> None:
    fit(model, guide, torch.randperm(N), objective, epochs=1, batch_size=B, seed=None)


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    ("train", "objective"),
    [
        (by_svi, lambda: InfoVAE(MMD(), scale=1.0)),
        (by_svi, lambda: IWAE(num_particles=2)),
        (by_fit, BetaVAE),
        (by_fit, Trace_ELBO),
    ],
)
@pytest.mark.parametrize("guide", STRANGE.values(), ids=STRANGE)
def test_other_rows_in_the_guide_are_refused(
    guide: Callable[[], Any], train: Any, objective: Any, validate: bool
) -> None:
    pyro.enable_validation(validate)
    with pytest.raises(ValueError, match=r"plate 'data' has other rows.*create_plates=") as error:
        train(guide(), objective())
    assert "\n" not in str(error.value)


def plates(rows: Tensor) -> Any:
    return pyro.plate("data", N, subsample=rows)


RIGHT: dict[str, Callable[[], Any]] = {
    "automatic": lambda: AutoNormal(model, create_plates=plates),
    "given": lambda: lambda rows: guided(rows, subsample=rows),
    "given equal ones": lambda: lambda rows: guided(rows, subsample=rows.clone()),
}


@pytest.mark.parametrize("guide", RIGHT.values(), ids=RIGHT)
def test_the_same_rows_in_the_guide_are_fitted(guide: Callable[[], Any]) -> None:
    made = guide()
    svi = SVI(model, made, pyro.optim.Adam({"lr": 0.2}), BetaVAE())
    for _ in range(200):
        svi.step(torch.randperm(N)[:B])
    loc = made.locs.z if isinstance(made, AutoNormal) else locations()
    # the posterior means are X, to within the spread .1 of the likelihood
    assert (loc.detach() - X).abs().mean() < 0.3


def test_a_model_takes_the_rows_that_only_the_guide_is_given() -> None:
    def drawing(rows: Tensor) -> None:
        with pyro.plate("data", N, subsample_size=B) as index:
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=X[index])

    guide = RIGHT["given"]()
    svi = SVI(drawing, guide, pyro.optim.Adam({"lr": 0.2}), BetaVAE())
    for _ in range(200):
        svi.step(torch.randperm(N)[:B])
    assert (locations().detach() - X).abs().mean() < 0.3
