"""Training: what it logs, what it saves, what it refuses, and when it stops."""

import errno
import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import VAE, fit
from ppl_vae.data import Binarized, Dataset, Digits, GaussianMixture
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli, Normal, PixelCNN, Poisson
from ppl_vae.objectives import MMD, Adversarial, BetaVAE, InfoVAE, Linear
from ppl_vae.priors import StandardNormal
from ppl_vae.program.modules import modules_of
from ppl_vae.training.guard import NotFinite
from ppl_vae.training.history import History
from ppl_vae.training.optim import Adam
from ppl_vae.training.run import Run
from ppl_vae.training.spread import warn_of_collapse
from ppl_vae.training.weights import load, state, stored

SIZE = (1, 8, 8)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_vae(seed: int = 0, dim: int = 2) -> VAE:
    torch.manual_seed(seed)
    return VAE(StandardNormal(dim), Bernoulli(dim, SIZE), MeanFieldNormal(SIZE, dim))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data = Digits()
    assert data.test is not None
    return Dataset(data.train[:300], data.test[:60], name="digits")


# A pair of plain functions: x ~ N(z, 1), z ~ N(0, 1), so that the ELBO's optimum is known.


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, scale))


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO, BetaVAE])
def test_plain_functions_are_trained_to_the_optimum(objective: Callable[[], Any]) -> None:
    x = torch.randn(512) * 2**0.5
    history = fit(
        model, guide, x, objective(), pyro.optim.Adam({"lr": 0.05}), epochs=15, batch_size=64
    )
    assert pyro.param("slope").item() == pytest.approx(0.5, abs=0.05)
    assert pyro.param("scale").item() == pytest.approx(0.5**0.5, abs=0.05)
    exact = 0.5 * math.log(4 * math.pi) + x.square().mean().item() / 4
    assert history["loss"][-1] == pytest.approx(exact, abs=0.1)


def test_terms_are_logged_in_nats_per_datum(digits: Dataset) -> None:
    vae = make_vae()
    history = fit(vae.model, vae.guide, digits, BetaVAE(), epochs=2, batch_size=64)
    row = history.last
    assert row["epoch"] == 2
    assert row["step"] == 10
    assert row["reconstruction"] == row["reconstruction/x"]
    for part in ("", "validation/"):
        total = row[f"{part}reconstruction"] + row[f"{part}rate"]
        assert row[f"{part}loss"] == pytest.approx(total, rel=1e-5)
    # 64 pixels of a Bernoulli at its worst guess: 44 nats
    assert 10 < row["reconstruction"] < 45


def test_the_divergence_is_logged_by_itself(digits: Dataset) -> None:
    vae = make_vae()
    row = fit(vae.model, vae.guide, digits, InfoVAE(MMD(), scale=50.0), epochs=2).last
    total = row["reconstruction"] + 50 * row["divergence"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)
    assert "rate" in row


def test_a_seed_repeats_a_run_bit_for_bit(digits: Dataset, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b", "c"):
        vae = make_vae()
        fit(
            vae.model,
            vae.guide,
            Binarized(digits),
            InfoVAE(MMD(noise="sampled")),
            epochs=2,
            seed=0 if name != "c" else 1,
            out=tmp_path / name,
        )
        folder = tmp_path / name
        files.append([(folder / f).read_bytes() for f in ("metrics.jsonl", "weights.safetensors")])
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]
    assert files[0][1] != files[2][1]


def test_validation_leaves_the_training_alone(digits: Dataset) -> None:
    weights = []
    for held_out in (None, digits.test):
        vae = make_vae()
        fit(vae.model, vae.guide, digits.train, BetaVAE(), epochs=2, validation=held_out)
        weights.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*weights)


def test_validation_is_in_evaluation_mode() -> None:
    modes = []

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> None:
            modes.append(self.training)
            guide(x)

    fit(model, Encoder(), torch.randn(8), Trace_ELBO(), epochs=1, validation=torch.randn(4))
    # runs that look for parameters and check what fits, one step, one validation, the codes
    assert modes[-3:] == [True, False, False]
    assert not any(modes[:-3])


