"""The likelihood of mixed columns: against each column's own law, with values missing, imputed."""

import math
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from ppl_vae.bodies import MLP
from ppl_vae.data import Dataset
from ppl_vae.data.columns import Column
from ppl_vae.data.transform import Transform
from ppl_vae.evaluation import column_errors
from ppl_vae.evaluation.registry import title
from ppl_vae.experiment import Experiment
from ppl_vae.likelihoods import (
    Bernoulli,
    Categorical,
    Columns,
    Deterministic,
    NegativeBinomial,
    Normal,
    PixelCNN,
    Poisson,
)
from ppl_vae.objectives import BetaVAE
from ppl_vae.program.missing import Marginalised, with_missing
from ppl_vae.training.guard import check_support
from ppl_vae.using.imputation import impute

pytestmark = pytest.mark.usefixtures("double")

COLUMNS = (
    Column("visits", "count", mean=3.0),
    Column("age"),
    Column("stage", "class", ("I", "II", "III")),
    Column("smoker", "binary"),
    Column("town", "class", ("A", "B")),
    Column("weight"),
    Column("grade", "class", (1, 2, 3)),
    Column("calls", "count", mean=40.0),
)
PLACES = {"visits": [0], "age": [1], "stage": [2, 3, 4], "smoker": [5], "town": [6, 7],
          "weight": [8], "grade": [9, 10, 11], "calls": [12]}  # fmt: skip


def made(parts: Any = None, columns: tuple[Column, ...] = COLUMNS, dim: int = 2) -> Columns:
    torch.manual_seed(0)
    p = Columns(parts, body=partial(MLP, hidden=(8,)), features=6).build(dim, columns)
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return p


def by_column(d: Any, x: Tensor) -> dict[str, np.ndarray]:
    """Each column's log-density by scipy, from the moments that the distribution states."""
    mean, var, at = d.mean.detach().numpy(), d.variance.detach().numpy(), x.numpy()
    found = {}
    for name, place in PLACES.items():
        m, v, value = mean[:, place], var[:, place], at[:, place]
        if len(place) > 1:
            found[name] = np.log((m * value).sum(1))
            continue
        if name in ("age", "weight"):
            law = stats.norm(m, np.sqrt(v))
        elif name == "smoker":
            law = stats.bernoulli(m)
        else:
            r = m**2 / (v - m)
            law = stats.nbinom(r, r / (r + m))
        found[name] = (law.logpdf(value) if hasattr(law.dist, "pdf") else law.logpmf(value))[:, 0]
    return found


@torch.no_grad()
def test_the_density_is_the_sum_over_columns() -> None:
    d = made()(torch.randn(50, 2))
    x = d.sample()
    expected = sum(by_column(d, x).values())
    np.testing.assert_allclose(d.log_prob(x).numpy(), expected, rtol=1e-8)


@torch.no_grad()
def test_a_missing_value_leaves_out_its_column() -> None:
    """In the density, in a model with NaN, and as the sum over what the value could be."""
    d = made()(torch.randn(50, 2))
    x = d.sample()
    terms = by_column(d, x)
    missing = torch.zeros_like(x, dtype=torch.bool)
    missing[::2, PLACES["stage"]] = True
    missing[::3, PLACES["age"]] = True
    left, stand_ins = d.leave_out(missing)
    whole = torch.where(missing, stand_ins, x)
    expected = sum(terms.values())
    expected[::2] -= terms["stage"][::2]
    expected[::3] -= terms["age"][::3]
    np.testing.assert_allclose(left.log_prob(whole).numpy(), expected, rtol=1e-8)
    torch.testing.assert_close(whole[0, 1], d.mean[0, 1])  # a squared error of 0

    holed = torch.where(missing, torch.nan, x)
    with Marginalised():
        trace = pyro.poutine.trace(lambda: pyro.sample("x", d, obs=holed)).get_trace()
    np.testing.assert_allclose(trace.nodes["x"]["fn"].log_prob(whole).numpy(), expected, rtol=1e-8)

    only = torch.zeros_like(missing)
    only[:, PLACES["stage"]] = True
    levels = []
    for row in torch.eye(3):
        at = x.clone()
        at[:, PLACES["stage"]] = row
        levels.append(d.log_prob(at))
    torch.testing.assert_close(d.leave_out(only)[0].log_prob(x), torch.stack(levels).logsumexp(0))


