"""Every prior with every guide, under an ELBO and an MMD: it trains, or it says why not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from safetensors.torch import load, save
from torch import Tensor

from ppl_vae import guides, likelihoods, priors
from ppl_vae.bodies import MLP
from ppl_vae.guides import Encoder
from ppl_vae.likelihoods import Likelihood
from ppl_vae.objectives import (
    MMD,
    WAE,
    Adversarial,
    Autoencoder,
    BetaVAE,
    InfoVAE,
    Laplacian,
    Objective,
    Stein,
)
from ppl_vae.objectives.divergences.aggregate_kl import AggregateKL
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import Prior
from ppl_vae.training.compatibility import check_compatible

SIZE, D = (5,), 3
small = partial(MLP, hidden=(8,))

# Each with where it puts its mass.
GUIDES: dict[str, tuple[Callable[..., Encoder], str]] = {
    "MeanFieldNormal": (guides.MeanFieldNormal, "reals"),
    "FullCovarianceNormal": (guides.FullCovarianceNormal, "reals"),
    "LowRankNormal": (guides.LowRankNormal, "reals"),
    "Flow": (partial(guides.Flow, transforms=1, hidden=(8,), context=4), "reals"),
    "UniformBox": (guides.UniformBox, "box"),
    "VonMisesFisher": (guides.VonMisesFisher, "sphere"),
    "RelaxedCategorical": (guides.RelaxedCategorical, "simplex"),
    "Deterministic": (guides.Deterministic, "point"),
    "Implicit": (partial(guides.Implicit, features=8, noise=2, hidden=(8,)), "implicit"),
}
PRIORS: dict[str, tuple[Callable[[int], Prior], str]] = {
    "StandardNormal": (priors.StandardNormal, "reals"),
    "Laplace": (priors.Laplace, "reals"),
    "StudentT": (priors.StudentT, "reals"),
    "DiagonalNormal": (priors.DiagonalNormal, "reals"),
    "GaussianMixture": (partial(priors.GaussianMixture, components=3), "reals"),
    "FlowPrior": (partial(priors.FlowPrior, transforms=1, hidden=(8,)), "reals"),
    "Uniform": (priors.Uniform, "box"),
    "VonMisesFisher": (partial(priors.VonMisesFisher, concentration=1, learnable=True), "sphere"),
    "RelaxedOneHotCategorical": (priors.RelaxedOneHotCategorical, "simplex"),
    "VampPrior": (priors.VampPrior, "guide's"),  # type: ignore[dict-item]
}
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "elbo": lambda: BetaVAE(1.0),
    "mmd": lambda: InfoVAE(MMD(), scale=10.0),
}


def build(prior: str, guide: str, likelihood: Any = likelihoods.Bernoulli) -> VAE:
    encoder = GUIDES[guide][0](SIZE, D, small)
    made = PRIORS[prior][0]
    p = made(encoder, components=4) if prior == "VampPrior" else made(D)  # type: ignore
    return VAE(p, likelihood(D, SIZE, small), encoder)


def x_of() -> Tensor:
    return torch.rand(8, *SIZE, generator=torch.Generator().manual_seed(3)).round()


def refusal(prior: str, guide: str) -> str | None:
    """What the ELBO of a cell is refused with; None where it is legal."""
    ours, theirs = PRIORS[prior][1], GUIDES[guide][1]
    if theirs in ("point", "implicit"):
        return f"guide {guide}: the guide has no density"
    if ours == "guide's":
        return "can leave the prior" if theirs == "box" else None
    if ours == theirs or (ours, theirs) == ("reals", "box"):
        return None
    return (
        "can leave the prior, on vectors in"
        if (ours, theirs) == ("box", "reals")
        else ("densities that do not compare")
    )


def train(vae: VAE, objective: Objective, x: Tensor, but: str = "prior of none") -> None:
    check_compatible(vae.model, vae.guide, objective, (x,))
    before = {key: value.clone() for key, value in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
    for _ in range(4):
        assert abs(svi.step(x)) < float("inf")
    still = [key for key, value in vae.named_parameters() if torch.equal(value, before[key])]
    assert not [key for key in still if not key.startswith(but)]


def same(vae: VAE, copy: VAE, objective: Objective, x: Tensor) -> None:
    copy.load_state_dict(load(save({k: v.contiguous() for k, v in vae.state_dict().items()})))
    losses = []
    for pair in (vae, copy):
        pyro.set_rng_seed(1)
        losses.append(objective.loss(pair.model, pair.guide, x))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_cell(prior: str, guide: str, objective: str) -> None:
    vae, loss, x = build(prior, guide), OBJECTIVES[objective](), x_of()
    refused = refusal(prior, guide) if objective == "elbo" else None
    if refused is None:
        train(vae, loss, x)
        same(vae, build(prior, guide), loss, x)
        return
    with pytest.raises(ValueError) as error:
        check_compatible(vae.model, vae.guide, loss, (x,))
    message = str(error.value)
    assert refused in message
    assert "\n" not in message
    for part in ("prior ", "guide ", "BetaVAE", "; use ", "or an objective that compares no"):
        assert part in message, message


READERS: dict[str, Callable[[], Objective]] = {
    "Stein": lambda: InfoVAE(Stein(), scale=10.0),
    "AggregateKL": lambda: InfoVAE(AggregateKL(), scale=2.0),
    "Adversarial": lambda: InfoVAE(Adversarial(dim=D, hidden=[8], log_prior=True), scale=10.0),
}


def unread(prior: str, guide: str, reader: str) -> str | None:
    """What a divergence that reads the prior's density is refused with; None where it is legal."""
    ours, theirs = PRIORS[prior][1], GUIDES[guide][1]
    if ours == "guide's" and theirs in ("point", "implicit"):
        return "the prior has no density"
    boxes = ours == "guide's" and theirs == "box"
    ours = theirs if ours == "guide's" else ours
    if reader == "Stein" and ours != "reals":
        return "follows the prior's score"
    if ours != "reals" and theirs == "point":
        return "which the guide may leave"
    if boxes or (ours == "box" and theirs in ("reals", "implicit")):
        return "can leave the prior"
    if ours not in ("reals", theirs):
        return "that do not compare"
    return "Gaussian given the data" if reader == "AggregateKL" and "Normal" not in guide else None


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("reader", READERS)
def test_divergences_that_read_the_prior(prior: str, guide: str, reader: str) -> None:
    """Each trains, or is refused before training in one line that names both parts."""
    vae, loss, x = build(prior, guide), READERS[reader](), x_of()
    try:
        check_compatible(vae.model, vae.guide, loss, (x,))
    except ValueError as error:
        message = str(error)
        assert "\n" not in message
        assert "Expected" not in message
        due = unread(prior, guide, reader)
        assert due is not None, message
        assert due in message
        if due != "Gaussian given the data":
            assert f"prior {prior}, guide {guide}" in message
        return
    assert unread(prior, guide, reader) is None
    train(vae, loss, x, but="prior.")


