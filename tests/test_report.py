"""`evaluate` and `report`: the numbers, and the page as a browser shows it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chromium import Browser, chromium

from ppl_vae.cli import main
from ppl_vae.data import Digits
from ppl_vae.data.dataset import Dataset
from ppl_vae.evaluation import registry
from ppl_vae.evaluation.metric import GROUPS, Effort
from ppl_vae.experiment import Experiment
from ppl_vae.guides import Deterministic
from ppl_vae.loading import load
from ppl_vae.objectives import MMD, InfoVAE
from ppl_vae.report import results, webpage
from ppl_vae.report.evaluation import evaluate_run, measured
from ppl_vae.report.metric_table import shown
from ppl_vae.training.run import Run

SMALL = Effort(samples=40, rows=60, simulations=60)
OBJECTIVES = {
    "mmd <&> $x$": ("--objective.divergence", "MMD", "--objective.scale", "64"),
    "elbo": ("--objective", "BetaVAE"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two epochs, evaluated, and their report. One has a name HTML must escape."""
    folder = tmp_path_factory.mktemp("report")
    for name, options in OBJECTIVES.items():
        out = str(folder / name)
        body = "{class_path: MLP, init_args: {hidden: [32]}}"
        parts = ("--encoder.body", body, "--likelihood.body", body)
        assert main(["fit", *options, *parts, "--epochs", "2", "--dim", "3", "--out", out]) == 0
        run = Run(out)
        evaluate_run(run, load(run), SMALL)
    runs = [str(folder / name) for name in OBJECTIVES]
    assert main(["report", *runs, "--out", str(folder / "report.html")]) == 0
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: Browser, folder: Path) -> Browser:
    return browser.open((folder / "report.html").as_uri())


def test_every_figure_is_rendered(page: Browser) -> None:
    images = page.evaluate(
        """[...document.querySelectorAll("figure img")].map(i => ({
          section: i.closest("section").id, alt: i.alt, complete: i.complete,
          natural: [i.naturalWidth, i.naturalHeight], box: [i.width, i.height]}))"""
    )
    for image in images:
        assert image["complete"], image
        assert min(image["natural"]) > 50, image
        assert min(image["box"]) > 50, image
        assert image["alt"], image
    sections = [image["section"] for image in images]
    assert sections.count("curves") == 1
    for key in ("reconstructions", "samples", "interpolations", "traversals", "codes", "khat",
                "coverage", "sbc"):  # fmt: skip
        assert sections.count(key) == 2, key
    assert page.evaluate("document.querySelectorAll('.missing').length") == 0


def test_nothing_is_logged_and_nothing_is_loaded(page: Browser, folder: Path) -> None:
    assert page.seen("Runtime.consoleAPICalled") == []
    assert page.seen("Runtime.exceptionThrown") == []
    assert page.seen("Log.entryAdded") == []
    asked = {e["request"]["url"] for e in page.seen("Network.requestWillBeSent")}
    outside = {url for url in asked if not url.startswith("data:")}
    assert outside == {(folder / "report.html").as_uri()}
    assert page.seen("Network.loadingFailed") == []


def test_the_browser_would_notice(browser: Browser, tmp_path: Path) -> None:
    """The two tests above can fail."""
    path = tmp_path / "bad.html"
    path.write_text(
        '<!doctype html><img src="http://127.0.0.1:9/x.png"><img id="broken" src="data:,">'
        "<script>console.error('no'); nothing()</script>"
    )
    browser.open(path.as_uri())
    assert browser.seen("Runtime.consoleAPICalled")
    assert browser.seen("Runtime.exceptionThrown")
    asked = [e["request"]["url"] for e in browser.seen("Network.requestWillBeSent")]
    assert any(url.startswith("http:") for url in asked)
    assert browser.evaluate("document.getElementById('broken').naturalWidth") == 0


