"""Model shapes that every objective is run over, as plain Pyro models and guides.

Each entry of `PAIRS` builds a `Pair` of fresh functions, with parameters in Pyro's store or in
the modules listed. Sizes are small, and every parameter affects the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

N, D = 7, 3


@dataclass
class Pair:
    """A model, its guide and arguments.

    Attributes:
        local: the latent sites inside the data plate.
        keywords: what an objective must be told (plate, sites) to find the rows.
        order: whether the guide draws sites in the model's order.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    local: tuple[str, ...] = ("z",)
    keywords: dict[str, Any] = field(default_factory=dict)
    in_order: bool = True


def _x() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1)).to(
        torch.get_default_dtype()
    )


def _param(name: str, value: float, *shape: int, positive: bool = False) -> Tensor:
    kind = dist.constraints.positive if positive else dist.constraints.real
    return pyro.param(name, value + 0.1 * torch.arange(1.0, 1 + _size(shape)).reshape(shape), kind)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _normal(loc: Tensor | float, scale: Tensor | float = 1.0) -> Any:
    loc = loc if isinstance(loc, Tensor) else torch.full((D,), loc)
    return dist.Normal(loc, scale).to_event(1)


def one_latent() -> Pair:
    def model(x: Tensor) -> None:
        w = _param("w", 0.5, D)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _normal(0.0))
            pyro.sample("x", _normal(w * z, 0.7), obs=x)

    def guide(x: Tensor) -> None:
        a, s = _param("a", 0.3, D), _param("s", 0.4, D, positive=True)
        with pyro.plate("data", len(x)):
            pyro.sample("z", _normal(a * x, s))

    return Pair(model, guide, (_x(),))


def two_latents() -> Pair:
    def model(x: Tensor) -> None:
        w = _param("w", 0.5, D)
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", _normal(0.0))
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            pyro.sample("x", _normal(w * z1 + z2[..., None], 0.7), obs=x)

    def guide(x: Tensor) -> None:
        a, s = _param("a", 0.3, D), _param("s", 0.4, D, positive=True)
        b = _param("b", 0.2, 1)
        with pyro.plate("data", len(x)):
            pyro.sample("z1", _normal(a * x, s))
            pyro.sample("z2", dist.Normal(b * x.sum(-1), 0.5))

    return Pair(model, guide, (_x(),), local=("z1", "z2"))


def _chain_model(x: Tensor) -> None:
    w, v = _param("w", 0.5, D), _param("v", 0.8, D)
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", _normal(0.0))
        z1 = pyro.sample("z1", _normal(v * z2, 0.6))
        pyro.sample("x", _normal(w * z1, 0.7), obs=x)


def chain_top_down() -> Pair:
    def guide(x: Tensor) -> None:
        a, b = _param("a", 0.3, D), _param("b", 0.2, D)
        s = _param("s", 0.4, D, positive=True)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", _normal(a * x, s))
            pyro.sample("z1", _normal(b * x + z2, s))

    return Pair(_chain_model, guide, (_x(),), local=("z2", "z1"))


def chain_bottom_up() -> Pair:
    def guide(x: Tensor) -> None:
        a, b = _param("a", 0.3, D), _param("b", 0.2, D)
        s = _param("s", 0.4, D, positive=True)
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", _normal(a * x, s))
            pyro.sample("z2", _normal(b * z1, s))

    return Pair(_chain_model, guide, (_x(),), local=("z2", "z1"), in_order=False)


def _global_model(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(D), 2.0).to_event(1))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", _normal(0.0))
        pyro.sample("x", dist.Normal(w * z, tau[..., None]).to_event(1), obs=x)


def global_and_local() -> Pair:
    def guide(x: Tensor) -> None:
        m, s = _param("m", 0.3, D), _param("s", 0.4, D, positive=True)
        pyro.sample("w", dist.Normal(m, s).to_event(1))
        pyro.sample("tau", dist.LogNormal(_param("t", -0.3), 0.2))
        a = _param("a", 0.3, D)
        with pyro.plate("data", len(x)):
            pyro.sample("z", _normal(a * x, s))

    return Pair(_global_model, guide, (_x(),))


def auto_globals() -> Pair:
    globals_ = AutoNormal(poutine.block(_global_model, hide=["z"]))

    def guide(x: Tensor) -> None:
        globals_(x)
        a, s = _param("a", 0.3, D), _param("s", 0.4, D, positive=True)
        with pyro.plate("data", len(x)):
            pyro.sample("z", _normal(a * x, s))

    return Pair(_global_model, guide, (_x(),))


def auto_local() -> Pair:
    """A guide whose draw is a Delta of an auxiliary site that holds all of its density."""
    pair = one_latent()
    return Pair(pair.model, AutoNormal(pair.model), pair.args)


def subsampled() -> Pair:
    def plate(x: Tensor) -> Any:
        return pyro.plate("data", len(x), subsample_size=4)

    def model(x: Tensor) -> None:
        w = _param("w", 0.5, D)
        with plate(x) as index:
            z = pyro.sample("z", _normal(0.0))
            pyro.sample("x", _normal(w * z, 0.7), obs=x[index])

    def guide(x: Tensor) -> None:
        a, s = _param("a", 0.3, D), _param("s", 0.4, D, positive=True)
        with plate(x) as index:
            pyro.sample("z", _normal(a * x[index], s))

    return Pair(model, guide, (_x(),))


