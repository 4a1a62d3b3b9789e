"""Files: written whole or not at all, read with a limit, and never through a link.

Every file of a run, and every result a user asks for, is written here. What is written stands
aside in the same folder until it is whole and on the disk, and takes its name then; so a file that
was there stays as it was if anything goes wrong. A name that is a link, a pipe or a device is
refused, as a folder from somebody else may hold one that leads to a file of yours.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "append",
    "check",
    "folder",
    "is_shared",
    "opened",
    "plain",
    "present",
    "read_bytes",
    "read_text",
    "sweep",
    "telling",
    "told",
    "write_bytes",
    "write_text",
    "written",
]

_DRAFT = ".draft-"
_LIMIT = 16 * 2**20
_LINK = "is a link, and none is followed here: remove it"

_WHY = {
    errno.ENOSPC: "the disk is full: free some space, or write elsewhere",
    errno.EDQUOT: "your quota of the disk is used up: free some space, or write elsewhere",
    errno.EROFS: "the disk is read-only: write elsewhere",
    errno.EACCES: "permission is denied there: choose another place",
    errno.EPERM: "it is not permitted there: choose another place",
    errno.ENOENT: "its folder is not there: make it, or choose another place",
    errno.ENOTDIR: "its folder is a file: choose another place",
    errno.EISDIR: "it is a folder: choose another name",
    errno.EEXIST: "it is there already: choose another name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "links lead round in it: remove them",
    errno.ENXIO: "it is a pipe or a socket: remove it",
    errno.EIO: "the disk reports an error: write elsewhere",
}


def check(path: str | Path) -> Path:
    """A file's or folder's name, held to be one that can be written and shown.

    Raises:
        ValueError: if it is empty, has a null character, or is no UTF-8.
    """
    name = os.fspath(path)
    if not name or "\0" in name:
        raise ValueError(f"{name!r} is no name for a file or a folder")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name {name!r} is not UTF-8: choose another") from error
    return Path(path)


@contextmanager
def telling(path: str | Path, done: str = "written") -> Iterator[None]:
    """Turns what the system says of a file into one line that names it and says what to do.

    Args:
        path: the file or folder.
        done: what cannot be done to it.
    """
    try:
        yield
    except OSError as error:
        found = told(error, path, done)
        if found is error:
            raise
        raise found from error


def told(error: OSError, path: str | Path, done: str = "used") -> OSError:
    """What the system says of a file, in one line that names it and says what to do.

    Args:
        error: the error, which is returned as it is where it is told already.
        path: the file or folder.
        done: what cannot be done to it.
    """
    why = _WHY.get(error.errno or 0)
    if why is None or error.strerror is None:
        return error
    found = type(error)(f"{str(path)!r} cannot be {done}: {why}")
    found.errno = error.errno
    return found


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A draft to write, which takes the place of a file once the block has ended well.

    The draft lies in the same folder and its name ends as the file's does, so that libraries that
    go by it write the right kind. The file gets the permissions that any new file has there.

    Args:
        path: the file, which is replaced if it is there.

    Raises:
        ValueError: for a name that no file can have.
        OSError: if it is a link or anything else that is no plain file, or cannot be written.

    Example:
        >>> import tempfile; place = Path(tempfile.mkdtemp(), "out.txt")
        >>> with written(place) as draft:
        ...     _ = draft.write_text("whole")
        >>> place.read_text(), len([*place.parent.iterdir()])
        ('whole', 1)
    """
    path = check(path)
    end = path.suffix if len(path.suffix) < 16 else ""
    draft = path.with_name(f"{_DRAFT}{secrets.token_hex(8)}{end}")
    with telling(path):
        _refuse_other(path, os.lstat(path).st_mode if os.path.lexists(path) else stat.S_IFREG)
        new = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            mode = stat.S_IMODE(os.fstat(new).st_mode)
            os.close(new)
            yield draft
            # a library may have put a file of its own there, with permissions of its own
            made = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if stat.S_IMODE(os.fstat(made).st_mode) != mode:
                    os.fchmod(made, mode)
                os.fsync(made)
            finally:
                os.close(made)
            os.replace(draft, path)
        finally:
            with suppress(OSError):
                draft.unlink()
        _settle(path.parent)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file, whole or not at all; see `written`."""
    with written(path) as draft:
        draft.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all; see `written`."""
    write_bytes(path, text.encode())