def test_the_table_holds_the_numbers_of_the_summary(page: Browser, folder: Path) -> None:
    cells = page.evaluate(
        """[...document.querySelectorAll("td[data-value]")].map(c => ({
          name: c.closest("tr").dataset.metric, run: +c.dataset.run, value: c.dataset.value,
          standard: c.dataset.standardError, data: c.dataset.dataError, bound: c.dataset.bound,
          text: c.querySelector(".value").innerText,
          flag: c.querySelector(".flag")?.innerText ?? ""}))"""
    )
    found = {(cell["run"], cell["name"]): cell for cell in cells}
    assert len(found) == len(cells)
    expected = {
        (k, name): entry
        for k, run in enumerate(OBJECTIVES)
        for name, entry in results.read(Run(folder / run))["metrics"].items()
    }
    assert found.keys() == expected.keys()
    assert len(found) > 50
    for key, entry in expected.items():
        cell = found[key]
        for field, number in (("value", "value"), ("standard", "standard_error"),
                              ("data", "data_error")):  # fmt: skip
            read = None if cell[field] == "" else json.loads(cell[field])
            assert read == entry[number], key
        assert cell["bound"] == (entry["bound"] or "")
        assert cell["flag"].casefold() == entry["flag"]
        # what is read is the number, to within half of its last digit or of its error
        text = cell["text"].replace("−", "-").lstrip("≥≤< ").split(" ")[0]
        if cell["text"].startswith("<"):
            assert entry["value"] < float(text), key
            continue
        error = entry["data_error"] or entry["standard_error"] or 0.0
        tolerance = max(0.06 * error, 5.1e-2 * abs(entry["value"]))
        assert float(text) == pytest.approx(entry["value"], abs=tolerance), key


def test_the_page_fits_a_phone_and_follows_the_dark(page: Browser) -> None:
    paper = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    light = page.evaluate(paper)
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.call("Emulation.setEmulatedMedia", features=dark)
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(paper) != light
        page.call("Emulation.setEmulatedMedia", media="print", features=dark)
        assert page.evaluate(paper) == light  # paper is white, whatever the screen
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")
        page.call("Emulation.setEmulatedMedia", media="", features=[])


def test_findings_stand_at_the_top_and_lead_to_their_sections(page: Browser) -> None:
    sections = page.evaluate("[...document.querySelectorAll('section')].map(s => s.id)")
    assert sections[:3] == ["runs", "findings", "metrics"]
    told = page.evaluate(
        """[...document.querySelectorAll(".findings")].map(list =>
          [...list.children].map(i => [i.className, i.querySelector("a").hash, i.innerText]))"""
    )
    assert len(told) == len(OBJECTIVES)
    for findings in told:
        assert findings
        for level, place, text in findings:
            assert level in ("problem", "note", "good")
            assert place.removeprefix("#") in sections
            assert len(text) > 20
        assert any(text.lower().startswith("use of the code") for *_, text in findings)


def test_no_part_of_a_run_is_none(page: Browser) -> None:
    cards = page.evaluate("[...document.querySelectorAll('#runs .card')].map(c => c.innerText)")
    assert len(cards) == len(OBJECTIVES)
    for card in cards:
        assert "None" not in card
        assert "StandardNormal" in card
    paths = page.evaluate("document.querySelector('#traversals figure').innerText")
    assert "z[0]" in paths


def test_names_are_text(page: Browser) -> None:
    name = next(iter(OBJECTIVES))
    heads = page.evaluate("[...document.querySelectorAll('thead th')].map(h => h.innerText)")
    assert [head.strip() for head in heads] == ["Metric", *OBJECTIVES]
    assert page.evaluate("document.title").startswith(name)
    assert page.evaluate("document.querySelectorAll('script, link[rel=stylesheet]').length") == 0


