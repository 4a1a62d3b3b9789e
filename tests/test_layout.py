"""The package's layout: what is listed, what may import what, what stands under which name."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = ("ppl_vae.registration", "ppl_vae.distributions", "ppl_vae.bodies")


def packages_on_disk() -> set[str]:
    found = set()
    for folder, name in (
        ("ppl_vae", "ppl_vae"),
        ("guides", "ppl_vae.guides"),
        ("objectives", "ppl_vae.objectives"),
    ):
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if folder != "ppl_vae" or parts[:1] not in (("guides",), ("objectives",)):
                found.add(".".join((name, *parts)))
    return found


def test_every_subpackage_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages_on_disk())


@pytest.mark.parametrize("name", ["guides", "objectives"])
def test_links_are_relative(name: str) -> None:
    link = ROOT / "ppl_vae" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


@pytest.mark.parametrize("name", ["guides", "objectives"])
def test_bare_import_is_refused(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert f"ImportError: this folder is the package ppl_vae.{name}" in run.stderr


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            package = node.module == "ppl_vae"
            names |= {f"ppl_vae.{a.name}" if package else node.module or "" for a in node.names}
    return {name for name in names if name.split(".")[0] == "ppl_vae"}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("objectives", ("ppl_vae.objectives", "ppl_vae.registration", "ppl_vae.weights")),
        ("guides", ("ppl_vae.guides", "ppl_vae.arguments", *LEAVES)),
    ],
)
def test_direction_of_imports(folder: str, allowed: tuple[str, ...]) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name in imports(path):
            assert name.startswith(allowed), f"{path.name} imports {name}"


def test_leaves_import_leaves() -> None:
    for leaf in LEAVES:
        path = ROOT.joinpath(*leaf.split("."))
        for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            for name in imports(file):
                assert name.startswith(LEAVES), f"{file} imports {name}"


def test_only_the_command_line_imports_itself() -> None:
    for path in sorted((ROOT / "ppl_vae").glob("*.py")):
        if path.name not in ("cli.py", "__main__.py"):
            assert "ppl_vae.cli" not in imports(path), path.name


def test_import_is_quick() -> None:
    """`import ppl_vae` pulls in none of the heavy libraries."""
    code = (
        "import sys, ppl_vae\n"
        "heavy = {'torch', 'pyro', 'arviz', 'sklearn', 'matplotlib', 'jsonargparse'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
