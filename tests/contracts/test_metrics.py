"""What every metric and diagnostic must do. A new one is a line of `CASES`, and inherits all."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppca import PPCA
from torch import Tensor, nn

from ppl_vae import diagnostics, evaluation
from ppl_vae.data.columns import Column
from ppl_vae.data.factors import FactorData
from ppl_vae.evaluation import Estimate

pytestmark = pytest.mark.usefixtures("double")

N = 60


def ppca(widen: float = 1.0) -> PPCA:
    """x of 4 numbers and z of 2, whose posterior has a diagonal covariance; `widen` times it."""
    weight = torch.tensor([[0.9, 0.0], [0.9, 0.0], [0.0, 0.5], [0.0, -0.5]])
    mean, noise = torch.tensor([0.3, -0.2, 0.5, 0.1]), 0.7
    variance = 1 / (1 + weight.square().sum(0) / noise**2)
    gain = variance[:, None] * weight.T / noise**2
    return PPCA(weight, mean, noise, gain, torch.zeros(2), (widen * variance).diag())


class Model(nn.Module):
    """The generative half, of parameters, and of noise in training that evaluation leaves out."""

    def __init__(self, of: PPCA) -> None:
        super().__init__()
        self.weight, self.mean = nn.Parameter(of.weight.clone()), nn.Parameter(of.mean.clone())
        self.noise, self.dropout = of.noise, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.dropout(z @ self.weight.T) + self.mean
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, of: PPCA) -> None:
        super().__init__()
        self.gain, self.mean = nn.Parameter(of.gain.clone()), of.mean
        self.sd, self.dropout = nn.Parameter(of.covariance.diagonal().sqrt()), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> None:
        loc = self.dropout((x - self.mean) @ self.gain.T)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, self.sd).to_event(1))


Truth = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """A metric as it is called, and what is true of it.

    Attributes:
        run: calls it, of the model, the guide, rows of data and options, which it passes on.
        truth: the expectation of each figure, of the pair and of the rows.
        figures: the result's figures by name; by default those of a dict, a record or a number.
        widen: how much wider the guide is than the posterior, in variance.
        of_pair: whether it takes a pair and rows of data.
        one_sided: figures whose truth is what they bound.
    """

    run: Callable[..., Any]
    truth: Callable[[PPCA, Tensor], Truth]
    figures: Callable[[Any], Mapping[str, Estimate]] | None = None
    widen: float = 1.3
    of_pair: bool = True
    one_sided: tuple[str, ...] = ()


def figures(case: Case, result: Any) -> Mapping[str, Estimate]:
    if case.figures:
        return case.figures(result)
    if isinstance(result, Estimate):
        return {"": result}
    found = result if isinstance(result, dict) else vars(result)
    return {name: value for name, value in found.items() if isinstance(value, Estimate)}


def of(metric: Callable[..., Any], **told: Any) -> Callable[..., Any]:
    return lambda model, guide, x, **o: metric(model, guide, x, **told, **o)


def terms(pair: PPCA, x: Tensor) -> Truth:
    rate, distortion = (float(f(x).mean()) for f in (pair.rate, pair.distortion))
    return {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}


def only(name: str) -> Callable[[PPCA, Tensor], Truth]:
    return lambda pair, x: {"": terms(pair, x)[name]}


def likelihood(pair: PPCA, x: Tensor) -> Truth:
    return {"": -float(pair.log_likelihood(x).mean())}


def mixture(pair: PPCA, x: Tensor) -> dict[str, float]:
    """The parts of the rate of these very data, by quadrature of the mixture of their q(z|x)."""
    means, sd = pair.codes(x), pair.covariance.diagonal().sqrt()
    axes, single = [], 0.0
    for j in range(2):
        reach = float(means[:, j].abs().max() + 8 * sd[j])
        axes.append(torch.linspace(-reach, reach, 401))
        density = dist.Normal(means[:, j], sd[j]).log_prob(axes[j][:, None]).exp()
        q = density.mean(1)
        single += float((q * q.clamp_min(1e-300).log()).sum() * (axes[j][1] - axes[j][0]))
        axes[j] = torch.stack([axes[j][:, None].expand(-1, len(x)), density])
    joint = axes[0][1] @ axes[1][1].T / len(x)
    cell = math.prod(float(a[0][1, 0] - a[0][0, 0]) for a in axes)
    negative_entropy = float((joint * joint.clamp_min(1e-300).log()).sum() * cell)
    own = float(-(0.5 + 0.5 * math.log(2 * math.pi) + sd.log()).sum())
    square = (means.square().mean(0) + sd.square()).sum()
    prior = -float(square) / 2 - math.log(2 * math.pi)
    return {
        "rate": own - prior,
        "mutual_information": own - negative_entropy,
        "marginal_kl": negative_entropy - prior,
        "total_correlation": negative_entropy - single,
        "dimension_wise": single - prior,
    }


def reconstruction(pair: PPCA, x: Tensor) -> Truth:
    residual = x - pair.mean - pair.codes(x) @ pair.weight.T
    spread = (pair.weight @ pair.covariance @ pair.weight.T).trace()
    return {"": float((residual.square().sum(1) + spread).mean()) / 4}


REAL = [Column(name) for name in "abcd"]


def by_column(pair: PPCA, x: Tensor) -> Truth:
    residual = x - pair.mean - pair.codes(x) @ pair.weight.T
    spread = (pair.weight @ pair.covariance @ pair.weight.T).diagonal()
    squared = residual.square().mean(0) + spread
    explained = 1 - squared / x.var(0, correction=0)
    return {f"{c.name}/rmse": float(squared[i].sqrt()) for i, c in enumerate(REAL)} | {
        f"{c.name}/explained": float(explained[i]) for i, c in enumerate(REAL)
    }


def mean_of(values: Any) -> Estimate:
    values = torch.as_tensor(values)
    return Estimate(float(values.mean()), float(values.std()) / len(values) ** 0.5)


class Beyond(nn.Module):
    """The class of x is whether its first number is above the mean by 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x[:, 0] - 0.3 - 0.5], 1)


