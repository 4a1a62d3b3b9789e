"""One writer at a time to a run's folder."""

import os
from pathlib import Path

from ppl_vae import files

try:
    import fcntl
except ImportError:  # not there on Windows, where folders stay unlocked
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock"]


class Lock:
    """Holds a folder for this process, until it is let go or the process ends, however it ends.

    The folder itself is locked, so nothing is left in it, and the lock goes with it when it is
    renamed. File systems that cannot lock leave it open.

    Args:
        path: the folder.

    Raises:
        BlockingIOError: if another training holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        if fcntl is None:
            return
        with files.telling(path, "opened"):
            self._file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise BlockingIOError(
                f"another training is writing to {str(path)!r}: wait for its end, or choose "
                "another folder"
            ) from error
        except OSError:
            self.release()

    @property
    def is_held(self) -> bool:
        """Whether the folder is locked, which some file systems cannot do."""
        return self._file is not None

    def release(self) -> None:
        """Lets the folder go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.release()
