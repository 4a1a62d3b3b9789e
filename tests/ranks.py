"""Pairs whose noise is given by row, run over several processes and in one.

A case is run the same way in each process, with its part of the rows, and in a process alone, with
all of them: loss, terms and gradients of two steps are what is compared.
"""

import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

sys.path.insert(0, str(Path(__file__).parent / "contracts"))

import test_divergences
import test_objectives

from ppl_vae import SVI, fit, processes, world
from ppl_vae.data import Dataset, arrays
from ppl_vae.data.mapped import Mapped
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.objectives import (
    GECO,
    IWAE,
    MMD,
    TCVAE,
    Adversarial,
    AggregateKL,
    BetaVAE,
    CapacityVAE,
    Dual,
    Energy,
    InfoVAE,
    Memory,
    MutualAutoencoder,
    Objective,
    Penalty,
    SlicedWasserstein,
    Stein,
)
from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior
from ppl_vae.objectives.divergences.divergence import Counted, Divergence
from ppl_vae.program.modules import release
from ppl_vae.training.optim import SGD

D = 3
SPLITS = {"64 + 64": (64, 64), "64 + 21": (64, 21), "64 + 1": (64, 1)}


class Given(dist.Normal):  # type: ignore[misc]
    """A normal whose noise is given, so that a row has the same wherever it is."""

    def __init__(self, loc: Any, scale: Any, noise: Tensor):
        super().__init__(*torch.broadcast_tensors(*map(torch.as_tensor, (loc, scale, noise)))[:2])
        self.noise = noise

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self.noise

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample().detach()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Given":
        return Given(*(t.expand(batch_shape) for t in (self.loc, self.scale, self.noise)))


class Student(dist.StudentT):  # type: ignore[misc]
    """A prior of no location-scale family that is known, with noise by row."""

    def __init__(self, loc: Tensor, noise: Tensor):
        super().__init__(torch.full_like(noise, 5.0), loc.expand_as(noise), 1.0)
        self.noise = noise

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.noise

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Student":
        return self


