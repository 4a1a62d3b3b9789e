"""The pairs besides VAE: hierarchical, conditional, semi-supervised."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import gradients
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, TraceMeanField_ELBO
from safetensors.torch import load, save
from torch import Tensor, nn

from ppl_vae.bodies import MLP
from ppl_vae.evaluation.sampling import ancestral
from ppl_vae.guides import Ladder, MeanFieldNormal, OneHotCategorical, RelaxedCategorical
from ppl_vae.guides.ladder import precision_weighted
from ppl_vae.likelihoods import Bernoulli, Normal
from ppl_vae.objectives import IWAE, MMD, BetaVAE, InfoVAE
from ppl_vae.pairs.conditional import ConditionalVAE, appended
from ppl_vae.pairs.hierarchical import HierarchicalVAE
from ppl_vae.pairs.semisupervised import SemiSupervisedVAE
from ppl_vae.priors import ConditionalNormal, FlowPrior, StandardNormal, StudentT

SIZE, D, K = (1, 2, 3), 2, 3
small = partial(MLP, hidden=(8,))


def hierarchical(**options: Any) -> HierarchicalVAE:
    ladder = Ladder(SIZE, (3, 2, 1), small, features=8, hidden=(8,), **options)
    lower = partial(ConditionalNormal, body=small)
    return HierarchicalVAE(StandardNormal(1), Bernoulli(3, SIZE, small), ladder, lower)


def conditional() -> ConditionalVAE:
    return ConditionalVAE(
        ConditionalNormal(D, (K,), small),
        Bernoulli(D + K, SIZE, small),
        MeanFieldNormal((1 + K, 2, 3), D, small),
    )


def semi_supervised(classifier: Any = OneHotCategorical, **options: Any) -> SemiSupervisedVAE:
    return SemiSupervisedVAE(
        options.pop("prior", StandardNormal)(D),
        Bernoulli(D + K, SIZE, small),
        MeanFieldNormal((1 + K, 2, 3), D, small),
        partial(classifier, body=small),
        **options,
    )


def x_of(n: int = 6) -> Tensor:
    return torch.rand(n, *SIZE, generator=torch.Generator().manual_seed(4)).round()


LABELS = torch.tensor([0, -1, 2, -1, -1, 1])
PAIRS: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "hierarchical": (hierarchical, (x_of(),)),
    "conditional": (conditional, (x_of(), torch.eye(K).repeat(2, 1))),
    "enumerated": (semi_supervised, (x_of(), LABELS)),
    "relaxed": (partial(semi_supervised, RelaxedCategorical), (x_of(), LABELS)),
}
OBJECTIVES = {"elbo": BetaVAE, "mmd": partial(InfoVAE, scale=10.0)}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", PAIRS)
def test_trains_and_is_saved(name: str, objective: str) -> None:
    build, args = PAIRS[name]
    vae = build()
    loss = OBJECTIVES[objective]() if objective == "elbo" else OBJECTIVES[objective](MMD())
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    reached = {key: False for key, _ in vae.named_parameters()}
    before = {key: value.clone() for key, value in vae.named_parameters()}
    for _ in range(20):
        assert abs(svi.step(*args)) < float("inf")
    for key, value in vae.named_parameters():
        reached[key] = not torch.equal(value, before[key])
    assert all(reached.values()), [key for key, moved in reached.items() if not moved]
    stored = load(save({k: v.contiguous() for k, v in vae.state_dict().items()}))
    copy = build()
    copy.load_state_dict(stored)
    losses = []
    for pair in (vae.eval(), copy.eval()):
        pyro.set_rng_seed(5)
        losses.append(loss.loss(pair.model, pair.guide, *args))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", PAIRS)
def test_vectorised_particles_agree_with_a_loop(name: str) -> None:
    build, args = PAIRS[name]
    vae, losses = build(), []
    for options in ({}, {"vectorize_particles": True}):
        objective = InfoVAE(MMD(), alpha=0.5, scale=3.0, num_particles=20, **options)
        runs = [objective.loss(vae.model, vae.guide, *args) for _ in range(10)]
        losses.append(torch.tensor(runs))
    error = ((losses[0].var() + losses[1].var()) / 10).sqrt()
    assert abs(losses[0].mean() - losses[1].mean()) < 4.5 * error
    assert error < 0.01 * losses[0].mean().abs()


# Hierarchical


def test_the_layers_are_drawn_downwards_in_both() -> None:
    vae, x = hierarchical(), x_of()
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x)
    assert guide.stochastic_nodes == ["data", "z3", "z2", "z1"]
    assert [n for n in model.nodes if n[0] in "zx"] == ["z3", "z2", "z1", "x"]
    assert [z.shape[-1] for z in vae.guide(x)] == [3, 2, 1]


def test_the_guide_multiplies_what_x_says_by_the_prior_above() -> None:
    vae, x = hierarchical(initial_scale=0.8), x_of()
    trace = poutine.trace(vae.guide).get_trace(x)
    messages = vae.encoder(x)
    torch.testing.assert_close(trace.nodes["z3"]["fn"].mean, messages[2].mean)
    for layer in (2, 1):
        prior = vae.lower[layer - 1](trace.nodes[f"z{layer + 1}"]["value"])
        q, due = trace.nodes[f"z{layer}"]["fn"], messages[layer - 1]
        precision = 1 / due.variance + 1 / prior.variance
        loc = (due.mean / due.variance + prior.mean / prior.variance) / precision
        torch.testing.assert_close(q.variance, 1 / precision)
        torch.testing.assert_close(q.mean, loc)


def test_the_product_is_bayes_rule() -> None:
    """A message of one Gaussian observation: the product is its posterior."""
    prior = dist.Normal(torch.tensor([0.3, -1.0]), torch.tensor([2.0, 0.5])).to_event(1)
    noise, seen = torch.tensor([1.0, 0.7]), torch.tensor([1.2, 0.4])
    q = precision_weighted(dist.Normal(seen, noise).to_event(1), prior)
    z = torch.randn(5, 2)
    joint = prior.log_prob(z) + dist.Normal(z, noise).log_prob(seen).sum(-1)
    difference = q.log_prob(z) - joint
    torch.testing.assert_close(difference, difference[:1].expand(5))
    with pytest.raises(ValueError, match="and StudentT is none: use ConditionalNormal"):
        precision_weighted(prior, dist.StudentT(3.0, torch.zeros(2), 1.0).to_event(1))


@pytest.mark.usefixtures("double")
def test_the_hierarchical_bound_is_the_mean_field_elbo() -> None:
    vae, x = hierarchical(), x_of().double()
    losses = []
    for objective in (TraceMeanField_ELBO(), BetaVAE()):
        pyro.set_rng_seed(1)
        losses.append(
            gradients(lambda o=objective: o.differentiable_loss(vae.model, vae.guide, x))
        )
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-10)
    for key, gradient in losses[0][1].items():
        torch.testing.assert_close(losses[1][1][key], gradient, rtol=1e-8, atol=1e-10)


def test_a_flow_on_top() -> None:
    ladder = Ladder(SIZE, (3, 2), small, features=8, hidden=(8,))
    vae = HierarchicalVAE(FlowPrior(2, hidden=(8,)), Bernoulli(3, SIZE, small), ladder)
    assert torch.isfinite(BetaVAE().differentiable_loss(vae.model, vae.guide, x_of()))


def test_layers_that_do_not_fit_are_named() -> None:
    top, likelihood, ladder = StandardNormal(2), Bernoulli(3, SIZE, small), Ladder(SIZE, (3, 2))
    encoder = MeanFieldNormal(SIZE, 3, small)
    for parts, message in [
        ((top, likelihood, encoder), "takes a Ladder for its encoder, not MeanFieldNormal"),
        ((StandardNormal(3), likelihood, ladder), r"over 3 .* the top layer of .* \(3, 2\) has 2"),
        ((ConditionalNormal(2, (1,)), likelihood, ladder), "top layer's prior is conditioned"),
        ((top, Bernoulli(2, SIZE), ladder), r"Bernoulli is over 2 .* z1 of .* \(3, 2\) has 3"),
        ((top, likelihood, Ladder((6,), (3, 2))), r"Ladder reads \(6,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            HierarchicalVAE(*parts)
    for dims in ((3,), 3):
        with pytest.raises(ValueError, match=r"two or more layers .*, such as \[16, 4\], got"):
            Ladder(SIZE, dims)


# Conditional


def test_covariates_join_as_channels() -> None:
    x, c = x_of(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    joined = appended(x, c, SIZE)
    assert joined.shape == (2, 3, 2, 3)
    torch.testing.assert_close(joined[:, 0], x[:, 0])
    assert (joined[1, 2] == 4).all()
    assert appended(x, torch.zeros(5, 1, 2), SIZE).shape == (5, 2, 3, 2, 3)
    assert appended(torch.zeros(4, 7), torch.zeros(4, 2), (7,)).shape == (4, 9)


def test_the_conditional_pair_given_c() -> None:
    """Every part sees the covariate, and a divergence compares z in the prior's units."""
    vae, x = conditional(), x_of(3)
    c = torch.eye(K)
    guide = poutine.trace(vae.guide).get_trace(x[:1].expand_as(x), c)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x, c)
    for fn in (guide.nodes["z"]["fn"], model.nodes["z"]["fn"]):
        assert (fn.mean[0] - fn.mean[1]).abs().max() > 1e-4
    z = guide.nodes["z"]["value"]
    due = vae.likelihood(torch.cat([z, c], -1)).mean
    torch.testing.assert_close(model.nodes["x"]["fn"].mean, due)
    assert (due - vae.likelihood(torch.cat([z, 0 * c], -1)).mean).abs().max() > 1e-4
    flat = torch.cat([x, x]), torch.cat([c, c])
    image = flat[0], flat[1].reshape(6, 1, K)
    objective = InfoVAE(MMD(), scale=5.0)
    losses = []
    for args in (flat, image):
        pyro.set_rng_seed(1)
        losses.append(objective.loss(vae.model, vae.guide, *args))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("prior", [partial(ConditionalNormal, size=(K,)), StandardNormal])
