"""The importance-weighted bound against exact values, and its two gradients."""

import math
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, gradients
from ppca import PPCA
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormalMessenger
from torch import Tensor

from ppl_vae.objectives import IWAE

pytestmark = pytest.mark.usefixtures("double")

GLOBAL = ("global_and_local", "auto_globals", "pyro_modules")
WAYS: dict[str, dict[str, Any]] = {
    "loop": {"vectorize_particles": False},
    "vectorised": {"vectorize_particles": True, "max_plate_nesting": 1},
}


@pytest.mark.parametrize("name", PAIRS)
def test_one_particle_is_the_elbo(name: str) -> None:
    pair = PAIRS[name]()
    ours, theirs = IWAE(1, **pair.keywords), Trace_ELBO()
    theirs.differentiable_loss(pair.model, pair.guide, *pair.args)  # fills the parameter store
    found = []
    for objective in (ours, theirs):
        pyro.set_rng_seed(3)

        def loss(objective: Any = objective) -> Tensor:
            return objective.differentiable_loss(pair.model, pair.guide, *pair.args)

        found.append(gradients(loss))
    (value, grads), (expected, expected_grads) = found
    assert value == pytest.approx(expected, rel=1e-10)
    for parameter, gradient in expected_grads.items():
        torch.testing.assert_close(grads[parameter], gradient, rtol=1e-8, atol=1e-10)


# Values: with the exact posterior as guide every weight is p(x), whatever is drawn.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gradient", ["pathwise", "dreg"])
def test_exact_for_the_exact_guide(way: str, gradient: Any) -> None:
    pair = PPCA.make()
    x = pair.sample(6)
    objective = IWAE(3, gradient=gradient, **WAYS[way])
    exact = -pair.log_likelihood(x)
    assert objective.loss(pair.model, pair.guide, x) == pytest.approx(float(exact.sum()))
    assert float(objective.terms["bound"]) == pytest.approx(float(exact.mean()))

    mask = torch.tensor([True, False, True, True, False, True])
    masked = [poutine.mask(f, mask=mask) for f in (pair.model, pair.guide)]
    assert objective.loss(*masked, x) == pytest.approx(float(exact[mask].sum()))
    assert float(objective.terms["bound"]) == pytest.approx(float(exact[mask].mean()))

    nothing = [poutine.mask(f, mask=torch.zeros(6).bool()) for f in (pair.model, pair.guide)]
    assert objective.loss(*nothing, x) == 0
    assert set(map(float, objective.terms.values())) == {0.0}

    scaled = [poutine.scale(f, scale=0.3) for f in (pair.model, pair.guide)]
    assert objective.loss(*scaled, x) == pytest.approx(0.3 * float(exact.sum()))
    assert float(objective.terms["bound"]) == pytest.approx(float(exact.mean()))


class Subsampled:
    """PPCA whose data plate takes a few rows of all, and remembers which."""

    def __init__(self, pair: PPCA, size: int):
        self.pair, self.size = pair, size
        self.seen: list[Tensor] = []

    def model(self, x: Tensor) -> None:
        pair = self.pair
        with pyro.plate("data", len(x), subsample_size=self.size) as index:
            self.seen.append(index)
            z = pyro.sample("z", dist.Normal(torch.zeros(pair.dim), 1.0).to_event(1))
            loc = z @ pair.weight.T + pair.mean
            pyro.sample("x", dist.Normal(loc, pair.noise).to_event(1), obs=x[index])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=self.size) as index:
            loc = self.pair.codes(x[index])
            pyro.sample("z", dist.MultivariateNormal(loc, self.pair.covariance))


@pytest.mark.parametrize("way", WAYS)
def test_a_thousand_particles(way: str) -> None:
    """Within 0.02 nats of exact log p(x), where one particle is far off."""
    pair = PPCA.make(widen=2.0)
    x = pair.sample(20)
    exact = -float(pair.log_likelihood(x).mean())
    one = sum(IWAE(1).loss(pair.model, pair.guide, x) / 20 for _ in range(50)) / 50
    assert one > exact + 0.1
    many = IWAE(1000, **WAYS[way]).loss(pair.model, pair.guide, x) / 20
    assert many == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("way", WAYS)
