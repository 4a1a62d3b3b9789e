"""What several processes do when one of them does not: no more than `torch` is imported."""

import os
import signal
import time

from torch import Tensor

from ppl_vae.together import processes


def work(how: str, timeout: float, seen: Tensor) -> None:
    """Goes on together, for a second time, until the second process fails in some way."""
    with processes(timeout) as world:
        world.number(0)
    with processes(timeout) as world:
        seen[world.rank] += 1
        for k in range(10):
            if k == 5 and world.rank == 1:
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "raising":
                    raise ValueError("x has 3 negative counts in row 7\nand more")
                if how == "leaving":
                    break
                if how == "asleep":
                    time.sleep(60)
            if how == "alike" and k == 5:
                raise ValueError("x has 3 negative counts in row 7")
            if how == "interrupted" and k == 5:
                raise KeyboardInterrupt(f"stopped after step {k}, says {world.rank}")
            world.number(k)
