"""Files: whole or not at all, with a folder's permissions, never through a link."""

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae import files
from ppl_vae.training.run import Run


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """What lies in a folder: kinds, permissions and contents, links not followed."""
    found = {}
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        is_read = stat.S_ISREG(seen.st_mode) and seen.st_size < 2**26
        content = path.read_bytes() if is_read else str(seen.st_size).encode()
        found[str(path.relative_to(root))] = (seen.st_mode, content)
    return found


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        run = Run.create(tmp_path / "run", {"a": 1})
        run.save_weights({"w": torch.ones(3)})
        run.log({"epoch": 1})
        with files.written(tmp_path / "rows.npy") as draft:
            np.save(draft, np.ones(3))
    finally:
        os.umask(old)
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o777 & ~mask
    for path in (*run.path.iterdir(), tmp_path / "rows.npy"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: BaseException) -> None:
    place = tmp_path / "out.txt"
    place.write_text("older")
    before = tree(tmp_path)

    def write() -> None:
        with files.written(place) as draft:
            draft.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "write"])
def test_what_the_system_says_becomes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    (tmp_path / "log").write_text("older\n")
    before = tree(tmp_path)
    monkeypatch.setattr(os, call, fail)
    write = files.append if call == "write" else files.write_bytes
    with pytest.raises(OSError, match=r"log' cannot be written: .*: \w+") as caught:
        write(tmp_path / "log", b"newer\n")
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert caught.value.errno == code
    assert tree(tmp_path) == before


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.append(tmp_path / "log", b"first\n")
    write, calls = os.write, list[int]()

    def short(file: int, text: memoryview) -> int:
        calls.append(file)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(file, text[:3])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="the disk is full"):
        files.append(tmp_path / "log", b"second\n")
    assert (tmp_path / "log").read_text() == "first\n"


def _link(place: Path) -> None:
    (place.parent / "victim").write_text("mine")
    place.symlink_to("victim")


def _nowhere(place: Path) -> None:
    place.symlink_to("nothing")


def _hard(place: Path) -> None:
    (place.parent / "victim").write_text("mine")
    place.hardlink_to(place.parent / "victim")


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(place.parent)  # such a name has at most 107 bytes
        try:
            made.bind(place.name)
        finally:
            os.chdir(before)


@pytest.mark.parametrize("make", [_link, _nowhere, os.mkfifo, _socket, Path.mkdir])
@pytest.mark.parametrize("use", [files.write_bytes, files.append])
def test_no_other_kind_of_file_is_written(
    tmp_path: Path, make: Callable[[Path], None], use: Callable[[Path, bytes], None]
) -> None:
    make(tmp_path / "summary.json")
    before = tree(tmp_path)
    with pytest.raises(OSError, match=r"summary.json"):
        use(tmp_path / "summary.json", b"text")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("make", [_link, _nowhere, os.mkfifo, _socket, Path.mkdir])
def test_no_other_kind_of_file_is_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "config.yaml")
    with pytest.raises(OSError, match=r"config.yaml' is a (link|pipe|folder)"):
        files.read_text(tmp_path / "config.yaml")


def test_a_second_name_is_not_appended_to_but_may_be_replaced(tmp_path: Path) -> None:
    _hard(tmp_path / "log")
    with pytest.raises(FileExistsError, match="hard link"):
        files.append(tmp_path / "log", b"more")
    files.write_text(tmp_path / "log", "more")
    assert (tmp_path / "victim").read_text() == "mine"


def test_sizes_and_text(tmp_path: Path) -> None:
    place = tmp_path / "file"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        files.read_text(place)
    place.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        files.read_text(place)
    with pytest.raises(ValueError, match="has 2 bytes, and such a file has at most 1"):
        files.read_bytes(place, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a" * 300, "too long"),
        ("gone/file", "its folder is not there"),
        ("plain/file", "its folder is a file"),
        ("\udcff", "is not UTF-8"),
        ("a\0b", "is no name"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "plain").touch()
    before = tree(tmp_path)
    with pytest.raises((OSError, ValueError), match=said):
        files.write_text(tmp_path / name, "text")
    assert tree(tmp_path) == before


def test_folders_are_made_whole_or_not_at_all(tmp_path: Path) -> None:
    files.folder(tmp_path / "a" / "b")
    files.folder(tmp_path / "a" / "b")
    (tmp_path / "link").symlink_to("a")
    before = tree(tmp_path)
    with pytest.raises(OSError, match="too long"):
        files.folder(tmp_path / "c" / ("d" * 300))
    with pytest.raises(OSError, match="is a link"):
        files.folder(tmp_path / "link")
    assert tree(tmp_path) == before


def test_drafts_of_the_killed_are_swept(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    child = os.fork()
    if not child:
        with files.written(tmp_path / "out"):
            os._exit(0)
    os.waitpid(child, 0)
    assert len([*tmp_path.iterdir()]) == 2
    (tmp_path / ".draft-of-mine").touch()
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kept", ".draft-of-mine"}
