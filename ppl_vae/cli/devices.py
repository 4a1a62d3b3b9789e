"""Over how many processes `ppl-vae fit` goes."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Devices", "take"]


@dataclass(frozen=True)
class Devices:
    """How many processes to start here, and how long each waits for the others.

    Attributes:
        count: 1 for none but this one, which a launcher may have started among others.
        timeout: seconds.
    """

    count: int
    timeout: float


def take(words: Sequence[str]) -> tuple[Devices, list[str]]:
    """`--devices` and `--timeout` of a command line, and its other words.

    Raises:
        ValueError: for no number, or another than a launcher has started.
    """
    from ppl_vae.together import TIMEOUT, started

    given = {"devices": "1", "timeout": f"{TIMEOUT:g}"}
    said, rest, queue = False, list[str](), list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in given:
            rest.append(word)
            continue
        if not equals and (not queue or queue[0].startswith("--")):
            raise ValueError(f"--{name} needs a value")
        given[name] = value if equals else queue.pop(0)
        said = said or name == "devices"
    devices, timeout = given["devices"], given["timeout"]
    if not devices.isdigit() or int(devices) < 1:
        raise ValueError(f"--devices is {devices!r}: give a number of processes, such as 2")
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--timeout is {timeout!r}: give seconds above 0")
    count, running = int(devices), started()
    if running > 1 and said and count != running:
        raise ValueError(
            f"--devices is {count}, and the launcher has started {running} processes "
            "(WORLD_SIZE): leave --devices out"
        )
    return Devices(1 if running > 1 else count, seconds), rest