def test_columns_named_or_inferred() -> None:
    parts: dict[str, Any] = {
        "age": Normal,
        "visits": partial(Poisson, mean=3.0),
        "stage": Categorical,
        "calls": partial(NegativeBinomial, mean=40.0),
    }
    d = made(parts)(torch.zeros(1, 2))
    kinds = [type(part.base_dist).__name__ for part in d.parts]
    assert kinds == ["Poisson", "Normal", "OneHotCategorical", "Bernoulli", "OneHotCategorical",
                     "Normal", "NegativeBinomial"]  # fmt: skip
    assert sorted(torch.cat([place.flatten() for place in d.places]).tolist()) == [*range(13)]
    assert torch.equal(d.places[2], torch.tensor([[2, 3, 4], [9, 10, 11]]))  # scored at once
    learned = made()
    assert sum(hasattr(head, "raw_scale") for head in learned.heads) == 1
    fixed = made({"age": Normal, "weight": Normal})
    assert not any(hasattr(head, "raw_scale") for head in fixed.heads)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"agee": Normal}, "no column 'agee'.*'age'"),
        ({"stage": Normal}, "'stage' is class.*Normal.*Categorical"),
        ({"age": Categorical}, "'age' is real.*Categorical"),
        ({"age": Deterministic}, "'age' is Deterministic"),
        ({"age": PixelCNN}, "'age' is PixelCNN"),
    ],
)
def test_parts_that_do_not_fit(parts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        Columns(parts).build(2, COLUMNS)
    assert "\n" not in str(error.value)


def test_other_refusals() -> None:
    with pytest.raises(TypeError, match="'age' is 'normal': give a likelihood's class"):
        Columns({"age": "normal"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="no columns yet"):
        Columns()(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"likelihood of a table.*Table\("):
        Experiment(Dataset(torch.zeros(4, 2)), BetaVAE(), likelihood=Columns)


def test_data_outside_the_support_get_one_line() -> None:
    p = made({"visits": Poisson})
    x = p(torch.zeros(3, 2)).sample()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", p(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    check_support(model, guide, (x,), x)
    x[1, 0] = -2.0
    with pytest.raises(ValueError, match=r"\[1, 0\] is -2") as error:
        check_support(model, guide, (x,), x)
    assert "\n" not in str(error.value)


FEW = (
    Column("age"),
    Column("stage", "class", ("I", "II", "III")),
    Column("smoker", "binary"),
    Column("visits", "count", mean=3.0),
)


@torch.no_grad()
@pytest.mark.parametrize("method", ["importance", "gibbs"])
def test_imputation_errs_by_the_noise_and_no_more(method: Any) -> None:
    """On rows of a known law, one column missing each, against quadrature over the code."""
    n, draws = (800, 1000) if method == "importance" else (200, 300)
    p = Columns({"visits": Poisson}, body=partial(MLP, hidden=()), features=1).build(1, FEW)
    p.network.layers[1].weight.fill_(1.0)  # features are z
    p.network.layers[1].bias.zero_()
    for head, gain in zip(p.heads, (1.5, (-2.0, 0.0, 2.0), 1.5, 1.0), strict=True):
        head.network.layers[1].weight.copy_(torch.tensor(gain).reshape(-1, 1))
        head.network.layers[1].bias.zero_()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", p(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.2).to_event(1))

    pyro.set_rng_seed(0)
    truth = p(torch.randn(n, 1)).sample()
    places = [[0], [1, 2, 3], [4], [5]]
    holed, gone = truth.clone(), [torch.arange(k, n, 4) for k in range(4)]
    for rows, place in zip(gone, places, strict=True):
        holed[rows[:, None], place] = torch.nan
    found = impute(model, guide, holed, method=method, num_samples=draws)

    # E[x | the rest] and its variance, by the trapezium rule over z
    z = torch.linspace(-8, 8, 161)
    d = p(z[:, None])
    log_w = -z.square() / 2
    left, _ = p(z[None, :, None]).leave_out(holed.isnan()[:, None].expand(n, 161, 6))
    log_w = log_w + left.log_prob(torch.where(holed.isnan(), truth, holed)[:, None])
    w = log_w.softmax(1)
    mean = w @ d.mean
    variance = w @ (d.variance + d.mean.square()) - mean.square()
    for rows, place in zip(gone, places, strict=True):
        at = rows[:, None], place
        away = ((found[at] - mean[at]).square() / variance[at]).mean()
        # a mean of a tenth as many independent draws at the least
        assert away < 10 / draws
        # errors have the variance of the truth given the rest
        ratio = ((found[at] - truth[at]).square() / variance[at]).flatten()
        assert abs(float(ratio.mean()) - 1) < 4.5 * float(ratio.std()) / math.sqrt(len(rows))
    assert torch.equal(found[~holed.isnan()], truth[~holed.isnan()])


def test_bernoulli_is_the_one_for_binary_columns() -> None:
    assert isinstance(made({"smoker": Bernoulli}).heads[3], Bernoulli)


@torch.no_grad()
def test_errors_by_column_are_those_of_the_means() -> None:
    """With codes of no spread, in the data's units, over the rows where a column is there."""
    p = made()
    code = torch.tensor([0.5, -1.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", p(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(code.expand(len(x), 2), event_dim=1))

    pyro.set_rng_seed(0)
    x, mean = p(code.expand(300, 2)).sample(), p(code).mean
    holed = x.clone()
    holed[::2, PLACES["stage"]] = torch.nan
    holed[::3, PLACES["age"]] = torch.nan
    scale = torch.ones(13)
    scale[PLACES["age"]] = 10.0
    transform = Transform("standardise", [0.0] * 13, scale.tolist())
    pair = with_missing(model, guide, torch.zeros(13))
    found = column_errors(*pair, holed, COLUMNS, transform)
    age = 10 * (x[:, 1] - mean[1])[torch.arange(300) % 3 > 0]
    assert found["age/rmse"].value == pytest.approx(float(age.square().mean().sqrt()))
    assert found["age/rmse"].note.startswith("200 rows")
    levels = x[1::2, 2:5].argmax(1)
    assert found["stage/log_loss"].value == pytest.approx(float(-mean[2:5].log()[levels].mean()))
    right = (levels == mean[2:5].argmax()).double()
    assert found["stage/accuracy"].value == pytest.approx(float(right.mean()))
    assert found["smoker/accuracy"].value == pytest.approx(
        float(((mean[5] > 0.5) == (x[:, 5] > 0.5)).double().mean())
    )
    visits = x[:, 0]
    deviance = 2 * (torch.xlogy(visits, visits / mean[0]) - visits + mean[0])
    assert found["visits/deviance"].value == pytest.approx(float(deviance.mean()))
    assert found["visits/rmse"].value > 0
    assert title("column_rmse/a/b") == "Root mean squared error of a/b"
