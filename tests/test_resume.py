"""Checkpoints: a run that is gone on with becomes what it would have been, bit for bit."""

import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from trainings import BATCHES, ROWS, TRAININGS, contents, train

from ppl_vae import VAE, MeanFieldNormal, Normal, StandardNormal, files
from ppl_vae.cli import main
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.training import checkpoint
from ppl_vae.training.checkpoint import NotKept
from ppl_vae.training.loop import Training
from ppl_vae.training.optim import SGD, Adam
from ppl_vae.training.prepare import prepare
from ppl_vae.training.run import Run
from ppl_vae.training.session import Session
from ppl_vae.training.signals import Asked, Interrupted


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Signals as a terminal has them: what starts in the background ignores SIGINT."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Has a training get a signal in a step."""
    between = Session._between

    def at(step: int, number: int = signal.SIGINT) -> None:
        def then(session: Session) -> None:
            if session.training.step == step:
                signal.raise_signal(number)
            between(session)

        monkeypatch.setattr(Session, "_between", then)

    return at


def interrupted(make: Any, stop_at: Any, step: int, folder: Path, **options: Any) -> str:
    """Trains until a step, and returns what the interruption says."""
    stop_at(step)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(make, out=folder, **options)
    stop_at(-1)
    return str(stop.value)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, stop_at: Any, tmp_path: Path) -> None:
    make = TRAININGS[name]
    whole = train(make, out=tmp_path / "whole", epochs=2)
    for step in (1, BATCHES + 3):
        folder = tmp_path / str(step)
        said = interrupted(make, stop_at, step, folder, epochs=2)
        on = f"fit(..., resume={str(folder)!r}) goes on from there"
        assert said == f"stopped after step {step}; {on}"
        found = train(make, resume=folder, epochs=2)
        assert found.rows == whole.rows
        assert contents(folder) == contents(tmp_path / "whole")


def test_more_epochs_make_the_longer_run(tmp_path: Path) -> None:
    make = TRAININGS["elbo"]
    train(make, out=tmp_path / "long", epochs=3)
    train(make, out=tmp_path / "run", epochs=1)
    again = train(make, resume=tmp_path / "run", epochs=3)
    assert len(again) == 3
    assert contents(tmp_path / "run") == contents(tmp_path / "long")
    # a run that is over is read, and nothing moves
    over = train(make, resume=Run(tmp_path / "run"), epochs=3)
    assert over.rows == again.rows
    assert contents(tmp_path / "run") == contents(tmp_path / "long")
    with pytest.raises(ValueError, match="epochs=2 is the number of all epochs, and 3 are begun"):
        train(make, resume=tmp_path / "run", epochs=2)