def test_codes_that_cannot_match_are_warned_of() -> None:
    vae = build("StandardNormal", "VonMisesFisher")
    with pytest.warns(UserWarning, match="codes on the sphere cannot match a prior on all vec"):
        check_compatible(vae.model, vae.guide, OBJECTIVES["mmd"](), (x_of(),))


def test_nothing_is_warned_of_where_nothing_is_compared(
    recwarn: pytest.WarningsRecorder,
) -> None:
    vae = build("StandardNormal", "VonMisesFisher")
    for objective in (Autoencoder(), InfoVAE(MMD(), alpha=1.0, scale=0.0)):
        check_compatible(vae.model, vae.guide, objective, (x_of(),))
    assert not recwarn.list


def test_a_loss_that_is_not_finite_is_refused() -> None:
    vae, x = build("StandardNormal", "MeanFieldNormal"), x_of()
    with pytest.raises(ValueError, match="the loss of InfoVAE is nan before any training, with s"):
        check_compatible(vae.model, vae.guide, InfoVAE(MMD(), scale=float("nan")), (x,))


LIKELIHOODS: dict[str, tuple[Callable[..., Likelihood], Callable[[Tensor], Tensor]]] = {
    "Bernoulli": (likelihoods.Bernoulli, lambda x: x),
    "ContinuousBernoulli": (likelihoods.ContinuousBernoulli, lambda x: x * 0.8 + 0.1),
    "Normal": (partial(likelihoods.Normal, noise="network"), lambda x: x),
    "Laplace": (partial(likelihoods.Laplace, noise="pixel"), lambda x: x),
    "Categorical": (partial(likelihoods.Categorical, levels=4), lambda x: x),
    "Poisson": (likelihoods.Poisson, lambda x: 3 * x),
    "NegativeBinomial": (likelihoods.NegativeBinomial, lambda x: 3 * x),
    "ZeroInflatedNegativeBinomial": (likelihoods.ZeroInflatedNegativeBinomial, lambda x: 3 * x),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood(name: str, objective: str) -> None:
    make, change = LIKELIHOODS[name]
    vae, loss, x = (
        build("StandardNormal", "MeanFieldNormal", make),
        OBJECTIVES[objective](),
        x_of(),
    )
    train(vae, loss, change(x))
    same(vae, build("StandardNormal", "MeanFieldNormal", make), loss, change(x))


def test_a_decoder_without_a_density() -> None:
    vae, x = build("StandardNormal", "Deterministic", likelihoods.Deterministic), x_of()
    train(vae, WAE(MMD(), scale=10.0), x)
    for objective in (InfoVAE(MMD(), scale=10.0), BetaVAE()):
        vae = build("StandardNormal", "MeanFieldNormal", likelihoods.Deterministic)
        with pytest.raises(
            ValueError, match=r"site 'x': Deterministic has no density, .* use WAE"
        ):
            check_compatible(vae.model, vae.guide, objective, (x,))


def check(model: Any, guide: Any, objective: Any = None) -> None:
    check_compatible(model, guide, BetaVAE() if objective is None else objective, (x_of(),))


def pair(prior: Any, guide: Any, x: Any = None) -> tuple[Any, Any]:
    """Plain functions, for what the library's parts cannot do."""

    def model(data: Tensor) -> None:
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z.sum(-1, True), 1.0).to_event(1), obs=data[:, :1])

    def q(data: Tensor) -> None:
        with pyro.plate("data", len(data)):
            pyro.sample("z", guide())

    return model, q