def append(path: str | Path, content: bytes) -> None:
    """Adds to the end of a file, all of it or nothing.

    Args:
        path: the file, which is made if it is not there.
        content: what to add.

    Raises:
        OSError: if it is a link, has a second name, is no plain file, or cannot be written.
    """
    path = check(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with telling(path):
        file = os.open(path, flags, 0o666)
        try:
            found = os.fstat(file)
            _refuse_other(path, found.st_mode)
            if found.st_nlink > 1:
                raise FileExistsError(
                    f"{str(path)!r} is another file too (a hard link): remove it"
                )
            left = memoryview(content)
            try:
                while left:
                    left = left[os.write(file, left) :]
                os.fsync(file)
            except OSError:
                os.ftruncate(file, found.st_size)
                raise
        finally:
            os.close(file)


def folder(path: str | Path) -> Path:
    """A folder, made with those above it if it is not there; a link to one is refused."""
    path, made = check(path), list[Path]()
    with telling(path, "made"):
        if path.is_symlink():
            raise FileExistsError(f"{str(path)!r} {_LINK}")
        try:
            for place in reversed([path, *path.parents]):
                if not place.is_dir():
                    place.mkdir(exist_ok=True)
                    made.append(place)
        except OSError:
            for place in reversed(made):
                with suppress(OSError):
                    place.rmdir()
            raise
    return path


def plain(path: str | Path) -> None:
    """Refuses a link, a folder, a pipe, a socket or a device; a name that nothing has passes.

    Raises:
        OSError: saying which it is.
    """
    if present(path):
        _refuse_other(Path(path), os.lstat(path).st_mode)


def is_shared(path: str | Path) -> bool:
    """Whether a file has a second name (a hard link), by which it is some other file too."""
    return present(path) and os.lstat(path).st_nlink > 1


def present(path: str | Path) -> bool:
    """Whether there is anything of that name, were it a link to nothing."""
    return os.path.lexists(path)


@contextmanager
def opened(path: str | Path, limit: int = _LIMIT) -> Iterator[BinaryIO]:
    """A file to read: a plain one, not through a link and not a pipe, which would wait.

    Args:
        path: the file.
        limit: how many bytes it may have.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it is anything but a plain file.
        ValueError: if it is too large.
    """
    path = check(path)
    if not present(path):
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    with telling(path, "read"):
        _refuse_other(path, os.lstat(path).st_mode)  # opening a device may do something
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(file, "rb") as reader:
        found = os.fstat(file)
        _refuse_other(path, found.st_mode)
        if found.st_size > limit:
            raise ValueError(
                f"{str(path)!r} has {found.st_size:,} bytes, and such a file has at most {limit:,}"
            )
        yield reader


def read_bytes(path: str | Path, limit: int = _LIMIT) -> bytes:
    """What a file holds; see `opened`."""
    with opened(path, limit) as file, telling(path, "read"):
        return file.read(limit)


def read_text(path: str | Path, limit: int = _LIMIT) -> str:
    """What a file holds, in UTF-8; see `opened`.

    Raises:
        ValueError: if it is too large or no UTF-8.
    """
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: {error.reason}") from error


def sweep(path: str | Path) -> None:
    """Removes the drafts that a process which was killed left in a folder."""
    for left in Path(path).glob(f"{_DRAFT}{'[0-9a-f]' * 16}*"):
        if not left.is_dir():
            left.unlink(missing_ok=True)


def _refuse_other(path: Path, mode: int) -> None:
    """Refuses whatever is no plain file."""
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{str(path)!r} is a folder, where a file belongs")
    if stat.S_ISLNK(mode):
        raise FileExistsError(f"{str(path)!r} {_LINK}")
    raise FileExistsError(f"{str(path)!r} is a pipe, a socket or a device, and no plain file")


def _settle(path: Path) -> None:
    """Has the names in a folder put on the disk, where the file system does that."""
    place = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(place)
    finally:
        os.close(place)
