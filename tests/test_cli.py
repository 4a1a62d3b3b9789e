"""The command line: what it does, and the one line it says when it cannot."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ppl_vae import __version__, evaluation
from ppl_vae.cli import main
from ppl_vae.loading import load
from ppl_vae.report import results
from ppl_vae.training.run import Run

QUICK = [
    *("--data", "gaussian_mixture", "--data.n", "60", "--likelihood", "normal"),
    *("--dim", "2", "--epochs", "1"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module on the path that leaves a mark when it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "evil.py").write_text(
        f"""open({str(mark)!r}, "w").close()
from ppl_vae.data import GaussianMixture

class Mixture(GaussianMixture):
    def __init__(self, n: int = 50):
        super().__init__(n=n)
"""
    )
    monkeypatch.syspath_prepend(tmp_path / "lib")
    yield mark
    sys.modules.pop("evil", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["fit", *QUICK, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path) -> Run:
    """A finished run in the folder `run`."""
    shutil.copytree(finished, "run")
    return Run("run")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a refused command says; nothing may be written."""
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("ppl-vae: ")
    assert "Traceback" not in lines[0]
    assert sorted(Path().rglob("*")) == before
    return lines[0]


def test_fit_evaluate_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *QUICK, "--out", "run", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    for name in ("distortion", "rate", "mmd_u", "log_det", "probe_linear", "run"):
        assert name in shown
    run = Run("run")
    assert run.config["seed"] == 3
    assert run.config["likelihood"]["class_path"] == "ppl_vae.likelihoods.Normal"
    summary = run.summary
    (run.path / "summary.json").unlink()
    assert main(["evaluate", "run"]) == 0
    told = capsys.readouterr().out
    for name in ("elbo", "distortion", "mmd_u", "log_det", "probe_linear", "khat_usable"):
        assert name in told
    assert told.splitlines()[-1] == "run"
    after = run.summary["metrics"]
    assert {name: after[name]["value"] for name in summary["metrics"]} == {
        name: entry["value"] for name, entry in summary["metrics"].items()
    }
    assert main(["sample", "run", "--n", "7", "--out", "seven.npy", "--seed", "1"]) == 0
    assert np.load("seven.npy").shape == (7, 2)


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", ["Sprites", "FadingSquares"])
def test_data_of_factors_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", name, "--data.size", "16", "--data.n", "40", "--dim", "2", "--epochs", "1"]
    assert main(["fit", *words, "--out", "run"]) == 0
    assert Run("run").config["data"]["class_path"] == f"ppl_vae.data.{name}"
    assert load("run").data.size == (1, 16, 16)
    assert ("probe_linear  " in capsys.readouterr().out) == (name == "Sprites")


@pytest.mark.usefixtures("unpainted")
def test_the_documented_command(mnist_root: Path) -> None:
    code = main(
        ["fit", "--data", "mnist", "--data.root", str(mnist_root), "--data.limit", "256",
         "--objective.divergence", "MMD", "--objective.scale", "784", "--epochs", "1"]
    )  # fmt: skip
    assert code == 0
    run = Run("runs/mnist-1")
    assert run.config["objective"]["class_path"] == "ppl_vae.objectives.InfoVAE"
    assert run.config["objective"]["init_args"]["scale"] == 784
    divergence = run.config["objective"]["init_args"]["divergence"]
    assert divergence["class_path"] == "ppl_vae.objectives.MMD"


@pytest.mark.slow
def test_two_epochs_of_mnist(mnist_root: Path) -> None:
    code = main(
        ["fit", "--data", "mnist", "--data.root", str(mnist_root), "--data.limit", "12800",
         "--objective.divergence", "MMD", "--objective.scale", "784", "--epochs", "2",
         "--out", "run"]
    )  # fmt: skip
    assert code == 0
    run = Run("run")
    assert run.history["step"] == [100, 200]
    losses = run.history["validation/reconstruction"]
    assert losses[1] < losses[0]
    assert losses[1] < 190  # pixels by themselves cost 206
    assert run.summary["rows"] == 10000
    found = results.values(run)
    assert found["probe_linear"] > 0.6
    assert found["rate"] > 5


def test_a_seed_repeats_a_run_bit_for_bit() -> None:
    files = ("metrics.jsonl", "weights.safetensors", "summary.json", "samples.png", "config.yaml")
    for out, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert main(["fit", *QUICK, "--seed", seed, "--out", out]) == 0
    for name in files:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
        assert Path("a", name).read_bytes() != Path("c", name).read_bytes()


