"""The shapes that Pyro pairs come in, and what losses, evaluation and the rest make of each.

`SHAPES` was written before the code that it tests: one rule gives every caller the same answer.
`rows` is the number of data where nothing is asked for, or None where the rule gives no answer;
`refused` names the callers that refuse all the same, in one line; `asked` is what makes the shape
run where the rule gives none.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

N, D = 6, 2

LOSSES = ("mmd", "beta", "wae", "iwae")
BY_ROW = ("mmd", "beta", "wae", "evaluation", "diagnostics", "sampling")
"""All but IWAE, to which all data are one row wherever a latent is outside the data plate."""


@dataclass
class Shape:
    """A pair, its arguments, and what is to become of them.

    Attributes:
        rows: the number of data that every caller finds unasked; None where they ask, all but
            IWAE, to which all data are one row wherever a latent is outside their plate.
        refused: the callers that refuse, whatever the plates.
        total: whether ELBO and NLL are of all data at once, though no metric is by row.
        asked: keywords that make a choice, where the rule leaves one.
        local: the codes.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    rows: int | None = N
    refused: tuple[str, ...] = ()
    total: bool = False
    asked: dict[str, Any] = field(default_factory=dict)
    local: tuple[str, ...] = ("z",)


def data() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(4))


def normal(loc: Tensor | float, scale: float = 1.0) -> Any:
    loc = loc if isinstance(loc, Tensor) else torch.full((D,), loc)
    return dist.Normal(loc, scale).to_event(1)


def _simple(plate: Callable[[Tensor], Any], **more: Any) -> Shape:
    def model(x: Tensor) -> None:
        with plate(x):
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(z, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        with plate(x):
            pyro.sample("z", normal(x / 2, 0.6))

    return Shape(model, guide, (data(),), **more)


def flat() -> Shape:
    return _simple(lambda x: pyro.plate("data", len(x)))


def number() -> Shape:
    return _simple(lambda x: pyro.plate("data", N))


def unsized() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data"):
            z = pyro.sample("z", normal(torch.zeros(len(x), D)))
            pyro.sample("x", normal(z, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", normal(x / 2, 0.6))

    return Shape(model, guide, (data(),))


def subsampled() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=4) as index:
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(z, 0.8), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=4) as index:
            pyro.sample("z", normal(x[index] / 2, 0.6))

    return Shape(model, guide, (data(),), 4, refused=("evaluation", "diagnostics"))


def batch_given() -> Shape:
    """`subsample=` the batch itself, of two dimensions: scales, and no indices."""
    return _simple(lambda x: pyro.plate("data", 10 * N, subsample=x))


def plate_at_minus_two() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(z, 0.8), obs=x[:, None])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", normal(x[:, None] / 2, 0.6))

    return Shape(model, guide, (data(),))


def _nested(outer: str, inner: str, **more: Any) -> Shape:
    """t in the outer plate, w and x in both."""

    def model(x: Tensor) -> None:
        with pyro.plate(outer, len(x), dim=-2):
            t = pyro.sample("t", dist.Normal(0.0, 1.0))
            with pyro.plate(inner, D, dim=-1):
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(t + w, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate(outer, len(x), dim=-2):
            pyro.sample("t", dist.Normal(x.mean(-1, keepdim=True) / 2, 0.6))
            with pyro.plate(inner, D, dim=-1):
                pyro.sample("w", dist.Normal(x / 3, 0.6))

    return Shape(model, guide, (data(),), local=("t", "w"), **more)


def documents_and_words() -> Shape:
    return _nested("documents", "words", rows=None, asked={"plate": "documents"})


def _grid(inner: str, **more: Any) -> Shape:
    """z and x in time x inner."""

    def program(x: Tensor, observed: bool) -> None:
        with pyro.plate("time", D, dim=-2), pyro.plate(inner, len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0 if observed else x.T / 2, 0.7))
            if observed:
                pyro.sample("x", dist.Normal(z, 0.8), obs=x.T)

    return Shape(lambda x: program(x, True), lambda x: program(x, False), (data(),), **more)


def time_and_data() -> Shape:
    return _grid("data")


def time_and_sequences() -> Shape:
    return _grid("sequences", rows=None, asked={"plate": "sequences"})


def features_below() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("features", D, dim=-1):
                pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True) / 2, 0.6))

    return Shape(model, guide, (data(),))


def global_in_features() -> Shape:
    def program(x: Tensor, observed: bool) -> None:
        with pyro.plate("features", D, dim=-1):
            w = pyro.sample("w", dist.Normal(0.3, 0.5))
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(0.0 if observed else x / 2, 0.7))
                if observed:
                    pyro.sample("x", dist.Normal(w + z, 0.8), obs=x)

    return Shape(lambda x: program(x, True), lambda x: program(x, False), (data(),))


def loop_of_observations() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            for j in pyro.plate("columns", D):
                pyro.sample(f"x{j}", dist.Normal(z[..., j], 0.8), obs=x[:, j])

    return Shape(model, flat().guide, (data(),))


def loop_of_latents() -> Shape:
    def program(x: Tensor, observed: bool) -> None:
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", normal(0.0 if observed else x[i] / 2))
            if observed:
                pyro.sample(f"x{i}", normal(z, 0.8), obs=x[i])

    return Shape(lambda x: program(x, True), lambda x: program(x, False), (data(),), None, BY_ROW)


