"""Pyro's own examples, each restated as one small pair.

A builder makes fresh networks, data of a dozen rows, and what an objective must be told:
`plate`, where the rule of plates leaves a choice, and `sites`, where the joint of all local sites
is not what one compares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.transforms import AffineAutoregressive
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

N, X, Z = 12, 6, 2
"""Rows, the size of x, and the size of a code."""


@dataclass
class Example:
    """A pair, its arguments, and what to type.

    Attributes:
        rows: the data plate, and what a row is.
        compared: the latent sites of the joint that a divergence compares.
        plate: to be given, where the rule of plates leaves a choice.
        sites: to be given, where not all local sites are compared.
        apart: whether each of the sites gets a divergence of its own.
        size: the number of values of x in a row, flattened.
        width: the number of dimensions of the joint's codes.
        simplex: whether codes are on the simplex.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    rows: str
    compared: tuple[str, ...]
    plate: str | None = None
    sites: tuple[str, ...] | None = None
    apart: bool = False
    size: int = X
    width: int = Z
    simplex: bool = False

    @property
    def dim(self) -> int:
        """The number of dimensions of what one divergence compares."""
        return self.width // len(self.compared) if self.apart else self.width


def net(size: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, out))


def normal(out: Tensor) -> Any:
    loc, raw = out.chunk(2, -1)
    return dist.Normal(loc, (raw - 1).exp()).to_event(1)


def standard(size: int = Z) -> Any:
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


def join(*parts: Tensor) -> Tensor:
    """Concatenates event vectors whose batch dimensions broadcast."""
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)


def pixels() -> Tensor:
    return torch.rand(N, X).round()


def vae() -> Example:
    decoder, encoder = net(Z, X), net(X, 2 * Z)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(encoder(x)))

    return Example(model, guide, (pixels(),), "data: images", ("z",))


def cvae() -> Example:
    """y completes c: a prior net p(z | c), a recognition net q(z | c, y)."""
    prior, decoder, encoder = net(X, 2 * Z), net(Z + X, X), net(2 * X, 2 * Z)

    def model(c: Tensor, y: Tensor) -> None:
        pyro.module("prior", prior)
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", normal(prior(c)))
            logits = decoder(join(z, c))
            pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)

    def guide(c: Tensor, y: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(c)):
            pyro.sample("z", normal(encoder(join(c, y))))

    return Example(model, guide, (pixels(), pixels()), "data: images", ("z",))


def ss_vae() -> Example:
    """The unlabelled half: the guide sums over the label."""
    decoder, encoder, classifier = net(Z + 3, X), net(X + 3, 2 * Z), net(X, 3)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Bernoulli(logits=decoder(join(z, y))).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        pyro.module("classifier", classifier)
        with pyro.plate("data", len(x)):
            probs = classifier(x).softmax(-1)
            every = {"enumerate": "parallel"}
            y = pyro.sample("y", dist.OneHotCategorical(probs), infer=every)
            pyro.sample("z", normal(encoder(join(x, y))))

    return Example(model, guide, (pixels(),), "data: images", ("z",), sites=("z",))


def scanvi() -> Example:
    """The labelled half: the classifier's loss is a factor of the guide."""
    to_z2, to_z2l, to_z1 = net(Z + 3, 2 * Z), net(X, 2 * Z + 2), net(Z + 3, 2 * Z)
    decoder, classifier = net(Z, X), net(Z, 3)

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("to_z2", to_z2)
        pyro.module("decoder", decoder)
        inverse = pyro.param("inverse_dispersion", 2 * torch.ones(X), constraints.positive)
        with pyro.plate("cells", len(x)):
            z1 = pyro.sample("z1", standard())
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3), obs=y)
            z2 = pyro.sample("z2", normal(to_z2(join(z1, y))))
            size = pyro.sample("l", dist.LogNormal(torch.full((1,), 2.0), 0.5).to_event(1))
            rate = inverse / (size * decoder(z2).softmax(-1))
            pyro.sample("x", dist.GammaPoisson(inverse, rate).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor) -> None:
        for name, part in (("to_z2l", to_z2l), ("to_z1", to_z1), ("classifier", classifier)):
            pyro.module(name, part)
        with pyro.plate("cells", len(x)):
            out = to_z2l(x.log1p())
            z2 = pyro.sample("z2", normal(out[..., : 2 * Z]))
            loc, raw = out[..., 2 * Z :].split(1, -1)
            pyro.sample("l", dist.LogNormal(loc + 2, (raw - 1).exp()).to_event(1))
            fit = dist.OneHotCategorical(logits=classifier(z2)).log_prob(y)
            pyro.factor("classification", -10.0 * fit, has_rsample=False)
            pyro.sample("z1", normal(to_z1(join(z2, y))))

    labels = torch.eye(3)[torch.arange(N) % 3]
    counts = torch.poisson(3 * torch.rand(N, X))
    compared = ("z1", "z2", "l")
    return Example(model, guide, (counts, labels), "cells", compared, size=X + 3, width=2 * Z + 1)


def prodlda() -> Example:
    """A logistic normal over topics, and a decoder of one batch-normalised layer."""
    beta, encoder = nn.Linear(Z, X, bias=False), net(X, 2 * Z)
    norm = nn.BatchNorm1d(X, affine=False)

    def model(counts: Tensor) -> None:
        pyro.module("beta", beta)
        with pyro.plate("documents", len(counts)):
            z = pyro.sample("z", standard())
            words = norm(beta(z.softmax(-1))).softmax(-1)
            total = int(counts.sum(-1).max())
            fn = dist.Multinomial(total, words, validate_args=False)
            pyro.sample("words", fn, obs=counts)

    def guide(counts: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("documents", len(counts)):
            pyro.sample("z", normal(encoder(counts.log1p())))

    return Example(model, guide, (torch.poisson(3 * torch.rand(N, X)),), "documents", ("z",))


def _cevae(observe: bool) -> Example:
    to_x, to_t, to_y = net(Z, 2 * X), net(Z, 1), net(Z + 1, 1)
    q_t, q_y, encoder = net(X, 1), net(X + 1, 1), net(X + 2, 2 * Z)

    def model(x: Tensor, t: Tensor, y: Tensor) -> None:
        for name, part in (("to_x", to_x), ("to_t", to_t), ("to_y", to_y)):
            pyro.module(name, part)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            pyro.sample("x", normal(to_x(z)), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=to_t(z)[..., 0]), obs=t)
            y = pyro.sample("y", dist.Normal(to_y(join(z, t[..., None]))[..., 0], 1.0), obs=y)

    def guide(x: Tensor, t: Tensor, y: Tensor) -> None:
        for name, part in (("q_t", q_t), ("q_y", q_y), ("encoder", encoder)):
            pyro.module(name, part)
        treated = t[:, None]
        of_t = dist.Bernoulli(logits=q_t(x)[..., 0])
        of_y = dist.Normal(q_y(join(x, treated))[..., 0], 1.0)
        with pyro.plate("data", len(x)):
            for name, fn, value in (("t", of_t, t), ("y", of_y, y)):
                if observe:
                    pyro.sample(name, fn, obs=value, infer={"is_auxiliary": True})
                else:
                    pyro.factor(f"fit_{name}", -fn.log_prob(value), has_rsample=False)
            pyro.sample("z", normal(encoder(join(x, treated, y[:, None]))))

    args = (torch.randn(N, X), torch.rand(N).round(), torch.randn(N))
    return Example(model, guide, args, "data: people", ("z",), size=X + 2)


def cevae() -> Example:
    """The auxiliary fits q(t | x), q(y | t, x) as factors: their negative log-likelihood."""
    return _cevae(observe=False)


def cevae_observed() -> Example:
    """The auxiliary fits as the original writes them, for a loss that turns their sign."""
    return _cevae(observe=True)


T = 3