class Rows:
    """What a pair is called with: a tensor of columns for each purpose."""

    def __init__(self, whole: Tensor):
        self.x, self.encoder, self.prior, self.decoder = whole[:, : 4 * D].split(D, 1)
        self.keep = whole[:, -1] > 0

    @staticmethod
    def make(n: int) -> Tensor:
        draw = torch.Generator().manual_seed(n)
        whole = torch.randn(n, 4 * D + 1, generator=draw, dtype=torch.float64)
        # rows of one process are left out more often than of another
        place = torch.arange(n)
        whole[:, -1] = ((place % 5 > 0) & (place < n - n // 6)).double()
        return whole


def prior(rows: Rows) -> Any:
    return Given(0.0, 1.0, rows.prior)


def plain_model(whole: Tensor, prior: Callable[[Rows], Any] = prior, plate: Any = None) -> None:
    rows = Rows(whole)
    b = pyro.param("b", torch.tensor(0.8))
    with plate(whole) if plate else pyro.plate("data", len(whole)):
        z = pyro.sample("z", prior(rows).to_event(1))
        pyro.sample("x", Given(b * z, 0.9, rows.decoder).to_event(1), obs=rows.x)


def plain_guide(whole: Tensor, plate: Any = None) -> None:
    rows = Rows(whole)
    a = pyro.param("a", torch.tensor(0.4))
    s = pyro.param("s", torch.tensor([0.5, 0.7, 0.9]), dist.constraints.positive)
    with plate(whole) if plate else pyro.plate("data", len(whole)):
        pyro.sample("z", Given(a * rows.x, s, rows.encoder).to_event(1))


Pair = tuple[Callable[..., Any], Callable[..., Any]]


def plain() -> Pair:
    return plain_model, plain_guide


def masked() -> Pair:
    def under_mask(program: Callable[..., Any]) -> Callable[..., Any]:
        def run(whole: Tensor) -> None:
            with pyro.poutine.mask(mask=Rows(whole).keep):
                program(whole)

        return run

    return under_mask(plain_model), under_mask(plain_guide)


def subsampled() -> Pair:
    def plate(whole: Tensor) -> Any:
        return pyro.plate("data", 1000, subsample=whole)

    return (lambda x: plain_model(x, plate=plate)), (lambda x: plain_guide(x, plate=plate))


def learned_prior() -> Pair:
    def prior(rows: Rows) -> Any:
        return Student(pyro.param("p", torch.tensor([0.1, -0.2, 0.3])), rows.prior)

    return (lambda x: plain_model(x, prior)), plain_guide


def covariates(whole: Tensor) -> Tensor:
    return Rows(whole).x[:, :1]


def conditional_prior() -> Pair:
    def prior(rows: Rows) -> Any:
        p = pyro.param("p", torch.tensor([0.1, -0.2, 0.3]))
        return Student(p * rows.x[:, :1], rows.prior)

    return (lambda x: plain_model(x, prior)), plain_guide


def global_latent() -> Pair:
    def model(whole: Tensor) -> None:
        rows = Rows(whole)
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(whole)):
            z = pyro.sample("z", Given(0.0, 1.0, rows.prior).to_event(1))
            pyro.sample("x", Given(z + w, 0.9, rows.decoder).to_event(1), obs=rows.x)

    def guide(whole: Tensor) -> None:
        rows = Rows(whole)
        m = pyro.param("m", torch.full((D,), 0.5))
        w = pyro.sample("w", dist.Normal(m, 0.3).to_event(1))
        a = pyro.param("a", torch.tensor(0.4))
        with pyro.plate("data", len(whole)):
            pyro.sample("z", Given(a * (rows.x - w), 0.6, rows.encoder).to_event(1))

    return model, guide


def enumerated() -> Pair:
    def model(whole: Tensor) -> None:
        rows = Rows(whole)
        logits = pyro.param("logits", torch.tensor([0.2, -0.1, 0.4]))
        with pyro.plate("data", len(whole)):
            k = pyro.sample("k", dist.Categorical(logits=logits))
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            loc = z + k[..., None]
            pyro.sample("x", dist.Normal(loc, 0.9).to_event(1), obs=rows.x)

    def guide(whole: Tensor) -> None:
        rows = Rows(whole)
        a = pyro.param("a", torch.tensor(0.4))
        with pyro.plate("data", len(whole)):
            logits = rows.x * pyro.param("slope", torch.tensor(0.5))
            k = pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            loc = a * rows.x - 0.2 * k[..., None]
            scale = torch.full_like(loc, 0.7)
            pyro.sample("z", Given(loc, scale, rows.encoder.expand_as(loc)).to_event(1))

    return model, guide


class Network(nn.Module):
    """An encoder and a decoder with batch norms, and means standardised over the batch."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.encoder = nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Tanh())
            self.means = MeanFieldNormal(torch.Size([5]), D, standardise=0.9)
            self.decoder = nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.Linear(4, D))

    def model(self, whole: Tensor) -> None:
        pyro.module("network", self)
        rows = Rows(whole)
        with pyro.plate("data", len(whole)):
            z = pyro.sample("z", Given(0.0, 1.0, rows.prior).to_event(1))
            pyro.sample("x", Given(self.decoder(z), 0.9, rows.decoder).to_event(1), obs=rows.x)

    def guide(self, whole: Tensor) -> None:
        pyro.module("network", self)
        rows = Rows(whole)
        with pyro.plate("data", len(whole)):
            fn = self.means(self.encoder(rows.x)).base_dist
            pyro.sample("z", Given(fn.loc, fn.scale, rows.encoder).to_event(1))


def network() -> Pair:
    made = Network()
    return made.model, made.guide


def lazy() -> Pair:
    """A parameter that starts where the data are: those of the first process."""

    def guide(whole: Tensor) -> None:
        rows = Rows(whole)
        start = pyro.param("start", lambda: rows.x[:64].mean(0))
        with pyro.plate("data", len(whole)):
            pyro.sample("z", Given(0.4 * rows.x + start, 0.6, rows.encoder).to_event(1))

    return plain_model, guide


class R(nn.Module):
    """r(z|x)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))
        self.norm = nn.BatchNorm1d(D)

    def forward(self, x: Tensor) -> Any:
        return dist.Normal(self.slope * self.norm(x), 0.7).to_event(1)


