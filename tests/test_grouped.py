"""One step for all parameters against Pyro's step for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae import SVI
from ppl_vae.objectives import BetaVAE
from ppl_vae.training.grouped import Grouped
from ppl_vae.training.optim import Adam as ScheduledAdam

SHAPES = ((3, 4), (4,), (), (2, 3))
Make = Callable[[], PyroOptim]


def by_name(name: str) -> dict[str, Any]:
    return {"lr": 0.1 if name == "p0" else 0.01}


MAKE: dict[str, Make] = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05, "weight_decay": 0.1}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.05, "amsgrad": True}),
    "SGD": lambda: pyro.optim.SGD({"lr": 0.05, "momentum": 0.9}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.9, "clip_norm": 0.5}),
    "Adagrad": lambda: pyro.optim.Adagrad({"lr": 0.05}),
    "by name": lambda: pyro.optim.Adam(by_name),
    "clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.3}),
    "scheduled": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.7}
    ),
    "ours": lambda: ScheduledAdam(0.05, decay=0.8),
}
FUSED = {"Adam", "AdamW", "by name", "clipped", "scheduled", "ours"}


def params() -> list[Tensor]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    made = [pyro.param(f"p{i}", torch.randn(shape)) for i, shape in enumerate(SHAPES)]
    return [p.unconstrained() for p in made]


def walk(optim: PyroOptim, step: Callable[..., Any], leaves: list[Tensor], steps: int) -> None:
    for i in range(steps):
        some = leaves[: 2 + i] if i < 2 else leaves  # others are met later
        for p in some:
            p.grad = torch.randn(p.shape)
        if i == 4:
            some[1].grad = None
        step(some)
        if isinstance(optim, ScheduledAdam):
            optim.advance(epochs=1)
        elif hasattr(optim, "pt_scheduler_constructor"):
            optim.step()  # type: ignore[attr-defined]


def same(one: list[Tensor], other: list[Tensor], exactly: bool) -> None:
    for a, b in zip(one, other, strict=True):
        # One rounding of a step of about .05 for each, in single precision.
        torch.testing.assert_close(a, b, rtol=0 if exactly else 1e-5, atol=0 if exactly else 1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_it_is_pyros_step_for_each(name: str) -> None:
    found = []
    for grouped in (False, True):
        leaves, optim = params(), MAKE[name]()
        walk(optim, Grouped(optim) if grouped else optim, leaves, 7)
        found.append([p.detach().clone() for p in leaves])
    same(*found, exactly=name not in FUSED)


def test_foreach_is_pyros_bit_for_bit() -> None:
    found = []
    for settings in ({}, {"foreach": True}):
        leaves, optim = params(), pyro.optim.Adam({"lr": 0.05, **settings})
        walk(optim, Grouped(optim) if settings else optim, leaves, 7)
        found.append([p.detach().clone() for p in leaves])
    same(*found, exactly=True)


@pytest.mark.parametrize("name", ["Adam", "SGD", "ClippedAdam", "by name"])
def test_a_state_goes_on(name: str, tmp_path: Path) -> None:
    """Saved after four steps and loaded, the fifth is the fifth."""
    leaves, optim = params(), MAKE[name]()
    step = Grouped(optim)
    walk(optim, step, leaves, 4)
    optim.save(str(tmp_path / "state"))
    kept = [p.detach().clone() for p in leaves]
    grads = [torch.randn(p.shape) for p in leaves]

    def fifth(step: Grouped) -> list[Tensor]:
        for p, value, grad in zip(leaves, kept, grads, strict=True):
            p.data.copy_(value)
            p.grad = grad.clone()
        step(leaves)
        return [p.detach().clone() for p in leaves]

    expected = fifth(step)
    other = MAKE[name]()
    other.load(str(tmp_path / "state"))
    same(fifth(Grouped(other)), expected, exactly=True)


def test_double_precision_too() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = []
        for grouped in (False, True):
            leaves, optim = params(), MAKE["Adam"]()
            walk(optim, optim, leaves, 3)  # whose count is of double precision
            walk(optim, Grouped(optim) if grouped else optim, leaves, 3)
            found.append([p.detach().clone() for p in leaves])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    finally:
        torch.set_default_dtype(before)


def test_one_step_moves_all_of_equal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda self: (calls.append(len(self.param_groups[0]["params"])), step(self)),
    )
    leaves, optim = params(), MAKE["by name"]()
    grouped = Grouped(optim)
    for _ in range(2):
        calls.clear()
        for p in leaves:
            p.grad = torch.ones_like(p)
        grouped(leaves)
    assert calls == [1, 3]


def test_momentum_goes_on_where_a_step_gives_no_gradient() -> None:
    """As Pyro has it: a parameter that is asked for and has had a gradient has one of 0."""

    def model(used: bool) -> None:
        p = pyro.param("p", torch.tensor(1.0))
        pyro.factor("f", -(p**2) if used else torch.zeros(()))

    def guide(used: bool) -> None:
        pass

    found = []
    for kind in (SVI, pyro.infer.SVI):
        pyro.clear_param_store()
        optim = pyro.optim.SGD({"lr": 0.1, "momentum": 0.9})
        svi = kind(model, guide, optim, BetaVAE(plate=None))
        for used in (True, False, False, True):
            svi.step(used)
        found.append(pyro.param("p").item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] < 0.7