def of_classes(pair: PPCA, x: Tensor) -> Truth:
    p = 0.5 * math.erfc(0.5 / 0.9 / math.sqrt(2))
    return {"": p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))}


class Blocks(FactorData):
    """Images that are the factors themselves, in [0, 1]."""

    names, levels, size = ("a", "b"), (5, 7), torch.Size((4,))

    def render(self, factors: Tensor) -> Tensor:
        x = factors / (torch.tensor(self.levels) - 1) - 0.5
        return torch.stack([x[:, 0], x[:, 0], x[:, 1], -x[:, 1]], 1)


GRID = torch.cartesian_prod(torch.arange(5), torch.arange(7)).repeat(40, 1)
"""Factors of which each says nothing of the other."""
HALVES = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(100, 1)


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return 3.0 * labels[:, None] - 1.5 + torch.randn(n, 1, generator=g), labels


def probe(metric: Callable[..., Estimate], **told: Any) -> Case:
    best = 0.5 * (1 + math.erf(1.5 / math.sqrt(2)))
    return Case(
        lambda *_: metric(*blobs(2000, 0), *blobs(1000, 1), **told),
        lambda *_: {"": best},
        of_pair=False,
    )


def of_factors(metric: Callable[..., Any], **truth: float) -> Case:
    return Case(
        lambda *_: metric(GRID.double(), GRID),
        lambda *_: truth or {"": 1.0},
        of_pair=False,
    )


def filtered() -> float:
    """The expected variance of Laplace-filtered noise in images of 5x5, by the filter's matrix."""
    pixels = torch.eye(25).reshape(25, 1, 5, 5)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    rows = nn.functional.conv2d(pixels, kernel).flatten(1)
    return float(((rows - rows.mean(1, keepdim=True)) ** 2).sum() / 9)


def codes_of(pair: PPCA) -> Tensor:
    return dist.MultivariateNormal(*pair.aggregate).sample((400,))


def frechet(real: Tensor, made: Tensor) -> float:
    a, b = (np.cov(t.T.numpy()) for t in (real, made))
    root = np.linalg.eigvals(a @ b).real.clip(0) ** 0.5
    shift = float((real.mean(0) - made.mean(0)).square().sum())
    return shift + float(np.trace(a) + np.trace(b) - 2 * root.sum())


