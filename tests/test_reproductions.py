"""What holds for every experiment: stated claims, rules, cells that are kept, and the table."""

import json
import math
import re
from importlib import import_module
from pathlib import Path

import matplotlib.image
import pytest
import torch

from ppl_vae import reproductions
from ppl_vae.data import Digits
from ppl_vae.reproductions import experiment, names, reproduce
from ppl_vae.reproductions.common import kept, measures, pictures, table, training
from ppl_vae.reproductions.common.kept import Cell
from ppl_vae.reproductions.common.reproduction import Reproduction, by_seed, spread, value
from ppl_vae.reproductions.common.verdicts import Claim, Condition

EVERY = [name for name in names() if name != "information_preference"]


@pytest.mark.parametrize("name", names())
def test_what_an_experiment_states(name: str, tmp_path: Path) -> None:
    """Before any run it says what it shows, by which rule, and that nothing is decided yet."""
    made, found = import_module(f"ppl_vae.reproductions.{name}"), experiment(name)
    assert len(made.__doc__) > 300
    assert 0 < len(found.scales) <= 3
    for scale in found.scales:
        results = found.results(tmp_path / name, scale)
        assert results.rows == []
        assert len({claim.name for claim in results.claims}) == len(results.claims) > 0
        for claim in results.claims:
            assert claim.verdict == "undecided"
            assert len(claim.text) > 20
            assert len(claim.rule) > 8
            assert claim.row in ("", *table.ROWS)
            assert all(run for run in claim.seeds.values())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EVERY)
def test_cells_are_plain_and_apart(name: str, tmp_path: Path) -> None:
    for scale in experiment(name).scales:
        cells = experiment(name).cells_at(scale)
        assert len({cell.path(tmp_path, 0) for cell in cells}) == len(cells) > 0
        for cell in cells:
            assert json.loads(json.dumps(dict(cell.settings))) == dict(cell.settings)


SMOKE = {
    "beta_vae": {"steps": 2},
    "high_then_low": {"steps": 30},
    "surgery": {"steps": 2},
    "stein_particles": {"steps": 2},
    "fading_squares": {"steps": 4, "size": 8, "hidden": 8},
    "two_points": {"elbo": 25, "mmd": 25},
    "free_particles": {"steps": 20},
    "disentanglement": {"steps": 2, "size": 8, "rows": 60, "hidden": 8},
    "colour": {"count": 40, "held": 20, "width": 4},
    "identities": {"steps": 2, "draws": 3},
    "critics": {"steps": 4},
}
"""Settings of a few steps."""


@pytest.mark.parametrize("name", SMOKE)
def test_a_few_steps_end_to_end(name: str, tmp_path: Path) -> None:
    """Every column is measured in some cell, no condition is left out, and pictures are drawn."""
    found = experiment(name)
    tiny = Reproduction(
        {"small": {**found.scales["small"], **SMOKE[name]}},
        found.cells, found.columns, found.claims, found.draw,
    )  # fmt: skip
    results = tiny.run(tmp_path, "small", range(1))
    assert results.seeds == 1
    assert len(results.rows) == len(tiny.cells_at("small"))
    by_column = zip(*(row[1:-1] for row in results.rows), strict=True)
    assert all(set(column) != {"-"} for column in by_column)
    for claim in results.claims:
        conditions = [c for run in claim.seeds.values() for c in run]
        assert not any(math.isnan(c.value) for c in conditions if "floor" not in c.name)
    assert results.pictures
    for path in results.pictures:
        assert matplotlib.image.imread(path)[..., :3].std() > 0.02


calls: list[int] = []


def measured(seed: int, base: float) -> dict[str, object]:
    calls.append(seed)
    return {"x": base + seed, "bad": math.nan}


def claims(found: object) -> list[Claim]:
    def conditions(run: object) -> list[Condition]:
        return [Condition("x", value(run, "one", "x"), at_least=1.0, nothing=0.0)]  # type: ignore[arg-type]

    return [Claim("a", "x is large.", "at least 1", by_seed(found, conditions), "beta-VAE", "7")]  # type: ignore[arg-type]


def toy(base: float) -> Reproduction:
    return Reproduction(
        {"small": {"base": base}},
        lambda base: [Cell("one", measured, {"base": base})],
        ("x", "bad"),
        claims,
    )


def test_finished_cells_are_kept_and_the_table_grows(tmp_path: Path) -> None:
    calls.clear()
    first = toy(1.0).run(tmp_path / "toy", "small", range(2))
    assert calls == [0, 1]
    assert first.rows == [["one", "1.5 (1 to 2)", "-", "0 s"]]
    assert first.claims[0].verdict == "reproduced"
    again = toy(1.0).run(tmp_path / "toy", "small", range(3))
    assert calls == [0, 1, 2]
    assert again.rows[0][1] == "2 (1 to 3)"
    assert (again.seeds, len(again.dates), len(again.machines)) == (3, 1, 1)
    # other settings are another experiment
    assert toy(0.0).results(tmp_path / "toy", "small").rows == []
    toy(0.0).run(tmp_path / "toy", "small", range(1))
    assert calls == [0, 1, 2, 0]
    # no time is left
    late = toy(1.0).run(tmp_path / "late", "small", range(1), end=0.0)
    assert (late.rows, late.claims[0].verdict) == ([], "undecided")
    with pytest.raises(ValueError, match="scale is 'full': this experiment has small"):
        toy(1.0).run(tmp_path, "full", range(1))  # type: ignore[arg-type]


def test_a_file_that_is_no_cell(tmp_path: Path) -> None:
    cell = Cell("one", measured, {"base": 1.0})
    for text in ("{", "[]", '{"settings": {"base": 1.0}}'):
        cell.path(tmp_path, 0).write_text(text)
        with pytest.raises(ValueError, match="is no cell of an experiment: remove it"):
            kept.read(cell, 0, tmp_path)