def test_covariates_of_any_type(prior: Any) -> None:
    vae = ConditionalVAE(prior(D), Bernoulli(D + K, SIZE), MeanFieldNormal((1 + K, 2, 3), D))
    losses = []
    for c in (torch.eye(K), torch.eye(K).long(), torch.eye(K).double(), torch.eye(K).bool()):
        pyro.set_rng_seed(1)
        losses.append(BetaVAE().loss(vae.model, vae.guide, x_of(3), c))
    assert len(set(losses)) == 1


def test_a_prior_that_does_not_look() -> None:
    vae = conditional()
    other = ConditionalVAE(StandardNormal(D), vae.likelihood, vae.encoder)
    assert torch.isfinite(
        BetaVAE().differentiable_loss(other.model, other.guide, x_of(3), torch.eye(K))
    )


def test_covariates_that_do_not_fit_are_named() -> None:
    prior, likelihood = ConditionalNormal(D, (K,), small), Bernoulli(D + K, SIZE, small)
    encoder = MeanFieldNormal((1 + K, 2, 3), D, small)
    for parts, message in [
        ((prior, Bernoulli(D, SIZE), encoder), r"Bernoulli is over 2 .* it must be over 2 \+ k"),
        ((prior, Bernoulli(D + 1, SIZE), MeanFieldNormal((2, 2, 3), D)), "make that 5"),
        ((prior, likelihood, MeanFieldNormal(SIZE, D)), r"must read \(4, 2, 3\), x and the cov"),
    ]:
        with pytest.raises(ValueError, match=message):
            ConditionalVAE(*parts)


# Semi-supervised


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("labels", [LABELS, LABELS.clamp_min(0), torch.full((6,), -1)])
def test_the_enumerated_bound_equals_trace_enum_elbo(labels: Tensor) -> None:
    vae, x = semi_supervised(prior=StudentT, weight=2.0), x_of().double()
    results = []
    for objective in (TraceEnum_ELBO(max_plate_nesting=1), BetaVAE(max_plate_nesting=1)):
        pyro.set_rng_seed(1)
        results.append(
            gradients(lambda o=objective: o.differentiable_loss(vae.model, vae.guide, x, labels))
        )
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-8)
    for key, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][key], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("double")
def test_the_enumerated_bound_by_hand() -> None:
    """Labelled and unlabelled data against the two bounds of the reference."""
    vae = semi_supervised(weight=0.0, classes=[0.5, 0.3, 0.2])
    first = next(vae.likelihood.network.parameters())
    with torch.no_grad():
        first[:, :D] = 0  # x depends on the class alone, so that nothing is drawn
    x = x_of().double()

    def bound(k: int) -> Tensor:
        """-L(x, y = k) for all data."""
        y = torch.eye(K)[k].expand(6, K)
        q = vae.encoder(appended(x, y, SIZE))
        kl = torch.distributions.kl_divergence(q, vae.prior().expand((6,)))
        p = vae.likelihood(torch.cat([torch.zeros(6, D), y], -1))
        return kl - p.log_prob(x) - vae.probabilities[k].log()

    with torch.no_grad():
        costs = torch.stack([bound(k) for k in range(K)], -1)
        q = vae.classify(x)
        known = LABELS >= 0
        expected = costs[known, LABELS[known]].sum()
        expected += (q * (costs + q.log()))[~known].sum()
    loss = BetaVAE().loss(vae.model, vae.guide, x, LABELS)
    assert loss == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.usefixtures("double")