@pytest.mark.usefixtures("unpainted")
def test_file_flags_and_python_are_one_schema() -> None:
    Path("run.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {"class_path": "GaussianMixture", "init_args": {"n": 100}},
                "likelihood": {"class_path": "normal", "init_args": {"scale": 0.5}},
                "objective": {"divergence": {"kernel": {"class_path": "imq"}}, "scale": "1e1"},
                "optimizer": {"lr": 0.01},
                "dim": 2,
                "epochs": 1,
            }
        )
    )
    assert main(["fit", "--config", "run.yaml", "--dim", "3", "--out", "file"]) == 0
    flags = ["--data", "gaussianmixture", "--data.n", "100", "--likelihood=NORMAL", "--dim=3"]
    flags += ["--likelihood.scale", "0.5", "--objective.divergence.kernel", "IMQ", "--epochs", "1"]
    flags += ["--objective.scale", "1e1", "--optimizer.lr", "1e-2"]
    assert main(["fit", *flags, "--out", "flags"]) == 0
    assert Run("file").config == Run("flags").config
    assert Run("file").history.rows == Run("flags").history.rows
    # what a run says of itself makes it again
    assert main(["fit", "--config", "file/config.yaml", "--out", "again"]) == 0
    assert Run("again").history.rows == Run("file").history.rows
    assert main(["fit", "--config", "again/config.yaml", "--data.n", "60", "--out", "more"]) == 0
    assert Run("more").config["data"]["init_args"]["n"] == 60


@pytest.mark.usefixtures("unpainted")
def test_nested_parts_by_flags() -> None:
    assert (
        main(
            ["fit", "--data", "binarized", "--data.data", "digits", "--data.dynamic", "false",
             "--encoder.body", "mlp", "--encoder.body.hidden", "[8]", "--likelihood.body.hidden",
             "[8, 9]", "--epochs", "1", "--out", "run", "--objective", "betavae",
             "--objective.beta", "2"]
        )
        == 0
    )  # fmt: skip
    experiment = load("run")
    widths = [m.out_features for m in experiment.pair.likelihood.modules() if hasattr(m, "weight")]
    assert widths == [8, 9, 64]
    assert set(experiment.data.train.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # an unknown class
        (["--data", "nope"], ["data", "'nope'", "Digits", "MNIST"]),
        (["--objective", "InfoVEA"], ["did you mean InfoVAE?"]),
        (["--objective.divergence.kernel", "rfb"], ["objective.divergence.kernel", "RBF"]),
        (["--objective", "MMD"], ["objective", "'MMD'", "InfoVAE"]),
        # a misspelt key
        (["--objectiv.scale", "3"], ["objectiv", "did you mean objective?"]),
        (["--objective.scael", "3"], ["objective.scael", "did you mean scale?"]),
        (["--likelihood.dim", "3"], ["likelihood.dim"]),
        (["--overwite"], ["--overwite needs a value"]),
        (["runs/x"], ["'runs/x' is not an option"]),
        # a value of the wrong type
        (["--dim", "ten"], ["dim", "'ten'", "an integer"]),
        (["--dim", "2.5"], ["dim", "2.5", "an integer"]),
        (["--dim"], ["--dim needs a value"]),
        (["--objective.scale", "large"], ["objective.scale", "'large'", "a number"]),
        (["--objective.divergence.prior", "x"], ["objective.divergence.prior", "'closed'"]),
        (["--objective.divergence.kernel.bandwidth", "x"], ["kernel"]),
        (["--data.seed", "{a: 1}"], ["data.seed", "an integer"]),
        # values out of range
        (["--epochs", "0"], ["epochs must be at least 1"]),
        (["--batch_size", "0"], ["batch_size must be at least 1"]),
        (["--dim", "0"], ["at least 1"]),
        (["--objective.scale", "-1"], ["add up to less than 1"]),
        (["--device", "warp"], ["device 'warp'"]),
        (["--critic_steps", "2"], ["critic_steps=2", "no parameters"]),
        (["--data.held_out", "2"], ["held_out must lie between 0 and 1"]),
        # a missing data folder or file
        (["--data", "mnist", "--data.root", "nowhere"], ["no MNIST in 'nowhere'", "download"]),
        (["--data", "arrays", "--data.path", "no.npy"], ["no data file 'no.npy'"]),
        (["--data", "arrays"], ["data.path is required"]),
        (["--config", "no.yaml"], ["no configuration file 'no.yaml'"]),
        # images of the wrong shape
        (["--likelihood.body", "dcgan", "--data", "twopoints"], ["DCGAN", "(1,)", "MLP"]),
        # brackets that a shell has taken, or nobody has written
        (["--freeze", "likelihood"], ["freeze is 'likelihood'", "a list like '[a,b]'"]),
        # a likelihood whose support excludes the data
        (["--data", "gaussian_mixture"], ["Bernoulli", "excludes the data"]),
    ],
)
def test_bad_input_is_one_clear_line(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "fit", *words)
    for part in said:
        assert part in line


def test_bad_files_are_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    hurt = rows.copy()
    hurt[7, 0, 2, 3] = np.nan
    np.savez(tmp_path / "nan.npz", train=hurt, test=rows)
    np.savez(tmp_path / "shapes.npz", train=rows, test=rows[..., :7])
    np.savez(tmp_path / "flat.npz", train=rows.ravel(), test=rows.ravel())
    np.savez(tmp_path / "high.npz", train=rows * 2, test=rows)
    (tmp_path / "junk.npz").write_text("junk")
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "tag.yaml").write_text("data: !!python/object/apply:os.getcwd []")
    (tmp_path / "list.yaml").write_text("- 1")

    def arrays(name: str) -> str:
        return refused(capsys, "fit", "--data", "arrays", "--data.path", str(tmp_path / name))

    assert "train[7, 0, 2, 3] is nan" in arrays("nan.npz")
    assert "(1, 8, 7) where training rows have (1, 8, 8)" in arrays("shapes.npz")
    assert "reshape" in arrays("flat.npz")
    assert "excludes the data" in arrays("high.npz")
    assert "not a NumPy file" in arrays("junk.npz")
    for name in ("bad.yaml", "tag.yaml"):
        assert "is not YAML" in refused(capsys, "fit", "--config", str(tmp_path / name))
    assert "mapping" in refused(capsys, "fit", "--config", str(tmp_path / "list.yaml"))


@pytest.mark.usefixtures("unpainted")
def test_a_run_is_not_overwritten_unasked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("run/weights.safetensors").read_bytes()
    assert "already holds a run" in refused(capsys, "fit", *QUICK, "--out", "run", "--seed", "1")
    assert Path("run/weights.safetensors").read_bytes() == before
    assert main(["fit", *QUICK, "--out", "run", "--seed", "1", "--overwrite"]) == 0
    assert Path("run/weights.safetensors").read_bytes() != before


def test_bad_input_leaves_the_run_that_was_to_be_overwritten(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "fit", "--data", "two_points", "--out", "run", "--overwrite")
    assert run.config["data"]["class_path"].endswith("GaussianMixture")


CALLS = [
    ["--data", "evil.Mixture"],
    ["--data=evil.Mixture"],
    ["--data.class_path", "evil.Mixture"],
    ["--data", '{"class_path": "evil.Mixture"}'],
    ["--data", "{class_path: evil.Mixture, init_args: {}}"],
    ["--data", "binarized", "--data.data", "evil.Mixture"],
    ["--data", "{class_path: binarized, init_args: {data: {class_path: evil.Mixture}}}"],
    ["--data", "binarized", "--data.init_args.data.class_path", "evil.Mixture"],
    ["--data.help", "evil.Mixture"],
    ["--prior", "evil.Mixture"],
    ["--encoder.body", "evil.Mixture"],
    ["--objective.scale", "evil.Mixture"],
    ["--objective.given", "evil.Mixture"],
    ["--objective.sites", "{z: [evil.Mixture, 1]}"],
    ["--objective.sites", "{z: {class_path: evil.Mixture}}"],
    ["--objective.divergence.kernel", "evil.Mixture"],
    ["--optimizer", "evil.Mixture"],
    ["--device", "{class_path: evil.Mixture}"],
    ["--seed", "{class_path: evil.Mixture}"],
    ["--objective.plate", "{class_path: evil.Mixture}"],
    ["--data", "ppl_vae.data.np.load"],
    ["--data", "ppl_vae..evil.Mixture"],
]


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_classes_from_outside_are_not_imported(
    words: list[str], evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "fit", *words)
    assert not evil.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "settings",
    [
        {"data": "evil.Mixture"},
        {"data": {"class_path": "evil.Mixture"}},
        {
            "data": {
                "class_path": "Binarized",
                "init_args": {"data": {"class_path": "evil.Mixture"}},
            }
        },
        {"data": {"data": "evil.Mixture", "class_path": "Binarized"}},
        {"objective": {"init_args": {"divergence": {"class_path": "evil.Mixture"}}}},
        {"dim": {"class_path": "evil.Mixture"}},
        {"evil": {"class_path": "evil.Mixture"}},
    ],
)
def test_files_do_not_import_classes_from_outside(
    settings: dict[str, object], evil: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    refused(capsys, "fit", "--config", str(tmp_path / "run.yaml"))
    assert not evil.exists()


@pytest.mark.usefixtures("unpainted")
def test_trust_lets_them_pass_and_runs_ask_again(
    evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "evil.Mixture", "--data.n", "40", *QUICK[4:]]
    assert main(["fit", *words, "--trust", "--out", "run"]) == 0
    assert evil.exists()
    assert Run("run").config["data"]["init_args"] == {"n": 40}
    evil.unlink()
    del sys.modules["evil"]
    capsys.readouterr()
    for command in ("evaluate", "sample"):
        assert "--trust" in refused(capsys, command, "run")
    assert not evil.exists()
    assert main(["evaluate", "run", "--metrics", "rate", "--trust"]) == 0
    assert evil.exists()


def test_trusted_classes_must_fit(evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "fit", "--prior", "evil.Mixture", "--trust")
    assert "prior: evil.Mixture is not" in line
    assert "no class 'evil.No'" in refused(capsys, "fit", "--data", "evil.No", "--trust")
    assert "no class 'absent.X'" in refused(capsys, "fit", "--data", "absent.X", "--trust")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "nowhere"], "holds no run"),
        (["evaluate"], "run"),
        (["evaluate", "run", "--seed", "x"], "--seed"),
        (["sample", "run", "--n", "0"], "at least 1"),
        (["sample", "run", "--out", "x.gif"], ".npz or .png"),
        (["sample", "run", "--out", "no/x.png"], "no folder 'no'"),
        (["sample", "run", "--bogus", "1"], "--bogus"),
        (["evaluate", "run", "--data", "digits"], "was trained on"),
        (["bogus"], "no command 'bogus'"),
    ],
)
def test_bad_requests_of_a_run(
    words: list[str], said: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *words)