def normal(dim: int = 2) -> Any:
    return dist.Normal(torch.zeros(dim), 1.0).to_event(1)


def test_plain_functions_are_checked_too() -> None:
    gamma = partial(dist.Gamma, torch.ones(2), 1.0)
    check(*pair(normal, normal))
    check(*pair(normal, lambda: gamma().to_event(1)))  # all of it is inside
    for prior, guide, message in [
        (lambda: gamma().to_event(1), normal, r"Gamma, .* all vectors, can leave .* \[0, inf\]"),
        (
            normal,
            lambda: normal(3),
            r"'z': Normal in the model is of shape \(8, 2\), Normal .* 3\)",
        ),
        (lambda: dist.OneHotCategorical(torch.ones(2)), normal, "do not compare; use an enumera"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(*pair(prior, guide))
        if "shape" not in message:
            with pytest.raises(ValueError, match=message.replace("BetaVAE", "Trace_ELBO")):
                check(*pair(prior, guide), Trace_ELBO())


def test_what_the_objective_refuses_is_refused_before() -> None:
    check(*pair(normal, lambda: dist.Delta(torch.zeros(2), event_dim=1)), Trace_ELBO())  # MAP
    with pytest.raises(ValueError, match="the guide has no density, which BetaVAE needs here"):
        check(*pair(normal, lambda: dist.Delta(torch.zeros(2), event_dim=1)))
    vae = build("StandardNormal", "Implicit")
    for objective, message in [
        (
            IWAE(num_particles=2),
            "prior StandardNormal, guide Implicit: the guide has no density, which IWAE",
        ),
        (InfoVAE(MMD(noise="integrated"), scale=2.0), "needs a guide that is Gaussian given"),
        (InfoVAE(AggregateKL(), scale=2.0), "Gaussian"),
        (InfoVAE(MMD(), alpha=0.5, scale=2.0), "which InfoVAE needs here; use a guide with one"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(vae.model, vae.guide, objective)
    with pytest.raises(ValueError, match="is not reparameterised"):
        check(*pair(normal, lambda: dist.Poisson(torch.ones(2)).to_event(1)), InfoVAE(MMD()))


def test_checking_moves_nothing() -> None:
    vae = build("StandardNormal", "MeanFieldNormal").train()
    objective = InfoVAE(MMD(Laplacian()), scale=2.0)
    state = torch.get_rng_state()
    weights = [p.clone() for p in vae.parameters()]
    check(vae.model, vae.guide, objective)
    assert torch.equal(state, torch.get_rng_state())
    assert vae.training
    assert int(objective.step) == 0
    for p, before in zip(vae.parameters(), weights, strict=True):
        assert torch.equal(p, before)
        assert p.grad is None


def test_a_latent_left_to_the_divergence_is_not_held_to_its_density() -> None:
    """Of two sites the one picked may leave its prior, the other may not."""

    def model(data: Tensor) -> None:
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Uniform(-torch.ones(2), 1.0).to_event(1))
            u = pyro.sample("u", dist.Uniform(-torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z + u)[:, :1], 1.0).to_event(1), obs=data[:, :1])

    def guide(data: Tensor) -> None:
        with pyro.plate("data", len(data)):
            pyro.sample("z", normal())
            pyro.sample("u", normal())

    check(model, guide, InfoVAE(MMD(), scale=2.0))
    with pytest.raises(ValueError, match=r"site 'u': prior Uniform, guide Normal: .* UniformBox"):
        check(model, guide, InfoVAE(MMD(), scale=2.0, sites=["z"]))