class Spread(Divergence):
    """What a user may write: of moments, of all rows together."""

    def forward(self, q: AggregatePosterior) -> Tensor:
        share = (q.weights / q.weights.sum())[:, None]
        mean = (share * q.codes).sum(0)
        return ((share * (q.codes - mean) ** 2).sum(0).log() ** 2 + mean**2).sum()


@dataclass(frozen=True)
class Case:
    """An objective and a pair."""

    make: Callable[[], Objective]
    pair: Callable[[], Pair] = plain

    def double(self) -> tuple[Objective, Pair]:
        """Both, in double precision."""
        objective, pair = self.make().double(), self.pair()
        for part in objective.modules():
            if isinstance(part, Counted) and getattr(part, "size", None) is not None:
                part.size = 500
        for owner in owners(pair):
            owner.double()
        return objective, pair


def owners(pair: Pair) -> list[nn.Module]:
    """The modules whose methods a pair is."""
    found = {getattr(program, "__self__", None) for program in pair}
    return [owner for owner in found if isinstance(owner, nn.Module)]


def _divergence(case: test_divergences.Case) -> Case:
    return Case(lambda: InfoVAE(case.make(), alpha=0.5, scale=9.0), masked)


CASES: dict[str, Case] = {}
for name, own in test_objectives.CASES.items():
    CASES[name] = Case(own.make, masked)
for name, each in test_divergences.CASES.items():
    CASES[f"D: {name}"] = _divergence(each)
CASES |= {
    "a user's divergence": Case(lambda: InfoVAE(Spread(), alpha=0.5, scale=9.0), masked),
    "subsampled": Case(lambda: InfoVAE(MMD(), alpha=0.5, scale=9.0), subsampled),
    "subsampled, AggregateKL": Case(lambda: InfoVAE(AggregateKL(), scale=2.0), subsampled),
    "subsampled, IWAE": Case(IWAE, subsampled),
    "subsampled, capacity": Case(lambda: CapacityVAE(2.0, 3.0), subsampled),
    "global": Case(lambda: InfoVAE(MMD(), alpha=0.5, scale=9.0), global_latent),
    "global, ELBO": Case(BetaVAE, global_latent),
    "batch norm": Case(lambda: InfoVAE(MMD(), alpha=0.5, scale=9.0), network),
    "batch norm, IWAE": Case(lambda: IWAE(2), network),
    "lazy": Case(lambda: InfoVAE(Energy(), scale=9.0), lazy),
    "learned prior, MMD": Case(lambda: InfoVAE(MMD(), scale=9.0), learned_prior),
    "learned prior, Stein": Case(lambda: InfoVAE(Stein(), scale=9.0), learned_prior),
    "learned prior, KL": Case(lambda: InfoVAE(AggregateKL(size=500)), learned_prior),
    "learned prior, past": Case(lambda: InfoVAE(Memory(AggregateKL(size=500), 70)), learned_prior),
    "given": Case(lambda: InfoVAE(MMD(), scale=9.0, given=covariates), conditional_prior),
    "enumerated": Case(lambda: InfoVAE(MMD(pairs="all"), 0.5, 9.0, sites=["z"]), enumerated),
    "enumerated, shifts": Case(lambda: InfoVAE(MMD(pairs=4), 0.5, 9.0, sites=["z"]), enumerated),
    "enumerated, ELBO": Case(BetaVAE, enumerated),
    "unmasked": Case(lambda: InfoVAE(MMD(pairs=3), alpha=0.5, scale=9.0)),
    "free bits": Case(lambda: BetaVAE(2.0, free_bits=0.7)),
    "auto": Case(lambda: InfoVAE(MMD(), scale="auto")),
    "dual": Case(lambda: CapacityVAE(2.0, Dual(average=0.9)), masked),
    "GECO": Case(lambda: GECO(4.0), masked),
    "GECO, penalty": Case(lambda: GECO(4.0, Penalty(2.0, average=0.5)), masked),
    "mutual, batch norm": Case(lambda: MutualAutoencoder(0.5, auxiliary=R()), network),
    "TCVAE": Case(lambda: TCVAE(2.0, 5.0, 1.5, size=500), masked),
    "particles": Case(lambda: InfoVAE(MMD(), alpha=0.5, scale=9.0, num_particles=2), masked),
    "particles at once": Case(
        lambda: InfoVAE(
            SlicedWasserstein(8),
            alpha=0.5,
            scale=9.0,
            num_particles=2,
            vectorize_particles=True,
            max_plate_nesting=1,
        )
    ),
}

