"""Optimisers, callbacks, stopping and what is shown of a training; pairs that travel."""

import copy
import functools
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from torch import nn

from ppl_vae import (
    MMD,
    VAE,
    BetaVAE,
    Experiment,
    InfoVAE,
    MeanFieldNormal,
    Normal,
    StandardNormal,
    fit,
)
from ppl_vae.config.schema import Schema
from ppl_vae.data import Dataset
from ppl_vae.objectives import GECO, Adversarial, Cosine, Linear, Memory
from ppl_vae.training.optim import SGD, Adam
from ppl_vae.training.run import Run
from ppl_vae.training.weights import load

ROWS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
HELD_OUT = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))


def pair(seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE(StandardNormal(2), Normal(2, 4), MeanFieldNormal(4, 2))


def train(vae: VAE, *args: Any, objective: Any = None, **options: Any) -> Any:
    options = {"epochs": 2, "batch_size": 20, "progress": False} | options
    objective = BetaVAE() if objective is None else objective
    return fit(vae.model, vae.guide, ROWS, objective, *args, **options)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([torch.zeros(0), *(p.detach().flatten() for p in module.parameters())])


def adam_of(vae: VAE) -> torch.optim.Optimizer:
    return torch.optim.Adam(vae.parameters(), lr=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda vae: functools.partial(torch.optim.Adam, lr=0.01),
        adam_of,
        lambda vae: torch.optim.lr_scheduler.ConstantLR(adam_of(vae), 1.0),
        lambda vae: Adam(lr=0.01),
    ],
    ids=["partial", "instance", "scheduler", "own"],
)
def test_torch_s_optimisers_move_as_pyro_s(make: Callable[[VAE], Any]) -> None:
    vae, other = pair(), pair()
    train(vae, pyro.optim.Adam({"lr": 0.01}))
    train(other, make(other))
    torch.testing.assert_close(weights(vae), weights(other), rtol=1e-4, atol=1e-6)


def test_a_class_has_its_own_defaults() -> None:
    vae, other = pair(), pair()
    train(vae, pyro.optim.AdamW({}))
    train(other, torch.optim.AdamW)
    torch.testing.assert_close(weights(vae), weights(other))


def test_an_instance_trains_a_critic_by_its_own_steps() -> None:
    vae, objective = pair(), InfoVAE(Adversarial(dim=2), scale=2.0)
    given = torch.optim.SGD([*vae.parameters(), *objective.parameters()], lr=1e-3)
    before = weights(vae), weights(objective)
    train(vae, given, objective=objective, critic_steps=2)
    assert not torch.equal(before[0], weights(vae))
    assert not torch.equal(before[1], weights(objective))


def test_schedulers_of_torch_are_stepped_once_an_epoch() -> None:
    vae = pair()
    given = torch.optim.SGD(vae.parameters(), lr=0.01)
    train(vae, torch.optim.lr_scheduler.ExponentialLR(given, 0.5), epochs=3)
    assert given.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**3)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(given)
    history = train(vae, plateau, epochs=2, validation=HELD_OUT)
    assert plateau.best == min(history["validation/loss"])


@pytest.mark.parametrize("make", [Adam, SGD])
def test_a_schedule_is_a_factor_by_the_step(make: Any) -> None:
    rates = []
    optimizer = make(lr=0.01, decay=0.5, schedule=Linear(over=4))

    def look(row: dict[str, float]) -> None:
        (rate,) = {g["lr"] for o in optimizer.optim_objs.values() for g in o.param_groups}
        rates.append(rate)

    train(pair(), optimizer, callbacks=[look], epochs=3)  # two steps an epoch
    assert rates == pytest.approx([0.01 * 0.5 * 0.5, 0.01 * 1.0 * 0.25, 0.01 * 0.125])


def test_the_first_step_is_taken_at_the_schedule_s_start() -> None:
    vae = pair()
    before = weights(vae)
    train(vae, SGD(lr=0.1, schedule=Linear(0.0, 1.0, over=10)), epochs=1, batch_size=40)
    assert torch.equal(before, weights(vae))