def _dmm(ragged: bool = False, flow: bool = False, inside: bool = False) -> Example:
    """A chain of codes over time in one data plate.

    Args:
        ragged: whether sequences differ in length.
        flow: whether the guide puts an inverse autoregressive flow on each step.
        inside: whether a step is masked as the original does, by element inside the event.
    """
    transition, emitter, encoder = net(Z, 2 * Z), net(Z, X), net(2 * X + Z, 2 * Z)
    flows = AffineAutoregressive(AutoRegressiveNN(Z, [4])) if flow else None

    def step(name: str, fn: Any, mask: Tensor | None, t: int, obs: Tensor | None = None) -> Any:
        if mask is None:
            return pyro.sample(name, fn, obs=obs)
        if inside:
            fn = fn.base_dist.mask(mask[:, t, None]).to_event(1)
            return pyro.sample(name, fn, obs=obs)
        with poutine.mask(mask=mask[:, t]):
            return pyro.sample(name, fn, obs=obs)

    def model(x: Tensor, mask: Tensor | None = None) -> None:
        pyro.module("transition", transition)
        pyro.module("emitter", emitter)
        z = pyro.param("start", torch.zeros(Z)).expand(len(x), Z)
        with pyro.plate("data", len(x)):
            for t in range(T):
                z = step(f"z_{t}", normal(transition(z)), mask, t)
                emission = dist.Bernoulli(logits=emitter(z)).to_event(1)
                step(f"x_{t}", emission, mask, t, obs=x[:, t])

    def guide(x: Tensor, mask: Tensor | None = None) -> None:
        pyro.module("encoder", encoder)
        if flows is not None:
            pyro.module("flows", flows)
        z = pyro.param("start_q", torch.zeros(Z)).expand(len(x), Z)
        seen = x if mask is None else x * mask[..., None]
        later = seen.flip(1).cumsum(1).flip(1)
        with pyro.plate("data", len(x)):
            for t in range(T):
                fn = normal(encoder(join(z, seen[:, t], later[:, t])))
                if flows is not None:
                    fn = dist.TransformedDistribution(fn.base_dist, [flows])
                z = step(f"z_{t}", fn, mask, t)

    x = torch.rand(N, T, X).round()
    mask = torch.arange(T) < 1 + torch.arange(N)[:, None] % T
    codes = tuple(f"z_{t}" for t in range(T))
    return Example(
        model,
        guide,
        (x, mask) if ragged or inside else (x,),
        "data: sequences",
        codes,
        sites=codes if ragged else None,
        apart=ragged,
        size=T * X,
        width=T * Z,
    )


def dmm() -> Example:
    return _dmm()


def dmm_iaf() -> Example:
    return _dmm(flow=True)


def dmm_masked() -> Example:
    return _dmm(ragged=True)


def dmm_masked_iaf() -> Example:
    return _dmm(ragged=True, flow=True)


def dmm_masked_inside() -> Example:
    """The mask as the original has it, `.mask(m[:, t:t+1]).to_event(1)`."""
    return _dmm(inside=True)


def lda() -> Example:
    """Each word's topic is summed out in its likelihood: topics of documents are left."""
    encoder = net(X, 3)
    topics, words, vocabulary = 3, 5, X

    def model(data: Tensor) -> None:
        with pyro.plate("topics", topics):
            weights = pyro.sample("topic_weights", dist.Gamma(2.0, 2.0))
            bags = pyro.sample("topic_words", dist.Dirichlet(torch.ones(vocabulary)))
        with pyro.plate("documents", data.shape[1]):
            theta = pyro.sample("theta", dist.Dirichlet(weights))
            with pyro.plate("words", words):
                pyro.sample("doc_words", dist.Categorical(theta @ bags), obs=data)

    def guide(data: Tensor) -> None:
        pyro.module("encoder", encoder)
        positive = constraints.positive
        shape = pyro.param("shape", torch.full((topics,), 3.0), positive)
        counts = pyro.param("counts", 1 + torch.rand(topics, vocabulary), positive)
        with pyro.plate("topics", topics):
            pyro.sample("topic_weights", dist.Gamma(shape, 3.0))
            pyro.sample("topic_words", dist.Dirichlet(counts))
        histograms = nn.functional.one_hot(data, vocabulary).sum(0).to(torch.get_default_dtype())
        with pyro.plate("documents", data.shape[1]):
            pyro.sample("theta", dist.Dirichlet(encoder(histograms).exp()))

    data = torch.randint(0, vocabulary, (words, N))
    return Example(
        model, guide, (data,), "documents", ("theta",), size=words, width=topics, simplex=True
    )