def test_modules_of_plain_functions_are_evaluated_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))

    def centred(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x[:, None])[:, 0], 1.0))

    before = [p.detach().clone() for p in net.parameters()]
    fit(model, centred, torch.randn(8), Trace_ELBO(), epochs=2, validation=torch.randn(4))
    assert net.training
    assert net[1].num_batches_tracked == 2
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_weights_are_saved_and_loaded_equal(digits: Dataset, tmp_path: Path) -> None:
    vae = make_vae()
    fit(vae.model, vae.guide, digits, BetaVAE(), epochs=1, out=tmp_path / "run")
    other = make_vae(seed=1)
    load(Run(tmp_path / "run").load_weights(), other.model, other.guide)
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameters_of_plain_functions_are_saved_and_loaded(tmp_path: Path) -> None:
    x = torch.randn(32)
    fit(model, guide, x, Trace_ELBO(), epochs=3, out=tmp_path / "run")
    values = [pyro.param(name).item() for name in ("slope", "scale")]
    pyro.clear_param_store()
    load(Run(tmp_path / "run").load_weights(), model, guide, None, x)
    assert [pyro.param(name).item() for name in ("slope", "scale")] == values


def test_automatic_guides_are_saved_and_loaded(tmp_path: Path) -> None:
    def mean(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    x = torch.randn(32) + 3
    first, second = AutoNormal(mean), AutoNormal(mean)
    fit(mean, first, x, Trace_ELBO(), pyro.optim.Adam({"lr": 0.2}), epochs=60, out=tmp_path / "r")
    assert first.median()["m"].item() == pytest.approx(x.sum().item() / 33, abs=0.4)
    load(Run(tmp_path / "r").load_weights(), mean, second, None, x)
    assert second.median()["m"].item() == first.median()["m"].item()


def test_weights_of_another_model_are_refused(digits: Dataset, tmp_path: Path) -> None:
    vae, other = make_vae(), make_vae(dim=3)
    fit(vae.model, vae.guide, digits, BetaVAE(), epochs=1, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"belong to another model.*shape"):
        load(Run(tmp_path / "run").load_weights(), other.model, other.guide)


class Fragile(Bernoulli):
    """Gives a NaN at its `fatal`-th call in training."""

    fatal = 3
    calls = 0

    def forward(self, z: Tensor) -> Any:
        if self.training:
            self.calls += 1
        if self.training and self.calls >= self.fatal:
            z = z * float("nan")
        return super().forward(z)


def test_a_nan_stops_before_the_optimiser_and_names_site_and_step(
    digits: Dataset, tmp_path: Path
) -> None:
    vae = VAE(StandardNormal(2), Fragile(2, SIZE), MeanFieldNormal(SIZE, 2))
    after: list[list[Tensor]] = []

    class Recorded(pyro.optim.PyroOptim):
        def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
            # what step n + 1 starts from; the last good weights are those it was handed
            after.append([p.detach().clone() for p in vae.parameters()])
            super().__call__(params, *args, **kwargs)

    optimizer = Recorded(torch.optim.Adam, {"lr": 1e-3})
    with pytest.raises(NotFinite, match=r"step 3.*'x'") as error:
        fit(vae.model, vae.guide, digits, BetaVAE(), optimizer, epochs=2, out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert len(after) == 2
    for p, kept in zip(vae.parameters(), after[-1], strict=True):
        assert torch.equal(p, kept)
    saved = Run(tmp_path / "run").load_weights()
    now = state(modules_of(vae.model, vae.guide), {})
    assert all(torch.equal(saved[name], value) for name, value in now.items())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in vae.parameters())


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("objective", [Trace_ELBO, BetaVAE])
def test_weights_that_give_a_nan_are_not_kept(
    objective: Callable[[], Any], validate: bool
) -> None:
    pyro.enable_validation(validate)
    # the first step throws the parameter so far that the second cannot be computed
    with pytest.raises(NotFinite, match="step"):
        fit(model, guide, torch.randn(64) * 1e18, objective(), pyro.optim.SGD({"lr": 1e30}))
    assert pyro.param("slope").item() == 0
    assert pyro.param("scale").item() == pytest.approx(1.0)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    def rooted(x: Tensor) -> None:
        width = pyro.param("width", torch.tensor(0.0))
        # sqrt has an infinite slope at 0
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(width.sqrt() + x, 1.0))

    with pytest.raises(NotFinite, match=r"step 1: the gradient of parameter 'width'"):
        fit(model, rooted, torch.randn(8), Trace_ELBO())
    assert pyro.param("width").item() == 0