def gaussians(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Draws of N(0, I) and of N(1, I / 4)."""
    a, b = torch.randn(2, n, d, generator=torch.Generator().manual_seed(7))
    return a, 1 + b / 2


def evidence(result: Any) -> dict[str, Estimate]:
    error = np.sqrt((1 / result.ess - 1 / result.draws).clip(0).sum()) / len(result.ess)
    return {"": Estimate(-float(result.log_evidence.mean()), float(error))}


def calibration(result: Any) -> dict[str, Estimate]:
    n = result.simulations
    u = result.uniform["z"]
    found = {f"u{j}": Estimate(float(u[:, j].mean()), (12 * n) ** -0.5) for j in range(2)}
    for j, c in enumerate(result.contraction["z"]):
        found[f"contraction{j}"] = Estimate(float(c), float(1 - c) * (2 / n) ** 0.5)
    return found


def contracted(pair: PPCA, x: Tensor) -> Truth:
    v = pair.covariance.diagonal()
    return {"u0": 0.5, "u1": 0.5, "contraction0": float(1 - v[0]), "contraction1": float(1 - v[1])}


def covered(result: Any) -> dict[str, Estimate]:
    return {
        f"{level:g}, {j}": Estimate(float(result.observed["z"][i, j]), float(result.error[i]))
        for i, level in enumerate(result.levels)
        for j in range(2)
    }


def shifts(result: Any) -> dict[str, Estimate]:
    pairs = zip(result.shift["z"].flat, result.shift_error["z"].flat, strict=True)
    return {str(i): Estimate(float(s), float(e)) for i, (s, e) in enumerate(pairs)}


def plain_codes(codes: Any) -> dict[str, Estimate]:
    return {
        "mean": Estimate(float(codes.mean.square().sum()), 0.0),
        "variance": Estimate(float(codes.variance.sum()), 0.0),
        "sample": mean_of(((codes.sample - codes.mean).square() / codes.variance).flatten()),
    }


def posterior(model: Any, guide: Any, x: Tensor, **o: Any) -> dict[str, Any]:
    found = diagnostics.to_arviz(model, guide, x, draws=100, groups=("posterior",), **o)
    return {"z": found["posterior"]["z"].values[0]}


EV, DI = evaluation, diagnostics
CASES: dict[str, Case] = {
    "elbo_terms": Case(of(EV.elbo_terms), terms),
    "rate": Case(of(EV.rate), only("rate")),
    "distortion": Case(of(EV.distortion), only("distortion")),
    "elbo": Case(of(EV.elbo), only("elbo")),
    "nll": Case(of(EV.nll, num_samples=400), likelihood),
    "annealed_nll": Case(of(EV.annealed_nll, temperatures=10, leapfrog=2), likelihood),
    "log_weights": Case(
        of(EV.log_weights, num_samples=400),
        lambda pair, x: {"": float(pair.log_likelihood(x)[0].exp())},
        lambda log_w: {"": mean_of(log_w[0].exp())},
    ),
    "usage": Case(of(EV.usage), lambda *_: {}, lambda _: {}),
    "model_information": Case(
        of(EV.model_information, num_samples=40, steps=3), lambda *_: {}, lambda _: {}
    ),
    "reconstruction_error": Case(of(EV.reconstruction_error), reconstruction),
    "column_errors": Case(
        lambda model, guide, x, **o: EV.column_errors(model, guide, x, REAL, **o), by_column
    ),
    "generate": Case(
        of(EV.generate, num_samples=400, mean=False),
        lambda pair, x: {str(i): float(m) for i, m in enumerate(pair.mean)},
        lambda draws: {str(i): mean_of(draws[:, i]) for i in range(4)},
    ),
    "posterior_codes": Case(
        of(EV.posterior_codes),
        lambda pair, x: {
            "mean": float(pair.codes(x).square().sum()),
            "variance": float(pair.covariance.trace()) * len(x),
            "sample": 1.0,
        },
        plain_codes,
    ),
    "path_length": Case(
        of(EV.path_length),
        lambda pair, x: {"": float(pair.codes(x).diff(dim=0).norm(dim=1).sum())},
    ),
    "mutual_information": Case(
        of(EV.mutual_information),
        lambda pair, x: dict.fromkeys(("lower", "upper"), mixture(pair, x)["mutual_information"]),
        one_sided=("upper",),
    ),
    "surgery": Case(of(EV.surgery), mixture),
    "full_mmd": Case(
        of(EV.full_mmd),
        lambda pair, x: {"u": pair.mmd(2.0), "v": pair.mmd(2.0)},
        one_sided=("v",),
    ),
    "mmd": Case(
        lambda *_: EV.mmd(codes_of(ppca(3.0)), dist.Normal(torch.zeros(2), 1.0).to_event(1)),
        lambda *_: {"u": ppca(3.0).mmd(2.0), "v": ppca(3.0).mmd(2.0)},
        of_pair=False,
        one_sided=("v",),
    ),
    "log_det": Case(
        lambda *_: EV.log_det(codes_of(ppca(3.0))),
        lambda *_: {"": float(torch.logdet(ppca(3.0).aggregate[1])) / 2},
        of_pair=False,
    ),
    "active_units": Case(
        lambda *_: EV.active_units(codes_of(ppca()) * torch.tensor([1.0, 0.01])),
        lambda *_: {"": 1.0},
        lambda found: {"": Estimate(float(found.count), 0.0)},
        of_pair=False,
    ),
    "class_divergence": Case(
        of(EV.class_divergence, classifier=Beyond(), num_samples=2000), of_classes
    ),
    "disentanglement": Case(
        lambda model, guide, x, **o: EV.disentanglement(model, guide, Blocks(), num_data=300, **o),
        lambda *_: {"factor_vae": 1.0, "dci_informativeness": 1.0},
        of_pair=False,
    ),
    "mig": of_factors(EV.mig),
    "sap": Case(
        lambda *_: EV.sap(HALVES.double(), HALVES),
        lambda *_: {"": 0.5},
        of_pair=False,
    ),
    "dci": of_factors(EV.dci, disentanglement=1.0, completeness=1.0, informativeness=1.0),
    "factor_vae_score": Case(
        lambda *_: EV.factor_vae_score(lambda x: x[:, 1:3], Blocks()),
        lambda *_: {"": 1.0},
        of_pair=False,
    ),
    "linear_probe": probe(EV.linear_probe),
    "knn_probe": probe(EV.knn_probe),
    "svm_probe": probe(EV.svm_probe, labels=200, folds=2),
    "sharpness": Case(
        lambda *_: EV.sharpness(0.3 * torch.randn(500, 5, 5)),
        lambda *_: {"": 0.09 * filtered()},
        of_pair=False,
    ),
    "pareto_k": Case(of(DI.pareto_k, draws=400), likelihood, evidence),
    "khat": Case(
        lambda *_: DI.khat(-0.5 * torch.rand(20_000).log()),
        lambda *_: {"": 0.5},
        # 424 draws in the tail: the shape's standard error is (1 + k) / sqrt(424).
        lambda k: {"": Estimate(k, 1.5 / 424**0.5)},
        of_pair=False,
    ),
    "sbc": Case(of(DI.sbc, simulations=600), contracted, calibration, widen=1.0),
    "coverage": Case(
        of(DI.coverage, simulations=600, levels=(0.5, 0.9), draws=49),
        lambda *_: {f"{c:g}, {j}": c for c in (0.5, 0.9) for j in range(2)},
        covered,
        widen=1.0,
    ),
    "predictive_check": Case(
        of(DI.predictive_check, source="prior", statistics={"mean": torch.mean}),
        lambda pair, x: {"": float(pair.mean.mean())},
        lambda found: {"": mean_of(found.replicated["mean"])},
    ),
    "to_arviz": Case(
        posterior,
        lambda pair, x: {str(j): float(pair.codes(x)[0, j]) for j in range(2)},
        lambda found: {str(j): mean_of(found["z"][:, 0, j]) for j in range(2)},
    ),
    "against_nuts": Case(
        of(DI.against_nuts, rows=2, draws=50, warmup=40, chains=2, gaps=False),
        lambda *_: {str(i): 0.0 for i in range(4)},
        shifts,
        widen=1.0,
    ),
}
if find_spec("torchmetrics"):
    CASES["fid"] = Case(
        lambda *_: EV.fid(*(t.float() for t in gaussians(300, 3)), nn.Identity()),
        lambda *_: {"": frechet(*gaussians(300, 3))},
        of_pair=False,
    )
    # E (ab + 1)^3 from the first three moments, 0, 1, 0 and 1, 5/4, 7/4.
    CASES["kid"] = Case(
        lambda *_: EV.kid(
            *(t.float() for t in gaussians(2000, 1)), nn.Identity(), subsets=20, subset_size=500
        ),
        lambda *_: {"": 4 + (1.75**2 + 3 * 1.25**2 + 3 + 1) - 2 * (3 * 1.25 + 1)},
        of_pair=False,
    )

every = pytest.mark.parametrize("name", CASES)
of_pairs = pytest.mark.parametrize("name", [name for name in CASES if CASES[name].of_pair])


def run(case: Case, n: int = N, seed: int = 3, **options: Any) -> Any:
    pair = ppca(case.widen)
    pyro.set_rng_seed(seed)
    return case.run(Model(pair), Guide(pair), pair.sample(n), **options)


@cache
def first(name: str) -> Any:
    return run(CASES[name])


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal throughout."""
    if dataclasses.is_dataclass(a):
        a, b = vars(a), vars(b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor | np.ndarray | float):
        return bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))
    return bool(a == b)


