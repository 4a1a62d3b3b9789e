"""The penalty of InfoVAE under the transformations that must not change it, or must scale it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from pyro import poutine
from pyro.contrib.gp.kernels import RBF as PyroRBF
from pyro.infer import SVI, Trace_MMD
from torch import Tensor

from ppl_vae.objectives import MMD, RBF, InfoVAE

pytestmark = pytest.mark.usefixtures("double")

N, D = 12, 2
FORMS: dict[str, Callable[[], MMD]] = {
    "sampled": lambda: MMD(RBF(1.5), prior="sampled", noise="sampled"),
    "closed": lambda: MMD(RBF(1.5), prior="closed", noise="sampled"),
    "integrated": lambda: MMD(RBF(1.5), prior="closed", noise="integrated", pairs="all"),
    "shifts": lambda: MMD(RBF(1.5), prior="closed", noise="integrated", pairs=3),
}
form = pytest.mark.parametrize("form", FORMS)


def data(n: int = N) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(5)) + 0.3


def model(x: Tensor, plate: Any = None, **_: Any) -> None:
    with plate() if plate else pyro.plate("data", len(x)) as index:
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[index])


def guide(x: Tensor, plate: Any = None, **_: Any) -> None:
    with plate() if plate else pyro.plate("data", len(x)) as index:
        pyro.sample("z", dist.Normal(0.8 * x[index], 0.4).to_event(1))


def penalty(
    mmd: MMD, model: Any, guide: Any, *args: Any, repeats: int = 1, **options: Any
) -> Tensor:
    """Values of (alpha + lambda - 1) W D alone: the loss less the same loss without it."""
    objective = InfoVAE(mmd, alpha=1, scale=1.0, **options)
    values = []
    with torch.no_grad(), pyro.validation_enabled(repeats == 1):
        for _ in range(repeats):
            loss = objective.differentiable_loss(model, guide, *args)
            total = sum(v for k, v in objective.terms.items() if k.startswith("reconstruction"))
            values.append(loss - N * total)
    return torch.stack(values)


@cache
def whole(form: str) -> Tensor:
    """The penalty of all rows with one particle, which other ways to run it are held against."""
    with torch.random.fork_rng():
        torch.manual_seed(1)  # draws of its own
        return penalty(FORMS[form](), model, guide, data(), repeats=400)


def agree(a: Tensor, b: Tensor) -> None:
    error = (
        (a.var() / len(a) if len(a) > 1 else 0) + (b.var() / len(b) if len(b) > 1 else 0)
    ) ** 0.5
    assert abs(a.mean() - b.mean()) <= 4.5 * error + 1e-9, (a.mean(), b.mean(), error)


@form
def test_subsampling(form: str) -> None:
    """A subsampled plate estimates N D: by half the rows, or all of them."""
    x = data()

    def plate() -> Any:
        return pyro.plate("data", N, subsample_size=6)

    half = penalty(
        FORMS[form](), lambda x: model(x, plate), lambda x: guide(x, plate), x, repeats=700
    )
    agree(whole(form), half)
    # half of it would not agree
    assert abs(whole(form).mean()) > 9 * (half.std() / 700**0.5)


@form
def test_batch_size(form: str) -> None:
    """Rows drawn afresh: the mean per datum does not depend on how many there are."""
    generator = torch.Generator().manual_seed(7)
    means = {}
    for n in (4, 16):
        objective = InfoVAE(FORMS[form](), alpha=1, scale=1.0)
        values = []
        with torch.no_grad(), pyro.validation_enabled(False):
            for _ in range(700 if n == 4 else 300):
                x = torch.randn(n, D, generator=generator) + 0.5
                objective.differentiable_loss(model, guide, x)
                values.append(objective.terms["divergence/z"])
        means[n] = torch.stack(values)
    agree(means[4], means[16])
    assert means[16].mean() > 10 * means[16].std() / 300**0.5


@form
@pytest.mark.parametrize(
    "particles",
    [
        {"num_particles": 4},
        {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 1},
    ],
    ids=["loop", "vectorised"],
)
def test_particles(form: str, particles: dict[str, Any]) -> None:
    four = penalty(FORMS[form](), model, guide, data(), repeats=100, **particles)
    agree(whole(form), four)


@form
def test_scaling_by_c_scales_by_c(form: str) -> None:
    x = data()
    losses = []
    for c in (1.0, 0.01):
        pyro.set_rng_seed(1)
        objective = InfoVAE(FORMS[form](), alpha=0.3, scale=20.0)
        losses.append(
            objective.differentiable_loss(
                poutine.scale(model, scale=c), poutine.scale(guide, scale=c), x
            )
        )
    torch.testing.assert_close(losses[1], 0.01 * losses[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["integrated", "closed"])
def test_masked_row_is_a_dropped_row(form: str) -> None:
    x = data()
    mask = torch.ones(N, dtype=torch.bool)
    mask[[2, 5, 6]] = False

    def masked(fn: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        return poutine.mask(fn, mask=mask)

    def deterministic(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(0.8 * x).to_event(1))

    encoder = guide if form == "integrated" else deterministic
    make = lambda: InfoVAE(FORMS[form](), alpha=1, scale=5.0)  # noqa: E731
    pyro.set_rng_seed(1)
    objective = make()
    objective.differentiable_loss(masked(model), masked(encoder), x)
    kept = make()
    kept.differentiable_loss(model, encoder, x[mask])
    torch.testing.assert_close(objective.terms["divergence/z"], kept.terms["divergence/z"])
    if form == "closed":
        torch.testing.assert_close(
            objective.terms["reconstruction/x"], kept.terms["reconstruction/x"]
        )


def test_masked_row_in_expectation() -> None:
    x = data()
    mask = torch.arange(N) < 8
    drop = penalty(FORMS["shifts"](), model, guide, x[mask], repeats=400)
    keep = penalty(
        FORMS["shifts"](),
        poutine.mask(model, mask=mask),
        poutine.mask(guide, mask=mask),
        x,
        repeats=400,
    )
    # `penalty` takes off N reconstructions; both runs have 8 data.
    objective = InfoVAE(FORMS["shifts"](), alpha=1, scale=1.0)
    objective.differentiable_loss(model, guide, x[mask])
    assert abs(drop.mean() - keep.mean()) < 4.5 * ((drop.var() + keep.var()) / 400) ** 0.5


@form
def test_plate_at_minus_two(form: str) -> None:
    x = data()

    def tall(fn: Callable[..., None]) -> Callable[[Tensor], None]:
        def wrapped(x: Tensor) -> None:
            fn(x[:, None], plate=lambda: pyro.plate("data", N, dim=-2))

        return wrapped

    low, high = [], []
    for repeat in range(5):
        for values, m, g in ((low, model, guide), (high, tall(model), tall(guide))):
            pyro.set_rng_seed(repeat)
            objective = InfoVAE(FORMS[form](), alpha=1, scale=1.0)
            values.append(objective.differentiable_loss(m, g, x).detach())
    torch.testing.assert_close(torch.stack(low), torch.stack(high))


def test_vectorised_particles_share_their_conditional() -> None:
    """With nothing sampled in the penalty, one particle and five vectorised give one value."""
    values = [
        penalty(FORMS["integrated"](), model, guide, data(), **particles)
        for particles in (
            {},
            {"num_particles": 5, "vectorize_particles": True, "max_plate_nesting": 1},
        )
    ]
    torch.testing.assert_close(values[0], values[1])


def test_lambda_is_in_nats_per_datum() -> None:
    """The loss moves by N times D for each unit of scale."""
    x = data()
    losses = []
    for scale in (1.0, 2.0):
        pyro.set_rng_seed(0)
        objective = InfoVAE(FORMS["integrated"](), alpha=1, scale=scale)
        losses.append(objective.differentiable_loss(model, guide, x).detach())
    torch.testing.assert_close(losses[1] - losses[0], N * objective.terms["divergence/z"])


@pytest.mark.filterwarnings("ignore:Encountered")
def test_trace_mmd_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """A tight guide whose aggregate is the prior: Pyro's penalty grows with tightness, ours is 0.

    Trace_MMD compares the draws of all data with the prior as one vector, so that it asks
    q(z|x) = p(z) of every x.
    """
    n, repeats = 100, 100
    generator = torch.Generator().manual_seed(0)
    theirs, ours, error = {}, {}, {}

    def model(x: Tensor, sd: float) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    def guide(x: Tensor, sd: float) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((1 - sd**2) ** 0.5 * x, sd).to_event(1))

    for name, sd in (("loose", 0.95), ("tight", 0.1)):
        theirs[name] = float(
            Trace_MMD(
                kernel=PyroRBF(n, lengthscale=torch.tensor(n**0.5)),
                num_particles=200,
                vectorize_particles=True,
                max_plate_nesting=1,
            ).loss(model, guide, torch.randn(n, 1, generator=generator), sd)
        )
        objective = InfoVAE(
            MMD(RBF(1.0), prior="sampled", noise="sampled"), alpha=1, scale=1.0, plate="data"
        )
        values = []
        for _ in range(repeats):
            objective.differentiable_loss(model, guide, torch.randn(n, 1, generator=generator), sd)
            values.append(objective.terms["divergence/z"])
        ours[name] = torch.stack(values).mean().item()
        error[name] = torch.stack(values).std().item() / repeats**0.5
    with capsys.disabled():
        print(f"\n  Trace_MMD, loose and tight: {theirs['loose']:.3f}, {theirs['tight']:.3f}")
        print(f"  ours: {ours['loose']:.5f}, {ours['tight']:.5f} (+- {error['tight']:.5f})")
    assert theirs["tight"] > 2 * theirs["loose"]
    for name in ours:
        assert abs(ours[name]) < 4.5 * error[name]


@pytest.mark.parametrize("name", PAIRS)
def test_every_shape_trains(name: str) -> None:
    """alpha = 1 over the matrix: a finite loss, and gradients wherever the ELBO's reach."""
    pair = PAIRS[name]()
    objective = InfoVAE(MMD(), alpha=1, scale=10.0, **pair.keywords)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
    svi.step(*pair.args)
    store = pyro.get_param_store()
    start = {key: value.detach().clone() for key, value in store.items()}
    for _ in range(3):
        assert abs(svi.step(*pair.args)) < float("inf")
    unused = {key for key in start if torch.equal(start[key], store[key])}
    # At alpha = 1 the chain's prior on z1 enters through the comparison alone, and still trains.
    assert not unused
