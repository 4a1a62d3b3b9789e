"""Tables of named columns: what is read of them, new rows, runs by command."""

import builtins
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae import Experiment, load
from ppl_vae.bodies import MLP
from ppl_vae.cli import main
from ppl_vae.data import Dataset, PartlyLabelled, Table
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Columns, Normal
from ppl_vae.objectives import BetaVAE
from ppl_vae.pairs import ConditionalVAE
from ppl_vae.using import Trained
from tests.test_cli import refused

SMALL = partial(MLP, hidden=(8,))
N = 60


def people(n: int = N, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "id": np.arange(n) + 100,
        "age": rng.normal(50, 10, n),
        "smoker": np.arange(n) % 3 == 0,
        "stage": np.array(["I", "II", "III"])[np.arange(n) % 3],
        "visits": rng.poisson(3, n) + 2,
        "town": np.array(["A", "B"])[np.arange(n) % 2],
        "w": 1.0 + np.arange(n) % 2,
    })  # fmt: skip


def table(**options: Any) -> Table:
    given: dict[str, Any] = {"index": "id", "labels": "town", "weights": "w"}
    return Table(people(), **(given | options))


def test_what_columns_hold() -> None:
    frame = people().assign(
        half=np.arange(N) - 0.5,
        negative=-np.arange(N),
        holed=pd.Series(np.arange(N, dtype=float)).mask(np.arange(N) == 3),
        nullable=pd.array([None, *range(1, N)], dtype="Int64"),
        flag=pd.array([None, *([True] * (N - 1))], dtype="boolean"),
        grade=pd.Categorical([1, 2, 3] * (N // 3)),
        code=np.arange(N) % 4,
    )
    data = Table(frame, missing="mask", kinds={"code": "class", "visits": "real"})
    assert data.layout is not None
    kinds = {column.name: column.kind for column in data.layout.x}
    assert kinds == {
        "id": "count", "age": "real", "smoker": "binary", "stage": "class", "visits": "real",
        "town": "class", "w": "real", "half": "real", "negative": "real", "holed": "count",
        "nullable": "count", "flag": "binary", "grade": "class", "code": "class",
    }  # fmt: skip
    levels = {column.name: column.levels for column in data.layout.x if column.levels}
    assert levels == {"stage": ("I", "II", "III"), "town": ("A", "B"), "grade": (1, 2, 3),
                      "code": (0, 1, 2, 3)}  # fmt: skip


def test_numbers_scales_labels_and_weights() -> None:
    data, frame = table(held_out=0.2), people()
    assert (len(data.train), data.classes) == (48, ("A", "B"))
    assert data.layout is not None
    assert data.test is not None
    assert data.layout.names == ["age", "smoker", "stage=I", "stage=II", "stage=III", "visits"]
    raw = data.transform.undo(data.train.double()).numpy()
    row = {round(age, 3): i for i, age in enumerate(frame["age"])}
    rows = [row[round(float(age), 3)] for age in raw[:, 0]]
    np.testing.assert_allclose(raw[:, 5], frame["visits"].iloc[rows])
    assert [("I", "II", "III")[i] for i in raw[:, 2:5].argmax(1)] == [*frame["stage"].iloc[rows]]
    assert data.train_labels is not None
    assert data.train_labels.tolist() == [i % 2 for i in rows]
    assert data.train_weights is not None
    expected = frame["w"].iloc[rows].to_numpy()
    np.testing.assert_allclose(data.train_weights, expected / expected.mean(), rtol=1e-6)
    assert abs(float(data.train[:, 0].mean())) < 1e-5  # real columns alone are standardised
    assert abs(float(data.train[:, 0].std(correction=0)) - 1) < 1e-5
    assert set(data.train[:, 1:5].unique().tolist()) == {0.0, 1.0}
    plain = table(normalise="none")
    assert float(plain.train[:, 0].mean()) > 40
    for column, unit in ((0, 1.0), (5, 0.0)):
        least = table(normalise="minmax").train[:, column].max()
        assert (float(least) == 1.0) == bool(unit)


def test_files_and_frames_are_alike(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "p.csv", index=False)
    whole = table()
    read = Table(str(tmp_path / "p.csv"), index="id", labels="town", weights="w")
    torch.testing.assert_close(read.train, whole.train)
    assert read.name == "p"
    pytest.importorskip("pyarrow")
    people().to_parquet(tmp_path / "p.parquet")
    again = Table(str(tmp_path / "p.parquet"), index="id", labels="town", weights="w")
    torch.testing.assert_close(again.train, whole.train)


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(people().to_dict("list"))
    data = Table(frame, index="id", labels="town", weights="w")
    torch.testing.assert_close(data.train, table().train)
    run = experiment(data)
    new = frame.head(3).with_columns(stage=polars.lit("II"))
    new = new.select("visits", "stage", "smoker", "age")
    made = run.reconstruct(new)
    assert isinstance(made, polars.DataFrame)
    assert made.columns == ["age", "smoker", "stage", "visits"]
    assert set(made["stage"]) <= {"I", "II", "III"}
    assert isinstance(run.sample(2), polars.DataFrame)
    holed = new.with_columns(stage=polars.Series([None, "I", "I"]))
    assert run.impute(holed, num_samples=5)["stage"].null_count() == 0


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"born": pd.date_range("2000", periods=N)}, {}, "'born' holds dates.*days since"),
        ({"born": ["2000-01-02"] * N}, {}, "'born' holds dates"),
        ({"name": [f"n{i}" for i in range(N)]}, {}, "'name' is text with 60 levels"),
        ({"mixed": [1, "a"] * (N // 2)}, {}, "'mixed' holds values of several types"),
        ({"empty": [None] * N}, {"missing": "mask"}, "'empty' has no values"),
        ({"age": [None, *range(1, N)]}, {}, "'age' has 1 missing.*row 0.*missing=\"mask\""),
        ({}, {"covariates": ["stages"]}, "no column 'stages'"),
        ({}, {"columns": ["age", "age"]}, "'age' is there twice"),
        ({}, {"columns": ["town"]}, "'town' is there twice"),
        ({}, {"columns": []}, "no columns left"),
        ({}, {"kinds": {"agee": "real"}}, "'agee' is none of"),
        ({}, {"kinds": {"age": "colour"}}, "'age' is 'colour'"),
        ({}, {"kinds": {"age": "count"}}, "'age' is count and holds"),
        ({}, {"kinds": {"stage": "real"}}, "'stage' holds 'I.*not a number"),
        ({"w": [-1.0] * N}, {}, "weights.*0 or more"),
        ({0: [*range(N)]}, {}, "column 0 has no name"),
    ],
)
def test_tables_that_cannot_be_used(change: Any, options: Any, words: str) -> None:
    given = {"index": "id", "labels": "town", "weights": "w"} | options
    frame = people()
    for name, values in change.items():
        frame[name] = values
    with pytest.raises(ValueError, match=words) as error:
        Table(frame, **given)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no data file"):
        Table(str(tmp_path / "no.csv"))
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        Table(str(tmp_path / "x.txt"))
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match="is not a csv table"):
        Table(str(tmp_path / "x.csv"))
    with pytest.raises(TypeError, match="path is a list"):
        Table([[1.0]])
    found = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"ppl-vae\[tables\]"):
        Table(str(tmp_path / "x.csv"))


def test_levels_that_no_training_row_has() -> None:
    new = people(4, 1).assign(stage=["I", "IV", "II", "IV"])
    with pytest.raises(ValueError, match=r"'stage' has the level 'IV'.*'I', 'II', 'III'"):
        table(test=new)
    data = table(test=new, missing="mask")
    assert data.test is not None
    assert data.test[:, 2:5].isnan().all(1).tolist() == [False, True, False, True]
    run, masked = experiment(table()), experiment(data)
    with pytest.raises(ValueError, match="'stage' has the level 'IV'"):
        run.encode(new)
    assert np.isfinite(masked.encode(new).to_numpy()).all()
    filled = masked.impute(new, num_samples=5)
    assert set(filled["stage"]) <= {"I", "II", "III"}
    assert filled["stage"].iloc[0] == "I"


def experiment(data: Dataset, **options: Any) -> Experiment:
    settings: dict[str, Any] = {
        "likelihood": Columns(body=SMALL, features=8),
        "encoder": partial(MeanFieldNormal, body=SMALL),
        "epochs": 1,
        "dim": 2,
    }
    run = Experiment(data, BetaVAE(), **(settings | options))
    run.fit(progress=False)
    return run


@pytest.fixture(scope="module")
def run() -> Experiment:
    return experiment(table())