def sparse_gamma() -> Example:
    """Two layers of a deep exponential family; a table of gammas for a guide."""
    top, bottom = 2, 3

    def model(x: Tensor) -> None:
        with pyro.plate("top", top):
            w_top = pyro.sample("w_top", dist.Gamma(torch.full((bottom,), 0.3), 0.3).to_event(1))
        with pyro.plate("bottom", bottom):
            w = pyro.sample("w", dist.Gamma(torch.full((X,), 0.3), 0.3).to_event(1))
        with pyro.plate("data", len(x)):
            z_top = pyro.sample("z_top", dist.Gamma(torch.full((top,), 0.3), 0.3).to_event(1))
            mean = z_top @ w_top + 1e-3
            z = pyro.sample("z", dist.Gamma(0.3, 0.3 / mean).to_event(1))
            pyro.sample("x", dist.Poisson(z @ w + 1e-3).to_event(1), obs=x)

    def gamma(name: str, *shape: int) -> Any:
        softplus = nn.functional.softplus
        alpha = softplus(pyro.param(f"alpha_{name}", 1 + 0.1 * torch.randn(shape)))
        mean = softplus(pyro.param(f"mean_{name}", 0.5 + 0.1 * torch.randn(shape)))
        return dist.Gamma(alpha, alpha / mean).to_event(1)

    def guide(x: Tensor) -> None:
        with pyro.plate("top", top):
            pyro.sample("w_top", gamma("w_top", top, bottom))
        with pyro.plate("bottom", bottom):
            pyro.sample("w", gamma("w", bottom, X))
        with pyro.plate("data", len(x)):
            pyro.sample("z_top", gamma("z_top", len(x), top))
            pyro.sample("z", gamma("z", len(x), bottom))

    x = torch.poisson(2 * torch.rand(N, X))
    return Example(model, guide, (x,), "data", ("z_top", "z"), width=top + bottom)


def eight_schools() -> Example:
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model(y: Tensor, sigma: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("J", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    return Example(model, AutoNormal(model), (y, sigma), "J: schools", ("theta",), size=1, width=1)


def baseball() -> Example:
    """Partially pooled batting averages."""

    def model(at_bats: Tensor, hits: Tensor) -> None:
        m = pyro.sample("m", dist.Uniform(0.0, 1.0))
        kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
        with pyro.plate("players", len(hits)):
            phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            pyro.sample("hits", dist.Binomial(at_bats, phi), obs=hits)

    args = (torch.full((N,), 45.0), torch.arange(N) + 7.0)
    return Example(model, AutoNormal(model), args, "players", ("phi",), size=1, width=1)


def gmm() -> Example:
    """Assignments enumerated in the guide, a point for each global."""

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 0.5)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[k], scale), obs=x)

    points = AutoDelta(poutine.block(model, expose=["weights", "scale", "locs"]))

    def guide(x: Tensor) -> None:
        points(x)
        probs = pyro.param("probs", 0.4 + 0.2 * torch.rand(len(x), 2), constraints.simplex)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(probs), infer={"enumerate": "parallel"})

    x = torch.cat([torch.randn(N // 2), 8 + torch.randn(N // 2)])
    return Example(model, guide, (x,), "data", ("k",), size=1, width=1)


def gplvm() -> Example:
    """All data share one density, of each feature over the points."""

    def model(y: Tensor) -> None:
        features, points = y.shape
        length = pyro.param("length", torch.ones(Z), constraints.positive)
        noise = pyro.param("noise", torch.tensor(0.3), constraints.positive)
        with pyro.plate("points", points):
            z = pyro.sample("z", standard()) / length
        kernel = torch.exp(-(z[:, None] - z).square().sum(-1) / 2) + noise * torch.eye(points)
        with pyro.plate("features", features):
            pyro.sample("y", dist.MultivariateNormal(torch.zeros(points), kernel), obs=y)

    def guide(y: Tensor) -> None:
        points = y.shape[1]
        loc = pyro.param("loc", torch.randn(points, Z))
        scale = pyro.param("scale", torch.full((points, Z), 0.3), constraints.positive)
        with pyro.plate("points", points):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return Example(model, guide, (torch.randn(X, N),), "points", ("z",), plate="points")


EXAMPLES: dict[str, Callable[[], Example]] = {
    build.__name__: build
    for build in (
        vae,
        cvae,
        ss_vae,
        scanvi,
        prodlda,
        cevae,
        cevae_observed,
        dmm,
        dmm_iaf,
        dmm_masked,
        dmm_masked_iaf,
        dmm_masked_inside,
        lda,
        sparse_gamma,
        eight_schools,
        baseball,
        gmm,
        gplvm,
    )
}
"""Builders by name."""
