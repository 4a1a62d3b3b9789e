"""Trainings that are killed at random moments, and gone on with to the bytes of whole ones.

    python tests/kills.py [KILLS] [SEED]

Each training is a process forked from this one; SIGKILL, SIGTERM and SIGINT take turns, over the
six trainings of `trainings.py`.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trainings import TRAININGS, contents, train

from ppl_vae.training import checkpoint
from ppl_vae.training.run import CHECKPOINT, CONFIG, Run

__all__ = ["SIGNALS", "Kills"]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
_HOW: dict[str, Any] = {"epochs": 6, "checkpoint_steps": 4}


class Kills:
    """Kills trainings and goes on with them.

    Args:
        place: an empty folder.
        seed: of the moments.
    """

    def __init__(self, place: Path, seed: int = 0) -> None:
        self.place, self._random = place, random.Random(seed)
        self._whole: dict[str, tuple[dict[str, bytes], float]] = {}

    def whole(self, name: str) -> tuple[dict[str, bytes], float]:
        """What an uninterrupted training leaves, and the seconds that it takes."""
        if name not in self._whole:
            folder, begun = self.place / name, time.monotonic()
            assert _wait(_forked(lambda: train(TRAININGS[name], out=folder, **_HOW))) == 0
            self._whole[name] = contents(folder), time.monotonic() - begun
        return self._whole[name]

    def kill(self, name: str, number: int) -> str:
        """Kills a training, once, and goes on with it; returns where it was in words."""
        (whole, seconds), make = self.whole(name), TRAININGS[name]
        folder = self.place / f"{name}-{time.monotonic_ns()}"
        child = _forked(lambda: train(make, out=folder, **_HOW))
        time.sleep(self._random.uniform(0, seconds))
        os.kill(child, number)
        code = _wait(child)
        if not (folder / CONFIG).exists():
            assert not folder.exists()
            again = {"out": folder}
            where = "before there was a folder"
        else:
            again = {"resume": folder}
            where = _checked(folder)
        # a signal that comes before the training takes signals, or after, acts as it does anywhere
        assert code in (0, _CODES[signal.Signals(number)], -number), code
        assert _wait(_forked(lambda: train(make, **again, **_HOW))) == 0
        found = contents(folder)
        differ = sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k))
        assert not differ, f"{name}, {signal.Signals(number).name}, {where}: {differ} differ"
        return where if code else f"{where}, as it had ended"


def _checked(folder: Path) -> str:
    """Where a training was killed; its folder loads, and its log is not ahead of the rest."""
    run = Run(folder)
    kept = checkpoint.read(folder / CHECKPOINT)["state"]
    assert len(run.history) <= kept["epochs"] <= len(run.history) + 1
    assert run.load_weights()
    step = kept["training"]["step"]
    return f"checkpoint of step {step}, {len(run.history)} epochs in the log"


def _forked(work: Callable[[], Any]) -> int:
    """Begins work in a process of its own, which ends as the command line does."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(words: Sequence[str]) -> None:
    """Kills so many trainings and prints where each was."""
    number, seed = (int(word) for word in (*words, *("30", "0")[len(words) :]))
    names = list(TRAININGS)
    with TemporaryDirectory() as place:
        kills = Kills(Path(place), seed)
        for k in range(number):
            # the signals take turns within each training
            name, sent = names[k % len(names)], SIGNALS[(k + k // len(names)) % len(SIGNALS)]
            print(f"{name:10} {sent.name:8} {kills.kill(name, sent)}", flush=True)
    print(f"{number} kills, each gone on with to the very bytes of a whole training")


if __name__ == "__main__":
    main(sys.argv[1:])