Step = dict[str, Any]


def run(case: Case, whole: Tensor) -> list[Step]:
    """Loss, terms and gradients of the first steps, and what they have moved."""
    pyro.clear_param_store()
    objective, pair = case.double()
    (rows,) = world.here().shard(whole)
    torch.manual_seed(4)
    objective.loss(*pair, rows)
    found = []
    steps = 2 if any(isinstance(part, Memory | Dual) for part in objective.modules()) else 1
    for k in range(steps):
        torch.manual_seed(5 + k)
        if isinstance(shared := world.here(), world.Processes):
            shared.stream = [torch.get_rng_state()]
        step: Step = {"loss": objective.loss_and_grads(*pair, rows)}
        step |= {f"term {name}": value.clone() for name, value in objective.terms.items()}
        params = dict(pyro.get_param_store().named_parameters())
        for name, param in sorted(params.items()):
            place = name.split("$$$")[-1] if "$$$" in name else name
            grad = torch.zeros_like(param) if param.grad is None else param.grad
            step[f"gradient {place}"] = grad.clone()
            with torch.no_grad():
                param -= 1e-3 * grad
            param.grad = None
        step |= {f"buffer {n}": b.clone() for n, b in objective.named_buffers()}
        for owner in owners(pair):
            step |= {f"own {n}": b.clone() for n, b in owner.named_buffers()}
        found.append(step)
    release(*params.values())
    return found


def worst(found: list[Step], expected: list[Step], kinds: str = "") -> float:
    """The largest difference, in units of the largest entry of what it is of."""
    most = 0.0
    for step, other in zip(found, expected, strict=True):
        assert step.keys() == other.keys(), set(step) ^ set(other)
        for name, value in other.items():
            if not name.startswith(kinds):
                continue
            one, two = (torch.as_tensor(v, dtype=torch.float64) for v in (step[name], value))
            size = max(float(two.abs().max()), 1e-3)
            most = max(most, float((one - two).abs().max()) / size)
    return most


@contextmanager
def faulty(how: str) -> Iterator[None]:
    """Runs with a convention that is wrong."""
    if how == "own slice":
        kept = world._Total.backward
        world._Total.backward = staticmethod(lambda ctx, *grads: (grads[0], None))  # type: ignore
        try:
            yield
        finally:
            world._Total.backward = kept  # type: ignore[method-assign]
    elif how == "mean":
        reduce = world.Processes.reduce

        def mean(self: Any, params: Any) -> None:
            reduce(self, params)
            for param in params.values():
                if param.grad is not None:
                    param.grad /= self.size

        world.Processes.reduce = mean  # type: ignore[method-assign]
        try:
            yield
        finally:
            world.Processes.reduce = reduce  # type: ignore[method-assign]
    elif how == "no scales":
        from ppl_vae.objectives import objective

        spread = objective.spread
        objective.spread = lambda reading, *_: reading
        try:
            yield
        finally:
            objective.spread = spread
    else:
        yield


def fitted(case: Case, data: Any = None, **how: Any) -> dict[str, Any]:
    """The history and the weights that a short training ends with."""
    pyro.clear_param_store()
    objective, pair = case.make().double(), case.pair()
    if hasattr(pair[0], "__self__"):
        # the biases in front of batch norms have no gradient but rounding, which Adam scales up
        how = {"optimizer": SGD(1e-3), **how}
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 64, "seed": 3, "device": "cpu"}
    settings |= {"validation": Rows.make(50), "progress": False, "tensorboard": False}
    rows = Rows.make(236) if data is None else data
    history = fit(*pair, rows, objective, **settings | how)
    found: dict[str, Any] = {f"row {k}": row for k, row in enumerate(history.rows)}
    for owner in owners(pair):
        found |= owner.state_dict()
    params = pyro.get_param_store().named_parameters()
    found |= {n.split("$$$")[-1]: p.detach().clone() for n, p in params}
    return found


