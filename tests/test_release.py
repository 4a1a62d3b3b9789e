"""`make release` on a small repository: what it refuses, what it would do, what it does."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("release.py")
ROOT = SCRIPT.parents[1]
LOG = "# Changelog\n\n## [Unreleased]\n{new}\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- A thing.\n"


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    run = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return run.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "ppl_vae").mkdir()
    (tmp_path / "ppl_vae" / "__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(LOG.format(new=""))
    (tmp_path / "Makefile").write_text("wheel:\n\ttouch built\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "t")
    git(tmp_path, "config", "user.email", "t@example.org")
    commit(tmp_path)
    return tmp_path


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "x")


def release(folder: Path, *options: str) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, SCRIPT, *options], cwd=folder, capture_output=True, text=True
    )
    return run.returncode, run.stdout + run.stderr


def test_a_dry_run_changes_nothing(project: Path) -> None:
    code, said = release(project, "--dry-run")
    assert code == 0
    assert "make wheel\ngit tag --annotate v0.2.0" in said
    assert not git(project, "tag").strip()
    assert not (project / "built").exists()


def test_a_release_builds_then_tags(project: Path) -> None:
    code, said = release(project)
    assert code == 0, said
    assert (project / "built").exists()
    assert git(project, "tag").split() == ["v0.2.0"]
    (project / "built").unlink()
    code, said = release(project)
    assert (code, "the tag v0.2.0 exists" in said) == (1, True)


def test_a_wheel_that_fails_leaves_no_tag(project: Path) -> None:
    (project / "Makefile").write_text("wheel:\n\tfalse\n")
    commit(project)
    code, _ = release(project)
    assert code != 0
    assert not git(project, "tag").strip()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("ppl_vae/__init__.py", '__version__ = "0.2.0.dev0"\n', "a release has three numbers"),
        ("ppl_vae/__init__.py", '__version__ = "0.3.0"\n', "no heading '## [0.3.0] - YEAR"),
        ("CHANGELOG.md", LOG.format(new="\n- More.\n"), "move them under [0.2.0]"),
        ("CHANGELOG.md", "## [0.2.0] - 2026-12-01\n", "says nothing under [0.2.0]"),
        ("CHANGELOG.md", "## [0.2.0] - soon\n\n- x\n", "no heading"),
    ],
)
def test_refusals(project: Path, file: str, text: str, said: str) -> None:
    (project / file).write_text(text)
    commit(project)
    code, answer = release(project)
    assert code == 1
    assert said in answer
    assert not git(project, "tag").strip()


def test_a_changed_tree_is_refused(project: Path) -> None:
    (project / "new.py").touch()
    assert "the tree has changes: commit new.py" in release(project)[1]


def test_options_are_known(project: Path) -> None:
    assert "not --dryrun" in release(project, "--dryrun")[1]


def test_the_version_stands_in_one_place() -> None:
    import ppl_vae

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ppl_vae.__version__"}
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")
    assert ppl_vae.__version__.startswith("0.")
