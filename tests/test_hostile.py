"""What a stranger sends is refused in one line or does no harm, quickly and in little memory."""

import json
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import hostile
import numpy as np
import pytest
import yaml
from conftest import paint_nothing
from matplotlib.figure import Figure
from test_files import tree

from ppl_vae.cli import main
from ppl_vae.data.known import Known
from ppl_vae.training.run import Run
from ppl_vae.training.spread import warn_of_collapse

SECONDS, MEGABYTES = 5.0, 500
"""What may be spent on a refusal."""

pytestmark = pytest.mark.usefixtures("unpainted")

CASES = {name: (damage, words) for name, damage, words in hostile.cases()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run of them that has been evaluated."""
    root = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    np.save(root / "x.npy", rng.random((80, 4), dtype=np.float32))
    (root / "victim").write_text("mine")
    (root / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(Figure, "savefig", paint_nothing)
        words = ["--data", "arrays", "--data.path", str(root / "x.npy"), "--likelihood", "normal"]
        assert main(["fit", *words, "--dim", "2", "--epochs", "1", "--out", "run"]) == 0
        asked = ["--metrics", "elbo,usage,khat_median", "--quick"]
        assert main(["evaluate", "run", *asked]) == 0
        assert main(["report", "run", "--out", "page.html"]) == 0
        (root / "page.html").unlink()
    assert (root / "run/khat.svg").is_file()
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the working folder."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def _peak(key: str = "VmHWM") -> int:
    """The most memory that this process has had since it was last asked to forget, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) // 1024


def test_there_are_many() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = CASES[name]
    damage(folder)
    before = tree(folder)
    Path("/proc/self/clear_refs").write_text("5")
    held, start = _peak("VmRSS"), time.process_time()
    code = main(list(words))
    spent, grown = time.process_time() - start, _peak() - held
    said = capsys.readouterr().err
    assert code == 2, said
    lines = [line for line in said.splitlines() if not line.startswith("ppl-vae: warning: ")]
    assert len(lines) == 1, said
    assert lines[0].startswith("ppl-vae: ")
    assert len(lines[0]) < 800
    assert tree(folder) == before
    assert spent < SECONDS
    assert grown < MEGABYTES


class _Page(HTMLParser):
    """The tags and attributes of a page, and the words in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.words = set[str](), set[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


BAD = "</title></style>\"'><img src=x onerror=alert(1)><script>alert(1)</script>$\\frac{$&lt;"


def test_words_of_a_run_are_words_in_the_page(folder: Path) -> None:
    assert main([*hostile.REPORT]) == 0
    plain = _Page((folder / "page.html").read_text())
    summary = json.loads((folder / "run/summary.json").read_text())
    for entry in summary["metrics"].values():
        entry.update({key: BAD for key in ("note", "flag", "unit")})
    summary["metrics"][BAD] = summary["metrics"]["elbo"]
    summary["skipped"] = {BAD: BAD, "khat_median": BAD}
    (folder / "run/summary.json").write_text(json.dumps(summary))
    known = json.loads((folder / "run/data.json").read_text())
    (folder / "run/data.json").write_text(json.dumps(known | {"name": BAD, "classes": [BAD] * 3}))
    log = json.dumps({"epoch": 1, "step": 1, "loss": 1.0, f"rate/{BAD}": 1.0, BAD: 2.0})
    (folder / "run/metrics.jsonl").write_text(log)
    named = folder / BAD.replace("/", "_")
    (folder / "run").rename(named)
    assert main(["report", str(named), "--out", "page.html"]) == 0
    page = _Page((folder / "page.html").read_text())
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    assert page.words.count(BAD) > 5


ESC = "\x1b]0;mine\x07\x1b[2J\x9b1m\u202e\u2028"


@pytest.mark.parametrize("command", [hostile.EVALUATE, hostile.REPORT, hostile.SAMPLE])
def test_words_of_a_run_are_words_on_the_terminal(
    command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of them clears a screen or renames a window."""
    summary = json.loads((folder / "run/summary.json").read_text())
    for entry in summary["metrics"].values():
        entry.update({key: ESC for key in ("note", "flag", "unit")})
    summary["metrics"][ESC] = summary["metrics"]["elbo"]
    summary["skipped"] = {ESC: ESC, "khat_median": ESC}
    (folder / "run/summary.json").write_text(json.dumps(summary))
    known = json.loads((folder / "run/data.json").read_text())
    (folder / "run/data.json").write_text(json.dumps(known | {"name": ESC, "classes": [ESC] * 3}))
    (folder / "run").rename(folder / ESC)
    words = [ESC if word == "run" else word for word in command]
    assert main(words) == 0
    config = yaml.safe_load((folder / ESC / "config.yaml").read_text())
    (folder / ESC / "config.yaml").write_text(yaml.safe_dump(config | {ESC: 1}))
    assert main(words) == 2
    said = "".join(capsys.readouterr())
    assert "has no setting" in said
    assert all(character.isprintable() or character == "\n" for character in said)


def test_odd_codes_in_a_log_do_no_harm(folder: Path) -> None:
    """Noise without a spread, neither, and the ends of what numbers can be."""
    row: dict[str, float | None] = {
        "epoch": 1,
        "step": 1,
        "loss": 1.0,
        "sd/a": 1.0,
        "spread/b": 1.0,
    }
    for code, noise, spread in (
        ("c", 0.0, 0.0), ("d", 1e-300, 1e300), ("e", None, None), ("f", -1.0, -1e308),
    ):  # fmt: skip
        row |= {f"sd/{code}": noise, f"spread/{code}": spread}
    (folder / "run/metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert main([*hostile.REPORT]) == 0
    warn_of_collapse(Run(folder / "run").history, is_last=True)


def test_loading_a_run_fetches_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((folder / "run/config.yaml").read_text())
    config["data"] = {"class_path": "ppl_vae.data.MNIST", "init_args": {"download": True}}
    config["data"]["init_args"]["root"] = str(folder / "nowhere")
    (folder / "run/config.yaml").write_text(yaml.safe_dump(config))
    assert main(["evaluate", "run"]) == 2
    assert not (folder / "nowhere").exists()
    assert "no MNIST in" in capsys.readouterr().err


def test_what_an_experiment_writes_itself_is_read_again(folder: Path) -> None:
    """The limits on a stranger's files are far from those of one's own."""
    run = Run(folder / "run")
    assert run.config["data"]["class_path"] == "ppl_vae.data.Arrays"
    assert Known.of_run(run.data or {}).plain.items() <= (run.data or {}).items()
    assert run.history.last["epoch"] == 1
    assert main([*hostile.SAMPLE]) == 0


def test_a_damaged_log_is_refused_before_a_run_is_evaluated(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def computed(*_: object) -> None:
        raise AssertionError("the run is evaluated")

    monkeypatch.setattr("ppl_vae.report.webpage.evaluate_run", computed)
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    with (tmp_path / "run/metrics.jsonl").open("a") as log:
        log.write('{"epoch": 2, "loss"')
    monkeypatch.chdir(tmp_path)
    assert main(["report", "run", "--out", "page.html"]) == 2
    assert "metrics.jsonl, line 2, is not a whole" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
