"""Processes of this machine, started together, and what is said when one of them fails."""

import shutil
import signal
import time
from pathlib import Path

import failing
import pytest
import ranks
import torch

from ppl_vae.launching import Stopped, launch
from ppl_vae.together import Lost, started

SAID = {
    "killed": "process 1 of 2 was killed by SIGKILL",
    "raising": "process 1: ValueError: x has 3 negative counts in row 7",
    "alike": "x has 3 negative counts in row 7",
    "leaving": "process 1 has left while process 0 goes on: let all take as many steps",
    "asleep": "process 1 has not been heard from for 8 s (timeout=), so it is slow, asleep or "
    "gone",
}
PATIENT = 60.0
"""Seconds, for processes that start apart where a machine is busy; no failure waits for them."""


@pytest.mark.parametrize("how", SAID)
def test_a_failure_ends_all_in_one_line_that_names_its_cause(how: str) -> None:
    began = time.monotonic()
    with pytest.raises(Lost) as found:
        launch(failing.work, (how, 8.0 if how == "asleep" else PATIENT, torch.zeros(2)), 2)
    assert str(found.value) == SAID[how]
    assert time.monotonic() - began < PATIENT, "a start, eight seconds, and ten of grace"


def test_all_well_and_an_interruption() -> None:
    seen = torch.zeros(2)
    launch(failing.work, ("well", PATIENT, seen), 2)
    assert seen.tolist() == [1, 1], "the memory of tensors is shared"
    with pytest.raises(Stopped) as found:
        launch(failing.work, ("interrupted", PATIENT, seen), 2)
    assert (found.value.code, found.value.said) == (
        128 + signal.SIGINT,
        "stopped after step 5, says 0",
    )


@pytest.mark.usefixtures("double")
def test_a_run_whose_process_was_killed_goes_on(tmp_path: Path) -> None:
    """From its last checkpoint, in three processes or in one where there were two."""
    with pytest.raises(Lost, match="process 1 of 2 was killed by SIGKILL"):
        launch(ranks.killed, (str(tmp_path / "run"),), 2)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    launch(ranks.going_on, (str(tmp_path / "other"), str(tmp_path)), 3)
    whole = ranks.fitted(ranks.FITS["MMD"])
    for rank in range(3):
        assert ranks.unlike(torch.load(tmp_path / f"{rank}.pt"), whole) < 1e-10
    alone = ranks.fitted(ranks.FITS["MMD"], resume=tmp_path / "run")
    assert ranks.unlike(alone, whole) < 1e-10


def test_a_launcher_s_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert started() == 4
    monkeypatch.setenv("WORLD_SIZE", "four")
    with pytest.raises(ValueError, match="'four' in the environment is no number"):
        started()