def test_large_finite_gradients_are_let_pass() -> None:
    # their norm overflows in single precision, they do not
    x = torch.randn(64) * 1e10
    fit(model, guide, x, BetaVAE(), pyro.optim.SGD({"lr": 1e-30}), epochs=1)


def test_other_errors_keep_their_kind() -> None:
    def broken(x: Tensor) -> None:
        guide(x)
        if x.shape[0] == 3:
            raise ValueError("not my number")

    with pytest.raises(ValueError, match="not my number") as error:
        fit(model, broken, torch.randn(8 + 3), Trace_ELBO(), batch_size=8)
    assert not isinstance(error.value, NotFinite)


class Critic(InfoVAE):
    """An objective with a parameter of its own, whose optimum is 1."""

    def __init__(self) -> None:
        super().__init__(scale=0.0)
        self.own = nn.Parameter(torch.tensor(0.0))

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().differentiable_loss(*args, **kwargs) + (self.own - 1).square()


def test_critic_steps_move_the_objective_alone() -> None:
    objective, moved = Critic(), []

    class Recorded(pyro.optim.PyroOptim):
        def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
            before = [pyro.param("slope").item(), objective.own.item()]
            super().__call__(params, *args, **kwargs)
            after = [pyro.param("slope").item(), objective.own.item()]
            moved.append([a != b for a, b in zip(after, before, strict=True)])

    optimizer = Recorded(torch.optim.SGD, {"lr": 0.01})
    fit(model, guide, torch.randn(16), objective, optimizer, epochs=2, critic_steps=2)
    assert moved == [[False, True], [False, True], [True, True]] * 2


def test_critic_steps_continue_the_same_optimiser(tmp_path: Path) -> None:
    objective = Critic()
    optimizer = pyro.optim.Adam({"lr": 0.01})
    fit(
        model, guide, torch.randn(16), objective, optimizer, epochs=3, critic_steps=4,
        out=tmp_path / "run",
    )  # fmt: skip
    (inner,) = [o for p, o in optimizer.optim_objs.items() if p is objective.own]
    assert inner.state[objective.own]["step"].item() == 15
    assert "objective.own" in Run(tmp_path / "run").load_weights()


@pytest.mark.parametrize("beta1", [None, 0.3])
def test_adam_has_a_shorter_memory_for_a_critic(tmp_path: Path, beta1: float | None) -> None:
    """By default and as asked for; the encoder's, and another's that is given, stay."""
    settings = {} if beta1 is None else {"critic_beta1": beta1}
    optimizer = Adam(**settings)  # type: ignore[arg-type]
    objective = InfoVAE(Adversarial(dim=1), scale=1.0)
    rows, run = torch.randn(16), tmp_path / "run"
    fit(model, guide, rows, objective, optimizer, epochs=1, out=run)
    critic = set(objective.parameters())
    betas = {
        p in critic: made.param_groups[0]["betas"] for p, made in optimizer.optim_objs.items()
    }
    assert betas == {True: (0.5 if beta1 is None else beta1, 0.999), False: (0.9, 0.999)}
    given = pyro.optim.Adam({"lr": 0.01})
    fit(model, guide, rows, InfoVAE(Adversarial(dim=1), scale=1.0), given, epochs=1)
    assert {o.param_groups[0]["betas"] for o in given.optim_objs.values()} == {(0.9, 0.999)}


def test_critic_steps_without_a_critic_are_refused() -> None:
    with pytest.raises(ValueError, match="BetaVAE has no parameters of its own"):
        fit(model, guide, torch.randn(16), BetaVAE(), critic_steps=1)


def test_schedules_are_told_the_length_of_the_run() -> None:
    schedule = Linear(0.0, 1.0, over=0.5)
    objective = BetaVAE(schedule)
    fit(model, guide, torch.randn(40), objective, epochs=3, batch_size=20)
    assert schedule.total == 6
    assert objective.step == 6
    assert schedule(torch.tensor(2)) == pytest.approx(2 / 3)
    # a second run goes on from where the first ended
    fit(model, guide, torch.randn(40), objective, epochs=1, batch_size=20)
    assert schedule.total == 8


