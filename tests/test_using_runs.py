"""Runs in use: by command, without their data, moved, gone on from."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae import Experiment, load
from ppl_vae.cli import main
from ppl_vae.data import Dataset, PartlyLabelled
from ppl_vae.training.run import Run
from tests.test_cli import refused

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run of them, made in it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "data/x.npy", rng.random((80, 4), dtype=np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--data", "arrays", "--data.path", "data/x.npy", "--likelihood", "normal"]
        assert main(["fit", *words, "--dim", "2", "--epochs", "2", "--out", "runs/a"]) == 0
    return folder


@pytest.fixture
def moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run in another project's folder, with new rows; the working folder is elsewhere."""
    shutil.copytree(project, tmp_path / "moved")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(project / "runs/a", "run")
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.random((5, 4)), columns=[*"abcd"])
    table.insert(0, "who", [*"vwxyz"])
    table.to_csv("new.csv", index=False)
    np.save("new.npy", rng.random((6, 4)))
    return tmp_path / "moved"


def test_a_moved_run_finds_its_data_from_itself(moved: Path) -> None:
    run = load(moved / "runs/a")
    assert len(run.data) == 72
    assert main(["evaluate", str(moved / "runs/a"), "--quick"]) == 0


def test_a_run_without_its_data(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What needs none works; what does says which option names them."""
    run = load("run")
    assert run.sample(3).shape == (3, 4)
    assert run.decode(torch.zeros(2, 2)).shape == (2, 4)
    assert run.encode(np.load("new.npy")).shape == (6, 2)
    with pytest.raises(FileNotFoundError, match=r"no data file 'data/x.npy'.*--data\.path"):
        _ = run.data
    assert "--data.path" in refused(capsys, "evaluate", "run")
    assert main(["sample", "run", "--n", "4", "--out", "s.npy"]) == 0
    assert np.load("s.npy").shape == (4, 4)
    path = str(moved / "data/x.npy")
    assert len(load("run", data=[("data.path", path)]).data) == 72


def test_samples_without_data_are_those_with_them(moved: Path) -> None:
    with_data, without = load(moved / "runs/a"), load("run")
    assert len(with_data.data) == 72
    assert torch.equal(with_data.sample(5, seed=3), without.sample(5, seed=3))


def test_commands(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv("new.csv", index_col="who")
    run = load("run")
    new = ["run", "--data", "new.csv", "--index", "who", "--out"]
    assert main(["encode", *new, "codes.csv"]) == 0
    codes = pd.read_csv("codes.csv", index_col="who")
    pd.testing.assert_frame_equal(codes, run.encode(table).astype(float), rtol=1e-5)
    assert main(["encode", *new, "draws.csv", "--draws", "3", "--weights"]) == 0
    draws = pd.read_csv("draws.csv", index_col=["who", "draw"])
    assert list(draws.columns) == ["z[0]", "z[1]", "log_weight"]
    assert len(draws) == 15
    assert main(["encode", "run", "--data", "new.npy", "--out", "codes.npy"]) == 0
    np.testing.assert_allclose(
        np.load("codes.npy"), run.encode(np.load("new.npy").astype("float32")), rtol=1e-5
    )
    assert main(["decode", "run", "--data", "codes.csv", "--out", "back.npy"]) == 0
    # rows keep their names all the way
    named = ["run", "--data", "codes.csv", "--index", "who", "--out", "back.csv"]
    assert main(["decode", *named]) == 0
    back = pd.read_csv("back.csv", index_col="who")
    assert list(back.index) == list(table.index)
    np.testing.assert_allclose(np.load("back.npy"), back, rtol=1e-4)
    assert main(["interpolate", *new, "ways.csv", "--steps", "4"]) == 0
    ways = pd.read_csv("ways.csv", index_col=["who", "step"])
    assert list(ways.index.unique("who")) == list(table.index[:-1])
    assert main(["traverse", *new, "moved.csv", "--values", "[0,1]"]) == 0
    moved_along = pd.read_csv("moved.csv", index_col=["who", "step"])
    assert list(moved_along.index.unique("who")) == list(table.index)
    assert main(["reconstruct", *new, "rebuilt.csv"]) == 0
    rebuilt = pd.read_csv("rebuilt.csv", index_col="who")
    assert list(rebuilt.columns) == [*"abcd"]
    np.testing.assert_allclose(np.load("back.npy"), rebuilt, rtol=1e-4)
    assert main(["interpolate", "run", "--data", "new.npy", "--steps", "4", "--out", "w.npy"]) == 0
    assert np.load("w.npy").shape == (5, 4, 4)
    assert (
        main(["traverse", "run", "--data", "new.npy", "--values", "[0,1]", "--out", "t.npz"]) == 0
    )
    assert np.load("t.npz")["rows"].shape == (6, 2, 2, 4)
    capsys.readouterr()
    assert main(["log-likelihood", *new, "scores.csv", "--samples", "50"]) == 0
    scores = pd.read_csv("scores.csv", index_col="who")["log_likelihood"]
    assert f"log p(x) {scores.mean():.6g} +-" in capsys.readouterr().out
    table.iloc[1, 2] = np.nan
    table.to_csv("holes.csv")
    words = [
        "run",
        "--data",
        "holes.csv",
        "--index",
        "who",
        "--samples",
        "20",
        "--out",
        "full.csv",
    ]
    assert main(["impute", *words]) == 0
    full = pd.read_csv("full.csv", index_col="who")
    there = table.notna()
    np.testing.assert_allclose(full.to_numpy()[there], table.to_numpy()[there], rtol=1e-6)
    assert full.notna().all().all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["encode", "run"], "--data"),
        (["encode", "run", "--data", "no.csv", "--out", "c.csv"], "no data file 'no.csv'"),
        (["encode", "run", "--data", "new.npy", "--out", "c.txt"], "must end in"),
        (["encode", "run", "--data", "new.npy", "--out", "no/c.csv"], "no folder 'no'"),
        (["encode", "run", "--data", "new.csv", "--out", "c.csv"], "'v' in column 'who'"),
        (["encode", "run", "--data", "new.csv", "--index", "x", "--out", "c.csv"], "column 'x'"),
        (["encode", "run", "--data", "new.npy", "--weights", "--out", "c.csv"], "weights="),
        (["decode", "run", "--data", "new.npy", "--out", "c.csv"], "codes of shape (6, 4)"),
        (["sample", "run", "--n", "two"], "--n"),
        (["encode", "nowhere", "--data", "new.npy", "--out", "c.csv"], "holds no run"),
        (["refit-prior", "run"], "--out"),
        (["refit-prior", "run", "--out", "b", "--prior", "bogus"], "bogus"),
        (["fit", "--start", "run", "--freeze", "[enc]", "--data.path", "x.npy"], "'enc'"),
    ],
)
def test_bad_requests(
    words: list[str], said: str, moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(moved / "data/x.npy", "x.npy")
    assert said in refused(capsys, *words)


def test_another_prior_by_command(moved: Path) -> None:
    words = ["--prior.components", "2", "--epochs", "2"]
    assert main(["refit-prior", str(moved / "runs/a"), "--out", "second", *words]) == 0
    first, second = load(moved / "runs/a"), load("second")
    assert Run("second").config["prior"]["class_path"] == "ppl_vae.priors.GaussianMixture"
    rows = np.load("new.npy").astype("float32")
    np.testing.assert_array_equal(first.encode(rows), second.encode(rows))
    gain = second.log_likelihood(rows, 50, seed=0) - first.log_likelihood(rows, 50, seed=0)
    assert gain.mean() > 0  # two epochs leave the codes far narrower than the prior
    assert len(second.data) == 72


def test_going_on_by_command(moved: Path) -> None:
    """The parts are the run's; what is frozen stays, the rest moves."""
    path = str(moved / "data/x.npy")
    words = ["--data.path", path, "--epochs", "1", "--freeze", "[encoder]", "--out", "on"]
    assert main(["fit", "--start", "run", *words]) == 0
    before, after = Run("run").load_weights(), Run("on").load_weights()
    same = {name: torch.equal(value, after[name]) for name, value in before.items()}
    assert {name.split(".")[1] for name, equal in same.items() if equal} == {"encoder"}
    assert not any(equal for name, equal in same.items() if "likelihood" in name)
    config = Run("on").config
    assert config["likelihood"]["class_path"] == "ppl_vae.likelihoods.Normal"
    assert (config["start"], config["freeze"], config["dim"]) == ("run", ["encoder"], 2)
    assert load("on").sample(2).shape == (2, 4)


def test_a_pair_of_labels_and_one_of_covariates_without_data(tmp_path: Path) -> None:
    from ppl_vae import ConditionalVAE, SemiSupervisedVAE, fit
    from ppl_vae.guides import MeanFieldNormal
    from ppl_vae.likelihoods import Normal
    from ppl_vae.objectives import BetaVAE
    from ppl_vae.priors import StandardNormal
    from ppl_vae.using import Trained

    labels = torch.arange(40) % 2
    data = Dataset(torch.randn(40, 3), train_labels=labels)
    for kind, extra in ((ConditionalVAE, "covariates"), (SemiSupervisedVAE, "labels")):
        given = PartlyLabelled(data, labels=10) if extra == "labels" else data

        def pair(kind: type = kind):  # type: ignore[no-untyped-def]
            return kind(StandardNormal(2), Normal(4, (3,)), MeanFieldNormal((5,), 2))

        made = pair()
        out = tmp_path / extra
        fit(made.model, made.guide, given.passing(extra), BetaVAE(), epochs=1, out=out)
        again = pair()
        trained = Trained.load(out, again.model, again.guide)
        assert trained.sample(6, steps=1).shape == (6, 3)
        one = torch.eye(2)[[0, 1]] if extra == "covariates" else torch.tensor([0, 1])
        assert trained.decode(torch.zeros(2, 2), one).shape == (2, 3)
        x = torch.randn(3, 3)
        rows = (x, torch.eye(2)[[0, 1, 1]]) if extra == "covariates" else x
        assert trained.encode(rows).shape == (3, 2)
        assert torch.equal(trained.encode(rows, seed=0), trained.encode(rows, seed=0))


def test_a_damaged_record_of_the_data_is_told(moved: Path) -> None:
    Path("run/data.json").write_text("{")
    with pytest.raises(ValueError, match="not a whole JSON file"):
        load("run")
    Path("run/data.json").unlink()  # as a run of before has none
    with pytest.raises(FileNotFoundError):
        load("run")
    assert isinstance(load("run", data=[("data.path", str(moved / "data/x.npy"))]), Experiment)