def test_the_relaxed_bound_by_hand() -> None:
    """Its densities, with those of the relaxed class in p as in q."""
    vae = semi_supervised(RelaxedCategorical, weight=0.0, classes=[0.5, 0.3, 0.2])
    x = x_of().double()
    pyro.set_rng_seed(1)
    guide = poutine.trace(vae.guide).get_trace(x, LABELS)
    y, z = (guide.nodes[name]["value"] for name in ("y_unobserved", "z"))
    known = LABELS >= 0
    at = torch.where(known[:, None], torch.eye(K)[LABELS.clamp_min(0)], y)
    q = vae.encoder(appended(x, at, SIZE))
    tau, k = float(vae.classifier.temperature), K

    def relaxed(log_p: Tensor) -> Tensor:
        """log density of the concrete distribution, Maddison et al. (2017), equation 10."""
        scores = log_p - tau * y.log()
        parts = (scores - y.log()).sum(-1) - k * scores.logsumexp(-1)
        return parts + (k - 1) * torch.tensor(tau).log() + torch.tensor(float(k)).lgamma()

    p_y, q_y = relaxed(vae.probabilities.log().expand(6, K)), relaxed(vae.classifier(x).logits)
    p_y[known] = vae.probabilities.log()[LABELS[known]]
    q_y = q_y.masked_fill(known, 0.0)
    kl = torch.distributions.kl_divergence(q, vae.prior().expand((6,)))
    p_x = vae.likelihood(torch.cat([z, at], -1)).log_prob(x)
    pyro.set_rng_seed(1)
    loss = BetaVAE().loss(vae.model, vae.guide, x, LABELS)
    assert loss == pytest.approx(float((kl + q_y - p_y - p_x).sum()), rel=1e-8)


def test_classes_drawn_go_with_the_data_drawn() -> None:
    """A draw of the whole model has x of the class drawn, also where the class was observed."""
    vae = semi_supervised(classes=[0.5, 0.3, 0.2])

    def decoder(z: Tensor) -> Any:
        ink = (z[..., D] == 1).float()[..., None, None, None]
        return dist.Bernoulli(ink.expand(*z.shape[:-1], *SIZE)).to_event(3)

    vae.likelihood.forward = decoder
    drawn = ancestral(vae.eval().model, 600, x_of(), torch.zeros(6, dtype=torch.long))
    first = drawn["y_observed"][:, 0]
    assert 0.5 - 4.5 * 0.5 / 600**0.5 < float(first.mean()) < 0.5 + 4.5 * 0.5 / 600**0.5
    assert torch.equal(drawn["x"].flatten(1).mean(1), first)


