"""Enumerated guide sites: exact expectations in every term, weighted rows in the divergence."""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import Pair, gradients
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from syncs import no_waiting
from torch import Tensor

from ppl_vae.objectives import MMD, RBF, WAE, BetaVAE, Divergence, InfoVAE, MutualAutoencoder
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.joint import aggregate_posteriors
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.tcvae import TCVAE
from ppl_vae.program.running import read

N, D, K = 5, 2, 3
ENUMERATE = {"enumerate": "parallel"}


def _x() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1)).to(
        torch.get_default_dtype()
    )


def _param(name: str, *shape: int) -> Tensor:
    size = torch.Size(shape).numel()
    return pyro.param(name, torch.linspace(-0.6, 0.9, size).reshape(shape))


def _prior(loc: Tensor) -> Any:
    # Without a closed-form KL: the log-ratio is sampled, as TraceEnum_ELBO's is.
    return dist.StudentT(5.0, loc, 1.0).to_event(1)


def mixture(prior: Callable[[Tensor], Any] = _prior) -> Pair:
    """y -> z -> x, and y -> x; q(y | x) q(z | x, y)."""

    def model(x: Tensor) -> None:
        means, w = _param("means", K, D), _param("w", D)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=_param("prior", K)))
            z = pyro.sample("z", prior(means[y]))
            pyro.sample("x", dist.Normal(w * z + means[y], 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        a, b = _param("a", D), _param("b", K, D)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=x @ b.T), infer=ENUMERATE)
            pyro.sample("z", dist.Normal(a * x + b[y], 0.5).to_event(1))

    return Pair(model, guide, (_x(),), local=("y", "z"))


def one_hot() -> Pair:
    def model(x: Tensor) -> None:
        means = _param("means", K, D)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=_param("prior", K)))
            z = pyro.sample("z", _prior(torch.zeros(D)))
            pyro.sample("x", dist.Normal(z + y @ means, 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        a, b = _param("a", D), _param("b", K, D)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a * x, 0.5).to_event(1))
            pyro.sample("y", dist.OneHotCategorical(logits=x @ b.T), infer=ENUMERATE)

    return Pair(model, guide, (_x(),), local=("y", "z"))