def test_a_schedule_by_flags() -> None:
    schema = Schema(Experiment)
    given = {
        "data": "digits",
        "objective": "BetaVAE",
        "optimizer": {"class_path": "Adam", "init_args": {"schedule": "Cosine"}},
        "patience": "3",
        "keep": "best",
    }
    made = schema.build(schema.parse(schema.merge({}, given)))
    assert isinstance(made.optimizer.schedule, Cosine)
    assert (made.patience, made.keep) == (3, "best")


@pytest.mark.parametrize(
    ("optimizer", "error", "words"),
    [
        ("adam", TypeError, "torch.optim.Adam"),
        ({"lr": 0.1}, TypeError, "torch.optim.Adam"),
        (torch.optim.LBFGS, ValueError, "LBFGS"),
        (torch.optim.Adam([nn.Parameter(torch.zeros(1))]), ValueError, "made without"),
    ],
)
def test_other_optimisers_are_refused_in_one_line(
    optimizer: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        train(pair(), optimizer)
    assert "\n" not in str(caught.value)


def test_callbacks_get_rows_of_their_own_and_end_the_training() -> None:
    seen: list[dict[str, float]] = []

    def spoil(row: dict[str, float]) -> bool:
        seen.append(dict(row))
        row.clear()
        return len(seen) == 2

    history = train(pair(), epochs=5, callbacks=[spoil, lambda row: row["loss"]])
    assert len(history) == 2
    assert seen == history.rows


def descending(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Has each epoch's held-out loss read as given; returns where weights will be kept."""
    from ppl_vae.training.loop import Training

    kept: list[torch.Tensor] = []
    values = iter(losses)

    def validate(self: Training, *_: Any) -> dict[str, float]:
        kept.append(weights(self.modules[0]).clone())
        return {"validation/loss": next(values), "validation/reconstruction": -len(kept)}

    monkeypatch.setattr(Training, "validate", validate)
    return kept


def test_patience_and_the_best_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = descending([3.0, 1.0, 2.0, 1.0, 0.0], monkeypatch)
    vae, out = pair(), tmp_path / "run"
    history = train(
        vae, epochs=5, validation=HELD_OUT, patience=2, keep="best", out=out, tensorboard=False
    )
    assert len(history) == 4  # 1.0 again is no lower
    assert torch.equal(weights(vae), kept[1])
    other = pair(1)
    load(Run(out).load_weights(), other.model, other.guide)
    assert torch.equal(weights(other), kept[1])
    assert Run(out).config["monitor"] == "validation/loss"


def test_the_last_weights_are_kept_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = descending([1.0, 2.0, 3.0], monkeypatch)
    vae = pair()
    assert len(train(vae, epochs=3, validation=HELD_OUT, patience=2)) == 3
    assert torch.equal(weights(vae), kept[-1])


def test_another_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    descending([1.0, 2.0, 3.0], monkeypatch)
    monitor = "validation/reconstruction"
    assert len(train(pair(), epochs=3, validation=HELD_OUT, patience=1, monitor=monitor)) == 3


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (lambda: InfoVAE(Adversarial(dim=2)), "critic"),
        (lambda: InfoVAE(Memory(Adversarial(dim=2), 50)), "critic"),
        (lambda: GECO(1.0), "constraint"),
        (lambda: BetaVAE(Linear(over=0.5)), "scheduled"),
    ],
)
def test_losses_that_do_not_compare_have_no_default(
    objective: Callable[[], Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        train(pair(), objective=objective(), keep="best")
    assert "monitor=" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", [lambda: InfoVAE(MMD()), lambda: InfoVAE(Memory(MMD(), 50))])
def test_a_fixed_divergence_has_a_default(objective: Callable[[], Any]) -> None:
    train(pair(), objective=objective(), keep="best", epochs=1, validation=HELD_OUT)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience": 0}, "patience"),
        ({"keep": "worst"}, "'last' or 'best'"),
        ({"monitor": "loss"}, "patience="),
        ({"monitor": "accuracy", "patience": 1}, "validation/loss, "),
        ({"monitor": "validation/los", "keep": "best"}, "validation/loss, "),
    ],
)
def test_what_cannot_be_followed_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        train(pair(), validation=HELD_OUT, out=tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_line_an_epoch_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    train(pair(), progress=True, validation=HELD_OUT, patience=5)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1/2: reconstruction ")
    assert "nats; held out reconstruction " in second
    assert "validation/loss was lowest" in last
    train(pair(), progress=False)
    assert capsys.readouterr().err == ""


def test_a_bar_of_text_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=None))
    monkeypatch.setitem(sys.modules, "IPython", shell)  # type: ignore[arg-type]
    train(pair(), progress=True)
    shown = capsys.readouterr()
    assert "nats" in shown.out
    assert "\r" in shown.out
    assert shown.err == ""


