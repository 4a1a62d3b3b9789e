"""Recorded steps against eager ones, bit for bit, and where they are not taken."""

import copy
import os
import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts import test_objectives
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import SVI, VAE, fit
from ppl_vae.bodies import DCGAN, ResNet
from ppl_vae.guides import Flow, FullCovarianceNormal, MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli, PixelCNN, PixelCNNpp
from ppl_vae.objectives import (
    MMD,
    RBF,
    Adversarial,
    AggregateKL,
    BetaVAE,
    CramerWold,
    Energy,
    FourierMMD,
    InfoVAE,
    Linear,
    Memory,
    MultiScale,
    Objective,
    SlicedWasserstein,
    Stein,
)
from ppl_vae.priors import StandardNormal
from ppl_vae.state import ready_optimizers
from ppl_vae.training import svi as module
from ppl_vae.training.graphs import simplify
from ppl_vae.training.recording import Recording

SIZE = torch.Size([12])
DIVERGENCES: dict[str, Callable[[], Any]] = {
    "MMD": MMD,
    "MMD, many scales": lambda: MMD(MultiScale()),
    "MMD, median": lambda: MMD(RBF("median"), prior="sampled", noise="sampled"),
    "Energy": Energy,
    "CramerWold": CramerWold,
    "FourierMMD": FourierMMD,
    "SlicedWasserstein": SlicedWasserstein,
    "Stein": Stein,
    "AggregateKL": AggregateKL,
    "Adversarial": lambda: Adversarial(dim=2),
    "Memory of MMD": lambda: Memory(MMD(), size=50),
    "Memory": lambda: Memory(SlicedWasserstein(), size=50),
}
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    name: (lambda make=make: InfoVAE(make(), scale=5.0)) for name, make in DIVERGENCES.items()
}
OBJECTIVES["a schedule"] = lambda: BetaVAE(Linear(0.0, 1.0, over=6))
OBJECTIVES |= {name: case.make for name, case in test_objectives.CASES.items()}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST", 2)