def test_the_page_puts_what_is_contradicted_first(tmp_path: Path) -> None:
    good, bad = toy(5.0), toy(-5.0)
    good.run(tmp_path / "good", "small", range(2))
    bad.run(tmp_path / "bad", "small", range(2))
    page = table.table({"good": good, "bad": bad}, {"good": "x", "bad": "y"}, tmp_path)
    assert page.index("## Contradicted") < page.index("reproduce bad --scale small")
    assert page.index("reproduce bad --scale") < page.index("## Reproduced")
    row = next(line for line in page.splitlines() if "reproduce bad --scale small" in line)
    assert row.split(" | ")[:6] == [
        "| beta-VAE", "x is large. *Rule: at least 1.*", "7", "x: -4.5 (-5 to -4) [≥ 1]", "2", "0",
    ]  # fmt: skip
    day, where = row.split(" | ")[6:8]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day)
    assert where == kept.machine()
    without = page[page.index("## Without a run") :]
    assert "* beta-VAE" not in without
    assert "* WAE figures: no experiment yet." in without
    assert "| `good` | x | small | small: 0 CPU s a seed, 2 seeds, " in page


def test_an_excerpt_has_what_is_kept_and_what_is_not(tmp_path: Path) -> None:
    good, bad = toy(5.0), toy(-5.0)
    bad.run(tmp_path / "bad", "small", range(2))
    lines = table.excerpt({"good": good, "bad": bad}, tmp_path).splitlines()
    assert lines[2:] == [
        "| x is large. | 7 | x: -4.5 (-5 to -4) [≥ 1] | **contradicted** | 2 "
        "| `reproduce bad --scale small` |",
        "| `ppl-vae reproduce good` | - | not run yet | - | 0 | - |",
    ]
    assert {line.count(" | ") for line in lines if "---" not in line} == {5}
    with pytest.raises(ValueError, match="there is no experiment 'nothing'"):
        reproductions.verdicts("nothing", out=tmp_path)
    assert "| `ppl-vae reproduce beta_vae` |" in reproductions.verdicts("beta_vae", out=tmp_path)


def test_the_pictures_that_are_kept(tmp_path: Path) -> None:
    assert reproductions.pictures("beta_vae", out=tmp_path) == []
    for part in ("", "small", "medium"):
        (tmp_path / "beta_vae" / part).mkdir(exist_ok=True)
        (tmp_path / "beta_vae" / part / "x.png").touch()
    kept_of = tmp_path / "beta_vae"
    assert reproductions.pictures("beta-vae", out=tmp_path) == [
        kept_of / "small" / "x.png", kept_of / "x.png",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="beta_vae has no scale 'full'"):
        reproductions.pictures("beta_vae", "full", out=tmp_path)


def test_spread() -> None:
    assert spread([None, math.nan]) == "-"
    assert spread([1.0, 1.0]) == "1"
    assert spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"


def test_sliced_distance_of_normals() -> None:
    """A standard deviation counts with (sd - 1)^2, a mean with its square over d."""
    torch.manual_seed(0)
    z = torch.randn(5000, 4)
    assert measures.sliced(z) < 3e-3
    assert measures.sliced(2 * z) == pytest.approx(1.0, abs=0.05)
    # along a direction u the shift is (u . m)^2: |m|^2 / d on average, with a variance of
    # 2 (d - 1) / (d + 2) over directions here
    assert measures.sliced(z + 1.0) == pytest.approx(1.0, abs=4 / 200**0.5)


def test_images_are_kept_as_text() -> None:
    x = torch.rand(2, 1, 3, 3)
    assert torch.allclose(
        measures.unpacked(json.loads(json.dumps(measures.packed(x)))), x, atol=1e-3
    )


def test_lines_leave_out_what_was_not_measured(tmp_path: Path) -> None:
    panels = {"rate": {"a": [([1, 2], [1.0, math.nan])], "b": []}}
    assert pictures.lines(tmp_path / "x.png", panels, "d").stat().st_size > 0


def test_mnist_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(training.DATA, str(tmp_path))
    training.mnist.cache_clear()
    with pytest.raises(FileNotFoundError, match="set PPL_VAE_DATA to the folder that holds MNIST"):
        reproduce("latent_map", seeds=1, out=str(tmp_path))
    assert not list(tmp_path.glob("*.txt"))


def test_smaller_digits_of_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digits = Digits()
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    monkeypatch.setenv(training.DATA, str(tmp_path))
    monkeypatch.setattr(training, "MNIST", lambda *_, **__: digits)
    training.mnist.cache_clear()
    data = training.mnist(None, 4, held=7)
    training.mnist.cache_clear()
    assert data.train.shape == (1437, 1, 4, 4)
    assert data.test is not None
    assert len(data.test) == len(data.test_labels) == 7  # type: ignore[arg-type]
    torch.testing.assert_close(data.train.mean(), digits.train.mean())


def test_the_list_and_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    reproduce("list")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(reproductions.names())
    assert all(line.endswith(")") for line in lines)
    with pytest.raises(ValueError, match="there is no experiment 'nothing'"):
        reproduce("nothing")
    with pytest.raises(ValueError, match="seeds is 0: one or more are needed"):
        reproduce("two_points", seeds=0)


def test_every_row_has_an_experiment_and_every_claim_a_row_or_none() -> None:
    claimed = {
        claim.row
        for name in names()
        for claim in experiment(name)
        .results(Path("none"), next(iter(experiment(name).scales)))
        .claims
    }
    assert claimed == {"", *table.ROWS}