def test_a_thousand_particles_of_a_subsample(way: str) -> None:
    """The plate's scale stays outside the logarithm, and all particles see the same rows."""
    pair = Subsampled(PPCA.make(widen=2.0), 5)
    x = pair.pair.sample(20)
    found = IWAE(1000, **WAYS[way]).loss(pair.model, pair.guide, x) / 20
    rows = pair.seen[-1]
    assert all(torch.equal(index, rows) for index in pair.seen[-100:])
    exact = -float(pair.pair.log_likelihood(x[rows]).mean())
    assert found == pytest.approx(exact, abs=0.02)

    renyi = RenyiELBO(alpha=0, num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
    theirs = renyi.loss(pair.model, pair.guide, x) / 20
    exact = -float(pair.pair.log_likelihood(x[pair.seen[-1]]).mean())
    assert abs(theirs - exact) > 0.2  # the scale inside the logarithm


# Gradients. Rows of one datum with parameters of their own give as many independent estimates.

ROWS = 40_000


class Rows:
    """x | z1 ~ N(w z1, 0.5^2), z1 | z2 ~ N(0.8 z2, 0.6^2), z2 ~ N(0, 1), guide in that order.

    With `chain=False` there is z1 alone, standard normal.
    """

    def __init__(self, chain: bool):
        self.chain = chain
        self.x = torch.full((ROWS,), 0.9)
        self.w = torch.full((ROWS,), 1.3, requires_grad=True)
        self.loc = torch.full((ROWS,), -0.3, requires_grad=True)
        self.log_scale = torch.full((ROWS,), -0.4, requires_grad=True)
        self.top = torch.full((ROWS,), 0.1, requires_grad=True)

    @property
    def parameters(self) -> dict[str, Tensor]:
        own = {"w": self.w, "loc": self.loc, "log_scale": self.log_scale}
        return own | ({"top": self.top} if self.chain else {})

    def model(self) -> None:
        with pyro.plate("data", ROWS):
            if self.chain:
                z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
                z1 = pyro.sample("z1", dist.Normal(0.8 * z2, 0.6))
            else:
                z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.w * z1, 0.5), obs=self.x)

    def guide(self) -> None:
        with pyro.plate("data", ROWS):
            loc = self.loc
            if self.chain:
                z2 = pyro.sample("z2", dist.Normal(self.top, 0.7))
                loc = loc + 0.5 * z2 + self.top
            pyro.sample("z1", dist.Normal(loc, self.log_scale.exp()))

    def estimates(self, particles: int, gradient: Any, seed: int) -> dict[str, Tensor]:
        """Of the gradient of one datum's loss, `ROWS` for each parameter."""
        pyro.set_rng_seed(seed)
        objective = IWAE(particles, gradient=gradient, **WAYS["vectorised"])
        loss = objective.differentiable_loss(self.model, self.guide)
        grads = torch.autograd.grad(loss, list(self.parameters.values()))
        return dict(zip(self.parameters, grads, strict=True))


def standard_error(*samples: Tensor) -> float:
    return math.sqrt(sum(float(s.var()) / len(s) for s in samples))


@pytest.mark.parametrize("gradient", ["pathwise", "dreg"])
def test_gradient_at_one_particle_by_hand(gradient: Any) -> None:
    """There the bound is the ELBO, a quadratic form."""
    rows = Rows(chain=False)
    found = rows.estimates(1, gradient, 0)
    w, m, v, x = 1.3, -0.3, math.exp(-0.8), 0.9
    expected = {
        "w": -(x * m - w * (m * m + v)) / 0.25,
        "loc": m - w * (x - w * m) / 0.25,
        "log_scale": v - 1 + w * w * v / 0.25,
    }
    for name, sample in found.items():
        error = 4.5 * standard_error(sample)
        assert error < 0.2 * abs(expected[name])  # a factor 2 would show
        assert float(sample.mean()) == pytest.approx(expected[name], abs=error)


@pytest.mark.parametrize("chain", [False, True], ids=["one site", "chain"])
@pytest.mark.parametrize("particles", [2, 16])
def test_dreg_is_unbiased(chain: bool, particles: int) -> None:
    """The plain estimate is the derivative of an unbiased estimate of the bound."""
    rows = Rows(chain)
    plain, dreg = (rows.estimates(particles, g, i) for i, g in enumerate(["pathwise", "dreg"]))
    sharp: set[str] = set()
    for name in rows.parameters:
        error = 4.5 * standard_error(plain[name], dreg[name])
        expected = float(plain[name].mean())
        assert float(dreg[name].mean()) == pytest.approx(expected, abs=error)
        sharp |= {name} if error < 0.3 * abs(expected) else set()
    assert sharp >= {"loc", "w"}  # where a factor 2 would show


def test_dreg_has_less_variance() -> None:
    rows = Rows(chain=True)
    ratios = []
    for particles in (4, 64):
        plain, dreg = (rows.estimates(particles, g, 0) for g in ("pathwise", "dreg"))
        for name in ("loc", "log_scale", "top"):
            assert float(dreg[name].var()) < 0.7 * float(plain[name].var()), name
        torch.testing.assert_close(dreg["w"], plain["w"])  # the model's gradient is the same
        ratios.append(float(dreg["loc"].var() / plain["loc"].var()))
    assert ratios[1] < ratios[0]  # and the more so with more particles