def plate_at_minus_two() -> Pair:
    def model(x: Tensor) -> None:
        w = _param("w", 0.5, D)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", _normal(0.0))
            with pyro.plate("pixels", D, dim=-1):
                pyro.sample("x", dist.Normal((w * z)[..., 0, :], 0.7), obs=x)

    def guide(x: Tensor) -> None:
        a, s = _param("a", 0.3, D), _param("s", 0.4, D, positive=True)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", _normal((a * x)[:, None, :], s))

    return Pair(model, guide, (_x(),))


def nested_plates() -> Pair:
    def model(x: Tensor) -> None:
        w = _param("w", 0.5, 1)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("time", D, dim=-1):
                u = pyro.sample("u", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(w * z + u, 0.7), obs=x)

    def guide(x: Tensor) -> None:
        a, s = _param("a", 0.3, 1), _param("s", 0.4, 1, positive=True)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(a * x.mean(-1, keepdim=True), s))
            with pyro.plate("time", D, dim=-1):
                pyro.sample("u", dist.Normal(0.5 * a * x, s))

    return Pair(model, guide, (_x(),), local=("z", "u"), keywords={"plate": "data"})


def scaled() -> Pair:
    pair = one_latent()
    return Pair(
        poutine.scale(pair.model, scale=0.3), poutine.scale(pair.guide, scale=0.3), pair.args
    )


def masked() -> Pair:
    mask = torch.tensor([True, False, True, True, True, False, True])
    pair = one_latent()
    return Pair(
        poutine.mask(pair.model, mask=mask), poutine.mask(pair.guide, mask=mask), pair.args
    )


def auxiliary() -> Pair:
    pair = one_latent()

    def guide(x: Tensor) -> None:
        a, s = _param("a", 0.3, D), _param("s", 0.4, D, positive=True)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(0.2 * x.sum(-1), 0.5), infer={"is_auxiliary": True})
            pyro.sample("z", _normal(a * x + 0.1 * u[..., None], s))

    return Pair(pair.model, guide, pair.args)


def several_observed() -> Pair:
    pair = one_latent()

    def model(x: Tensor, y: Tensor) -> None:
        w = _param("w", 0.5, D)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _normal(0.0))
            pyro.sample("x", _normal(w * z, 0.7), obs=x)
            pyro.sample("y", dist.Bernoulli(logits=z.sum(-1)), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        pair.guide(x)

    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]).to(torch.get_default_dtype())
    return Pair(model, guide, (_x(), y))


class _Model(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = PyroParam(0.5 * torch.eye(D) + 0.1)
        self.shift = PyroSample(dist.Normal(torch.zeros(D), 1.0).to_event(1))

    def forward(self, x: Tensor) -> None:
        shift = self.shift
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _normal(0.0))
            pyro.sample("x", _normal(z @ self.weight + shift, 0.7), obs=x)


class _Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = PyroModule[nn.Linear](D, D)
        self.scale = PyroParam(torch.full((D,), 0.4), dist.constraints.positive)
        self.loc = PyroParam(torch.full((D,), 0.1))

    def forward(self, x: Tensor) -> None:
        pyro.sample("shift", dist.Normal(self.loc, 0.3).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", _normal(self.encoder(x), self.scale))


def pyro_modules() -> Pair:
    return Pair(_Model(), _Guide(), (_x(),))


PAIRS: dict[str, Callable[[], Pair]] = {
    build.__name__: build
    for build in (
        one_latent,
        two_latents,
        chain_top_down,
        chain_bottom_up,
        global_and_local,
        auto_globals,
        auto_local,
        subsampled,
        plate_at_minus_two,
        nested_plates,
        scaled,
        masked,
        auxiliary,
        several_observed,
        pyro_modules,
    )
}
"""Builders by name."""


class MeanField(TraceMeanField_ELBO):
    """Pyro's mean-field ELBO with the change of variables of constrained latents, which it leaves
    out: log q of a point mass is its `log_density`."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        traces: list[poutine.Trace] = []

        def recorded(*args: Any, **kwargs: Any) -> None:
            traces.append(poutine.trace(guide).get_trace(*args, **kwargs))

        loss = super().differentiable_loss(model, recorded, *args, **kwargs)
        # The first run under `vectorize_particles` may only tell the plates' nesting.
        runs = traces[-(1 if self.vectorize_particles else self.num_particles) :]
        for trace in runs:
            for site in trace.nodes.values():
                if isinstance(site.get("fn"), dist.Delta):
                    loss = loss + site["fn"].log_density.sum() / self.num_particles
        return loss


def gradients(loss: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradient of every parameter it touches, by name."""
    with poutine.trace(param_only=True) as capture:
        value = loss()
    leaves = {n: s["value"].unconstrained() for n, s in capture.trace.nodes.items()}
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return float(value.detach()), {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }
