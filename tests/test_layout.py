"""The package's layout: what is listed, what may import what, what stands under which name."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {
    "ppl_vae.guides": ROOT / "guides",
    "ppl_vae.objectives": ROOT / "objectives",
    "ppl_vae": ROOT / "ppl_vae",
}
"""The folder of each package that setuptools maps, inner ones first."""

ORDER = (
    ("arguments", "files", "group", "records", "state", "terminal"),
    ("streams",),
    ("world",),
    ("together",),
    ("launching",),
    ("documents",),
    ("bodies", "data", "distributions", "plots"),
    ("program",),
    ("objectives",),
    ("guides", "likelihoods"),
    ("priors",),
    ("pairs",),
    ("training",),
    ("evaluation",),
    ("diagnostics",),
    ("using",),
    ("config",),
    ("experiment",),
    ("loading",),
    ("comparison",),
    ("report",),
    ("reproductions",),
    ("cli",),
    ("__main__",),
)
"""Parts of the package: each may import those of the lines above it and no other."""

NARROWER = {
    "program": {"arguments", "world"},
    "objectives": {"arguments", "program", "world"},
    "guides": {"arguments", "bodies", "data", "distributions", "program", "world"},
    "likelihoods": {"arguments", "bodies", "data", "distributions", "program"},
    "priors": {"arguments", "bodies", "data", "distributions", "program", "guides"},
}
"""Parts that may import less than their place allows: losses know no parts, parts no losses."""


def modules() -> dict[str, Path]:
    """The file of each module by its name."""
    found = {}
    for home, folder in HOMES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((home, *(p for p in parts if p != "__init__")))
            if home != "ppl_vae" or parts[0] not in ("guides", "objectives"):
                found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports anywhere: at the top, lazily or for annotations."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name in MODULES else str(node.module))
                # the names at the top are loaded from modules that may stand anywhere
                behind = node.module == "ppl_vae" and name not in MODULES
                assert not behind or alias.name == "__version__", f"{path}: say where {name} is"
    return {name for name in names if name.split(".")[0] == "ppl_vae"}


@cache
def graph() -> dict[str, set[str]]:
    """The modules that each module imports."""
    return {name: imports(path) for name, path in MODULES.items()}


def part(module: str) -> str:
    """The part of the package that a module belongs to; the empty name for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def parts() -> set[str]:
    return {part(name) for name in MODULES} - {""}


def test_every_part_has_its_place() -> None:
    listed = [name for line in ORDER for name in line]
    assert sorted(listed) == sorted(parts())


@pytest.mark.parametrize("name", sorted(parts()))
def test_direction_of_imports(name: str) -> None:
    place = next((k for k, line in enumerate(ORDER) if name in line), None)
    assert place is not None, f"{name} has no place in ORDER"
    allowed = NARROWER.get(name, {above for line in ORDER[:place] for above in line})
    for module, imported in graph().items():
        if part(module) == name:
            wrong = {other for other in imported if part(other) not in {name, "", *allowed}}
            assert not wrong, f"{module} imports {sorted(wrong)}"


def test_internals_of_effect_handlers_are_the_program_s() -> None:
    """What is not public of `pyro.poutine` is known in one place, should Pyro change it."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and part(name) != "program":
                assert not (node.module or "").startswith("pyro.poutine."), name


def test_no_circles() -> None:
    """None at the top of modules, none by a lazy import or one for annotations."""
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_package_imports_no_part_of_itself() -> None:
    assert not graph()["ppl_vae"]


def test_packages_are_those_on_disk() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["packages"]
    on_disk = [name for name, path in MODULES.items() if path.name == "__init__.py"]
    assert sorted(listed) == sorted(on_disk)
    bare = {path.parent for path in MODULES.values()} - {MODULES[name].parent for name in on_disk}
    assert not bare, "folders without __init__.py"


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


def test_import_is_quick() -> None:
    """`import ppl_vae` pulls in none of the heavy libraries."""
    code = (
        "import sys, ppl_vae\n"
        "heavy = {'torch', 'pyro', 'arviz', 'sklearn', 'matplotlib', 'jsonargparse'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


COLOUR = re.compile(
    r"#[0-9a-fA-F]{6}\b|\b(?:color|colour|colors|c|cmap)=\"|colormaps\[\"|\btab\d0|\"C\d\""
)
"""What names a colour, or a scale of them."""


def test_colours_are_named_in_the_palette_alone() -> None:
    """Of what draws: `"none"` is no colour, and a page's style sheet stands in its template."""
    found = [
        f"{name}: {line.strip()}"
        for name, path in MODULES.items()
        if name != "ppl_vae.plots.palette"
        for line in path.read_text().splitlines()
        if COLOUR.search(line.replace('color="none"', "").replace('"none"', ""))
    ]
    assert not found
    assert COLOUR.search('axes.plot(x, color="red")')


NOTEBOOKS = sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_stored_as_they_ran(name: str) -> None:
    """In order, from a kernel of its own, with pictures and without complaints."""
    found = json.loads((ROOT / "notebooks" / name).read_text())["cells"]
    cells = [cell for cell in found if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_draw_in_the_style_of_the_library(name: str) -> None:
    path = ROOT / "notebooks" / name
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    code = "".join("".join(cell["source"]) + "\n" for cell in cells)
    assert "pyplot" not in code or "plt.rcParams.update(STYLE)" in code