def test_new_rows_in_any_order(run: Experiment) -> None:
    new = people(5, 3).set_index("id")
    codes = run.encode(new)
    pd.testing.assert_index_equal(codes.index, new.index)
    other = new[["visits", "stage", "age", "smoker"]].assign(extra="x")
    pd.testing.assert_frame_equal(run.encode(other), codes)
    assert run.data.layout is not None
    numbers = run.data.layout.rows(new)
    np.testing.assert_allclose(run.encode(numbers), codes, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="no column 'stage'"):
        run.encode(new.drop(columns="stage"))
    with pytest.raises(ValueError, match="'age' holds 'old', not a number"):
        run.encode(new.assign(age="old"))
    with pytest.raises(ValueError, match=r"'visits' is count and holds 2\.5"):
        run.encode(new.assign(visits=2.5))
    with pytest.raises(ValueError, match="row 1, column 'age' is missing"):
        run.encode(new.assign(age=[50, None, 50, 50, 50]))
    with pytest.raises(ValueError, match=r"row 0, column 'age' is .*5 of 5 rows"):
        run.encode(new.assign(age=1e6))
    with pytest.raises(ValueError, match="no rows"):
        run.encode(new.iloc[:0])


def test_results_are_tables(run: Experiment) -> None:
    new = people(4, 3).set_index("id")
    names = ["age", "smoker", "stage", "visits"]
    made = run.reconstruct(new)
    assert [*made.columns] == names
    assert made["age"].between(0, 100).all()
    assert set(made["stage"]) <= {"I", "II", "III"}
    pd.testing.assert_index_equal(made.index, new.index)
    drawn = run.sample(50, seed=0)
    assert [*drawn.columns] == names
    assert (drawn["visits"] % 1 == 0).all()
    assert set(drawn["smoker"]) <= {0.0, 1.0}
    assert [*run.decode(run.encode(new)).columns] == names
    assert run.decode(torch.zeros(3, 2)).shape == (3, 6)
    holed = new[names].astype(object)
    holed.iloc[0, 0] = holed.iloc[1, 2] = holed.iloc[2, 3] = None
    filled = run.impute(holed, num_samples=10)
    assert not filled.isna().any().any()
    assert filled.iloc[1]["age"] == pytest.approx(new["age"].iloc[1], rel=1e-5)
    assert [*filled["stage"].iloc[[0, 2, 3]]] == [*new["stage"].iloc[[0, 2, 3]]]
    several = run.impute(holed, draws=2, num_samples=10)
    assert several.index.names == ["id", "draw"]
    assert (several["visits"] % 1 == 0).all()


def test_covariates_come_from_the_table() -> None:
    data = table(covariates=["stage", "age"], labels=None)
    run = experiment(data, pair=ConditionalVAE)
    assert data.train_covariates is not None
    assert data.train_covariates.shape == (54, 4)
    assert abs(float(data.train_covariates[:, 3].mean())) < 1e-5
    new = people(4, 3)
    codes = run.encode(new)
    moved = run.encode(new.assign(stage="I"))
    assert not np.allclose(codes, moved)
    assert run.sample(3, given=new).shape == (3, 3)
    with pytest.raises(ValueError, match="covariate 'age' is missing in row 1"):
        run.encode(new.assign(age=[50, None, 50, 50]))


def test_labels_may_be_left_out_of_new_rows() -> None:
    from ppl_vae.pairs import SemiSupervisedVAE

    run = experiment(
        PartlyLabelled(table(), labels=10),
        pair=SemiSupervisedVAE,
    )
    new = people(4, 3)
    assert len(run.encode(new)) == len(run.encode(new.drop(columns="town"))) == 4