OBJECTIVES = {
    "plain": lambda: InfoVAE(MMD(), scale=4.0),
    "scheduled": lambda: InfoVAE(MMD(), alpha=0.5, scale=Linear(1.0, 2.0, over=0.5)),
    "critic": lambda: InfoVAE(Adversarial(dim=2)),
    "memory": lambda: InfoVAE(Memory(MMD(), 30)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("way", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_trained_things_travel(name: str, way: Callable[[Any], Any]) -> None:
    data = Dataset(ROWS, HELD_OUT, name="rows")
    experiment = Experiment(
        data, OBJECTIVES[name](), dim=2, likelihood=Normal, epochs=1, batch_size=20
    )
    experiment.fit(progress=False)
    experiment.pair.model(ROWS)  # Pyro sees the parameters again
    for trained in (experiment.pair, experiment.objective, experiment.pair.encoder):
        assert torch.equal(weights(trained), weights(way(trained)))
    arrived = way(experiment)
    assert torch.equal(weights(arrived.pair), weights(experiment.pair))
    before = weights(experiment.pair)
    arrived.fit(progress=False)
    assert not torch.equal(weights(arrived.pair), before)
    assert torch.equal(weights(experiment.pair), before)


@pytest.mark.parametrize("compiled", [True, False])
def test_weights_of_compiled_networks(compiled: bool, tmp_path: Path) -> None:
    def made(under: bool, seed: int) -> VAE:
        vae = pair(seed)
        if under:
            for part in (vae.likelihood, vae.encoder):
                part.network = torch.compile(part.network, backend="eager")  # type: ignore
        return vae

    vae, other = made(compiled, 0), made(not compiled, 1)
    train(vae, epochs=1, out=tmp_path / "run", tensorboard=False)
    tensors = Run(tmp_path / "run").load_weights()
    assert not any("_orig_mod" in name for name in tensors)
    load(tensors, other.model, other.guide)
    assert torch.equal(weights(vae), weights(other))


def test_one_thread_trains_at_a_time() -> None:
    alone, first, second = pair(), pair(), pair(1)
    train(alone)
    untouched = weights(second)
    errors: list[Exception] = []

    def other() -> None:
        try:
            train(second)
        except RuntimeError as error:
            errors.append(error)

    def meanwhile(row: dict[str, float]) -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    train(first, callbacks=[meanwhile])
    assert len(errors) == 2
    assert "another thread is training" in str(errors[0])
    assert "\n" not in str(errors[0])
    assert torch.equal(weights(first), weights(alone))
    assert torch.equal(weights(second), untouched)
    other()  # and once that is over, it may
    assert not torch.equal(weights(second), untouched)


def test_a_model_and_a_guide_in_each_other_s_places() -> None:
    vae = pair()
    with pytest.raises(ValueError, match="The model comes first"):
        fit(vae.guide, vae.model, ROWS, BetaVAE(), epochs=1, progress=False)
    with pytest.raises(TypeError, match="class BetaVAE"):
        fit(vae.model, vae.guide, ROWS, BetaVAE, epochs=1)  # type: ignore[arg-type]