def labelled_and_unlabelled() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("labelled", 2):
            a = pyro.sample("a", normal(0.0))
            pyro.sample("xa", normal(a, 0.8), obs=x[:2])
        with pyro.plate("unlabelled", len(x) - 2):
            b = pyro.sample("b", normal(0.0))
            pyro.sample("xb", normal(b, 0.8), obs=x[2:])

    def guide(x: Tensor) -> None:
        with pyro.plate("labelled", 2):
            pyro.sample("a", normal(x[:2] / 2, 0.6))
        with pyro.plate("unlabelled", len(x) - 2):
            pyro.sample("b", normal(x[2:] / 2, 0.6))

    asked = {"plate": "unlabelled"}
    return Shape(model, guide, (data(),), None, asked=asked, local=("b",))


def users_and_items() -> Shape:
    def program(x: Tensor, observed: bool) -> None:
        users, items = pyro.plate("users", N, dim=-2), pyro.plate("items", D, dim=-1)
        loc = (0.0, 0.0) if observed else (x.mean(1, keepdim=True) / 2, x.mean(0) / 2)
        with users:
            u = pyro.sample("u", dist.Normal(loc[0], 0.9))
        with items:
            v = pyro.sample("v", dist.Normal(loc[1], 0.9))
        if observed:
            with users, items:
                pyro.sample("x", dist.Normal(u * v, 0.8), obs=x)

    return Shape(
        lambda x: program(x, True),
        lambda x: program(x, False),
        (data(),),
        None,
        asked={"plate": "users"},
        local=("u",),
    )


def further_observation() -> Shape:
    shape = flat()

    def model(x: Tensor) -> None:
        shape.model(x)
        with pyro.plate("sensors", 4):
            pyro.sample("y", dist.Normal(0.2, 1.0), obs=torch.arange(4.0) / 4)

    return Shape(model, shape.guide, shape.args)


def further_factor() -> Shape:
    shape = flat()

    def model(x: Tensor) -> None:
        shape.model(x)
        with pyro.plate("components", 4):
            pyro.factor("penalty", -torch.ones(4))
            pyro.deterministic("weights", torch.ones(4) / 4)

    return Shape(model, shape.guide, shape.args)


def global_in_topics() -> Shape:
    def program(x: Tensor, observed: bool) -> None:
        with pyro.plate("topics", 3):
            w = pyro.sample("w", normal(torch.zeros(D), 0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0 if observed else x / 2, 0.7))
            if observed:
                pyro.sample("x", normal(z + w.mean(-2), 0.8), obs=x)

    return Shape(lambda x: program(x, True), lambda x: program(x, False), (data(),))


def observation_outside() -> Shape:
    shape = flat()

    def model(x: Tensor) -> None:
        shape.model(x)
        pyro.sample("total", dist.Normal(0.0, 1.0), obs=torch.tensor(0.1))

    return Shape(model, shape.guide, shape.args)


def factor_for_likelihood() -> Shape:
    shape = flat()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            pyro.factor("fit", -((x - z) ** 2).sum(-1) / 2)

    return Shape(model, shape.guide, shape.args)


def batch_in_the_event() -> Shape:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), D), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z, 0.8).to_event(2), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x / 2, 0.6).to_event(2))

    return Shape(model, guide, (data(),), None, BY_ROW, total=True)


def global_only() -> Shape:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", normal(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(w, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", normal(x.mean(0), 0.3))

    return Shape(
        model, guide, (data(),), None, ("mmd", "beta", "wae", "evaluation"), True, local=()
    )


MASK = torch.tensor([True, True, False, True, False, True])


def masked() -> Shape:
    shape = flat()
    return Shape(
        poutine.mask(shape.model, mask=MASK), poutine.mask(shape.guide, mask=MASK), shape.args
    )


def masked_distributions() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0).mask(MASK))
            pyro.sample("x", normal(z, 0.8).mask(MASK), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x / 2, 0.6).mask(MASK))

    return Shape(model, guide, (data(),))


def partly_observed() -> Shape:
    shape = flat()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(z, 0.8), obs=x, obs_mask=MASK)

    return Shape(model, shape.guide, shape.args)


def enumerated_in_the_guide() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x[:, 0])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            every = {"enumerate": "parallel"}
            k = pyro.sample("k", dist.Bernoulli(torch.sigmoid(x[:, 0])), infer=every)
            pyro.sample("z", dist.Normal(x[:, 0] / 2 + k / 4, 0.6))

    return Shape(model, guide, (data(),), refused=("iwae",), local=("k", "z"))


def enumerated_in_the_model() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            every = {"enumerate": "parallel"}
            k = pyro.sample("k", dist.Bernoulli(0.4), infer=every)
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", dist.Normal(z.sum(-1) + k, 0.8), obs=x[:, 0])

    shape = flat()
    # k moves the mean of x, which then has one for each of its values.
    return Shape(model, shape.guide, shape.args, refused=("wae",))


def groups_and_members() -> Shape:
    def model(x: Tensor) -> None:
        with pyro.plate("groups", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            with pyro.plate("members", D, dim=-1):
                pyro.sample("x", dist.Normal(a, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("groups", len(x), dim=-2):
            pyro.sample("a", dist.Normal(x.mean(-1, keepdim=True) / 2, 0.6))

    return Shape(model, guide, (data(),), local=("a",))


SHAPES: dict[str, Callable[[], Shape]] = {
    build.__name__: build
    for build in (
        flat,
        number,
        unsized,
        subsampled,
        batch_given,
        plate_at_minus_two,
        documents_and_words,
        time_and_data,
        time_and_sequences,
        features_below,
        global_in_features,
        loop_of_observations,
        loop_of_latents,
        labelled_and_unlabelled,
        users_and_items,
        further_observation,
        further_factor,
        global_in_topics,
        observation_outside,
        factor_for_likelihood,
        batch_in_the_event,
        global_only,
        masked,
        masked_distributions,
        partly_observed,
        enumerated_in_the_guide,
        enumerated_in_the_model,
        groups_and_members,
    )
}
"""Builders by name."""