def test_metrics_agree_with_each_other(folder: Path) -> None:
    for name in OBJECTIVES:
        found = results.read(Run(folder / name))
        values = found["metrics"]
        elbo = values["elbo"]["value"]
        assert elbo == pytest.approx(-values["rate"]["value"] - values["distortion"]["value"])
        assert values["log_likelihood"]["bound"] == values["elbo"]["bound"] == "lower"
        assert values["mmd_v"]["value"] > values["mmd_u"]["value"]
        parts = [values[f"surgery/{part}"]["value"] for part in
                 ("mutual_information", "total_correlation", "dimension_wise")]  # fmt: skip
        whole = parts[0] + values["surgery/marginal_kl"]["value"]
        assert sum(parts) == pytest.approx(whole, abs=1e-4)
        due = {m.name for m in registry.due("fit", "evaluate") if "column_" not in m.name}
        due -= {m.name for m in registry.asked(["factors"])} | {"accuracy"}
        assert {registry.about(k).name for k in values} == due
        assert found["skipped"] == {}
        assert found["held_out"]
        assert values["elbo"]["settings"] == {
            "samples": 40, "rows": 60, "simulations": 60, "seed": 0
        }  # fmt: skip


def test_a_group_alone_gives_the_same_numbers(folder: Path) -> None:
    run = Run(folder / "elbo")
    everything = results.read(run)["metrics"]
    experiment = load(run)
    for name in ("match", "log_likelihood", "coverage"):
        alone = measured(experiment, SMALL, [name]).found
        assert {k: v.value for k, v in alone.items()} == {
            k: v["value"] for k, v in everything.items()
            if name in (v["group"], registry.about(k).name)
        }  # fmt: skip


def test_what_is_not_asked_for_stays(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "elbo", tmp_path / "run")
    run = Run(tmp_path / "run")
    before = results.read(run)["metrics"]
    assert (
        main(["evaluate", str(run.path), "--quick", "--metrics", "khat_median, match",
              "--seed", "5"]) == 0
    )  # fmt: skip
    after = results.read(run)["metrics"]
    assert after["khat_median"]["settings"]["seed"] == 5
    assert after["khat_median"]["settings"]["rows"] == 200
    changed = {k for k, v in after.items() if v != before[k]}
    assert changed == {"khat_median", "log_det", "mmd_u", "mmd_v"}
    assert list(after) == list(before)


def test_a_capped_information_says_so(tmp_path: Path) -> None:
    experiment = Experiment(Digits(), InfoVAE(MMD()), dim=3, epochs=1)
    with torch.no_grad():  # every code a point of its own
        for name, p in experiment.pair.encoder.named_parameters():
            p.mul_(20.0) if "weight" in name else p.zero_()
        experiment.pair.encoder.network.layers[5].weight[3:] = 0  # not its spread
    few = Effort(samples=25, rows=30, simulations=10)
    found = measured(experiment, few, ["information_lower"])
    entry = results.save(_run(tmp_path), found)["metrics"]["information_lower"]
    assert entry["flag"] == "capped"
    assert "capped" in entry["note"]