def test_dreg_is_silent_at_the_exact_guide() -> None:
    """Where log w does not depend on z, nothing is left of the guide's gradient."""
    pair = PPCA.make()
    gain = pair.gain.clone().requires_grad_()
    pair.gain = gain
    x = pair.sample(4)
    largest = {}
    for gradient in ("pathwise", "dreg"):
        loss = IWAE(5, gradient=gradient).differentiable_loss(pair.model, pair.guide, x)  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(loss, gain)
        largest[gradient] = float(grad.abs().max())
    assert largest["dreg"] < 1e-10
    assert largest["pathwise"] > 0.1


# What is outside the data plate


def shared(x: Tensor) -> None:
    mean = pyro.param("mean", torch.tensor(0.3))
    w = pyro.sample("w", dist.Normal(mean, 1.0))
    with pyro.plate("data", x.shape[-1]):
        z = pyro.sample("z", dist.Normal(w, 1.0))
        pyro.sample("x", dist.Normal(z, 2.0), obs=x)


def conjugate(x: Tensor, off: float = 0.0) -> None:
    """The exact posterior: x given w has variance 5. `off` moves it."""
    precision = 1 + x.shape[-1] / 5
    loc = (0.3 + x.sum() / 5) / precision + pyro.param("off", torch.tensor(off))
    w = pyro.sample("w", dist.Normal(loc, precision**-0.5))
    with pyro.plate("data", x.shape[-1]):
        pyro.sample("z", dist.Normal((w + x / 4) / 1.25, 1.25**-0.5))


def only(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.3, 1.0))
    with pyro.plate("data", x.shape[-1]):
        pyro.sample("x", dist.Normal(w, 5**0.5), obs=x)


