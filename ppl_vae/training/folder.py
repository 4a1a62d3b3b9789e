"""The making of a run's folder: complete at once, by one writer at a time."""

import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ppl_vae import files
from ppl_vae.training.lock import Lock

__all__ = ["check", "make"]

# So old, in seconds, is what a process that was killed has left next to a run.
_LEFT = 60.0


def check(path: str | Path, mark: str, overwrite: bool) -> None:
    """Says whether a run may be written at `path`.

    Args:
        path: the folder.
        mark: the name of the file that every run has.
        overwrite: whether to replace one.

    Raises:
        FileExistsError: if it is a file, holds a run and `overwrite` is off, or holds
            anything else.
        BlockingIOError: if another training writes to the run.
    """
    path = files.check(path)
    with files.telling(path):
        there = files.present(path)
        if there and not path.is_dir():
            raise FileExistsError(f"{str(path)!r} is a file: name a folder for the run")
        within = {file.name for file in path.iterdir()} if there else set()
    if mark in within:
        if not overwrite:
            raise FileExistsError(
                f"{str(path)!r} already holds a run: choose another folder or overwrite it"
            )
        Lock(path).release()
    elif within:
        raise FileExistsError(
            f"{str(path)!r} is not empty and holds no run: choose another folder"
        )


def make(
    path: str | Path, names: Sequence[str], overwrite: bool, fill: Callable[[Path], None]
) -> Lock:
    """Makes a run's folder, and holds it.

    All is written next to it and renamed, so that a folder is never half a run. Where the folder
    is there, what a run has in it is removed before the new files come, each whole.

    Args:
        path: the folder, which must not exist, be empty, or hold a run to overwrite.
        names: of all that a run writes; the first is in every run, and comes first.
        overwrite: replace a run in that place; files that no run writes are left alone.
        fill: writes the new files into a folder.

    Raises:
        FileExistsError: as `check` does.
        BlockingIOError: if another training writes to the run.
    """
    check(path, names[0], overwrite)
    path = Path(path)
    parent = files.folder(path.parent)
    for left in parent.glob(f".run-{'[0-9a-f]' * 16}"):
        _remove_left(left)
    staged = parent / f".run-{secrets.token_hex(8)}"
    with files.telling(path, "made"):
        staged.mkdir()
    lock = Lock(staged)
    try:
        fill(staged)
        with files.telling(path):
            if not files.present(path):
                staged.rename(path)
                return lock
        lock.release()
        check(path, names[0], overwrite)
        lock = Lock(path)
        with files.telling(path):
            files.sweep(path)
            for name in reversed(names[1:]):
                _remove(path / name)
            for name in names:
                if files.present(staged / name):
                    (staged / name).replace(path / name)
        return lock
    except BaseException:
        lock.release()
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _remove_left(staged: Path) -> None:
    """Removes what a process that was killed has left, which nobody holds."""
    with suppress(OSError):
        if time.time() - staged.stat().st_mtime > _LEFT:
            lock = Lock(staged)
            if lock.is_held:
                shutil.rmtree(staged, ignore_errors=True)
            lock.release()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
