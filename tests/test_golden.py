"""Every page of help and the messages of what is refused, word for word.

The files under `golden/` hold command lines, each after `$`, and what they print.
`PYTHONPATH=. python tests/test_golden.py` runs them anew and writes down what they print now, to
be read before it is committed; a command line is added by its `$` line alone.
"""

import contextlib
import io
import os
import shlex
import tempfile
from pathlib import Path

import pytest

from ppl_vae.cli import main
from ppl_vae.cli.main import COMMANDS

GOLDEN = Path(__file__).parent / "golden"
FILES = ("help", "messages")


def cases(name: str) -> dict[str, str]:
    """What each command line of a file prints."""
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    sections = ("\n" + text).split("\n$ ")[1:]
    lines = [section.partition("\n") for section in sections]
    return {line: printed.rstrip("\n") for line, _, printed in lines}


def printed(line: str, is_help: bool) -> str:
    """What a command line prints, all of it to standard output or all of it to standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(shlex.split(line)[1:])
    assert code == (0 if is_help else 2), f"{line}: {code}: {err.getvalue()}"
    assert not (err if is_help else out).getvalue(), line
    return (out if is_help else err).getvalue().rstrip("\n")


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name in FILES for line in cases(name)], ids=str
)
def test_word_for_word(
    name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = printed(line, is_help=name == "help")
    assert found == cases(name)[line]
    assert name == "help" or len(found.splitlines()) == 1
    assert max(map(len, found.splitlines())) <= 99 or name == "messages"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_command_has_its_page_and_a_message(name: str) -> None:
    line = f"ppl-vae {name} --help".replace("  ", " ")
    assert line in cases("help")
    assert any(case.startswith(f"ppl-vae {name}") for case in cases("messages"))


if __name__ == "__main__":
    for file in FILES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            shown = [f"$ {line}\n{printed(line, file == 'help')}\n" for line in cases(file)]
        (GOLDEN / f"{file}.txt").write_text("\n".join(shown), encoding="utf-8")
    print(os.fspath(GOLDEN))