def test_clipped_adam_decays_at_each_step() -> None:
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.5})
    fit(model, guide, torch.randn(40), Trace_ELBO(), optimizer, epochs=2, batch_size=20)
    rates = {o.param_groups[0]["lr"] for o in optimizer.optim_objs.values()}
    assert rates == {0.1 * 0.5**4}


def test_a_scheduler_is_stepped_at_each_epoch() -> None:
    optimizer = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}
    )
    fit(model, guide, torch.randn(40), Trace_ELBO(), optimizer, epochs=3, batch_size=20)
    rates = {s.get_last_lr()[0] for s in optimizer.optim_objs.values()}
    assert rates == {0.1 * 0.5**3}


def test_a_plateau_scheduler_sees_the_loss() -> None:
    optimizer = pyro.optim.ReduceLROnPlateau(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.0}, "patience": 1, "mode": "min"}
    )
    history = fit(
        model, guide, torch.randn(40), TraceMeanField_ELBO(), optimizer, epochs=3,
        validation=torch.randn(10),
    )  # fmt: skip
    (best,) = {s.best for s in optimizer.optim_objs.values()}
    assert best == min(history["validation/loss"])


def test_a_collapsed_code_is_reported_once() -> None:
    reported = []
    rows: list[dict[str, float]] = []
    for rate in (0.0, 3.0, 0.01, 0.01, 0.01, 2.0, 0.0, 0.0):
        rows.append({"rate": rate})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_collapse(History(rows))
        reported.append(len(caught))
    assert reported == [0, 0, 0, 1, 0, 0, 0, 0]


def test_a_collapsing_run_warns(digits: Dataset) -> None:
    vae = make_vae()
    adam = pyro.optim.Adam({"lr": 3e-3})
    with pytest.warns(UserWarning, match="posterior collapse"):
        fit(vae.model, vae.guide, digits, BetaVAE(beta=1000.0), adam, epochs=15)


@pytest.mark.parametrize(
    ("likelihood", "data", "words"),
    [
        (Bernoulli, GaussianMixture(), ["Bernoulli", "'x'", "excludes the data"]),
        (Bernoulli, torch.full((4, 2), 1.5), ["[0, 0] is 1.5", "rescale"]),
        # no scale makes a count of 2.5
        (Poisson, torch.full((4, 2), 2.5), ["is 2.5; choose another"]),
    ],
)
def test_data_outside_the_support_are_refused(
    likelihood: Any, data: Any, words: list[str], tmp_path: Path
) -> None:
    vae = VAE(StandardNormal(2), likelihood(2, (2,)), MeanFieldNormal((2,), 2))
    with pytest.raises(ValueError, match="excludes the data") as error:
        fit(vae.model, vae.guide, data, BetaVAE(), out=tmp_path / "run")
    assert all(word in str(error.value) for word in words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "is 0.5; draw them as Binarized"), (3.0, "is 3; choose another")]
)
def test_what_makes_black_and_white_of_grey_is_a_draw(value: float, words: str) -> None:
    size = torch.Size([1, 4, 4])
    likelihood = PixelCNN(2, size, width=4, depth=1, kernel=3, first=3, head=4)
    vae = VAE(StandardNormal(2), likelihood, MeanFieldNormal(size, 2))
    with pytest.raises(ValueError, match=words):
        fit(vae.model, vae.guide, torch.full((4, *size), value), BetaVAE())


def test_the_whole_of_the_data_is_held_against_the_support() -> None:
    x = torch.rand(300, 2)
    x[250, 1] = 1.25
    vae = VAE(StandardNormal(2), Bernoulli(2, (2,)), MeanFieldNormal((2,), 2))
    with pytest.raises(ValueError, match=r"\[250, 1\] is 1.25"):
        fit(vae.model, vae.guide, x, BetaVAE())