@pytest.mark.parametrize("name", ["memory", "schedule"])
def test_in_one_process_with_the_same_objects(name: str, stop_at: Any, tmp_path: Path) -> None:
    """What an interrupted training has left in objective and optimiser is not gone on from."""
    train(TRAININGS[name], out=tmp_path / "whole", epochs=2)
    made = TRAININGS[name]()
    interrupted(lambda: made, stop_at, 4, tmp_path / "run", epochs=2)
    train(lambda: made, resume=tmp_path / "run", epochs=2)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_recorded_steps_go_on_as_such(stop_at: Any, tmp_path: Path) -> None:
    """Steps 17 and 18 make the graph and compare it; others replay it."""
    make, long = TRAININGS["memory"], {"epochs": 2, "batch_size": 3}
    train(make, out=tmp_path / "whole", **long)
    interrupted(make, stop_at, 17, tmp_path / "run", **long)
    train(make, resume=tmp_path / "run", **long)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_checkpoints_within_an_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that is gone leaves the last one, and is gone on with from there."""
    make = TRAININGS["binarized"]
    train(make, out=tmp_path / "whole", epochs=2)
    monkeypatch.setattr(Session, "_end_early", lambda session: None)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    between = Session._between

    def then(session: Session) -> None:
        between(session)
        if session.training.step == BATCHES + 5:
            fail()

    monkeypatch.setattr(Session, "_between", then)
    with pytest.raises(KeyboardInterrupt):
        train(make, out=tmp_path / "run", epochs=2, checkpoint_steps=4)
    monkeypatch.setattr(Session, "_between", between)
    kept = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")["state"]
    assert (kept["training"]["step"], kept["training"]["done"]) == (8, 2)
    train(make, resume=tmp_path / "run", epochs=2)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_signal_while_held_out_rows_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make = TRAININGS["elbo"]
    train(make, out=tmp_path / "whole", epochs=2)
    evaluate = Training._evaluate

    def interrupting(training: Training, *batch: torch.Tensor) -> float:
        signal.raise_signal(signal.SIGTERM)
        return evaluate(training, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_evaluate", interrupting)
        with pytest.raises(SystemExit) as stop:
            train(make, out=tmp_path / "run", epochs=2)
    assert stop.value.code == 143
    assert f"stopped after step {BATCHES}; fit(..., resume=" in str(stop.value)
    assert not Run(tmp_path / "run").history.rows
    train(make, resume=tmp_path / "run", epochs=2)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_signals_are_left_as_they_were(stop_at: Any, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interrupted(TRAININGS["elbo"], stop_at, 1, tmp_path / "run")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    mine = signal.signal(signal.SIGTERM, lambda *_: None)
    try:  # what the user has set up is left alone
        stop_at(1, signal.SIGTERM)
        assert len(train(TRAININGS["elbo"], epochs=1)) == 1
    finally:
        signal.signal(signal.SIGTERM, mine)


def test_the_second_signal_ends_at_once() -> None:
    with Asked() as asked:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as stop:
            signal.raise_signal(signal.SIGINT)
    assert not isinstance(stop.value, Interrupted)
    with pytest.raises(Interrupted):
        asked.check()


def test_what_callbacks_draw_changes_nothing(stop_at: Any, tmp_path: Path) -> None:
    make, noisy = TRAININGS["elbo"], {"callbacks": [lambda row: torch.rand(3).sum()]}
    whole = train(make, epochs=2)
    assert train(make, epochs=2, **noisy).rows == whole.rows
    interrupted(make, stop_at, BATCHES + 1, tmp_path / "run", epochs=2, **noisy)
    assert train(make, resume=tmp_path / "run", epochs=2).rows == whole.rows


def test_a_loader_goes_on_from_the_start_of_its_epoch(stop_at: Any, tmp_path: Path) -> None:
    def loaded() -> Any:
        pair, _, objective, optimizer, _ = TRAININGS["elbo"]()
        loader = DataLoader(TensorDataset(ROWS), batch_size=10, shuffle=True)
        return pair, loader, objective, optimizer, {}

    def mapped() -> Any:
        return (*loaded()[:1], TensorDataset(ROWS), *loaded()[2:])

    for make, where in ((loaded, "from the start of epoch 2, as a"), (mapped, "from there")):
        name = make.__name__
        train(make, out=tmp_path / name, epochs=2)
        said = interrupted(make, stop_at, BATCHES + 2, tmp_path / f"{name}-run", epochs=2)
        assert where in said
        train(make, resume=tmp_path / f"{name}-run", epochs=2)
        assert contents(tmp_path / f"{name}-run") == contents(tmp_path / name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ends_a_loader_s_workers_too(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a terminal or a service sends it, to all processes."""

    def loaded() -> Any:
        pair, _, objective, optimizer, _ = TRAININGS["elbo"]()
        loader = DataLoader(TensorDataset(ROWS), batch_size=10, num_workers=1)
        return pair, loader, objective, optimizer, {}

    between, before = Session._between, list[Any]()

    def then(session: Session) -> None:
        if session.training.step == 2:
            before.append(signal.getsignal(signal.SIGCHLD))
            signal.raise_signal(number)
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
        between(session)

    monkeypatch.setattr(Session, "_between", then)
    with pytest.raises((KeyboardInterrupt, SystemExit), match="stopped after step 2; fit"):
        train(loaded, out=tmp_path / "run", epochs=1)
    assert [signal.getsignal(signal.SIGCHLD)] == before


def test_a_signal_while_a_loader_is_waited_for(tmp_path: Path) -> None:
    class Ended(DataLoader[Any]):
        def __iter__(self) -> Any:
            yield from [*super().__iter__()][:3]
            if has_begun:
                signal.raise_signal(signal.SIGTERM)
                raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")

    has_begun: list[int] = []

    def loaded() -> Any:
        pair, _, objective, optimizer, _ = TRAININGS["elbo"]()
        return pair, Ended(TensorDataset(ROWS), batch_size=10), objective, optimizer, {}

    # of the three batches before the error, the last is held back: one row would be joined to it
    with pytest.raises(SystemExit, match="stopped after step 5; fit"):
        train(loaded, out=tmp_path / "run", epochs=3, callbacks=[has_begun.append])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, which no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(TRAININGS["schedule"], out=folder, epochs=1)
    return folder


def _other(change: Callable[[list[Any]], Any]) -> Callable[[], Any]:
    def make() -> Any:
        parts = list(TRAININGS["schedule"]())
        change(parts)
        return tuple(parts)

    return make


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (TRAININGS["schedule"], {"batch_size": 12}, "batch_size is 12 and was 10"),
        (TRAININGS["schedule"], {"seed": 4}, "seed is 4 and was 0"),
        (TRAININGS["schedule"], {"keep": "last"}, "keep is 'last' and was 'best'"),
        (TRAININGS["schedule"], {"freeze": ["encoder"]}, "freeze"),
        (_other(lambda parts: parts.__setitem__(1, ROWS + 1)), {}, "its rows were .*SHA-256"),
        (_other(lambda parts: parts.__setitem__(1, ROWS[:50])), {}, "its rows were .*SHA-256"),
        (_other(lambda parts: parts.__setitem__(2, BetaVAE())), {}, "objective is 'BetaVAE'"),
        (
            _other(lambda parts: setattr(parts[2], "scale", 6.0)),
            {},
            r"objective.scale is 6.0 and was 5.0",
        ),
        (
            _other(lambda parts: parts.__setitem__(3, Adam(lr=1e-2, decay=0.9))),
            {},
            "optimizer.lr is 0.01 and was 0.003",
        ),
        (
            _other(lambda parts: setattr(parts[3], "critic_betas", (0.9, 0.999))),
            {},
            "optimizer.critic_beta1 is 0.9 and was 0.5",
        ),
        (_other(lambda parts: parts.__setitem__(3, SGD())), {}, "optimizer is 'SGD'"),
    ],
)
def test_what_differs_is_refused(
    finished: Path, make: Any, options: dict[str, Any], words: str
) -> None:
    before = contents(finished)
    with pytest.raises(ValueError, match=words) as refused:
        train(make, resume=finished, epochs=2, **options)
    assert "\n" not in str(refused.value)
    assert contents(finished) == before


def test_another_pair_is_refused(finished: Path) -> None:
    def wider() -> Any:
        vae = VAE(StandardNormal(3), Normal(3, 4), MeanFieldNormal(4, 3))
        return (vae, *TRAININGS["schedule"]()[1:])

    with pytest.raises(ValueError, match="belong to another model"):
        train(wider, resume=finished, epochs=2)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    """The second of two runs is refused, whether it overwrites or goes on."""
    make, folder = TRAININGS["elbo"], tmp_path / "run"
    refused: list[str] = []

    def meanwhile(_: dict[str, float]) -> None:
        held = contents(folder)
        for other in (
            lambda: Run.check(folder, overwrite=True),
            lambda: Run.create(folder, {}, overwrite=True),
            lambda: Run(folder).lock(),
        ):
            with pytest.raises(BlockingIOError, match="another training is writing to") as error:
                other()
            refused.append(str(error.value))
        with pytest.raises(FileExistsError, match="already holds a run"):
            Run.create(folder, {})
        assert contents(folder) == held

    train(make, out=folder, epochs=1, callbacks=[meanwhile])
    assert len(refused) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    Run.create(folder, {}, overwrite=True)  # it is free again


def test_two_that_begin_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one whose folder appears while the other is being made is left alone."""
    write = files.write_text

    def late(path: Path, text: str) -> None:
        monkeypatch.setattr(files, "write_text", write)
        Run.create(tmp_path / "run", {"first": True})
        write(path, text)

    monkeypatch.setattr(files, "write_text", late)
    with pytest.raises(FileExistsError, match="already holds a run"):
        Run.create(tmp_path / "run", {"second": True})
    assert Run(tmp_path / "run").config == {"first": True}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_damaged_checkpoints_are_refused(finished: Path, tmp_path: Path) -> None:
    whole = (finished / "checkpoint.safetensors").read_bytes()
    path = tmp_path / "checkpoint.safetensors"
    middle = len(whole) // 2
    flipped = bytes([whole[-3] ^ 1])
    for content in (
        b"",
        b"\xff" * 8,
        whole[:middle],
        whole[:-3] + flipped + whole[-2:],
        whole.replace(b'"epochs', b'"epoch5'),
        whole.replace(b"checkpoint", b"checkpainT", 1),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole checkpoint") as refused:
            checkpoint.read(path)
        assert "\n" not in str(refused.value)
    path.write_bytes(whole.replace(b'"checkpoint":"1 ', b'"checkpoint":"9 ', 1))
    with pytest.raises(ValueError, match="of version '9'"):
        checkpoint.read(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume: start="):
        train(TRAININGS["elbo"], resume=Run.create(tmp_path / "bare", {}))


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.clear(),
        lambda kept: kept.update(began=3),
        lambda kept: kept.update(settings=None),
        lambda kept: kept["state"].clear(),
        lambda kept: kept["state"].update(epochs="many"),
        lambda kept: kept["state"]["training"].update(mean=[]),
        lambda kept: kept["state"]["training"]["optimizer"].update(by_parameter={"x": {}}),
        lambda kept: kept["state"].update(streams={"start": 1, "now": 2}),
    ],
)
def test_whole_checkpoints_of_something_else_are_refused(
    change: Callable[[Any], None], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    kept = checkpoint.read(folder / "checkpoint.safetensors")
    change(kept)
    checkpoint.write(folder / "checkpoint.safetensors", kept)
    with pytest.raises(ValueError, match="is no checkpoint of such a training") as refused:
        train(TRAININGS["schedule"], resume=folder, epochs=2)
    assert "\n" not in str(refused.value)


def test_a_log_with_a_second_name_is_gone_on_with_apart(tmp_path: Path) -> None:
    """As copies that are made of hard links have; the other file stays as it is."""
    make, folder = TRAININGS["elbo"], tmp_path / "run"
    train(make, out=tmp_path / "whole", epochs=2)
    train(make, out=folder, epochs=1)
    kept = tmp_path / "kept"
    kept.hardlink_to(folder / "metrics.jsonl")
    before = kept.read_bytes()
    train(make, resume=folder, epochs=2)
    assert contents(folder) == contents(tmp_path / "whole")
    assert kept.read_bytes() == before


def test_what_no_checkpoint_can_hold_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotKept, match="a/1 is of object"):
        checkpoint.write(tmp_path / "x", {"a": [1, object()]})
    with pytest.raises(NotKept, match=r"besides tensors has [\d,]+ bytes, and may have 8,388,608"):
        checkpoint.write(tmp_path / "x", {"a": "x" * 2**23})
    assert not [*tmp_path.iterdir()]

    class Odd(MMD):
        def state(self) -> dict[str, Any]:
            return {"odd": object()}

    make = _other(lambda parts: parts.__setitem__(2, InfoVAE(Odd(), scale=5.0)))
    with pytest.warns(UserWarning, match="cannot be resumed: state/objective/divergences.0/odd"):
        train(make, out=tmp_path / "run", epochs=1)
    assert "checkpoint.safetensors" not in contents(tmp_path / "run")


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    state = {
        "none": None,
        "numbers": [1, 2.5, float("inf"), True, "text", 1e-320],
        "pair": (1, (2, [])),
        "by number": {0: {"exp_avg": torch.randn(3, 2)}, 1: {}},
        "tensors": [torch.zeros(()), torch.arange(3), torch.ones(2).bfloat16(), torch.ones(0)],
    }
    checkpoint.write(tmp_path / "x", state)
    found = checkpoint.read(tmp_path / "x")
    assert repr(found) == repr(state)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_a_lack_of_memory_names_what_to_lower(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = {
        torch.OutOfMemoryError: "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...",
        RuntimeError: "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 80000 bytes. Error code 12 (Cannot allocate memory)",
        MemoryError: "",
    }[error]

    def fail(*_: Any) -> float:
        raise error(said)

    monkeypatch.setattr(BetaVAE, "loss_and_grads", fail)
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size=10.*: lower batch_size") as told:
        train(TRAININGS["elbo"], out=tmp_path / "run")
    assert "\n" not in str(told.value)
    assert Run(tmp_path / "run").load_weights()


def test_baselines_of_pyro_s_are_kept(tmp_path: Path) -> None:
    pyro.get_param_store()["__baseline_avg_downstream_cost_z"] = torch.tensor(3.0)
    session = Session(prepare(*_parts(TRAININGS["elbo"]())))
    kept = session.state()["baselines"]
    pyro.clear_param_store()
    session.load_state({**session.state(), "baselines": kept}, session.history)
    assert float(pyro.param("__baseline_avg_downstream_cost_z")) == 3.0


def _parts(made: Any) -> tuple[Any, ...]:
    pair, data, objective, optimizer, _ = made
    return pair.model, pair.guide, data, objective, optimizer


QUICK = [
    *("--data", "gaussian_mixture", "--data.n", "60", "--likelihood", "normal", "--dim", "2"),
    *("--epochs", "2", "--batch-size", "20"),
]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_line_goes_on(
    number: int,
    code: int,
    stop_at: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unpainted: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    stop_at(4, number)
    assert main(["fit", *QUICK, "--out", "run 1"]) == code
    line = "ppl-vae fit --resume 'run 1'"
    assert f"ppl-vae: stopped after step 4; {line} goes on from there\n" in capsys.readouterr().err
    assert Run("run 1").history["epoch"] == [1]
    stop_at(-1)
    for words, said in (
        (["--dim", "3"], "--dim has no place next to --resume"),
        (["--overwrite"], "--overwrite has no place"),
        (["--epochs", "1"], "epochs=1 is the number of all epochs, and 2 are begun"),
    ):
        assert main(["fit", "--resume", "run 1", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["fit", "--resume", "run 1"]) == 0
    assert main(["fit", *QUICK, "--out", "whole"]) == 0
    assert contents(Path("run 1")) == contents(Path("whole"))
    assert main(["fit", "--resume", "run 1"]) == 0
    assert "2 epochs are trained, and it is over" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--monitor", "x"],
        ["--keep", "best", "--monitor", "x"],
        ["--patience", "0"],
        ["--freeze", '["nothing"]'],
        ["--device", "cuda:77"],
        ["--batch-size", "0"],
        ["--epochs", "0"],
        ["--critic-steps", "1"],
        ["--start", "nowhere"],
        ["--seed", "-1"],
        ["--optimizer.lr", "-1"],
    ],
)
def test_show_refuses_what_fit_refuses(
    words: list[str], tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = []
    for command in ("fit", "show"):
        assert main([command, *QUICK, *words]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert not [*tmp_path.iterdir()]
