"""Metrics: one file makes one known to the command, the result file, the report and the docs."""

import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ppl_vae.cli import main
from ppl_vae.data.dataset import Dataset
from ppl_vae.evaluation import Estimate, registry
from ppl_vae.evaluation.metric import GROUPS, Metric, Subject
from ppl_vae.loading import load
from ppl_vae.report import results, webpage
from ppl_vae.training.run import Run

DOCS = Path(__file__).parents[1] / "docs" / "evaluation.md"


def added(monkeypatch: pytest.MonkeyPatch, *metrics: Metric) -> None:
    module = ModuleType("own_metric")
    module.METRICS = metrics  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_metric", module)
    monkeypatch.setattr(registry, "MODULES", (*registry.MODULES, "own_metric"))


def test_names_are_unique_and_complete() -> None:
    known = registry.metrics()
    every = [m for name in registry.MODULES for m in sys.modules[name].METRICS]
    assert len(every) == len(known)
    for metric in every:
        assert metric.group in GROUPS
        assert metric.title
        assert "/" not in metric.name or metric.name.startswith("surgery/")


@pytest.mark.usefixtures("unpainted")
def test_a_metric_of_one_file_is_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    largest = Metric(
        "largest_code", "Largest code", "units of z", "of any row", "information",
        lambda s: Estimate(float(s.x.abs().max())),
    )  # fmt: skip
    added(monkeypatch, largest)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--epochs", "1", "--dim", "2", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--metrics", "largest_code"]) == 0
    assert "largest_code" in capsys.readouterr().out
    run = Run("run")
    assert results.read(run)["metrics"]["largest_code"]["unit"] == "units of z"
    page = webpage.render([(run, load(run))])
    assert "Largest code" in page
    assert "| `largest_code` | Largest code, units of z | of any row |" in registry.markdown()
    assert main(["evaluate", "run", "--metrics", "nothing"]) == 2
    assert "largest_code" in capsys.readouterr().err


def test_the_docs_have_every_metric() -> None:
    """The table in docs/evaluation.md is `registry.markdown()`."""
    assert registry.markdown() in DOCS.read_text(encoding="utf-8")


def test_what_is_shared_is_computed_once() -> None:
    data = Dataset(torch.randn(8, 2))
    seen: list[int] = []

    def draw(subject: Subject) -> float:
        seen.append(1)
        return float(torch.randn(()))

    subject = Subject(lambda x: None, lambda x: None, data)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = subject.once(draw)
    assert torch.equal(torch.get_rng_state(), state)
    assert subject.once(draw) == first == Subject(*subject.pair, data).once(draw)
    assert len(seen) == 2

    def fails(subject: Subject) -> float:
        seen.append(1)
        raise ValueError("no such thing")

    for _ in range(2):
        with pytest.raises(ValueError, match="no such thing"):
            subject.once(fails)
    assert len(seen) == 3
    assert subject.made(fails) is None


@pytest.mark.slow
def test_all_metrics_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that the library measures is within the command's reach, on data that have it."""
    monkeypatch.chdir(tmp_path)
    for module, name, less in (
        ("ppl_vae.diagnostics.nuts", "against_nuts", {"draws": 20, "warmup": 20, "gaps": True}),
        ("ppl_vae.evaluation.annealing", "annealed_nll", {"temperatures": 4, "chains": 4}),
        ("ppl_vae.evaluation.classifier", "train_classifier", {"steps": 20}),
        ("ppl_vae.evaluation.usage", "model_information", {"steps": 20}),
    ):
        whole = getattr(sys.modules[module], name)
        monkeypatch.setattr(sys.modules[module], name, partial(whole, **less))
    body = "{class_path: MLP, init_args: {hidden: [16]}}"
    words = ["--encoder.body", body, "--likelihood.body", body, "--dim", "2", "--epochs", "1"]
    sprites = ["--data", "Sprites", "--data.n", "60", "--data.size", "16"]
    assert main(["fit", *words, *sprites, "--out", "sprites"]) == 0
    assert main(["fit", *words, "--data", "FadingSquares", "--data.n", "40", "--out", "fade"]) == 0
    effort = ["--quick", "--samples", "25", "--rows", "20", "--simulations", "20"]
    files = ["--arviz", "draws.nc"]
    assert main(["evaluate", "sprites", "--metrics", "all", *effort, *files]) == 0
    assert main(["evaluate", "fade", "--metrics", "path_length", *effort]) == 0
    assert Path("draws.nc").stat().st_size > 1000
    computed = results.known(Run("sprites")) | results.known(Run("fade"))
    columns = {name for name in registry.metrics() if name.startswith("column_")}
    assert computed == set(registry.metrics()) - {"accuracy"} - columns
    named = results.read(Run("sprites"))
    assert named["skipped"] == {}
    assert results.values(Run("fade"))["path_length"] > 0
