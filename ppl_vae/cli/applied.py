"""What the commands that use a run share: the run, new rows, and a file for what is made."""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Settings", "as_array", "command", "load_run", "new_rows", "put"]

Settings = Sequence[tuple[str, str]]
"""Settings of a run's data, as dotted names with values."""


def load_run(run: str, device: str, trust: bool, settings: Settings) -> Any:
    """The trained pair of a run's folder."""
    from ppl_vae.loading import load

    return load(run, trust, device, settings)


def new_rows(trained: Any, data: str, index: str | None = None) -> Any:
    """New rows from a file or a folder of images."""
    from pathlib import Path

    from ppl_vae.using.files import read

    return trained.images(data) if Path(data).is_dir() else read(data, index)


def _shown(path: Any, found: Any, trained: Any) -> Any:
    """Data in their own units; of a picture, in those of the pair; in arrays, as numbers."""
    from ppl_vae.data.tensors import as_tensor

    known = trained.known
    if path.suffix in (".png", ".npy", ".npz") and trained.layout is not None:
        found = trained.layout.rows(found)
    return known.shown(as_tensor(found)) if path.suffix == ".png" and known is not None else found


def put(path: Any, found: Any, trained: Any, title: str, columns: int = 8) -> None:
    """Writes data that a pair has made to a file, and prints its path.

    Args:
        path: as `check_out` gives it.
        found: the data.
        trained: the pair.
        title: of a picture.
        columns: of it.
    """
    from ppl_vae.using.files import write

    write(path, _shown(path, found, trained), trained.data_names, title, columns)
    print(path)


def as_array(found: Any) -> Any:
    """Numbers of any form, as an array."""
    import numpy as np

    return np.asarray(found)


def command(function: Callable[..., None]) -> Callable[[list[str]], None]:
    """A command of a function's signature; `--data.NAME` are settings over the run's own."""

    def run(words: list[str]) -> None:
        from ppl_vae.cli.commandline import DATA, data_options, parse

        settings, rest = data_options(words)
        file = [word for key, value in settings if key == "data" for word in ("--data", value)]
        settings = [option for option in settings if option[0] != "data"]
        given = parse(function, [*rest, *file], first="run", skip=("settings",), more=DATA[1:])
        function(**given, settings=settings)

    run.__doc__ = function.__doc__
    return run
