"""What the project keeps for those who take part: its files are well formed and name what is."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    named = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert named is not None
    made = set(re.findall(r"^(\w+):", text, re.M))
    assert set(named[1].split()) == made, "targets and .PHONY differ"
    return made


def test_checks_call_targets_of_the_makefile() -> None:
    jobs = read(GITHUB / "workflows" / "checks.yml")["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = {name for run in runs for name in re.findall(r"make (\w+)", run)}
    assert called <= targets()
    assert {"lint", "types", "quick", "docs", "wheel"} <= called
    assert any(".ci/run" in run for run in runs), "the whole suite"
    assert jobs["quick"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_ci_runs_targets_of_the_makefile() -> None:
    steps = re.search(r"^for step in (.*); do$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert steps is not None
    # A step is a target, with the variables that it is made with where it has any.
    assert {step.split()[0] for step in shlex.split(steps[1])} <= targets()


@pytest.mark.parametrize("name", ["wrong.yml", "wish.yml"])
def test_templates_are_forms(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / name)
    assert {"name", "description"} <= form.keys()
    assert all(part["attributes"]["label"] for part in form["body"])


def test_a_report_of_a_fault_asks_for_pair_objective_and_versions() -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / "wrong.yml")
    asked = {p["id"] for p in form["body"] if p.get("validations", {}).get("required")}
    assert {"pair", "objective", "versions"} <= asked
    assert "ppl_vae.read(model, guide, *args)" in str(form)


def test_the_citation_names_the_developers() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert cited["cff-version"] == "1.2.0"
    assert cited["authors"] == [{"name": "the ppl-vae developers"}]
    assert cited["license"] == "MIT"