def test_every_public_function_has_a_case() -> None:
    public = {
        name
        for module in (evaluation, diagnostics)
        for name in module.__all__
        if inspect.isroutine(getattr(module, name)) or inspect.isfunction(getattr(module, name))
    }
    if not find_spec("torchmetrics"):
        public -= {"fid", "kid"}
    assert public - {"train_classifier"} == set(CASES)  # which gives a network


@every
def test_figures_are_the_closed_form_s(name: str) -> None:
    """Within 4.5 of the standard errors they state."""
    case = CASES[name]
    pair = ppca(case.widen)
    found = figures(case, first(name))
    for key, truth in case.truth(pair, pair.sample(N)).items():
        figure = found[key]
        away = figure.value - truth
        errors = [e for e in (figure.standard_error, figure.data_error) if e is not None]
        # One that one run does not tell: the same numbers by hand.
        allowed = 4.5 * max(errors) + 1e-9 if errors else 1e-3 * abs(truth)
        if key in case.one_sided:
            assert figure.bound in ("upper", "lower")
            away = min(away, 0.0) if figure.bound == "upper" else max(away, 0.0)
        assert abs(away) < allowed, (key, figure, truth)


@every
def test_a_figure_is_said_in_one_line(name: str) -> None:
    for figure in figures(CASES[name], first(name)).values():
        assert "\n" not in figure.note
        assert "\n" not in str(figure)
        assert set(figure.as_dict()) == {f.name for f in dataclasses.fields(Estimate)}


