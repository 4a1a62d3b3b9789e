"""How guides and models run on some of their rows, and that it never changes a density."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

from ppl_vae.program.blocks import Blocks, at_rows
from ppl_vae.program.density import log_density

N, D = 40, 3

Program = Callable[..., Any]
Case = tuple[Program, Program, tuple[Tensor, ...]]


def data() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(2))


def normal(loc: Tensor, scale: Tensor | float = 1.0) -> Any:
    return dist.Normal(loc, scale).to_event(1)


def linear(plate: Program, rows: Program, x: Program) -> tuple[Program, Program]:
    """z and x of `rows`, under `plate`; an amortised guide."""

    def model(batch: Tensor) -> None:
        with plate(batch) as index:
            z = pyro.sample("z", normal(torch.zeros(D)))
            pyro.sample("x", normal(z, 0.7), obs=x(batch, index))

    def guide(batch: Tensor) -> None:
        with plate(batch) as index:
            pyro.sample("z", normal(rows(batch, index) / 2, 0.6))

    return model, guide


def as_it_is(x: Tensor, _: Tensor) -> Tensor:
    return x


def indexed(x: Tensor, index: Tensor) -> Tensor:
    return x[index]


def followed(x: Tensor, _: Tensor) -> Tensor:
    value: Tensor = pyro.subsample(x, event_dim=1)
    return value


def by_length(x: Tensor) -> Any:
    return pyro.plate("data", len(x))


def by_number(_: Tensor) -> Any:
    return pyro.plate("data", N)


def amortised() -> Case:
    return *linear(by_length, as_it_is, as_it_is), (data(),)


def amortised_and_indexed() -> Case:
    return *linear(by_length, indexed, indexed), (data(),)


def automatic() -> Case:
    model, _ = linear(by_length, as_it_is, as_it_is)
    return model, AutoNormal(model), (data(),)


def automatic_and_subsampled() -> Case:
    model, _ = linear(by_number, followed, followed)
    return model, AutoNormal(model), (data(),)


def _table(name: str) -> Tensor:
    value: Tensor = pyro.param(
        name, lambda: torch.randn(N, D, generator=torch.Generator().manual_seed(3)), event_dim=1
    )
    return value


def parameters_in_the_plate() -> Case:
    model, _ = linear(by_length, as_it_is, as_it_is)

    def guide(_: Tensor) -> None:
        with pyro.plate("data", N):
            pyro.sample("z", normal(_table("loc"), 0.5))

    return model, guide, (data(),)


def parameters_cut_to_length() -> Case:
    """Runs on two rows of x, whose conditionals are then those of the first two."""
    model, _ = linear(by_length, as_it_is, as_it_is)

    def guide(x: Tensor) -> None:
        loc = _table("loc")
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(loc[: len(x)], 0.5))

    return model, guide, (data(),)


def one_draw_for_all() -> Case:
    model, _ = linear(by_length, as_it_is, as_it_is)
    return model, AutoMultivariateNormal(model), (data(),)


def eight_schools() -> Case:
    def model(y: Tensor, sd: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("J", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sd), obs=y)

    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sd = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return model, AutoNormal(model), (y, sd)


def latent_variable_gp() -> Case:
    """Codes by datum, and observations that couple all data."""

    def model(y: Tensor) -> None:
        with pyro.plate("data", N):
            z = pyro.sample("z", normal(torch.zeros(2)))
        covariance = torch.exp(-torch.cdist(z, z).square() / 2) + 0.1 * torch.eye(N)
        with pyro.plate("features", D):
            fn = dist.MultivariateNormal(torch.zeros(N), covariance)
            pyro.sample("x", fn, obs=y.T)

    return model, AutoNormal(model), (data(),)


CASES: dict[Callable[[], Case], tuple[str, str]] = {
    amortised: ("sliced", "sliced"),
    amortised_and_indexed: ("sliced", "sliced"),
    automatic: ("whole", "sliced"),
    automatic_and_subsampled: ("whole", "at indices"),
    parameters_in_the_plate: ("whole", "sliced"),
    parameters_cut_to_length: ("whole", "sliced"),
    one_draw_for_all: ("whole", "sliced"),
    eight_schools: ("whole", "whole"),
    latent_variable_gp: ("whole", "whole"),
}


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_how_and_densities(build: Callable[[], Case]) -> None:
    """Log p of all rows, in blocks of 8 in some order, is that of a whole run."""
    model, guide, args = build()
    plate = "data" if build is latent_variable_gp else None
    blocks = Blocks(model, guide, args, plate, block=8)
    assert (blocks.how_guide, blocks.how_model) == CASES[build]
    assert len(blocks) == len(args[0])
    q = Blocks(model, guide, args, plate, block=None).guide_run()
    values = {name: site.value for name, site in q.items()}
    whole = blocks.model_run(values)
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))
    local = [name for name, site in whole.items() if site.plate(blocks.plate)]
    assert local
    for rows in order.split(8) if blocks.how_model != "whole" else [None]:
        cut = values
        if rows is not None:
            cut = {n: at_rows(s.value, s, blocks.plate, rows, s.event_dim) for n, s in q.items()}
        part = blocks.model_run(cut, rows)
        for name in local:
            ours, theirs = log_density(part[name]), log_density(whole[name])
            if rows is not None:
                theirs = at_rows(theirs, whole[name], blocks.plate, rows)
            assert torch.equal(ours, theirs)


def test_a_plate_that_draws_its_rows_is_refused() -> None:
    def plate(x: Tensor) -> Any:
        return pyro.plate("data", len(x), subsample_size=8)

    model, _ = linear(plate, indexed, indexed)
    with pytest.raises(ValueError, match="'data' draws 8 of 40: a datum has no fixed row"):
        Blocks(model, AutoNormal(model, create_plates=plate), (data(),))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("build", [amortised, parameters_cut_to_length])
def test_small_data(n: int, build: Callable[[], Case]) -> None:
    """Also where two rows are all rows, a permutation or a repetition tells."""
    model, guide, (x,) = build()
    blocks = Blocks(model, guide, (x[:n],))
    assert blocks.how_guide == ("sliced" if build is amortised else "whole")
    assert blocks.how_model == "sliced"
    numbered, _ = linear(lambda _: pyro.plate("data", n), as_it_is, as_it_is)
    assert Blocks(numbered, numbered_guide(n), (x[:n],)).how_model == "whole"


def numbered_guide(n: int) -> Program:
    return linear(lambda _: pyro.plate("data", n), as_it_is, as_it_is)[1]


def test_a_weight_that_depends_on_the_number_of_rows() -> None:
    """A mean inside the model is not the mean of a block."""
    _, guide = linear(by_length, as_it_is, as_it_is)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(D)))
            pyro.sample("x", normal(z + x.mean(0), 0.7), obs=x)

    assert Blocks(model, guide, (data(),)).how_model == "whole"


def test_enumerated_sites_are_sampled() -> None:
    def program(x: Tensor, observed: bool) -> None:
        with pyro.plate("data", len(x)):
            every = {"enumerate": "parallel"}
            k = pyro.sample("k", dist.Categorical(torch.ones(5)), infer=every)
            if observed:
                pyro.sample("x", normal(k[..., None].float(), 0.7), obs=x)

    blocks = Blocks(lambda x: program(x, True), lambda x: program(x, False), (data(),))
    assert blocks.guide_run()["k"].value.shape == (N,)


def test_looking_leaves_no_trace() -> None:
    """Tables keep the size of the data, dropout and batch norms their state."""
    net = nn.Sequential(nn.Linear(D, D), nn.Dropout(0.5), nn.BatchNorm1d(D))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    model, _ = linear(by_length, as_it_is, as_it_is)

    def amortised(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(net(x), 0.6))

    def table(x: Tensor) -> None:
        loc = pyro.param("table", lambda: torch.zeros(len(x), D))
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(loc, 0.6))

    assert Blocks(model, amortised, (data(),)).sliced
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert Blocks(model, table, (data(),)).how_guide == "whole"
    assert pyro.param("table").shape == (N, D)
    guide = AutoNormal(model)
    assert Blocks(model, guide, (data(),)).how_guide == "whole"
    assert guide.locs.z.shape == (N, D)


def test_data_that_do_not_fit() -> None:
    model, guide, (x,) = amortised()

    def masked(x: Tensor, mask: Tensor) -> None:
        with pyro.poutine.mask(mask=mask):
            model(x)

    with pytest.raises(ValueError, match=r"\[40, 3\] rows: equal numbers are needed"):
        Blocks(masked, lambda x, _: guide(x), (x, torch.ones(3, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"data of \[0\] rows: numbers above 0"):
        Blocks(model, guide, (x[:0],))
    with pytest.raises(ValueError, match=r"plate=\['data', 'data'\]: rows are of one plate"):
        Blocks(model, guide, (x,), ("data", "data"))