class Owner(nn.Module):
    """A pair with batch normalisation and dropout, over two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4)
        )
        self.decode = nn.Linear(2, 2)

    def model(self, x: Tensor, *_: Any) -> None:
        pyro.module("decode", self.decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 0.9).to_event(1), obs=x)

    def guide(self, x: Tensor, *_: Any) -> None:
        pyro.module("encode", self.encode)
        with pyro.plate("data", len(x)):
            loc, raw = self.encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.2 + raw.exp()).to_event(1))


def batches(steps: int) -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(6, 2) for _ in range(steps)]


def trained(
    objective: Objective, record: Any, data: Sequence[Tensor]
) -> tuple[list[float], list[Tensor], SVI]:
    pyro.clear_param_store()
    torch.manual_seed(1)
    owner = Owner()
    svi = SVI(owner.model, owner.guide, pyro.optim.Adam({"lr": 1e-2}), objective, record=record)
    losses = [svi.step(x) for x in data]
    state = [*owner.state_dict().values(), *objective.state_dict().values()]
    return losses, [t.clone() for t in (*state, *objective.terms.values())], svi


@pytest.mark.parametrize("name", OBJECTIVES)
def test_recorded_steps_equal_eager_ones(name: str) -> None:
    torch.manual_seed(0)
    recorded = OBJECTIVES[name]()
    eager = copy.deepcopy(recorded)
    data = batches(8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        losses, state, svi = trained(recorded, "auto", data)
        expected, end, _ = trained(eager, False, data)
    assert losses == expected
    assert len(state) == len(end)
    assert all(map(torch.equal, state, end))
    reasons = [str(w.message) for w in said if "stays eager" in str(w.message)]
    assert svi.recorded == 1, reasons


class Layouts(nn.Module):
    """Parameters whose gradients lie in memory in orders of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.turned = nn.Parameter(torch.randn(12, 6))
        self.repeated = nn.Parameter(torch.randn(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        image = x.reshape(-1, 2, 3, 2).contiguous(memory_format=torch.channels_last)
        hidden = self.conv(image).tanh().reshape(-1, 12)
        # gradients: a transposed product, and one number for each element
        return (self.turned @ (self.turned.t() @ hidden.t())).t() + self.repeated.sum()


def pairs() -> dict[str, Callable[[], VAE]]:
    size, image = torch.Size([12]), torch.Size([1, 8, 8])

    def of(
        likelihood: Any = Bernoulli, encoder: Any = MeanFieldNormal, shape: torch.Size = image
    ) -> Callable[[], VAE]:
        return lambda: VAE(StandardNormal(2), likelihood(2, shape), encoder(shape, 2))

    conv = partial(DCGAN, channels=(4, 8), features=8)
    residual = partial(ResNet, channels=(4, 8))
    narrow = {"width": 4, "depth": 2}
    return {
        "MLP": of(shape=size),
        "DCGAN": of(partial(Bernoulli, body=conv), partial(MeanFieldNormal, body=conv)),
        "ResNet": of(partial(Bernoulli, body=residual), partial(MeanFieldNormal, body=residual)),
        "PixelCNN": of(partial(PixelCNN, **narrow)),
        "PixelCNNpp": of(partial(PixelCNNpp, **narrow)),
        "full covariance": of(encoder=FullCovarianceNormal, shape=size),
        "flow": of(encoder=Flow, shape=size),
        "layouts": of(
            partial(Bernoulli, body=lambda *_: nn.Sequential(nn.Linear(2, 12), Layouts())),
            shape=size,
        ),
    }


def trained_pair(name: str, record: Any, steps: int) -> tuple[list[float], list[Tensor], SVI]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    vae = pairs()[name]()
    rows = torch.full((6, *vae.likelihood.size), 0.4)
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    svi = SVI(vae.model, vae.guide, optimizer, InfoVAE(MMD(), scale=2.0), record=record)
    losses = [svi.step(torch.bernoulli(rows)) for _ in range(steps)]
    return losses, [t.clone() for t in vae.state_dict().values()], svi


@pytest.mark.parametrize("name", pairs())
def test_a_pair_s_networks_are_trained_as_by_eager_steps(name: str) -> None:
    """In whatever order gradients lie, which a fused Adam takes for one run of numbers."""
    losses, state, svi = trained_pair(name, "auto", 7)
    expected, end, _ = trained_pair(name, False, 7)
    assert svi.recorded == 1
    assert losses == expected
    assert all(map(torch.equal, state, end))


def test_a_graph_is_simplified_and_stays_what_it_is() -> None:
    """Products with 1 of what is written to, of views and of outputs, and noise nobody reads."""
    buffer, x = torch.ones(3), torch.tensor([1.0, -2.0, 0.5])

    def step(x: Tensor) -> list[Tensor]:
        before, zeros, double = buffer * 1, torch.zeros_like(x), torch.ones_like(x) * 2
        zeros.view(3).add_(x)
        row = (x + 1)[:2]
        first = row / 1
        row.add_(buffer[:2])
        buffer.add_(1)
        torch.randn(3)
        inner = ((x * double) * 1).detach() + 1
        fresh = x.exp()
        return [before, zeros + double, first, inner, fresh, fresh * 1]

    graph = make_fx(step)(x)
    simplify(graph)
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert torch.ops.aten.ones_like.default not in called
    assert torch.ops.aten.detach.default not in called
    assert torch.ops.aten.randn.default in called
    runs = []
    for run in (step, graph):
        buffer.fill_(1.0)
        torch.manual_seed(0)
        runs.append([*run(x), torch.get_rng_state(), buffer.clone()])
    assert all(map(torch.equal, *runs))
    assert len({t.data_ptr() for t in runs[1]}) == len(runs[1])


def test_what_is_computed_again_is_computed_once_where_it_is_the_same() -> None:
    """Not noise, nor what was written to between, under its own name or a view's, nor outputs."""
    buffer, x = torch.ones(3), torch.tensor([1.0, -2.0, 0.5])
    view = buffer[:2]

    def step(x: Tensor) -> list[Tensor]:
        same = x.exp().sin() + x.exp().sin()
        noise = torch.rand(3) + torch.rand(3)
        before = buffer.cos()
        view.add_(1)
        after = buffer.cos()
        row = x + 1
        early = row.tanh()
        row.view(3).mul_(2)
        late = row.tanh()
        twice = torch.zeros_like(x), torch.zeros_like(x)
        twice[0].add_(1)
        room = torch.empty(6)
        first = torch.exp2(x, out=room[:3])
        changed = first.tan()
        torch.mul(x, 3, out=room[:3])
        changed = changed - first.tan()
        large = x.expand(2**16, 3).sqrt() - x.expand(2**16, 3).sqrt()
        others = early - late, *twice, x.neg(), x.neg(), large.sum()
        return [same, noise, before - after, changed, *others]

    graph = make_fx(step)(x)
    simplify(graph)
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    aten = torch.ops.aten
    assert [called.count(op.default) for op in (aten.exp, aten.sin)] == [1, 1]
    kept = aten.rand, aten.cos, aten.tan, aten.tanh, aten.neg, aten.sqrt
    assert [called.count(op.default) for op in kept] == [2] * len(kept)
    runs = []
    for run in (step, graph):
        buffer.fill_(1.0)
        torch.manual_seed(0)
        runs.append([*(t.nan_to_num() for t in run(x)), torch.get_rng_state(), buffer.clone()])
    assert all(map(torch.equal, *runs))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [("a schedule", 300), ("MMD", 1000), ("Energy", 100), ("Memory of MMD", 300),
     ("Adversarial", 100)],
)  # fmt: skip
def test_many_recorded_steps_equal_eager_ones(name: str, steps: int) -> None:
    torch.manual_seed(0)
    recorded = OBJECTIVES[name]()
    eager, data = copy.deepcopy(recorded), batches(steps)
    losses, state, svi = trained(recorded, "auto", data)
    expected, end, _ = trained(eager, False, data)
    assert losses == expected
    assert all(map(torch.equal, state, end))
    assert svi.recorded == 1


def moved(compile: bool) -> tuple[list[float], list[Tensor], SVI]:
    pyro.clear_param_store()
    torch.manual_seed(1)
    owner, objective = Owner(), InfoVAE(Memory(MMD(), size=12), scale=5.0)
    # Adam makes a step of the rounding that is the gradient of a bias before batch normalisation
    optim = pyro.optim.SGD({"lr": 1e-2})
    svi = SVI(owner.model, owner.guide, optim, objective, compile=compile)
    losses = [svi.step(x) for x in batches(10)]
    return losses, [t.clone() for t in owner.state_dict().values()], svi


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_steps_equal_recorded_ones_to_rounding(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Queue and batch normalisation move, noise is torch's, and the environment is left alone."""
    ready_optimizers()
    compiled, before = [], dict(os.environ)
    monkeypatch.setattr(Recording, "interpret", lambda self: compiled.append("not"))
    losses, state, svi = moved(True)
    expected, end, _ = moved(False)
    assert not compiled, [str(w.message) for w in recwarn]
    assert svi.recorded == 1
    assert dict(os.environ) == before
    # ten steps of sums of some dozens of terms, in single precision
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, end, rtol=1e-5, atol=1e-5)


def wrong(graph: Any, **_: Any) -> Any:
    return lambda *tensors: [1.001 * t if t.is_floating_point() else t for t in graph(*tensors)]


def broken(graph: Any, **_: Any) -> Any:
    raise RuntimeError("no compiler is found\nin any folder")


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(wrong, "its loss differs from the eager step's by more"), (broken, "no compiler is found")],
)
def test_what_a_compiler_gets_wrong_is_not_used(
    compiler: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, end, _ = moved(False)
    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.warns(UserWarning, match=f"^the recorded step is not compiled.*: {reason}"):
        losses, state, svi = moved(True)
    assert losses == expected
    assert all(map(torch.equal, state, end))
    assert svi.recorded == 1


def test_a_compiled_step_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiler(graph: Any, **_: Any) -> Any:
        return lambda *tensors: calls.append(1) or graph(*tensors)

    monkeypatch.setattr(torch, "compile", compiler)
    losses, state, _ = moved(True)
    expected, end, _ = moved(False)
    assert losses == expected
    assert all(map(torch.equal, state, end))
    assert len(calls) == 7  # of ten, two are eager, one records, and one is held against it


def test_compiling_takes_recording() -> None:
    with pytest.raises(ValueError, match="record=False takes none"):
        SVI(print, print, pyro.optim.Adam({}), BetaVAE(), record=False, compile=True)


def test_noise_and_data_are_drawn_anew() -> None:
    x = batches(1)[0]
    losses, _, svi = trained(InfoVAE(MMD(), scale=5.0), "auto", [x] * 10)
    assert svi.recorded == 1
    assert len(set(losses[-6:])) == 6


def test_modes_and_frozen_parameters_have_graphs_of_their_own() -> None:
    owner, x = Owner(), torch.randn(6, 2)
    svi = SVI(owner.model, owner.guide, pyro.optim.SGD({"lr": 1e-3}), BetaVAE())
    for _ in range(5):
        svi.step(x)
    owner.encode.eval()
    before = owner.encode[1].running_mean.clone()
    for _ in range(5):
        svi.step(x)
    assert torch.equal(owner.encode[1].running_mean, before)
    kept = owner.decode.weight.requires_grad_(False).clone()
    for _ in range(5):
        svi.step(x)
    assert torch.equal(owner.decode.weight, kept)
    assert svi.recorded == 3


class Host(Owner):
    """Draws from Python's generator."""

    def model(self, x: Tensor, *_: Any) -> None:
        super().model(x + random.random())


class Branching(Owner):
    def model(self, x: Tensor, *_: Any) -> None:
        super().model(x if x.sum() > 0 else -x)


class Counting(Owner):
    """Counts on the host, which is a number that modules hold."""

    calls = 0

    def model(self, x: Tensor, *_: Any) -> None:
        self.calls += 1
        super().model(x * self.calls)


class Hidden(Owner):
    """Counts where nobody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def model(self, x: Tensor, *_: Any) -> None:
        self.calls[0] += 1
        super().model(x * self.calls[0])


class Selecting(Owner):
    """Looks at rows that a mask selects, so many as there are."""

    def model(self, x: Tensor, *_: Any) -> None:
        super().model(x)
        pyro.factor("some", -x[x[:, 0] > -9].square().sum())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Host, "Python's or NumPy's"),
        (Branching, r"a Python branch on data\)\. SVI"),
        (Selecting, "shape of a tensor depends on numbers"),
        (Hidden, "its loss differs"),
    ],
)
def test_what_cannot_be_recorded_stays_eager_and_says_why(kind: Any, reason: str) -> None:
    def run(record: Any) -> tuple[list[float], SVI]:
        torch.manual_seed(0)
        random.seed(0)
        pyro.clear_param_store()
        owner = kind()
        loss = InfoVAE(Memory(MMD(), size=20), scale=10.0)
        svi = SVI(owner.model, owner.guide, pyro.optim.Adam({"lr": 1e-2}), loss, record)
        torch.manual_seed(2)
        return [svi.step(x) for x in [torch.ones(6, 2)] * 8], svi

    with pytest.warns(UserWarning, match=reason) as said:
        losses, svi = run("auto")
    assert len(said) == 1
    assert svi.recorded == 0
    if kind is not Hidden:  # which has moved on by the try
        assert losses == run(False)[0]


def test_a_critic_that_leaves_out_masked_rows_stays_eager() -> None:
    """A graph would be of as many as there were."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    owner = Owner()

    def masked(program: Any) -> Any:
        def run(x: Tensor) -> None:
            with pyro.poutine.mask(mask=x[:, 0] > 0):
                program(x)

        return run

    pair = masked(owner.model), masked(owner.guide)
    objective = InfoVAE(Adversarial(net), scale=5.0)
    svi = SVI(*pair, pyro.optim.SGD({"lr": 1e-3}), objective)
    x = torch.randn(6, 2).abs()
    for _ in range(2):
        svi.step(x)
    with pytest.warns(UserWarning, match="shape of a tensor depends on numbers"):
        svi.step(x)
    x[:2, 0] = -1
    assert svi.step(x) > 0
    assert svi.recorded == 0


def test_a_number_that_a_module_counts_keeps_steps_eager() -> None:
    owner = Counting()
    svi = SVI(owner.model, owner.guide, pyro.optim.Adam({"lr": 1e-2}), BetaVAE())
    for _ in range(10):
        svi.step(torch.randn(6, 2))
    assert svi.recorded == 0


def test_a_changed_coefficient_is_seen() -> None:
    owner, objective, x = Owner().eval(), BetaVAE(1.0), torch.randn(6, 2)
    svi = SVI(owner.model, owner.guide, pyro.optim.SGD({"lr": 0.0}), objective)
    torch.manual_seed(0)
    for _ in range(5):
        svi.step(x)
    objective.alpha = -9.0
    torch.manual_seed(3)
    found = svi.step(x)
    torch.manual_seed(3)
    assert found == objective.loss(owner.model, owner.guide, x)


def test_four_graphs_are_kept_at_most() -> None:
    owner = Owner()
    svi = SVI(owner.model, owner.guide, pyro.optim.Adam({"lr": 1e-2}), BetaVAE())
    for n in range(2, 8):
        for _ in range(4):
            svi.step(torch.randn(n, 2))
    assert svi.recorded == 4


def test_a_partial_batch_has_a_graph_of_its_own() -> None:
    data = [x[: 6 - 2 * (i % 2)] for i, x in enumerate(batches(14))]
    losses, _, svi = trained(BetaVAE(2.0), "auto", data)
    assert svi.recorded == 2
    assert losses == trained(BetaVAE(2.0), False, data)[0]


def test_fit_records_and_finds_what_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.bernoulli(torch.full((40, 12), 0.3))

    def weights(first: int, data: Tensor = x) -> list[Tensor]:
        monkeypatch.setattr(module, "_FIRST", first)
        torch.manual_seed(0)
        vae = VAE(StandardNormal(2), Bernoulli(2, SIZE), MeanFieldNormal(SIZE, 2))
        objective = InfoVAE(Adversarial(dim=2), scale=5.0)
        fit(
            vae.model, vae.guide, data, objective,
            epochs=6, batch_size=16, critic_steps=1, progress=False,
        )  # fmt: skip
        return [*vae.state_dict().values(), *objective.state_dict().values()]

    assert all(map(torch.equal, weights(2), weights(10**9)))


def test_refuses_another_record() -> None:
    owner = Owner()
    with pytest.raises(ValueError, match="use 'auto' or False"):
        SVI(owner.model, owner.guide, pyro.optim.Adam({}), BetaVAE(), record=True)  # type: ignore[arg-type]


def test_a_critics_steps_move_it_alone_and_leave_out_the_decoder() -> None:
    """Recorded as by hand: Adam on the critic's own gradients, and no other parameter moves."""
    x = torch.bernoulli(torch.full((16, 12), 0.3))

    def made() -> tuple[VAE, Objective, list[Tensor]]:
        torch.manual_seed(0)
        vae = VAE(StandardNormal(2), Bernoulli(2, SIZE), MeanFieldNormal(SIZE, 2))
        objective = InfoVAE(Adversarial(dim=2), scale=5.0)
        return vae, objective, list(objective.parameters())

    vae, objective, own = made()
    before = copy.deepcopy(vae.state_dict())
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective, only=own)
    torch.manual_seed(1)
    losses = [svi.step(x) for _ in range(30)]
    assert svi.recorded == 1
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert all(p.grad is None for p in (*vae.parameters(), *own))

    pyro.clear_param_store()
    other, twin, hand = made()
    adam = torch.optim.Adam(hand, lr=1e-2)
    torch.manual_seed(1)
    for loss in losses:
        found = twin.differentiable_loss(other.model, other.guide, x)
        assert found.item() == pytest.approx(loss, rel=1e-5)
        for p, grad in zip(hand, torch.autograd.grad(found, hand), strict=True):
            p.grad = grad
        adam.step()
    for mine, its in zip(own, hand, strict=True):
        # one fused Adam against one of many tensors: roundings of 30 steps
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)

    whole = Recording(twin, other.model, other.guide, (x,), {})
    part = Recording(twin, other.model, other.guide, (x,), {}, frozenset(hand))
    count = [len(recording._graph.graph.nodes) for recording in (whole, part)]
    assert count[1] < 0.75 * count[0]


def test_steps_of_no_parameter_are_refused() -> None:
    owner, loss = Owner(), BetaVAE()
    with pytest.raises(ValueError, match="names no parameter"):
        SVI(owner.model, owner.guide, pyro.optim.Adam({}), loss, only=loss.parameters())
