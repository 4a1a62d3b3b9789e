"""Run folders: what is in them, what they refuse, how they are read again."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppl_vae import plots
from ppl_vae.data import Dataset, Digits, GaussianMixture, TwoPoints
from ppl_vae.evaluation import elbo_terms, full_mmd, linear_probe, log_det, posterior_codes
from ppl_vae.experiment import Experiment
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.report import results
from ppl_vae.report.evaluation import evaluate_run
from ppl_vae.training.history import History
from ppl_vae.training.run import Run

TRAINED = {"config.yaml", "data.json", "metrics.jsonl", "weights.safetensors"}
TRAINED |= {"checkpoint.safetensors"}
FILES = TRAINED | {
    "reconstructions.png",
    "samples.png",
    "latent.png",
    "noise.png",
    "curves.png",
    "summary.json",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Experiment]:
    experiment = Experiment(Digits(), InfoVAE(MMD(), scale=64.0), dim=4, epochs=3)
    folder = tmp_path_factory.mktemp("runs") / "digits"
    experiment.fit(folder)
    assert {file.name for file in folder.iterdir()} - {"tensorboard"} == TRAINED
    run = Run(folder)
    evaluate_run(run, experiment, when=["fit"])
    return run, experiment


def test_the_folder_is_complete(trained: tuple[Run, Experiment]) -> None:
    run, _ = trained
    assert {file.name for file in run.path.iterdir()} - {"tensorboard"} == FILES
    assert not [p for p in run.path.parent.iterdir() if p != run.path]


def test_the_summary_is_what_evaluation_says(trained: tuple[Run, Experiment]) -> None:
    run, experiment = trained
    vae, data = experiment.pair, experiment.data
    assert data.test is not None
    entries = run.summary["metrics"]
    summary = results.values(run)
    codes = posterior_codes(vae.model, vae.guide, data.test)
    train = posterior_codes(vae.model, vae.guide, data.train)
    assert summary["log_det"] == pytest.approx(log_det(codes.mean, codes.variance).value, abs=1e-5)
    probe = linear_probe(train.mean, data.train_labels, codes.mean, data.test_labels)
    assert summary["probe_linear"] == probe.value
    # draws of z differ: 4.5 standard errors of the difference of two
    terms = elbo_terms(vae.model, vae.guide, data.test)
    assert summary["rate"] == pytest.approx(terms["rate"].value)
    error = terms["distortion"].standard_error
    assert error is not None
    assert abs(summary["distortion"] - terms["distortion"].value) < 4.5 * 2**0.5 * error
    mmd = full_mmd(vae.model, vae.guide, data.test).u
    assert mmd.standard_error is not None
    assert abs(summary["mmd_u"] - mmd.value) < 4.5 * 2**0.5 * mmd.standard_error
    assert run.summary["rows"] == 360
    assert set(entries) == {
        "distortion", "rate", "active_units", "mmd_u", "log_det", "probe_linear"
    }  # fmt: skip
    errors = {name for name, entry in entries.items() if entry["data_error"] is not None}
    assert errors == set(entries) - {"active_units"}


def test_evaluation_is_repeatable(trained: tuple[Run, Experiment]) -> None:
    run, experiment = trained
    before = {f: (run.path / f).read_bytes() for f in FILES}
    evaluate_run(run, experiment, when=["fit"])
    assert {f: (run.path / f).read_bytes() for f in FILES} == before


def test_pictures_are_pictures(trained: tuple[Run, Experiment]) -> None:
    run, _ = trained
    for file in FILES:
        if file.endswith(".png"):
            pixels = np.asarray(Image.open(run.path / file).convert("L"))
            assert min(pixels.shape) > 300
            # something is drawn on the white
            assert 0.005 < (pixels < 200).mean() < 0.7


def test_the_curves_are_the_history(trained: tuple[Run, Experiment]) -> None:
    run, _ = trained
    history = run.history
    assert history["epoch"] == [1, 2, 3]
    assert history["loss"][-1] < history["loss"][0]
    with pytest.raises(KeyError, match="no 'lost'"):
        history["lost"]


def test_missing_numbers_survive_the_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    run.log({"epoch": 1, "loss": math.inf})
    run.log({"epoch": 2, "loss": 1.5, "rate": 2.0})
    assert math.isnan(run.history["loss"][0])
    assert run.history["loss"][1] == 1.5
    assert math.isnan(run.history["rate"][0])
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    run.save_summary({"rate": math.inf, "errors": {"rate": math.nan}})
    assert run.summary == {"rate": None, "errors": {"rate": None}}


def test_an_existing_run_is_refused(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"a": 1})
    with pytest.raises(FileExistsError, match="already holds a run"):
        Run.create(tmp_path / "run", {"a": 2})
    assert Run(tmp_path / "run").config == {"a": 1}


def test_overwriting_removes_what_runs_write_and_nothing_else(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"a": 1})
    run.log({"loss": 1.0})
    run.save_weights({"w": torch.ones(2)})
    (run.path / "notes.txt").write_text("mine")
    (run.path / "tensorboard").mkdir()
    again = Run.create(tmp_path / "run", {"a": 2}, overwrite=True)
    assert again.config == {"a": 2}
    assert {f.name for f in again.path.iterdir()} == {"config.yaml", "metrics.jsonl", "notes.txt"}
    assert len(again.history) == 0


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_something_else_is_refused(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="holds no run"):
        Run.create(tmp_path, {}, overwrite)
    with pytest.raises(FileExistsError, match="is a file"):
        Run.create(tmp_path / "thesis.tex", {}, overwrite)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".run-0123456789abcdef", ".run-of-mine"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    Run.create(tmp_path / "run", {})
    assert {file.name for file in tmp_path.iterdir()} == {"run", ".run-of-mine"}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert Run.create(tmp_path, {"a": 1}).config == {"a": 1}


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot represent"):
        Run.create(tmp_path / "run", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Run(tmp_path)


def test_a_configuration_builds_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    (run.path / "config.yaml").write_text("a: !!python/object/apply:os.mkdir ['/tmp/evil']")
    with pytest.raises(ValueError, match="plain values"):
        _ = run.config


def test_weights_share_no_memory_and_keep_every_bit(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    x = torch.randn(3, 4)
    run.save_weights({"x": x, "same": x, "slice": x.T[1:], "count": torch.tensor(3)})
    saved = run.load_weights()
    assert torch.equal(saved["x"], x)
    assert torch.equal(saved["slice"], x.T[1:])
    assert saved["count"].item() == 3
    assert not list(run.path.glob(".*"))


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    with pytest.raises(FileNotFoundError, match="no weights"):
        run.load_weights()
    torch.save({"x": torch.ones(1)}, run.path / "weights.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        run.load_weights()


@pytest.mark.parametrize("data", [TwoPoints(64), GaussianMixture(n=100)])
def test_points_are_drawn_too(data: Dataset, tmp_path: Path) -> None:
    experiment = Experiment(data, BetaVAE(), dim=1, likelihood=Normal, epochs=1)
    experiment.fit(tmp_path / "run")
    evaluate_run(Run(tmp_path / "run"), experiment, when=["fit"])
    assert {f.name for f in (tmp_path / "run").iterdir()} >= FILES


def test_data_without_labels_or_held_out_rows(tmp_path: Path) -> None:
    experiment = Experiment(
        Dataset(torch.randn(60, 3)), BetaVAE(), dim=3, likelihood=Normal, epochs=1
    )
    experiment.fit(tmp_path / "run")
    summary = evaluate_run(Run(tmp_path / "run"), experiment, when=["fit"])
    assert "probe_linear" not in summary["metrics"]
    assert summary["held_out"] is False
    assert summary["rows"] == 60


def test_samples_follow_their_seed(trained: tuple[Run, Experiment]) -> None:
    _, experiment = trained
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = experiment.sample(5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, experiment.sample(5, seed=1))
    assert not torch.equal(first, experiment.sample(5, seed=2))
    assert first.shape == (5, 1, 8, 8)


def test_the_latent_picture_does_not_depend_on_signs(tmp_path: Path) -> None:
    codes, labels = torch.randn(50, 5), torch.arange(50) % 3
    plots.save(plots.latent(codes, labels, ["a", "b", "c"]), tmp_path / "a.png")
    plots.save(plots.latent(codes.clone(), labels, ["a", "b", "c"]), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_curves_of_one_epoch(tmp_path: Path) -> None:
    plots.save(
        plots.curves({"": History([{"epoch": 1, "loss": 2.0}])}, ["rate"]), tmp_path / "c.png"
    )
    assert (tmp_path / "c.png").stat().st_size > 1000
