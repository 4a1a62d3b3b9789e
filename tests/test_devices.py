"""The words of `ppl-vae fit` that say over how many processes it goes."""

import pytest

from ppl_vae.cli import main
from ppl_vae.cli.devices import Devices, take

WORDS = ["--dim", "2", "--out=x"]


def test_words_are_taken_out() -> None:
    assert take(WORDS) == (Devices(1, 300.0), WORDS)
    assert take(["--devices", "2", *WORDS, "--timeout=7.5"]) == (Devices(2, 7.5), WORDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices"], "--devices needs a value"),
        (["--devices", "two"], "--devices is 'two': give a number of processes, such as 2"),
        (["--devices=0"], "--devices is '0': give a number of processes, such as 2"),
        (["--timeout", "-1"], "--timeout is '-1': give seconds above 0"),
        (["--devices", "2", "--dimm", "3"], "ppl-vae: "),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said once, before any process is started."""
    assert main(["fit", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_launcher_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert take(["--devices", "4"])[0].count == take([])[0].count == 1, "none is started here"
    with pytest.raises(ValueError, match="--devices is 2, and the launcher has started 4"):
        take(["--devices", "2"])
