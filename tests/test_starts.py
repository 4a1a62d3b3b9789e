"""scale="auto": a lambda from the sizes of x and z."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from gaussians import standard
from probe import data as few
from probe import guide as narrow
from pyro import poutine
from pyro.infer import SVI
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

import ppl_vae
from ppl_vae import fit
from ppl_vae.cli.main import main
from ppl_vae.objectives import (
    IMQ,
    MMD,
    RBF,
    WAE,
    Adversarial,
    AggregateKL,
    AggregatePosterior,
    CramerWold,
    Divergence,
    Energy,
    FourierMMD,
    InfoVAE,
    Linear,
    Memory,
    Sinkhorn,
    SlicedWasserstein,
    Stein,
)
from ppl_vae.training.run import Run

pytestmark = pytest.mark.usefixtures("unpainted")


def half_normal(power: float, dim: int) -> float:
    """E |theta_1|^p over the unit sphere, by its density (1 - t^2)^((d - 3) / 2)."""
    weigh = lambda t: (1 - t * t) ** ((dim - 3) / 2)  # noqa: E731
    return quad(lambda t: abs(t) ** power * weigh(t), -1, 1)[0] / quad(weigh, -1, 1)[0]


def ratio(f: Callable[[float], float]) -> float:
    """E_q f(p / q) of p = N(0, 1) and q = N(1, 1), by quadrature."""
    return quad(lambda z: norm.pdf(z - 1) * f(math.exp(0.5 - z)), -9, 11, epsabs=1e-12)[0]


def average(values: Callable[[Tensor], Tensor], dim: int, variance: float) -> float:
    """Of N(e_1, v I) less that of N(0, v I), by quadrature over e_1 and |rest|."""
    x, wx = np.polynomial.hermite_e.hermegauss(80)
    root, rest = math.sqrt(variance), np.linspace(0, 12, 4001)
    chi = rest ** (dim - 2) * np.exp(-(rest**2) / 2)
    chi /= chi.sum()
    r2 = lambda m: (m + root * x[:, None]) ** 2 + variance * rest**2  # noqa: E731
    shifted, centred = (values(torch.tensor(r2(m))).numpy() for m in (1.0, 0.0))
    return float(wx @ (shifted - centred) @ chi) / math.sqrt(2 * math.pi)


D = 6
KNOWN: dict[str, tuple[Divergence, float]] = {
    "RBF": (MMD(), -2 * average(lambda r2: torch.exp(-r2 / (2 * D)), D, 2.0)),
    "IMQ": (MMD(IMQ()), -2 * average(lambda r2: 2 * D / (2 * D + r2), D, 2.0)),
    "Fourier": (FourierMMD(), MMD().of_unit_shift(D) or 0.0),
    "median": (MMD(RBF("median")), MMD().of_unit_shift(D) or 0.0),
    "energy": (Energy(), 2 * average(torch.sqrt, D, 2.0)),
    "sliced": (SlicedWasserstein(), half_normal(2.0, D)),
    "sliced, p = 1": (SlicedWasserstein(power=1), half_normal(1.0, D)),
    "aggregate KL": (AggregateKL(), 0.5),
    "memory": (Memory(AggregateKL()), 0.5),
    "JS": (
        Adversarial(bound="JS"),
        ratio(lambda u: 0.5 * u * math.log(u) - 0.5 * (u + 1) * math.log((u + 1) / 2)),
    ),
    "KL": (Adversarial(bound="KL"), 0.5),
    "reverse KL": (Adversarial(bound="reverse KL"), 0.5),
    "chi-squared": (Adversarial(bound="chi-squared"), math.e - 1),
    "Hellinger": (Adversarial(bound="Hellinger"), 2 * (1 - math.exp(-1 / 8))),
    "WGAN-GP": (Adversarial(bound="WGAN-GP"), 1.0),
}
"""The cost of moving all codes by one, by hand or by quadrature."""


@pytest.mark.parametrize("name", KNOWN)
def test_the_cost_of_a_unit_shift(name: str) -> None:
    divergence, expected = KNOWN[name]
    assert divergence.of_unit_shift(D) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.3, "silverman"])
def test_the_cost_of_a_unit_shift_under_cramer_wold(gamma: float | str) -> None:
    """By the definition: smoothed projections, their squared distance, over directions."""
    smooth = 0.3 if gamma == 0.3 else 0.0
    v = 2 + 2 * smooth

    def distance(t: float) -> float:
        return 2 * (norm.pdf(0, scale=math.sqrt(v)) - norm.pdf(t, scale=math.sqrt(v)))

    density = lambda t: (1 - t * t) ** ((D - 3) / 2)  # noqa: E731
    mean = quad(lambda t: distance(t) * density(t), -1, 1)[0] / quad(density, -1, 1)[0]
    found = CramerWold(gamma).of_unit_shift(D)  # type: ignore[arg-type]
    assert found == pytest.approx(mean, rel=1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("dim", [1, 3, 12])
@pytest.mark.parametrize(
    "divergence", [MMD(), MMD(IMQ()), Energy(), CramerWold(0.3)], ids=lambda d: type(d).__name__
)
def test_the_cost_is_the_divergence_s_own(divergence: Divergence, dim: int) -> None:
    """Of two data whose q(z | x) is N(m, I), all in closed form."""
    shift = torch.full((2, dim), dim**-0.5)
    q = dist.Normal(shift, torch.ones(2, dim)).to_event(1)
    value = float(divergence(AggregatePosterior.of(q, standard(dim))))
    assert divergence.of_unit_shift(dim) == pytest.approx(value, rel=2e-3)


@pytest.mark.usefixtures("double")
def test_stein_s_cost_is_the_work_of_its_direction() -> None:
    """The pull on all means, averaged over the way from 0 to 1; its value is twice as large."""
    shift = torch.full((D,), D**-0.5)
    way, weights = np.polynomial.legendre.leggauss(2)  # the pull grows as a line
    pulls = []
    torch.manual_seed(0)
    for _ in range(400):
        codes, total = torch.randn(64, D), torch.zeros(())
        for t, w in zip((way + 1) / 2, weights / 2, strict=True):
            z = (codes + t * shift).requires_grad_()
            (pull,) = torch.autograd.grad(Stein()(AggregatePosterior.of(z, standard(D))), z)
            total = total + w * (pull.sum(0) @ shift)
        pulls.append(total)
    found = torch.stack(pulls)
    error = found.std() / math.sqrt(len(found))
    assert abs(float(found.mean()) - Stein().of_unit_shift(D)) < 4.5 * error
    assert error < 0.1 * found.mean()


@pytest.mark.skipif(not find_spec("geomloss"), reason="geomloss is an extra")
@pytest.mark.usefixtures("double")
def test_sinkhorn_adds_half_the_square_of_a_shift() -> None:
    torch.manual_seed(0)
    codes, draws = torch.randn(2, 30, D)
    codes = codes - codes.mean(0) + draws.mean(0)  # else the shift meets their difference
    shift = torch.full((D,), D**-0.5)
    sinkhorn = Sinkhorn(scaling=0.9, diameter=10.0)
    here, there = (
        float(sinkhorn(AggregatePosterior.of(z, draws))) for z in (codes, codes + shift)
    )
    assert there - here == pytest.approx(0.5, rel=1e-4)
    assert sinkhorn.of_unit_shift(D) == 0.5
    with pytest.raises(ValueError, match=r"scale='auto'.*Sinkhorn.*give scale a number"):
        InfoVAE(Sinkhorn(power=1), scale="auto")


def images(n: int, size: int | None = None, mask: bool = False) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", n, subsample_size=size), poutine.mask(mask=_kept(x, mask)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            loc = z.sum(-1)[..., None, None].expand(-1, 4, 5)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(2), obs=x)

    return model


def reader(n: int, size: int | None = None, mask: bool = False) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", n, subsample_size=size), poutine.mask(mask=_kept(x, mask)):
            pyro.sample("z", dist.Normal(x[:, 0, :3] / 2, 0.5).to_event(1))

    return guide


def _kept(x: Tensor, mask: bool) -> Tensor:
    return torch.arange(len(x)) % 2 == 0 if mask else torch.ones(len(x), dtype=torch.bool)


@pytest.mark.parametrize(
    ("n", "size", "mask"), [(6, None, False), (60, 6, False), (6, None, True)]
)
def test_lambda_is_the_number_of_pixels(n: int, size: int | None, mask: bool) -> None:
    x = torch.randn(6, 4, 5)
    for make in (
        lambda: InfoVAE(MMD(), scale="auto"),
        lambda: WAE(MMD(), scale="auto"),
        lambda: InfoVAE(sites={"z": (MMD(), "auto")}),
    ):
        objective = make()
        objective.differentiable_loss(images(n, size, mask), reader(n, size, mask), x)
        assert objective.scales == {"z": 20.0}
        assert objective.terms["scale/z"] == 20.0
    both = {"by hand": InfoVAE(MMD(), scale=20.0), "auto": InfoVAE(MMD(), scale="auto")}
    losses = []
    for objective in both.values():
        pyro.set_rng_seed(1)
        losses.append(
            objective.differentiable_loss(images(n, size, mask), reader(n, size, mask), x)
        )
    torch.testing.assert_close(*losses)


def test_every_divergence_asks_the_same_price() -> None:
    """lambda c(d), in nats."""
    x = torch.randn(6, 4, 5)
    for divergence in (MMD(), Energy(), SlicedWasserstein(), Stein()):
        objective = InfoVAE(divergence, scale="auto")
        objective.loss(images(6), reader(6), x)
        price = objective.scales["z"] * (divergence.of_unit_shift(3) or math.nan)
        exact = 20 * 2 * (3 / 5) ** 1.5 * (1 - math.exp(-1 / 10))
        assert price == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("bound", ["JS", "reverse KL"])
@pytest.mark.parametrize("dim", [2, 5])
def test_a_critic_s_price_is_of_the_numbers_alone(bound: str, dim: int) -> None:
    """lambda = D / 64 for Jensen-Shannon at any d, and the same nats for another bound."""
    critic = Adversarial(dim=dim, bound=bound)  # type: ignore[arg-type]
    x = torch.randn(6, 32)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(32), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :dim], 1.0).to_event(1))

    objective = InfoVAE(critic, scale="auto")
    objective.loss(model, guide, x)
    js, own = KNOWN["JS"][1], KNOWN[bound][1]
    assert objective.scales["z"] == pytest.approx(32 / 64 * js / own, rel=1e-6)
    remembered = InfoVAE(Memory(Adversarial(dim=dim, bound=bound), 4), scale="auto")  # type: ignore[arg-type]
    remembered.loss(model, guide, x)
    assert remembered.scales == objective.scales


def test_a_value_once_found_stays() -> None:
    objective = InfoVAE(MMD(), scale="auto")
    svi = SVI(images(6), reader(6), pyro.optim.Adam({"lr": 0.01}), objective)
    svi.step(torch.randn(6, 4, 5))
    assert objective.scale == "auto"
    assert objective.scales == {"z": 20.0}
    objective.loss(_plain, narrow, few())  # two numbers a row
    assert objective.scales == {"z": 20.0}


def _plain(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_numbers_inside_a_row_and_each_joint_its_own() -> None:
    """Users and items: a user has a number for each item, of which a run sees some; a list of
    sites counts as one joint, in the plate that is named."""

    def model(x: Tensor) -> None:
        users = pyro.plate("users", 8, dim=-1)
        items = pyro.plate("items", 50, subsample_size=5, dim=-2)
        with users:
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with items:
            v = pyro.sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with users, items:
            pyro.sample("x", dist.Normal((u * v).sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.param("a", torch.zeros(8, 2))
        b = pyro.param("b", torch.zeros(50, 1, 2))
        with pyro.plate("users", 8, dim=-1):
            pyro.sample("u", dist.Normal(a, 0.5).to_event(1))
        with pyro.plate("items", 50, subsample_size=5, dim=-2) as i:
            pyro.sample("v", dist.Normal(b[i], 0.5).to_event(1))

    objective = InfoVAE(sites={"u": (MMD(), "auto"), "v": (MMD(), "auto")})
    objective.differentiable_loss(model, guide, torch.randn(5, 8))
    assert objective.scales == {"u": 50.0, "v": 8.0}


def test_observations_outside_the_rows_own_plate() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("topics", 4):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + w.mean(0), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("topics", 4):
            pyro.sample("w", dist.Normal(torch.zeros(2), 0.5).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5).to_event(1))

    objective = InfoVAE(MMD(), scale="auto", sites=["w"], plate="topics")
    objective.loss(model, guide, torch.randn(6, 2))
    assert objective.scales == {"w": 3.0}  # 12 numbers over 4 rows


def test_refused_where_there_is_nothing_to_go_by() -> None:
    class Moments(Divergence):
        def forward(self, q: AggregatePosterior) -> Tensor:
            return q.codes.square().mean()

    with pytest.raises(ValueError, match=r"Moments.*give scale a number"):
        InfoVAE(Moments(), scale="auto")
    with pytest.raises(ValueError, match="'auto' needs a divergence"):
        InfoVAE(scale="auto")
    with pytest.raises(ValueError, match="scale='large': use 'auto'"):
        InfoVAE(MMD(), scale="large")  # type: ignore[arg-type]

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("x", -(z - x).square().sum(-1))

    with pytest.raises(ValueError, match="nothing is observed but factors"):
        InfoVAE(MMD(), scale="auto").loss(model, narrow, few())
    with pytest.raises(ValueError, match="add up to less than 1"):  # .002 of 2 numbers
        InfoVAE(Adversarial(dim=2, bound="chi-squared"), 0.5, "auto").loss(_plain, narrow, few())


def test_with_a_scheduled_alpha() -> None:
    objective = InfoVAE(MMD(), alpha=Linear(0.5, 1.0, over=10), scale="auto")
    assert objective.loss(_plain, narrow, few()) < math.inf
    assert objective.scales == {"z": 2.0}


def test_it_is_said_and_saved(tmp_path: Path) -> None:
    objective = InfoVAE(MMD(), scale="auto")
    assert "lambda of z 2;" in str(
        ppl_vae.read(_plain, narrow, few(), objectives={"a": objective})
    )
    history = fit(_plain, narrow, few(), objective, epochs=1, out=tmp_path / "run")
    assert history.last["scale/z"] == 2
    assert Run(tmp_path / "run").config["scale"] == {"z": 2.0}


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default, by a flag and for sites; the run's configuration holds the number."""
    run = str(tmp_path / "run")
    flags = ["--likelihood.body.hidden", "[8]", "--encoder.body.hidden", "[8]", "--epochs", "1"]
    assert main(["fit", *flags, "--out", run]) == 0
    assert Run(run).config["objective"]["init_args"]["scale"] == 64.0
    of_energy = ["--objective.divergence", "energy", "--dim", "3"]
    assert main(["fit", *of_energy, *flags, "--out", f"{run}e"]) == 0
    energy = Run(f"{run}e").config["objective"]["init_args"]["scale"]
    expected = 64 * (MMD().of_unit_shift(3) or 0) / (Energy().of_unit_shift(3) or 1)
    assert energy == pytest.approx(expected)
    sites = tmp_path / "sites.yaml"
    objective = {"class_path": "InfoVAE", "init_args": {"sites": {"z": ["MMD", "auto"]}}}
    objective["init_args"]["divergence"] = None
    sites.write_text(yaml.safe_dump({"objective": objective}))
    assert main(["fit", "--config", str(sites), *flags, "--out", f"{run}s"]) == 0
    assert Run(f"{run}s").config["objective"]["init_args"]["sites"]["z"][1] == 64.0
    assert main(["evaluate", f"{run}s", "--quick"]) == 0
    capsys.readouterr()
    assert main(["show", "--dim", "3"]) == 0
    assert "lambda of z 64" in capsys.readouterr().out