def unlike(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two trainings."""
    most = 0.0
    assert one.keys() == other.keys()
    for name, value in other.items():
        if name.startswith("row"):
            assert one[name].keys() == value.keys()
            found = [abs(one[name][k] - v) / max(1.0, abs(v)) for k, v in value.items()]
        else:
            found = [float((one[name] - value).abs().max())]
        most = max(most, *found)
    return most


FITS: dict[str, Case] = {
    "MMD": Case(lambda: InfoVAE(MMD(pairs="all"), alpha=0.5, scale=9.0), masked),
    "capacity": Case(lambda: CapacityVAE(2.0, Dual(average=0.9))),
    "memory, batch norm": Case(lambda: InfoVAE(Memory(MMD(pairs="all"), 100)), network),
}

DRAWING = Case(lambda: InfoVAE(SlicedWasserstein(8), alpha=0.5, scale=9.0))
"""Draws directions, other ones in each process."""


def resuming(folder: str) -> dict[tuple[str, str], Any]:
    """A training with an interruption, and without; and one that was begun by one process."""
    whole = fitted(DRAWING, epochs=4, out=f"{folder}/whole")
    fitted(DRAWING, epochs=2, out=f"{folder}/part")
    resumed = fitted(DRAWING, epochs=4, resume=f"{folder}/part")
    if world.here().rank == 0:
        with world.by_itself():
            fitted(FITS["MMD"], epochs=2, out=f"{folder}/one")
    world.here().number(0)  # the other waits here
    more = fitted(FITS["MMD"], resume=f"{folder}/one")
    return {("fit", "whole"): whole, ("fit", "resumed"): resumed, ("fit", "more"): more}


def halved(precision: str = "bf16") -> dict[str, Any]:
    """A training of float32 networks."""
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()
    made = Network()
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 64, "progress": False, "device": "cpu"}
    rows, objective = Rows.make(236).float(), InfoVAE(MMD(pairs="all"), alpha=0.5, scale=9.0)
    try:
        history = fit(
            made.model, made.guide, rows, objective, SGD(1e-3), precision=precision, **settings
        )
    finally:
        torch.set_default_dtype(torch.float64)
    return {f"row {k}": row for k, row in enumerate(history.rows)} | made.state_dict()


class Counting(TorchDataset):  # type: ignore[misc]
    """Rows that note which of them are read."""

    def __init__(self) -> None:
        self.whole, self.read = Rows.make(236), list[int]()

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, place: int) -> Tensor:
        self.read.append(place)
        return self.whole[place]


class Noisy(Dataset):
    """Rows that are drawn anew each epoch."""

    def epoch(self) -> Tensor:
        return self.train + 0.1 * torch.randn(len(self.train), 1)


def mapped(folder: str) -> list[list[int]]:
    """The rows of a file that each epoch reads, and as many rows more as it has."""
    np.save(f"{folder}/{world.here().rank}.npy", Rows.make(236).numpy())
    read: list[int] = []

    class Watched(Mapped):
        def __getitems__(self, places: Sequence[int]) -> Any:
            read.extend(places)
            return super().__getitems__(places)

    large, kind, arrays._LARGE, arrays.Mapped = arrays._LARGE, Mapped, 0, Watched  # type: ignore
    try:
        rows = arrays.Arrays(f"{folder}/{world.here().rank}.npy", normalise="none")
        ends: list[int] = [0]

        def note(_: Any) -> None:
            ends.append(len(read))

        fitted(FITS["MMD"], data=rows, epochs=3, callbacks=[note])
    finally:
        arrays._LARGE, arrays.Mapped = large, kind  # type: ignore[attr-defined]
    # the first has also what is looked at before
    return [read[a:b] for a, b in pairwise(ends)][1:]


def streaming() -> dict[tuple[str, str], Any]:
    """Trainings on rows that are read batch by batch, or drawn each epoch."""
    case = Case(lambda: InfoVAE(MMD(pairs="all"), alpha=0.5, scale=9.0))
    found: dict[tuple[str, str], Any] = {}
    rows = Counting()
    found["fit", "stream"] = fitted(case, data=rows, epochs=2)
    found["read", ""] = rows.read[236:]  # the first pass looks at all
    loader = DataLoader(Counting(), batch_size=64, shuffle=True)
    found["fit", "loader"] = fitted(case, data=loader, epochs=2)
    found["fit", "drawn"] = fitted(case, data=Noisy(Rows.make(236)), epochs=2)
    return found


def infinite(x: Tensor) -> None:
    plain_model(x)
    pyro.factor("bad", torch.tensor(math.inf if world.here().rank else 0.0))


def unequal(x: Tensor) -> None:
    plain_model(x)
    pyro.factor("more", 0 * pyro.param(f"of {world.here().rank}", torch.tensor(1.0)))


def holding(least: int) -> None:
    """Processes of which the second has a parameter more, or all another shape of one."""
    rank = world.here().rank
    if rank >= least:
        pyro.param("more", torch.ones(1 + rank))
    (rows,) = world.here().shard(Rows.make(64))
    BetaVAE().loss(lambda x: plain_model(x), plain_guide, rows)


def said(act: Callable[[], Any]) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


PYRO_SGD = pyro.optim.SGD({"lr": 1e-3})


def refusing(folder: str) -> dict[tuple[str, str], str]:
    """What several processes say to what they cannot do, or to what one of them does."""
    whole = Rows.make(64)
    (rows,) = world.here().shard(whole)
    settings: dict[str, Any] = {"epochs": 9, "seed": None, "progress": False, "device": "cpu"}
    acts: dict[str, Callable[[], Any]] = {
        "elbo": lambda: InfoVAE(MMD(), elbo=pyro.infer.TraceGraph_ELBO()).loss(*plain(), rows),
        "IWAE": lambda: IWAE(2).loss(*global_latent(), rows),
        "fit": lambda: fit(*plain(), whole, pyro.infer.Trace_ELBO(), **settings),
        "SVI": lambda: SVI(*plain(), PYRO_SGD, pyro.infer.Trace_ELBO()).step(rows),
        "held out": lambda: fit(*plain(), whole, BetaVAE(), validation=whole[:1], **settings),
        "row": lambda: fit(*plain(), whole[:1], BetaVAE(), **settings),
        "written": lambda: fit(*global_latent(), whole, IWAE(2), out=f"{folder}/no", **settings),
        "batch": lambda: fit(*plain(), whole, BetaVAE(), batch_size=1, **settings),
        "infinite": lambda: BetaVAE().loss_and_grads(infinite, plain_guide, rows),
        "held": lambda: holding(1),
        "shapes": lambda: holding(0),
        "unequal": lambda: BetaVAE().loss_and_grads(unequal, plain_guide, rows),
    }
    found = {}
    for name, act in acts.items():
        pyro.clear_param_store()
        found["said", name] = said(act)
    pyro.clear_param_store()

    def asks(row: dict[str, float]) -> bool:
        return world.here().rank == 1 and row["epoch"] == 2

    history = fit(*plain(), whole, BetaVAE(), callbacks=[asks], **settings)
    found["said", "callback"] = f"{len(history)} epochs"
    return found


def optimised() -> dict[str, Tensor]:
    """Gradients of a loop with an optimiser of PyTorch's, of the objective as a module."""
    pyro.clear_param_store()
    made, (rows,) = Network().double(), world.here().shard(Rows.make(85))
    module = InfoVAE(MMD(), alpha=0.5, scale=9.0)(made.model, made.guide)  # type: ignore[arg-type]
    module(rows).backward()
    params = {name: p for name, p in module.named_parameters() if p.requires_grad}
    world.here().reduce(params)
    return {name: p.grad.clone() for name, p in params.items() if p.grad is not None}


def met_again() -> list[Tensor]:
    """Where a parameter of the data starts, at first and after the store was cleared."""
    pair, (rows,) = lazy(), world.here().shard(Rows.make(128))
    found = []
    for _ in range(2):
        pyro.clear_param_store()
        BetaVAE().double().loss(*pair, rows)
        found.append(pyro.param("start").detach().clone())
    return found


def critics() -> list[Tensor]:
    """The first weights of critics that are made with other noise in each process."""
    pair, (rows,) = plain(), world.here().shard(Rows.make(128))
    found = []
    for k in range(2):
        torch.manual_seed(10 * k + world.here().rank)
        objective = InfoVAE(Adversarial(dim=D)).double()
        objective.loss(*pair, rows)
        found.append(next(objective.parameters()).detach().clone())
    return found


REPEATS = 120


def scored() -> Tensor:
    """Gradients of a score-function estimate over independent steps, whose mean is unbiased."""

    def model(whole: Tensor) -> None:
        b = pyro.param("b", torch.tensor([0.8, -0.4, 0.3]))
        with pyro.plate("data", len(whole)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            x = (Rows(whole).x > 0).double()
            pyro.sample("x", dist.Bernoulli(logits=b * z).to_event(1), obs=x)

    pyro.clear_param_store()
    pyro.set_rng_seed(9)
    (rows,) = world.here().shard(Rows.make(85))
    objective = MutualAutoencoder(2.0, 3.0, auxiliary=Plain(), estimator="score").double()
    slopes = []
    for _ in range(REPEATS):
        objective.loss_and_grads(model, plain_guide, rows)
        param = dict(pyro.get_param_store().named_parameters())["b"]
        assert param.grad is not None
        slopes.append(param.grad.clone())
        for _, param in pyro.get_param_store().named_parameters():
            param.grad = None
    return torch.stack(slopes)


class Plain(nn.Module):
    """r(z|x) of binary x."""

    def forward(self, x: Tensor) -> Any:
        return dist.Normal(0.5 * (2 * x - 1), 0.9).to_event(1)


FAULTS = {
    "own slice": "InfoVAE, half",
    "mean": "BetaVAE",
    "no scales": "subsampled",
    "no scales, globals": "global",
}


def work(rank: int, folder: str, sizes: int = 2) -> None:
    """What each process does: all cases, and writes what it found."""
    from ranks_recorded import recording

    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(sizes),
        "MASTER_ADDR": "127.0.0.1",
        "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    }
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    store = torch.distributed.FileStore(f"{folder}/store", sizes)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=sizes)
    found: dict[Any, Any] = {}
    try:
        with processes():
            for split, counts in SPLITS.items():
                whole = Rows.make(sum(counts))
                with shared_out(counts):
                    for name, case in CASES.items():
                        found[split, name] = run(case, whole)
                    for fault, name in FAULTS.items():
                        with faulty(fault.split(",")[0]):
                            found[split, f"! {fault}"] = run(CASES[name], whole)
            found |= {("fit", name): fitted(case) for name, case in FITS.items()}
            found |= resuming(folder) | streaming() | refusing(folder) | recording()
            found["mapped", ""], found["halved", ""] = mapped(folder), halved()
            found["met again", ""], found["critics", ""] = met_again(), critics()
            with shared_out((64, 21)):
                found["scored", ""] = scored()
                found["optimised", ""] = optimised()
    finally:
        torch.save(found, f"{folder}/{rank}.pt")
        torch.distributed.destroy_process_group()


@contextmanager
def shared_out(counts: tuple[int, ...]) -> Iterator[None]:
    """Rows are shared out by these numbers."""

    def shard(self: Any, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.split(list(counts))[self.rank] for part in parts)

    kept, world.Processes.shard = world.Processes.shard, shard  # type: ignore[method-assign]
    try:
        yield
    finally:
        world.Processes.shard = kept  # type: ignore[method-assign]


def killed(out: str) -> None:
    """A training of which the second process is killed after its third epoch."""
    torch.set_default_dtype(torch.float64)

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 2 and world.here().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with processes(10.0):
        fitted(FITS["MMD"], out=out, callbacks=[kill])


def going_on(out: str, found: str) -> None:
    """The training that was killed, to its end."""
    torch.set_default_dtype(torch.float64)
    with processes(60.0) as all_of_them:
        torch.save(fitted(FITS["MMD"], resume=out), f"{found}/{all_of_them.rank}.pt")