@every
def test_a_seed_repeats_it(name: str) -> None:
    assert same(run(CASES[name]), first(name))


@of_pairs
def test_the_plate_may_be_named(name: str) -> None:
    assert same(run(CASES[name], plate="data"), first(name))
    with pytest.raises(ValueError, match="rows") as error:
        run(CASES[name], plate="rows")
    assert "\n" not in str(error.value)


@of_pairs
def test_two_rows_are_enough(name: str) -> None:
    case = CASES[name]
    for figure in figures(case, run(case, 2)).values():
        assert math.isfinite(figure.value)


@of_pairs
def test_nothing_is_left_behind(name: str) -> None:
    """No gradient, no mode, no parameter in the store, no change of a weight."""
    case = CASES[name]
    pair = ppca(case.widen)
    model, guide = Model(pair), Guide(pair)
    guide.dropout.eval()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (model, guide)]
    result = case.run(model, guide, pair.sample(12))
    assert torch.is_grad_enabled()
    assert (model.training, model.dropout.training) == (True, True)
    assert (guide.training, guide.dropout.training) == (True, False)
    assert not list(pyro.get_param_store())
    for module, state in zip((model, guide), before, strict=True):
        assert all(parameter.grad is None for parameter in module.parameters())
        assert all(parameter.requires_grad for parameter in module.parameters())
        assert same(dict(module.state_dict()), state)
    tensors = result if isinstance(result, dict) else getattr(result, "__dict__", {"": result})
    assert not any(isinstance(t, Tensor) and t.requires_grad for t in tensors.values())