def test_damaged_runs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Path("run/weights.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert "safetensors" in refused(capsys, "evaluate", "run")
    weights.unlink()
    assert "no weights" in refused(capsys, "evaluate", "run")
    weights.write_bytes(whole)
    config = run.config
    Path("run/config.yaml").write_text(yaml.safe_dump(config | {"dim": 3}))
    assert "another model" in refused(capsys, "evaluate", "run")
    Path("run/config.yaml").write_text("epochs: 1")
    assert "not made by ppl-vae fit" in refused(capsys, "evaluate", "run")


def test_a_nan_in_training_ends_with_code_1_and_keeps_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--optimizer", "sgd", "--optimizer.lr", "1e30", "--out", "run"]
    assert main(["fit", *QUICK, *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ppl-vae: step ")
    values = Run("run").load_weights()
    assert all(np.isfinite(value.numpy()).all() for value in values.values())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 8589934592 bytes. Error code 12"
        ),
        MemoryError("Unable to allocate 8.0 GiB for an array with shape (1073741824,)"),
    ],
    ids=["torch", "NumPy"],
)
def test_a_lack_of_memory_says_what_to_lower(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it is met: networks of a thousand million codes are made before any step."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("ppl_vae.loading.set_seed", fail)
    said = refused(capsys, "fit", *QUICK, "--out", "new")
    assert "the machine's memory does not hold what was asked for (8.0 GiB more" in said
    assert said.endswith("lower dim, the widths of the networks, rows or draws")
    assert not Path("new").exists()


@pytest.mark.usefixtures("unpainted")
def test_data_that_have_moved() -> None:
    np.save("a.npy", np.random.default_rng(0).random((40, 3)))
    words = ["--data", "arrays", "--data.path", "a.npy", "--epochs", "1", "--out", "run"]
    assert main(["fit", *words]) == 0
    Path("a.npy").rename("b.npy")
    words = ["evaluate", "run", "--metrics", "rate"]
    assert main(words) == 2
    assert main([*words, "--data.path", "b.npy"]) == 0


@pytest.mark.parametrize("command", ["fit", "evaluate", "sample", "demo"])
def test_help_has_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ppl-vae {command}")
    assert "efault" in shown
    assert "seed" in shown


def test_help_of_fit_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-h"]) == 0
    shown = capsys.readouterr().out
    for word in ("--data CLASS", "MNIST", "InfoVAE(divergence=MMD, scale=auto)", "Default: 128."):
        assert word in " ".join(shown.split())
    # each option says something of itself
    lines = shown.splitlines()
    heads = [k for k, line in enumerate(lines) if line.startswith("  --")]
    assert all(len(lines[k + 1].strip().split()) > 2 for k in heads)


def test_help_of_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--objective.help"]) == 0
    shown = capsys.readouterr().out
    assert "--objective.scale NUMBER" in shown
    assert "nats per datum" in shown
    assert "Default: auto." in shown
    assert main(["fit", "--objective.divergence.kernel.help", "multiscale"]) == 0
    assert "--objective.divergence.kernel.scales" in capsys.readouterr().out
    assert main(["fit", "--data", "mnist", "--data.help"]) == 0
    assert "--data.download" in capsys.readouterr().out
    refused(capsys, "fit", "--data.help", "nope")
    assert not list(Path().iterdir())


def test_general_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("fit", "evaluate", "sample", "demo"):
        assert f"  {command} " in shown
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_demo_prints_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--seeds", "[0]", "--epochs", "1", "--dim", "2"]

    def few(whole: Any, *args: Any, **options: Any) -> Any:
        return whole(*args, **options | {"steps": 10})

    for name in ("nll", "train_classifier"):  # what is fitted for the table, in few steps
        monkeypatch.setattr(evaluation, name, partial(few, getattr(evaluation, name)))
    assert main(["demo", *words]) == 0
    shown = capsys.readouterr().out
    for word in ("NLL", "to ELBO", "FID", "probe", "rate", "log-det/d", "median"):
        assert word in shown
    assert Path("runs/demo/table.txt").read_text() in shown
    names = ("elbo-0", "infovae-0")
    summaries = [Path(f"runs/demo/{name}/summary.json").read_text() for name in names]
    assert summaries[0] != summaries[1]
    assert Path("runs/demo/samples.png").stat().st_size > 1000
    # a second time it replaces its own runs, measured or not
    module = sys.modules["ppl_vae.cli.demo"]
    nothing = torch.zeros(3), None, torch.rand(16, 1, 8, 8)
    monkeypatch.setattr(module, "_measured", lambda *_: nothing)
    assert main(["demo", *words]) == 0
    assert main(["demo", *words, "--overwrite=false"]) == 2


def test_as_a_process(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ppl_vae"]
    root = Path(__file__).parents[1]
    bad = subprocess.run(
        [*words, "fit", "--objective.scael", "3"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("ppl-vae: objective.scael")
    assert bad.stderr.count("\n") == 1


def test_importing_the_library_is_quick(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    code = """
import sys, ppl_vae, ppl_vae.training.fit, ppl_vae.pairs.vae, ppl_vae.data
heavy = "torchvision sklearn matplotlib jsonargparse arviz tensorboard".split()
print([name for name in heavy if name in sys.modules])
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=tmp_path, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluat", "x"], "there is no command 'evaluat' (did you mean evaluate?)"),
        (["evaluate", "x", "--sampels", "3"], "no option --sampels: did you mean --samples?"),
        (["compare", "x", "--zzz=3"], "no option --zzz: there are --"),
        (["refit-prior", "x", "--batch-size"], "--batch_size"),
    ],
)
def test_words_that_are_nearly_right(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_help_lists_every_command_under_a_heading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ppl_vae.cli.main import COMMANDS, GROUPS

    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith("  ")} == COMMANDS.keys()
    assert [line[:-1] for line in lines if line.endswith(":")] == [*GROUPS]


def test_without_an_output_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a service that has closed it."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "{run}", "--n", "2", "--out", "{out}"],
        ["show", "--data", "gaussian_mixture"],
        ["show", "--data", "arrays", "--data.path", "{rows}"],
    ],
)
@pytest.mark.parametrize("seed", ["-1", "99999999999"])
def test_seeds_that_no_generator_takes(
    words: list[str], seed: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 4)))
    places = {"run": run.path, "out": tmp_path / "out.npy", "rows": tmp_path / "x.npy"}
    option = "--data.seed" if words[0] == "show" else "--seed"
    assert main([*(word.format(**places) for word in words), option, seed]) == 2
    assert "seed must lie between 0 and 4294967295" in capsys.readouterr().err