def test_a_likelihood_by_uneven_weights_is_flagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 draws are too few for an effective size of 30, whatever they are drawn from."""
    run = str(tmp_path / "run")
    assert main(["fit", "--epochs", "1", "--dim", "3", "--out", run]) == 0
    effort = ["--samples", "25", "--rows", "30"]
    assert main(["evaluate", run, "--metrics", "log_likelihood", *effort]) == 0
    entry = results.read(Run(run))["metrics"]["log_likelihood"]
    assert entry["flag"] == "uneven weights"
    assert "too uneven to state a bias" in entry["note"]
    assert f"uneven weights: {entry['note']}" in capsys.readouterr().out


def test_data_without_labels(tmp_path: Path) -> None:
    """Probes are left out and said to be; asked for by name, one line."""
    data = Dataset(torch.rand(80, 2), torch.rand(40, 2), name="plain")
    objective = InfoVAE(MMD(), scale=10.0)
    experiment = Experiment(data, objective, dim=2, epochs=1, encoder=Deterministic)
    out = tmp_path / "run"
    experiment.fit(out)
    found = evaluate_run(Run(out), experiment, SMALL)
    assert found["skipped"]["probe_svm"] == "labels are needed, and these data have none"
    assert "fitted" in found["metrics"]["log_likelihood"]["note"]
    assert "sharpness" in found["skipped"]
    assert found["metrics"]["elbo"]["value"] is None
    assert found["metrics"]["elbo"]["note"]
    with pytest.raises(ValueError, match=r"^probe_svm: labels are needed, and these data have no"):
        measured(experiment, SMALL, ["probe_svm"])
    html = webpage.render([(Run(out), experiment)])
    assert "labels are needed, and these data have none" in html
    absent = [k for k in ("khat_median", "sbc", "coverage") if k in found["skipped"]]
    assert html.count('class="missing"') == len(absent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "run", "--metrics", "probe"], "there is no metric 'probe'"),
        (["evaluate", "run", "--metrics", "mig"], "mig: data of known factors are needed"),
        (["evaluate", "run", "--arviz", "draws.txt"], "must end in .nc"),
        (["evaluate", "run", "--samples", "3"], "samples is 3"),
        (["report"], "runs"),
        (["report", "run", "run"], "given twice: name each run once"),
        (["report", "run", "nowhere"], "holds no run"),
        (["report", "run", "--out", "page.txt"], "must end in .html"),
        (["report", "run", "--out", "no/page.html"], "there is no folder"),
        (["report", "broken"], "is damaged"),
    ],
)
def test_one_line(
    words: list[str], said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in ("run", "broken"):
        shutil.copytree(folder / "elbo", tmp_path / name)
    (tmp_path / "broken" / "summary.json").write_text('{"metrics": {"elbo": 3}}')
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in sorted(Path().rglob("*"))}
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert said in line
    assert {p: p.stat().st_mtime_ns for p in sorted(Path().rglob("*"))} == before


def test_damaged_numbers_are_said_before_anything_is_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(folder / "elbo", tmp_path / "broken")
    (tmp_path / "broken" / "summary.json").write_text('{"metrics": {"elbo": 3}}')
    monkeypatch.setattr("ppl_vae.report.evaluation.measured", lambda *_: pytest.fail("computed"))
    assert main(["evaluate", str(tmp_path / "broken")]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_new_run_in_the_folder_takes_the_old_numbers_away(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "elbo", tmp_path / "run")
    Run.create(tmp_path / "run", {}, overwrite=True)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.yaml", "metrics.jsonl"]


def test_the_help_names_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(GROUPS) in text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-40.53721, 0.1275, ("−40.54", "± 0.13")),
        (5.886104, 2e-9, ("5.886", "± 2e−09")),
        (0.0012, 0.00073, ("0.00120", "± 0.00073")),
        (12345.6, 230.0, ("12346", "± 230")),
        (9.0, None, ("9", "")),
        (0.0, 0.0, ("0", "")),
        (None, None, ("–", "")),
        (3.2e-7, 1e-7, ("3.20e−07", "± 1.0e−07")),
    ],
)
def test_numbers_as_they_are_read(
    value: float | None, error: float | None, text: tuple[str, str]
) -> None:
    assert shown(value, error) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("BetaVAE", "BetaVAE(beta=2)"),
        ({"class_path": "elsewhere.Thing", "init_args": {"a": [1, 2.5], "b": None}},
         "Thing(a=[1, 2.5])"),
        ("StandardNormal", "StandardNormal"),
    ],
)  # fmt: skip
def test_parts_as_expressions(part: Any, text: str) -> None:
    if isinstance(part, str):
        home = "priors" if part == "StandardNormal" else "objectives"
        settings = {"beta": 2.0, "num_particles": 1} if home == "objectives" else {}
        part = yaml.safe_load(
            json.dumps({"class_path": f"ppl_vae.{home}.{part}", "init_args": settings})
        )
    assert webpage.described(part, numbers=True) == text


def _run(path: Path) -> Run:
    return Run.create(path / "run", {})
