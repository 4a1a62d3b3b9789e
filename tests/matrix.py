"""The quick tests on each Python, with the newest and with the oldest dependencies.

    python tests/matrix.py [CELL ...]

A cell is a Python and a choice of dependencies: `3.12-newest`. The oldest are the floors of
`pyproject.toml`, each at the very release that it names, so one that does not go with the others
fails. Environments lie under `.matrix/`, of 6 GB each, and are made anew where `pyproject.toml`
has changed. A Python that is not on the machine is left out, and said to be.

Quick is the first case of each test that is not marked slow, without the files of `FIGURES`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]
CELLS = ("3.11-newest", "3.12-newest", "3.13-newest", "3.11-oldest")
FIGURES = (
    *("test_experiment_*", "test_evaluation_*", "test_findings", "test_diagnostics_nuts"),
    *("test_sweep", "test_faults", "test_fuzz", "test_mutants"),
)
"""Tests of figures that trainings reach, and tests that run others: a third of the time, and no
dependency that the rest does not meet."""
SHOWN = ("torch", "pyro-ppl", "numpy", "scipy", "arviz", "xarray", "h5netcdf", "jsonargparse")
"""Whose versions are printed."""


def main() -> int:
    """Runs the cells, and prints each as a row of a table."""
    parser = argparse.ArgumentParser(prog="matrix", description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"all: {', '.join(CELLS)}")
    cells = parser.parse_args().cells or CELLS
    if unknown := {*cells} - {*CELLS}:
        parser.error(f"there is no {sorted(unknown)[0]!r}, but {', '.join(CELLS)}")
    table, failed = [f"| cell | {' | '.join(SHOWN)} | tests |", "|---" * (len(SHOWN) + 2) + "|"], 0
    for cell in cells:
        found = interpreter(cell.partition("-")[0])
        if found is None:
            table.append(f"{cell} is left out: there is no such Python on this machine")
        else:
            python = environment(found, cell)
            code, said = tests(python)
            failed += code != 0
            table.append(f"| {cell} | {' | '.join(versions(python))} | {said} |")
        print(table[-1], flush=True)
    print("", *table, sep="\n")
    return failed


def interpreter(version: str) -> str | None:
    """A Python of a version, from the path or pyenv."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    on_path = shutil.which(f"python{version}")
    for each in [sys.executable, on_path, *sorted(home.glob(f"{version}.*/bin/python"))]:
        ask = "import sys; print('{}.{}'.format(*sys.version_info))"
        if each is not None and output(each, "-c", ask) == version:
            return str(each)
    return None


def environment(python: str, cell: str) -> str:
    """The Python of a cell's environment, which is made unless it is there."""
    place, declared = HOME / ".matrix" / cell, (HOME / "pyproject.toml").read_text()
    made, stamp, pins = place / "bin/python", place / "made-from.toml", place / "floors.txt"
    if not stamp.exists() or stamp.read_text() != declared:
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([python, "-m", "venv", place], check=True)
        pins.write_text("\n".join(floors(declared)) if cell.endswith("oldest") else "")
        install = ["-m", "pip", "install", "-q", "-c", pins, "-e", f"{HOME}[test,tables]"]
        subprocess.run([made, *install], check=True)
        stamp.write_text(declared)
    return str(made)


def floors(declared: str) -> Iterator[str]:
    """All dependencies of a `pyproject.toml`, each at the lowest release that it takes."""
    project = tomllib.loads(declared)["project"]
    extras = project["optional-dependencies"].values()
    for one in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        name, floor = re.split(r">=|,", re.sub(r"\[\w+\]", "", one))[:2]
        yield f"{name}=={floor}"


def tests(python: str) -> tuple[int, str]:
    """Runs the quick tests; returns the exit code and the last line."""
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME / "tests")}
    words = ["-m", "pytest", "-p", "matrix", "-q", "-n", "auto", "-p", "no:cacheprovider"]
    run = subprocess.Popen(
        [python, *words], cwd=HOME, env=settings, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    said = ""
    for said in run.stdout:
        print(said, end="", flush=True)
    return run.wait(), said.strip(" =\n")


def versions(python: str) -> list[str]:
    """The releases of `SHOWN` in an environment."""
    ask = f"from importlib.metadata import version; print(*map(version, {SHOWN}))"
    return output(python, "-c", ask).split()


def output(*words: str | Path) -> str:
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """As a plugin of pytest: leaves the quick tests."""
    kept, left_out, seen = [], [], set()
    for item in items:
        name = (item.path, item.cls, item.originalname)
        is_left_out = any(item.path.match(f"{file}.py") for file in FIGURES)
        is_first = name not in seen and item.get_closest_marker("slow") is None
        is_quick = is_first and not is_left_out
        (kept if is_quick else left_out).append(item)
        seen |= {name} if is_quick else set()
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


if __name__ == "__main__":
    sys.exit(main())