def test_a_nan_in_the_data_is_refused(tmp_path: Path) -> None:
    x = torch.randn(9, 2)
    x[5, 1] = float("nan")
    vae = VAE(StandardNormal(2), Normal(2, (2,)), MeanFieldNormal((2,), 2))
    with pytest.raises(ValueError, match=r"data\[5, 1\] is nan"):
        fit(vae.model, vae.guide, x, BetaVAE(), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    vae = make_vae()
    with pytest.raises(ValueError, match="1, 8, 8"):
        fit(vae.model, vae.guide, torch.rand(9, 1, 7, 7), BetaVAE(), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_several_arguments_are_kept_side_by_side() -> None:
    x, y = torch.randn(50), torch.arange(50)

    def both(x: Tensor, y: Tensor) -> None:
        assert (x == data[y]).all()
        model(x)

    def guided(x: Tensor, y: Tensor) -> None:
        guide(x)

    data = x
    fit(both, guided, [x, y], Trace_ELBO(), epochs=2, batch_size=8, validation=[x[:5], y[:5]])


def test_double_precision_stays(double: None) -> None:
    fit(model, guide, torch.randn(20), BetaVAE(), epochs=1)
    assert pyro.param("slope").dtype == torch.float64


def test_the_folder_says_what_was_done(digits: Dataset, tmp_path: Path) -> None:
    vae = make_vae()
    history = fit(vae.model, vae.guide, digits, BetaVAE(), epochs=2, out=tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.config["epochs"] == 2
    assert run.config["objective"] == "BetaVAE"
    assert run.history.rows == history.rows
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert rows == history.rows


def test_tensorboard_gets_the_terms(digits: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    vae = make_vae()
    history = fit(vae.model, vae.guide, digits, BetaVAE(), epochs=2, out=tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    seen = [event.value for event in events.Scalars("rate")]
    assert seen == pytest.approx(history["rate"])


def test_a_full_disk_is_said_of_tensorboard_s_file_too(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("tensorboard")
    write = os.write

    def full(file: int, content: memoryview) -> int:
        if "tfevents" in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(errno.ENOSPC, "no space")
        return write(file, content)

    vae = make_vae()
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"tfevents.*the disk is full"):
        fit(vae.model, vae.guide, digits, BetaVAE(), epochs=1, out=tmp_path / "r", progress=False)
    assert not capfd.readouterr().err
    assert not Run(tmp_path / "r").history.rows
    assert [file.stat().st_size for file in (tmp_path / "r/tensorboard").iterdir()] == [0]


def test_stored_leaves_no_trace_in_the_noise() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert set(stored((model, guide), torch.randn(4, generator=torch.Generator()))) == {
        "slope",
        "scale",
    }
    assert torch.equal(torch.rand(1), expected)


def test_the_bar_shows_the_terms(digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    vae = make_vae()
    fit(vae.model, vae.guide, digits, InfoVAE(MMD()), epochs=1, progress=True)
    shown = capsys.readouterr().err
    for word in ("reconstruction", "rate", "divergence", "nats"):
        assert word in shown


class Reads(TorchDispatchMode):
    """Counts the reads of a tensor's value by the host."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_one_number_beside_the_loss(digits: Dataset) -> None:
    # SGD, as Adam reads its own step counters, which lie on the CPU
    pyro.enable_validation(False)
    counts = []
    for epochs in (1, 3):
        vae = make_vae()
        with Reads() as reads:
            fit(
                vae.model, vae.guide, digits.train, InfoVAE(MMD()),
                pyro.optim.SGD({"lr": 1e-4}), epochs=epochs, batch_size=10,
            )  # fmt: skip
        counts.append(reads.count)
    # 30 steps an epoch: whether gradients are finite; once an epoch the order's seed
    assert counts[1] - counts[0] <= 2 * (30 + 1)


class Narrow(nn.Module):
    """The mean x and a small scale, for an encoder of one number."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.full_like(x, -5.0)], 1)


def test_held_out_rows_are_mixed_before_they_are_cut_into_batches() -> None:
    # sorted rows: batches of neighbours would each be far from the prior
    x = torch.randn(400).sort().values[:, None]
    vae = VAE(StandardNormal(1), Normal(1, (1,)), MeanFieldNormal((1,), 1, lambda i, o: Narrow()))
    still = pyro.optim.SGD({"lr": 0.0})
    history = fit(
        vae.model, vae.guide, x, InfoVAE(MMD()), still, epochs=1, batch_size=50, validation=x
    )
    assert abs(history["validation/divergence"][0]) < 0.02
    (neighbours,) = fit(
        vae.model, vae.guide, x[:50], InfoVAE(MMD()), still, epochs=1, batch_size=50
    )["divergence"]
    assert neighbours > 0.2


def test_validation_is_of_the_same_noise_each_time() -> None:
    still = pyro.optim.SGD({"lr": 0.0})
    x, held_out = torch.randn(20), torch.randn(30)
    # two batches in a random order, sampled terms: any other seed would show
    history = fit(
        model, guide, x, Trace_ELBO(), still, epochs=4, batch_size=16, validation=held_out
    )
    assert len(set(history["loss"])) == 4
    assert len(set(history["validation/loss"])) == 1


@pytest.mark.parametrize("left", [True, False])
def test_a_pair_left_in_evaluation_mode_is_trained_in_training_mode(left: bool) -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> None:
            pyro.module("net", self.net)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x[:, None])[:, 0], 1.0))

    guide = Encoder()
    if left:
        guide.eval()
    fit(model, guide, torch.randn(8), Trace_ELBO(), epochs=3, validation=torch.randn(4))
    assert net[1].num_batches_tracked == 3


def two_codes(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + u, 1.0), obs=x)


@pytest.mark.parametrize("objective", [BetaVAE, lambda: InfoVAE(MMD())])
def test_an_objective_says_itself_what_the_guide_lacks(objective: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="latent site 'u' of the model is not in the guide"):
        fit(two_codes, guide, torch.randn(8), objective())


def test_pyros_losses_may_leave_a_site_to_the_prior() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(two_codes, guide, torch.randn(8), Trace_ELBO(), epochs=1)


def broken_below(least: float) -> Callable[[Tensor], None]:
    def rarely(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((z - least).sqrt(), 1.0), obs=x)

    return rarely


def standard(x: Tensor) -> None:
    pyro.param("slope", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), device=x.device), 1.0))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize(("rows", "held_out"), [(4, 1), (1, 900)])
def test_a_failure_is_replayed_with_the_noise_of_the_call_that_failed(
    rows: int, held_out: int, device: str
) -> None:
    pyro.enable_validation(False)
    # z < -2.5 has probability .006, so some call of many breaks, in training (three in four of a
    # critic's) or among nine held-out batches, and seldom does another one's noise break it too
    epochs = 400 if held_out == 1 else 2
    for seed in range(4):
        with pytest.raises(NotFinite, match="first at site 'x' of the model"):
            fit(
                broken_below(-2.5), standard, torch.ones(rows), Critic(), epochs=epochs,
                batch_size=100, seed=seed, critic_steps=3, validation=torch.ones(held_out),
                device=device,
            )  # fmt: skip


def test_weights_whose_held_out_loss_is_nan_are_not_kept() -> None:
    pyro.enable_validation(False)
    far = pyro.optim.SGD({"lr": 1e30})
    # a single step, after which nothing but the held-out loss shows what it did
    with pytest.raises(NotFinite, match="step 1: the loss after it is nan"):
        fit(
            model, guide, torch.randn(8) * 1e18, Trace_ELBO(), far, epochs=1,
            validation=torch.randn(4) * 1e18,
        )  # fmt: skip
    assert pyro.param("slope").item() == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "data is empty"),
        ({"x": torch.ones(4)}, "data is a dict"),
        ("train", "data is a str"),
        (torch.tensor(1.0), "data is a tensor without rows"),
        ((torch.ones(4), 2.0), r"data\[1\] is a float: .*functools\.partial"),
        ((torch.ones(4), torch.tensor(2.0)), r"data\[1\] is a tensor without rows"),
        ((torch.ones(4), torch.ones(3)), r"data of \[4, 3\] rows"),
        (torch.ones(0), r"data of \[0\] rows"),
    ],
)
def test_arguments_that_are_no_rows_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        fit(model, guide, rows, Trace_ELBO())
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message.replace("data", "validation")):
        fit(model, guide, torch.ones(4), Trace_ELBO(), validation=rows)
