"""The mutation test itself: what its operators make of a piece of source, and where it looks."""

import ast
import tomllib
from pathlib import Path

import pytest
from mutants import faults, run
from mutants.operators import draw, mutants
from mutants.relevance import Relevance
from mutants.source import Module, Mutant, library

SOURCE = '''
def spread(x: Tensor, weights: Tensor, draws: int, k: float) -> Tensor:
    """A docstring - with 2 * signs."""
    if draws < 2 - 1:
        raise ValueError(f"draws is {draws - 1}")
    note = "a" + str(draws)
    centred = x - x.mean(-1).detach()
    error = 0.5 * (weights * centred).sum() / (draws - 1)
    above = (centred > k).sum()
    warn(2 * k + 3)
    return error + math.log(k) * above


def probe(train_codes, test_codes):
    """Élan: columns are counted in bytes."""
    é, score = "é", fit(train_codes).score(test_codes).var(correction=1)
    return Estimate(score / len(test_codes), note=score + score)


def __repr__(self):
    return 2 * self.k - 1
'''
EXPECTED = {
    ("sign", "spread", "centred = x + x.mean(-1).detach()"),
    ("sign", "spread", "return error - math.log(k) * above"),
    ("factor 2", "spread", "error = ((weights * centred).sum()) / (draws - 1)"),
    ("factor 2", "spread", "return 2 * (error + math.log(k) * above)"),
    ("n - 1", "spread", "error = 0.5 * (weights * centred).sum() / ((draws))"),
    ("n - 1", "probe", 'é, score = "é", fit(train_codes).score(test_codes).var(correction=0)'),
    ("n - 1", "probe", "return Estimate(score / (len(test_codes) - 1), note=score + score)"),
    ("axis", "spread", "centred = x - x.mean(0).detach()"),
    ("detach", "spread", "centred = x - x.mean(-1)"),
    (
        "train and test",
        "probe",
        'é, score = "é", fit(test_codes).score(test_codes).var(correction=1)',
    ),
    (
        "train and test",
        "probe",
        'é, score = "é", fit(train_codes).score(train_codes).var(correction=1)',
    ),
    ("train and test", "probe", "return Estimate(score / len(train_codes), note=score + score)"),
    ("mean and sum", "spread", "centred = x - x.sum(-1).detach()"),
    ("mean and sum", "spread", "error = 0.5 * (weights * centred).mean() / (draws - 1)"),
    ("mean and sum", "spread", "above = (centred > k).mean()"),
    ("lost scale", "spread", "error = 0.5 * ((centred)).sum() / (draws - 1)"),
    ("strictness", "spread", "above = (centred >= k).sum()"),
    ("logarithm", "spread", "return error + math.log10(k) * above"),
}


def test_operators_change_numbers_and_nothing_else() -> None:
    module = Module("ppl_vae.objectives.sample", Path("sample.py"), SOURCE)
    found = mutants(module)
    made = {(m.operator, m.where, m.change[1]) for m in found}
    # Nothing of messages, checks, docstrings, text or representations is among them.
    assert made == EXPECTED
    for mutant in found:
        assert ast.dump(ast.parse(mutant.text)) != ast.dump(module.tree)
        assert mutant.text.splitlines()[mutant.line - 1].strip() == mutant.change[1]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return library()


def test_a_seed_repeats_and_spreads_over_areas(modules: list[Module]) -> None:
    first, again, other = (draw(modules, 60, seed) for seed in (3, 3, 4))
    assert [m.key for m in first] == [m.key for m in again]
    assert [m.key for m in first] != [m.key for m in other]
    assert len({(m.key, m.start) for m in first}) == 60
    areas = [str(m.module.area) for m in first]
    assert {area: areas.count(area) for area in set(areas)} == dict.fromkeys(
        ("objectives", "evaluation", "diagnostics", "training", "distributions"), 12
    )
    assert len({m.operator for m in first}) == 10
    only = draw(modules, 60, 0, only="evaluation.estimate")
    assert only
    assert {m.module.name for m in only} == {"ppl_vae.evaluation.estimate"}


def test_every_written_fault_applies(modules: list[Module]) -> None:
    found = faults.written(modules)
    assert len(found) == len(faults.FAULTS) == 18
    for mutant in found:
        assert ast.dump(ast.parse(mutant.text)) != ast.dump(mutant.module.tree)


def test_every_explanation_is_of_a_line_that_is_there(modules: list[Module]) -> None:
    reasons = tomllib.loads(Path(faults.__file__).with_name("explained.toml").read_text())
    keys = {m.key for module in modules if module.area for m in mutants(module)}
    keys |= {m.key for m in faults.written(modules)}
    assert set(reasons) <= keys
    assert all(reasons.values())


def test_a_fault_that_no_longer_applies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def at_step(step):\n    return step.clone(\n    )\n"
    module = Module("ppl_vae.objectives.objective", Path("objective.py"), text)

    def fault(old: str) -> faults.Fault:
        return faults.Fault("no copy", "at_step", old, "step")

    monkeypatch.setattr(faults, "FAULTS", (fault("step . clone()"),))
    (mutant,) = faults.written([module])
    assert mutant.text == "def at_step(step):\n    return step\n"
    monkeypatch.setattr(faults, "FAULTS", (fault("step.copy()"),))
    with pytest.raises(LookupError, match=r"fault 1 \(no copy\) no longer applies: 'step.copy"):
        faults.written([module])


def test_the_nearest_tests_come_first(modules: list[Module]) -> None:
    relevance = Relevance(modules, Path(__file__).parent)

    def nearest(where: str) -> str:
        (module,) = (m for m in modules if m.area and where in m.definitions)
        return relevance.files(Mutant(module, where, "", 0, 0, ""), 8)[0]

    assert nearest("svm_probe") == "tests/test_evaluation_probes.py"
    # Private, and reached through `dci`.
    assert nearest("_concentration") == "tests/test_evaluation_factors.py"
    # Handed on by `ppl_vae` when it is first asked for.
    assert nearest("fit") == "tests/test_fit.py"


def test_a_fault_is_caught_survives_or_meets_a_broken_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PRELOADED", ("mutants.run",))
    root = tmp_path / "tree"
    root.mkdir()
    (root / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (root / "test_sums.py").write_text(
        "import sums\n"
        "def test_right():\n    assert sums.add(2, 2) == 4\n"
        "def test_near():\n    assert sums.add(1, 2) in (2, 3)\n"
        "def test_broken():\n    assert sums.add(1, 2) == 2\n"
    )
    module = Module("sums", root / "sums.py", (root / "sums.py").read_text())
    (minus,) = (m for m in mutants(module) if m.operator == "sign")
    at = module.text.index("+")
    times = Mutant(module, "add", "product", at, at + 1, "*")
    tests = run.Tests(root, tmp_path, jobs=1)
    right, near, broken = (f"test_sums.py::test_{n}" for n in ("right", "near", "broken"))
    first, second = tests.outcomes([(minus, [near, right]), (times, [right, near])])
    assert (first.mutant, first.test) == (minus, near)
    assert (second.mutant, second.test) == (times, None)
    assert (root / "sums.py").read_text() == module.text
    with pytest.raises(RuntimeError, match="test_broken fails without a fault too"):
        list(tests.outcomes([(minus, [broken])]))