def test_terms_and_rows_of_the_semi_supervised_pair() -> None:
    vae = semi_supervised()
    objective = InfoVAE(MMD(), scale=10.0)
    args = (vae.model, vae.guide, x_of(), LABELS)
    objective.differentiable_loss(*args)
    assert set(objective.terms) == {
        "reconstruction/y_observed",
        "reconstruction/label",
        "reconstruction/x",
        "rate/y_unobserved",
        "rate/z",
        "divergence/z",
    }
    rate = objective.terms["rate/y_unobserved"] * 6
    q = vae.classify(x_of())[LABELS < 0]
    torch.testing.assert_close(rate, (q * (q * K).log()).sum().detach())
    vae.eval()
    objective.differentiable_loss(*args)
    assert "reconstruction/label" not in objective.terms


@pytest.mark.parametrize("known", [0, 3, 6])
def test_terms_count_all_data_whatever_is_known(known: int) -> None:
    vae = semi_supervised(RelaxedCategorical, weight=0.0)
    labels = torch.where(torch.arange(6) < known, torch.arange(6) % K, -1)
    found = []
    for objective in (IWAE(num_particles=1), BetaVAE()):
        pyro.set_rng_seed(1)
        loss = objective.loss(vae.model, vae.guide, x_of(), labels)
        found.append(float(objective.terms["reconstruction/x"]))
        if isinstance(objective, IWAE):
            assert float(objective.terms["bound"]) == pytest.approx(loss / 6, rel=1e-5)
    assert found[0] == pytest.approx(found[1], rel=0.2)  # other draws, the same count


def test_the_classifier_sees_no_noise_of_labelled_data() -> None:
    """With all labels known its gradient is the label site's alone."""
    vae, y = semi_supervised(weight=3.0), LABELS.clamp_min(0)
    BetaVAE().differentiable_loss(vae.model, vae.guide, x_of(), y).backward()
    expected = 3 * nn.functional.cross_entropy(vae.classifier(x_of()).logits, y, reduction="sum")
    parameters = list(vae.classifier.parameters())
    for p, g in zip(parameters, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("classifier", [OneHotCategorical, RelaxedCategorical])
def test_a_few_labels_name_the_clusters(classifier: Any) -> None:
    truth = torch.arange(90) % 3
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 4.0]])
    x = centres[truth] + 0.5 * torch.randn(90, 2)
    y = torch.full((90,), -1)
    y[:15] = truth[:15]
    vae = SemiSupervisedVAE(
        StandardNormal(1),
        Normal(1 + K, (2,), small, scale=0.5),
        MeanFieldNormal((2 + K,), 1, small),
        partial(classifier, body=small),
        weight=3.0,
    )
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 2e-2}), BetaVAE())
    for _ in range(150):
        svi.step(x, y)
    assert (vae.classify(x).argmax(-1) == truth).float().mean() > 0.9


def test_classes_that_do_not_fit_are_named() -> None:
    parts = StandardNormal(D), Bernoulli(D + K, SIZE), MeanFieldNormal((1 + K, 2, 3), D)
    with pytest.raises(ValueError, match="MeanFieldNormal is no classifier: use OneHotCategor"):
        SemiSupervisedVAE(*parts, MeanFieldNormal)
    with pytest.raises(ValueError, match="ConditionalNormal is conditioned, and here z does not"):
        SemiSupervisedVAE(ConditionalNormal(D, (K,)), *parts[1:])
    with pytest.raises(ValueError, match="give 3 probabilities above 0"):
        semi_supervised(classes=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"weight=-1\.0 must not be negative"):
        semi_supervised(weight=-1.0)