def posterior(x: Tensor) -> None:
    with pyro.poutine.block(hide=["z", "data"]):
        conjugate(x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gradient", ["pathwise", "dreg"])
def test_a_global_makes_all_data_one_row(way: str, gradient: Any) -> None:
    """The exact guide's weights are all p(x): of pairs with codes by row, and without."""
    x = torch.tensor([0.4, -1.0, 2.2, 0.7])
    cov = 5 * torch.eye(4) + torch.ones(4, 4)
    exact = -float(dist.MultivariateNormal(torch.full((4,), 0.3), cov).log_prob(x))
    for model, guide, data in ((shared, conjugate, 4), (only, posterior, 1)):
        objective = IWAE(3, gradient=gradient, **WAYS[way])
        assert objective.loss(model, guide, x) == pytest.approx(exact)
        assert float(objective.terms["bound"]) == pytest.approx(exact / data)
        if guide is conjugate:
            rates = sum(v for k, v in objective.terms.items() if "bound" not in k)
            assert float(rates) == pytest.approx(exact / 4)


def test_a_global_has_pyros_bound() -> None:
    x = torch.tensor([0.4, -1.0, 2.2, 0.7])
    found = []
    for objective in (IWAE(5, vectorize_particles=False), RenyiELBO(alpha=0, num_particles=5)):
        pyro.clear_param_store()
        pyro.set_rng_seed(2)
        conjugate(x, 0.8)
        pyro.set_rng_seed(2)
        found.append(gradients(lambda o=objective: _loss(o, x)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    assert abs(float(found[0][1]["off"])) > 0.1
    for name, slope in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], slope, rtol=1e-8, atol=1e-10)


def test_dreg_with_a_global_is_unbiased() -> None:
    x, slopes = torch.tensor([0.4, -1.0, 2.2, 0.7]), []
    conjugate(x, 0.8)
    for gradient in ("pathwise", "dreg"):
        objective = IWAE(4, gradient=gradient)  # type: ignore[arg-type]
        draws = [gradients(lambda o=objective: _loss(o, x))[1]["off"] for _ in range(120)]
        slopes.append(torch.stack(draws))
    error = (sum(s.var() for s in slopes) / 120) ** 0.5
    assert (slopes[0].mean() - slopes[1].mean()).abs() < 4.5 * error
    assert slopes[0].mean().abs() > 4.5 * error


def _loss(objective: Any, x: Tensor) -> Tensor:
    if isinstance(objective, IWAE):
        return objective.differentiable_loss(shared, conjugate, x)
    runs = objective._get_traces(shared, conjugate, (x,), {})
    ratios = [p.log_prob_sum() - q.log_prob_sum() for p, q in runs]
    return -(torch.stack(ratios).logsumexp(0) - math.log(len(ratios)))


def test_a_penalty_on_parameters_is_added_once() -> None:
    pair = PPCA.make()
    x = pair.sample(4)

    def model(x: Tensor) -> None:
        pyro.factor("penalty", torch.tensor(-7.0))
        pair.model(x)

    for way in WAYS.values():
        plain = -float(pair.log_likelihood(x).sum())
        assert IWAE(3, **way).loss(model, pair.guide, x) == pytest.approx(plain + 7)


def refuse(model: Any, guide: Any, message: str, *args: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        IWAE(3, **options).differentiable_loss(model, guide, *args)
    assert "\n" not in str(caught.value)


def test_refusals() -> None:
    pair = PPCA.make()
    x = pair.sample(4)

    def tied(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1])
        total = z.sum((-2, -1)) if z.dim() == 2 else z.sum((-2, -1))[:, None]
        pyro.sample("total", dist.Normal(total, 1.0), obs=torch.tensor(0.0))

    for way in WAYS.values():
        refuse(tied, pair.guide, "'total' of the model depends on latent sites but", x, **way)

    def tempered(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, :2])

    refuse(tempered, pair.guide, "site 'x' is scaled unlike 'z'", x)
    refuse(pair.model, AutoNormalMessenger(pair.model), "an AutoGuideMessenger does not", x)
    for name in GLOBAL:
        it = PAIRS[name]()
        scaled = [poutine.scale(p, scale=2.0) for p in (it.model, it.guide)]
        refuse(*scaled, "so all data share one weight, and site .* is scaled", *it.args)

    def batch(program: Any) -> Any:
        def run(x: Tensor) -> None:
            pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 4, subsample_size=2):
                program(x[:2])

        return run

    def code(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    refuse(batch(code), batch(code), "'w' is outside the data plate.*run the plate in full", x)
    with pytest.raises(ValueError, match="use one of pathwise, dreg"):
        IWAE(gradient="rep")  # type: ignore[arg-type]


# Whether particles are drawn in one run.


class Known(torch.nn.Module):
    """A pair whose decoder is given."""

    def __init__(self, decode: Any) -> None:
        super().__init__()
        self.encode, self.decode = torch.nn.Linear(2, 4), decode

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc, raw = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Counted(torch.nn.Module):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        self.calls.add_(1)
        return z


DECODERS: dict[str, tuple[Any, bool]] = {
    "by row": (torch.nn.Linear(2, 2), True),
    "a running buffer": (Counted(), True),
    "of all rows": (lambda z: z - z.mean(0), False),
    "rows by name": (lambda z: z.reshape(5, 2), False),
    "batch normalisation": (torch.nn.BatchNorm1d(2), False),
    "noise of its own": (torch.nn.Dropout(0.5), False),
}


@pytest.mark.parametrize("name", DECODERS)
def test_particles_are_drawn_together_where_a_pair_broadcasts(name: str) -> None:
    """And the noise and the buffers are those of a loss that was told."""
    decode, broadcasts = DECODERS[name]
    torch.manual_seed(0)
    pair, x = Known(decode).double(), torch.randn(5, 2)
    found = []
    for way in ("auto", broadcasts):
        pair.load_state_dict(
            {
                **pair.state_dict(),
                **{key: torch.zeros_like(value) for key, value in pair.named_buffers()},
            }
        )
        objective = IWAE(4, vectorize_particles=way, max_plate_nesting=1)
        torch.manual_seed(1)
        values = [objective.loss(pair.model, pair.guide, x) for _ in range(2)]
        assert objective.vectorize_particles is broadcasts
        found.append([*values, *(b.clone() for b in pair.buffers()), torch.get_rng_state()])
    assert all(torch.as_tensor(a).equal(torch.as_tensor(b)) for a, b in zip(*found, strict=True))


def test_each_pair_is_tried() -> None:
    x = torch.randn(5, 2)
    one, other = Known(torch.nn.Linear(2, 2)).double(), Known(lambda z: z - z.mean(0)).double()
    objective = IWAE(3)
    for pair, together in ((one, True), (other, False), (one, True)):
        objective.loss(pair.model, pair.guide, x)
        assert objective.vectorize_particles is together
    copied = pickle.loads(pickle.dumps(objective))  # with a lambda behind the pair
    copied.loss(other.model, other.guide, x)
    assert copied.vectorize_particles is False


def test_a_way_that_is_none() -> None:
    with pytest.raises(ValueError, match="vectorize_particles='always': use 'auto' or a bool"):
        IWAE(3, vectorize_particles="always")