def two_sites() -> Pair:
    """u -> y -> z -> x: a chain of two enumerated sites, the second's terms hang on both."""

    def model(x: Tensor) -> None:
        means = _param("means", K, D)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Bernoulli(0.3))
            y = pyro.sample("y", dist.Categorical(logits=u[..., None] * _param("prior", K)))
            z = pyro.sample("z", _prior(means[y]))
            pyro.sample("x", dist.Normal(z, 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        a, b = _param("a", D), _param("b", K, D)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Bernoulli(logits=x @ a), infer=ENUMERATE)
            logits = x @ b.T + u[..., None] * _param("c", K)
            y = pyro.sample("y", dist.Categorical(logits=logits), infer=ENUMERATE)
            pyro.sample("z", dist.Normal(a * x + b[y], 0.5).to_event(1))

    return Pair(model, guide, (_x(),), local=("u", "y", "z"))


def discrete_alone() -> Pair:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=_param("prior", K)))
            pyro.sample("x", dist.Normal(_param("means", K, D)[y], 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = x @ _param("b", K, D).T
            pyro.sample("y", dist.Categorical(logits=logits), infer=ENUMERATE)

    return Pair(model, guide, (_x(),), local=("y",))


def global_site() -> Pair:
    def model(x: Tensor) -> None:
        k = pyro.sample("k", dist.Categorical(logits=_param("prior", K)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _prior(_param("means", K, D)[k]))
            pyro.sample("x", dist.Normal(z, 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("k", dist.Categorical(logits=_param("c", K)), infer=ENUMERATE)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(_param("a", D) * x, 0.5).to_event(1))

    return Pair(model, guide, (_x(),))


def nested() -> Pair:
    """A class of each datum, and one of each entry of an inner plate given it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            y = pyro.sample("y", dist.Bernoulli(0.3))
            with pyro.plate("time", D, dim=-1):
                u = pyro.sample("u", dist.Bernoulli(logits=y + _param("v", D)))
                pyro.sample("x", dist.Normal(u + _param("w", 1) * y, 0.7), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            logits = (x @ _param("a", D))[:, None]
            y = pyro.sample("y", dist.Bernoulli(logits=logits), infer=ENUMERATE)
            with pyro.plate("time", D, dim=-1):
                pyro.sample("u", dist.Bernoulli(logits=x + y), infer=ENUMERATE)

    return Pair(model, guide, (_x(),), keywords={"max_plate_nesting": 2})


def scaled_and_masked() -> Pair:
    pair = mixture()
    mask = torch.tensor([True, False, True, True, False])
    return Pair(
        *(poutine.scale(poutine.mask(f, mask=mask), scale=0.3) for f in (pair.model, pair.guide)),
        pair.args,
    )


def subsampled() -> Pair:
    pair = one_hot()

    def cut(f: Callable[..., None]) -> Callable[..., None]:
        def part(x: Tensor) -> None:
            with poutine.scale(scale=2.5):
                f(x[1:3])

        return part

    return Pair(cut(pair.model), cut(pair.guide), pair.args)


BUILDERS = {
    f.__name__: f
    for f in (
        mixture,
        one_hot,
        two_sites,
        discrete_alone,
        global_site,
        nested,
        scaled_and_masked,
        subsampled,
    )
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "particles",
    [
        {"num_particles": 1},
        {"num_particles": 3},
        {"num_particles": 3, "vectorize_particles": True},
    ],
    ids=["one", "loop", "vectorised"],
)
@pytest.mark.parametrize("name", BUILDERS)
def test_equals_trace_enum_elbo(name: str, particles: dict[str, Any]) -> None:
    pair = BUILDERS[name]()
    options = {"max_plate_nesting": 1} | pair.keywords | particles
    theirs, ours = TraceEnum_ELBO(**options), BetaVAE(**options)
    theirs.differentiable_loss(pair.model, pair.guide, *pair.args)  # fills the parameter store
    results = []
    for objective in (theirs, ours):
        pyro.set_rng_seed(3)
        results.append(
            gradients(
                lambda objective=objective: objective.differentiable_loss(
                    pair.model, pair.guide, *pair.args
                )
            )
        )
    (expected, expected_grads), (value, grads) = results
    assert value == pytest.approx(expected, rel=1e-8)
    assert grads.keys() == expected_grads.keys()
    for parameter, gradient in expected_grads.items():
        assert name == "global_site" or gradient.abs().max() > 1e-3
        torch.testing.assert_close(grads[parameter], gradient, rtol=1e-8, atol=1e-10)


def test_the_nesting_is_found() -> None:
    pair = nested()
    objective = BetaVAE()
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    assert objective.max_plate_nesting == 2
    expected = TraceEnum_ELBO(max_plate_nesting=2).loss(pair.model, pair.guide, *pair.args)
    assert objective.loss(pair.model, pair.guide, *pair.args) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("double")
def test_closed_forms_are_kept() -> None:
    """The KL of z given y in closed form, weighted: the mean of what TraceEnum_ELBO samples."""
    pair = mixture(lambda loc: dist.Normal(loc, 1.0).to_event(1))
    ours, theirs = BetaVAE(max_plate_nesting=1), TraceEnum_ELBO(max_plate_nesting=1)
    losses = []
    for objective in (ours, theirs):
        losses.append(
            torch.tensor([objective.loss(pair.model, pair.guide, *pair.args) for _ in range(150)])
        )
    error = ((losses[0].var() + losses[1].var()) / 150) ** 0.5
    assert abs(losses[0].mean() - losses[1].mean()) < 4.5 * error
    rates = set()
    for _ in range(2):
        ours.loss(pair.model, pair.guide, *pair.args)
        rates.add((float(ours.terms["rate/y"]), float(ours.terms["rate/z"])))
    assert len(rates) == 1  # nothing in them is drawn


# The aggregate posterior. Data are one of two values, so that expectations over batches of two
# are sums over four, and q(z) is a mixture of 2 K normals.

SD = 0.5
MMD_OF = {
    "all pairs": lambda: MMD(RBF(1.2), prior="closed", noise="integrated", pairs="all"),
    "shifts": lambda: MMD(RBF(1.2), prior="closed", noise="integrated", pairs=2),
    "sampled": lambda: MMD(RBF(1.2), prior="sampled", noise="sampled"),
}


def _logits(x: Tensor) -> Tensor:
    return x @ pyro.param("b", torch.tensor([[0.5, -0.3, 1.0]]))


def _means(x: Tensor, y: Tensor) -> Tensor:
    return x * torch.tensor([[-0.5, 1.0]]) + y @ torch.tensor(
        [[1.5, 0.0], [0.0, -1.0], [0.3, 0.8]]
    )


def pair_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((z + y[..., :2]).sum(-1, True), 1.0).to_event(1), obs=x)


def pair_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.OneHotCategorical(logits=_logits(x)), infer=ENUMERATE)
        pyro.sample("z", dist.Normal(_means(x, y), SD).to_event(1))


def both() -> Tensor:
    return torch.tensor([[-1.0], [1.0]])


def population(joint: bool) -> Tensor:
    """MMD^2 of q(z), or of q(y, z), against the prior, for the kernel with h = 1.2."""
    h2 = 1.2**2
    eye = torch.eye(K)
    x = both().repeat_interleave(K, 0)
    q = _logits(both()).softmax(-1).flatten() / 2
    ys, means = eye.repeat(2, 1), _means(x, eye.repeat(2, 1))
    p, zeros = torch.tensor([0.2, 0.3, 0.5]), torch.zeros(K, 2)

    def mean(a: Tensor, ya: Tensor, ma: Tensor, va: float, *other: Any) -> Tensor:
        b, yb, mb, vb = other
        s = h2 + va + vb
        k = h2 / s * torch.exp(-torch.cdist(ma, mb).square() / (2 * s))
        if joint:
            k = k * torch.exp(-torch.cdist(ya, yb).square() / (2 * h2))
        return a @ k @ b

    ours, theirs = (q, ys, means, SD**2), (p, eye, zeros, 1.0)
    return mean(*ours, *ours) - 2 * mean(*ours, *theirs) + mean(*theirs, *theirs)


def batches(objective: InfoVAE) -> list[Tensor]:
    """The loss over the four batches of two data."""
    pick = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    return [objective.differentiable_loss(pair_model, pair_guide, both()[i]) for i in pick]


@pytest.mark.usefixtures("double")
def test_the_divergence_is_unbiased_exactly() -> None:
    """W D over all batches is W times the population's, value and gradient."""
    pyro.param("b", torch.tensor([[0.5, -0.3, 1.0]]))
    expected, expected_grads = gradients(lambda: population(joint=False))

    def penalty() -> Tensor:
        divergence, total = MMD_OF["all pairs"](), []
        for d, scale in ((divergence, 2.0), (None, 0.0)):
            objective = InfoVAE(d, scale=scale, sites=["z"])
            pyro.set_rng_seed(2)
            total.append(torch.stack(batches(objective)).mean())
        return (total[0] - total[1]) / 4  # the coefficient is 2, and so is W

    value, grads = gradients(penalty)
    assert value == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(grads["b"], expected_grads["b"], rtol=1e-8, atol=1e-12)
    assert grads["b"].abs().min() > 1e-3


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("form", "sites"), [("shifts", ["z"]), ("sampled", ["z"]), ("sampled", ["y", "z"])]
)
def test_the_divergence_is_unbiased(form: str, sites: list[str]) -> None:
    repeats = 100
    objective = InfoVAE(MMD_OF[form](), scale=2.0, sites=sites, max_plate_nesting=1)
    values = torch.empty(repeats, 4)
    with torch.no_grad():
        for value in values.flatten().split(1):
            i = value.storage_offset() % 4
            objective.differentiable_loss(pair_model, pair_guide, both()[[i // 2, i % 2]])
            value.copy_(objective.terms[f"divergence/{'+'.join(sites)}"])
        expected = population(joint=len(sites) == 2)
    # Shifts of two data are all their pairs: no more than rounding is left.
    error = (values.var(0).sum() / repeats).sqrt() / 4 + 1e-12
    assert abs(values.mean() - expected) < 4.5 * error
    assert expected > 9 * error  # twice or half of it would not pass


def rows(pair: Pair, sites: list[str] | None = None) -> AggregatePosterior:
    reading = read(pair.model, pair.guide, pair.args, max_plate_nesting=1)
    (q,) = aggregate_posteriors(reading, sites)
    return q


def test_rows_weights_and_groups() -> None:
    x = _x()
    q = rows(Pair(pair_model, pair_guide, (x[:, :1],)), ["z"])
    probability = _logits(x[:, :1]).softmax(-1)
    assert len(q) == N * K
    torch.testing.assert_close(q.weights, probability.T.flatten())
    assert q.groups is not None
    assert q.groups.tolist() == [*range(N)] * K
    assert q.size == N
    assert q.prior_draws().shape == (N * K, 2)
    assert q.prior_draws(4).shape == (4, 2)
    assert q.conditional is not None
    torch.testing.assert_close(q.conditional.mean[N : 2 * N], _means(x[:, :1], torch.eye(K)[1]))


def test_a_prior_given_the_class_is_drawn_ancestrally() -> None:
    """Codes of y, z with z ~ p(z | y): prior draws of as many classes as the prior has."""
    q = rows(mixture())
    draws = q.prior_draws(4000)
    assert draws.shape == (4000, 1 + D)
    share = torch.bincount(draws[:, 0].long(), minlength=K) / 4000
    expected = pyro.param("prior").softmax(-1)
    assert ((share - expected).abs() < 4.5 * (expected / 4000).sqrt()).all()
    assert q.codes[:, 0].tolist() == [k for k in range(K) for _ in range(N)]


def test_a_class_of_probability_one_is_no_enumeration() -> None:
    """A point mass leaves one row of each datum: the loss of a pair that knows the class."""
    x = both().repeat(3, 1)
    label = torch.tensor([0, 1, 2, 2, 1, 0])
    one_hot = torch.eye(K)[label]

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = (one_hot - 1) * 1e4
            y = pyro.sample("y", dist.OneHotCategorical(logits=logits), infer=ENUMERATE)
            pyro.sample("z", dist.Normal(_means(x, y), SD).to_event(1))

    def known(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(_means(x, one_hot), SD).to_event(1))

    objective = InfoVAE(MMD_OF["all pairs"](), scale=3.0, sites=["z"], max_plate_nesting=1)
    losses = []
    for model, q in (
        (pair_model, guide),
        (poutine.condition(pair_model, {"y": one_hot}), known),
    ):
        objective.loss(model, q, x)
        losses.append(objective.terms["divergence/z"])
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("sites", [["z"], ["y", "z"]])
def test_every_divergence_takes_weighted_rows(sites: list[str]) -> None:
    from ppl_vae.objectives.divergences.adversarial import Adversarial
    from ppl_vae.objectives.divergences.cramer_wold import CramerWold
    from ppl_vae.objectives.divergences.energy import Energy
    from ppl_vae.objectives.divergences.fourier_mmd import FourierMMD
    from ppl_vae.objectives.divergences.sliced import SlicedWasserstein
    from ppl_vae.objectives.divergences.stein import Stein

    divergences: list[Divergence] = [
        MMD(),
        CramerWold(),
        Energy(),
        FourierMMD(),
        SlicedWasserstein(),
        Adversarial(dim=2 if sites == ["z"] else 5),
    ]
    if sites == ["z"]:
        divergences.append(Stein())
    for divergence in divergences:
        objective = InfoVAE(divergence, scale=10.0, sites=sites, max_plate_nesting=1)
        loss = objective.differentiable_loss(pair_model, pair_guide, both().repeat(4, 1))
        assert torch.isfinite(loss), divergence
        (grad,) = torch.autograd.grad(loss, [pyro.param("b").unconstrained()], allow_unused=True)
        assert torch.isfinite(grad).all(), divergence
        assert grad.abs().max() > 0, divergence


@pytest.mark.parametrize("name", ["mixture", "two_sites"])
def test_no_host_synchronisation(name: str) -> None:
    pair = BUILDERS[name]()
    objective = InfoVAE(MMD(), alpha=0.5, scale=8.0, max_plate_nesting=1)
    objective.differentiable_loss(pair.model, pair.guide, *pair.args)
    no_waiting(objective, pair)


def test_trains_under_svi() -> None:
    """Two clusters are found by the enumerated class."""
    centres = torch.tensor([[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
    label = torch.arange(60) % 3
    x = centres[label] + 0.3 * torch.randn(60, 2)
    pair = discrete_alone()
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), BetaVAE())
    losses = [svi.step(x) for _ in range(150)]
    assert losses[-1] < losses[0] - 60
    assert svi.evaluate_loss(x) == pytest.approx(
        TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, x), rel=1e-4
    )


def test_refusals() -> None:
    def refuse(objective: Any, pair: Pair, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            objective.differentiable_loss(pair.model, pair.guide, *pair.args)

    for which in (TCVAE(), MutualAutoencoder(1.0, auxiliary=torch.nn.Identity())):
        advice = "mark it so in the model alone.*or use InfoVAE, BetaVAE or WAE"
        name = type(which).__name__
        refuse(which, mixture(), f"site 'y' is enumerated, which {name} does not do: {advice}")
    refuse(IWAE(max_plate_nesting=1), mixture(), "site 'y' is enumerated, which IWAE does not do")
    refuse(
        InfoVAE(MMD(), scale=2.0),
        global_site(),
        "site 'k' is enumerated outside the data plate, so a row .* leave the sites",
    )
    pair = mixture()
    several = pyro.infer.config_enumerate(pair.guide, "parallel", num_samples=3)
    refuse(BetaVAE(), Pair(pair.model, several, pair.args), "use infer={'enumerate': 'parallel'}")
    covariates = {"given": lambda x: x}
    refuse(InfoVAE(MMD(), scale=2.0, **covariates), pair, "given= does not go with an enumerated")

    def outside(x: Tensor) -> None:
        y = None
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(y.sum(-1, True), 1.0), obs=x.sum())

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(0.3), infer=ENUMERATE)

    with pyro.validation_enabled(False):
        refuse(BetaVAE(), Pair(outside, guide, (_x(),)), "'x' depends on .* 'y' and is outside")


def test_a_learned_discrete_prior_that_draws_do_not_train() -> None:
    pair = discrete_alone()
    cases: list[tuple[Any, bool]] = [
        (InfoVAE(MMD(), scale=5.0), True),
        (InfoVAE(MMD(), alpha=0.5, scale=5.0), False),
    ]
    for objective, stays in cases:
        pyro.clear_param_store()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                objective.loss_and_grads(pair.model, pair.guide, *pair.args)
        told = [str(w.message) for w in caught if "get no gradient" in str(w.message)]
        grad = pyro.get_param_store()["prior"].grad
        assert (grad is None or not grad.any()) == stays
        assert len(told) == stays
        if stays:
            assert told[0].startswith("the prior of site 'y', Categorical, has parameters that")
            assert told[0].endswith("which are discrete. Lower alpha, or fix the prior")


def test_a_cost_in_place_of_the_likelihood() -> None:
    """WAE: the expected cost, by hand."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(K)))
            pyro.sample("x", dist.Delta(y[..., :1], event_dim=1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.OneHotCategorical(logits=_logits(x)), infer=ENUMERATE)

    objective = WAE(MMD(), scale=0.0, max_plate_nesting=1)
    expected = (_logits(both()).softmax(-1) * (both() - torch.eye(K)[:, 0]).square()).sum()
    assert objective.loss(model, guide, both()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )
