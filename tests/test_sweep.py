"""`compare` and `sweep`: runs side by side, by command."""

import signal
from pathlib import Path

import numpy as np
import pytest

from ppl_vae.cli import main
from ppl_vae.plots import rate_distortion
from ppl_vae.report import results
from ppl_vae.training.run import Run
from ppl_vae.training.session import Session

BODY = "{class_path: MLP, init_args: {hidden: [8]}}"
SMALL = ("--encoder.body", BODY, "--likelihood.body", BODY, "--dim", "2", "--epochs", "1",
         "--objective", "BetaVAE", "--likelihood", "Normal")  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 3)).astype("float32"))
    return path


def fit(rows: Path, *words: str) -> list[str]:
    return ["--data", "Arrays", "--data.path", str(rows), *SMALL, *words]


def test_a_sweep_runs_goes_on_and_ends_in_a_comparison(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["sweep", *fit(rows), "--vary", "objective.beta=0.5,2", "--jobs", "2"]
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert told[0].startswith("ppl-vae fit ")
    assert "--objective.beta 0.5 --seed 0 --out runs/sweep/beta=0.5-seed=0" in told[0]
    assert " && ppl-vae evaluate runs/sweep/beta=0.5-seed=0 " in told[0]
    assert not Path("runs").exists()
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "2/2" in shown
    table = Path("runs/sweep/table.txt").read_text()
    assert table in shown
    assert Path("runs/sweep/rate_distortion.png").stat().st_size > 5000
    betas = {}
    for name in ("beta=0.5-seed=0", "beta=2-seed=0"):
        run = Run(Path("runs/sweep", name))
        betas[run.config["objective"]["init_args"]["beta"]] = run
        assert results.values(run)["log_likelihood"] is not None
        assert f"{results.values(run)['rate']:.4g}" in table
    assert set(betas) == {0.5, 2.0}
    # what is done is left alone, what is half done is repeated
    kept = (betas[0.5].path / "weights.safetensors").stat().st_mtime_ns
    (betas[2.0].path / "summary.json").unlink()
    assert main(words) == 0
    assert "1/1 beta=2" in capsys.readouterr().out
    assert (betas[0.5].path / "weights.safetensors").stat().st_mtime_ns == kept
    # and the runs are compared by the other command
    names = [str(run.path) for run in betas.values()]
    assert main(["compare", *names, "--draws", "50"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in names)
    assert "6 data, 50 draws each" in table


def test_an_interrupted_run_goes_on(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    between = Session._between

    def stop(session: Session) -> None:
        session._asked.signal = signal.SIGTERM if session.training.step == 3 else None
        between(session)

    loss = ("--objective", "InfoVAE", "--objective.divergence", "MMD", "--objective.scale", "auto")
    words = fit(rows, *loss, "--epochs", "3", "--batch-size", "20")
    sweep = ["sweep", *words, "--vary", "dim=2", "--out", "runs"]
    cell = [*words, "--dim", "2", "--seed", "0"]
    monkeypatch.setattr(Session, "_between", stop)
    assert main(["fit", *cell, "--out", "runs/dim=2-seed=0"]) == 143
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main([*sweep, "--dry-run"]) == 0
    again = capsys.readouterr().out
    assert again.startswith("ppl-vae fit --resume runs/dim=2-seed=0 && ppl-vae evaluate ")
    # other settings are another training
    assert main([*sweep, "--batch-size", "10", "--dry-run"]) == 0
    assert "--out runs/dim=2-seed=0 --overwrite && " in capsys.readouterr().out
    assert main(sweep) == 0
    assert main(["fit", *cell, "--out", "whole"]) == 0
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert Path("whole", name).read_bytes() == Path("runs/dim=2-seed=0", name).read_bytes()


def test_a_failure_is_listed(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    # a learning rate at which the loss leaves the numbers
    words = ["sweep", *fit(rows, "--epochs", "3"), "--vary", "optimizer.lr=1e30"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 1 runs failed: lr=1e30-seed=0" in line
    assert "the same call repeats them" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep"], "nothing varies"),
        (["sweep", "--vary", "dim"], "--vary is 'dim'"),
        (["sweep", "--vary", "dim=2,"], "--vary is 'dim=2,'"),
        (["sweep", "--vary", "seed=1,2"], "say how many with --seeds"),
        (["sweep", "--vary", "out=a,b"], "a folder of its own"),
        (["sweep", "--vary", "resume=a,b"], "goes on with what was interrupted"),
        (["sweep", "--vary", "dim=2", "--vary", "dim=4"], "--vary dim is given twice"),
        (["sweep", "--vary", "dim=2,4,2"], "2 runs would share the folder 'dim=2-seed=0'"),
        (["sweep", "--vary", "data.path=a/b,a_b"], "2 runs would share the folder 'path=a_b-"),
        (["sweep", "--vary", "dim=2", "--seeds", "0"], "--seeds is '0'"),
        (["sweep", "--vary", "dim=1,2", "--seeds", "999999999999999999999"], "a sweep has 10000"),
        (["sweep", "--vary", "dim=2", "--prior.help"], "ask ppl-vae fit --prior.help"),
        (["sweep", "--vary", "dim=2", "--overwrite"], "goes on with what is there"),
        (["sweep", "--vary", "dimension=2"], "dimension"),
        (["sweep", "--vary", "dim=two"], "dim"),
        (["compare", "one"], "two runs or more"),
        (["compare", "one", "two"], "holds no run"),
        (["compare", "one", "./one"], "'./one' is given twice"),
    ],
)
def test_one_line_and_nothing_written(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_runs_of_other_data_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for k in (0, 1):
        Run.create(f"run-{k}", {"data": {"class_path": "Digits", "init_args": {"seed": k}}})
    assert main(["compare", "run-0", "run-1"]) == 2
    assert "run-1 was trained on other data than run-0" in capsys.readouterr().err


def test_nothing_to_draw() -> None:
    assert rate_distortion({"a": [{"rate": None, "distortion": 3.0}]}) is None