def test_numbers_in_frames_are_kept_by_name() -> None:
    """In a plain data set too, in `fit` and in a pair that was given a frame."""
    frame = people()[["age", "visits"]]
    data = Dataset(frame[:40], frame[40:][["visits", "age"]])
    assert data.test is not None
    assert float(data.test[:, 0].mean()) > 30
    pair = experiment(data, likelihood="normal").pair
    for of in (data, frame):
        use = Trained(pair.model, pair.guide, of)
        pd.testing.assert_frame_equal(use.encode(frame), use.encode(frame[["visits", "age"]]))
    with pytest.raises(ValueError, match="give a Table"):
        Dataset(people())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a table and a run of it by command."""
    folder = tmp_path_factory.mktemp("tables")
    people().to_csv(folder / "people.csv", index=False)
    (folder / "fit.yaml").write_text(
        "data: {class_path: Table, init_args: {path: people.csv, index: id, weights: w}}\n"
        "likelihood:\n  class_path: Columns\n  init_args:\n    features: 8\n"
        "    parts:\n      age: {class_path: Normal, init_args: {noise: pixel}}\n"
        "      stage: Categorical\n"
        "objective: BetaVAE\n"
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        words = "--config fit.yaml --data.kinds.visits real --data.kinds.town class --dim 2"
        words += " --epochs 1 --likelihood.parts.visits Normal --likelihood.parts.visits.scale 2.0"
        words += " --likelihood.body.hidden [8] --encoder.body.hidden [8] --out run"
        assert main(["fit", *words.split()]) == 0
    return folder


def test_a_table_by_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    run = load("run")
    likelihood = run.pair.likelihood
    assert isinstance(likelihood, Columns)
    assert sorted(likelihood.parts) == ["age", "stage", "visits"]  # of the file and by flags
    assert [head.scale for head in likelihood.heads if isinstance(head, Normal)] == [1.0, 2.0]
    new = people(5, 3)[["town", "stage", "visits", "smoker", "age", "id"]]
    new.to_csv("new.csv", index=False)
    assert main(["encode", "run", "--data", "new.csv", "--index", "id", "--out", "codes.csv"]) == 0
    codes = pd.read_csv("codes.csv", index_col="id")
    np.testing.assert_allclose(codes, run.encode(new), rtol=1e-4, atol=1e-6)
    assert [*codes.index] == [*new["id"]]
    for command, out in (("sample run --n 3", "s"), ("reconstruct run --data new.csv", "r")):
        assert main([*command.split(), "--out", f"{out}.csv"]) == 0
        found = pd.read_csv(f"{out}.csv")
        assert [*found.columns] == ["age", "smoker", "stage", "visits", "town"]
        assert set(found["stage"]) <= {"I", "II", "III"}
        assert main([*command.split(), "--out", f"{out}.npy"]) == 0
        assert np.load(f"{out}.npy").shape == (len(found), 8)
    new.mask(np.eye(5, 6, 1, dtype=bool)).to_csv("holed.csv", index=False)
    assert (
        main(["impute", "run", "--data", "holed.csv", "--samples", "5", "--out", "filled.csv"])
        == 0
    )
    assert not pd.read_csv("filled.csv").isna().any().any()
    new.assign(stage="V").to_csv("bad.csv", index=False)
    capsys.readouterr()
    words = "encode run --data bad.csv --out c.csv"
    assert "'stage' has the level 'V'" in refused(capsys, *words.split())
    assert not Path("c.csv").exists()
    assert main(["evaluate", "run", "--metrics", "samples", "--quick"]) == 0
    told = capsys.readouterr().out
    for name in ("column_rmse/age", "column_accuracy/stage", "column_log_loss/smoker"):
        assert name in told
    assert main(["report", "run", "--out", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count("a panel to a column") == 2


def test_pictures_by_column(tmp_path: Path) -> None:
    from ppl_vae import plots

    columns = {"age": np.array([1.0, np.nan, 3.0]), "g": np.array(["a", None, "b"], dtype=object)}
    for paired in (False, True):
        figure = plots.columns(columns, columns, ["g"], paired)
        assert [axes.get_title() for axes in figure.axes] == ["age", "g"]
        plots.save(figure, tmp_path / "columns.png")
