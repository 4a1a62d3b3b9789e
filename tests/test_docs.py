"""The README and the docs: their Python runs, their links and pictures are there."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ids = [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a page run one after the other; one without imports shows a fragment."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        if "import " in block:
            exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, target


def test_every_objective_is_in_the_docs() -> None:
    from ppl_vae import objectives

    text = "".join(page.read_text() for page in PAGES)
    bases = {"Bound", "Constraint", "Divergence", "Kernel", "Objective", "Schedule"}
    for name in set(objectives.__all__) - bases:
        assert name in text, name


def test_every_experiment_is_in_the_docs() -> None:
    from ppl_vae.reproductions import names

    text = (ROOT / "docs" / "reproduction.md").read_text()
    assert re.findall(r"^\| `(\w+)`", text, re.M) == names()


def test_commands_are_understood() -> None:
    """Commands on the pages exist, and so do the settings of trainings that need no folder."""
    from ppl_vae.cli.commandline import configured
    from ppl_vae.cli.main import COMMANDS

    elsewhere, tried = {"--resume", "--start", "--config", "--trust", "--devices"}, 0
    for page in PAGES:
        for line in re.findall(r"^(?: {4})?ppl-vae (.*)$", page.read_text(), re.M):
            name, *words = shlex.split(line.partition("  #")[0])
            assert name in {*COMMANDS, "--version"}, f"{page.name}: {line}"
            if name in ("fit", "show") and not elsewhere & set(words):
                words = ["MMD" if word == "NAME" else word for word in words]
                assert configured(words, name) is not None, f"{page.name}: {line}"
                tried += 1
    assert tried > 10
