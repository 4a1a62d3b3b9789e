"""Arrays from NumPy's files, which are held against their own headers before they are read."""

import math
import os
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["read_arrays"]

# An archive may grow to so many bytes, or so many times its own, whichever is more: a dense array
# of counts that are mostly 0 shrinks about a hundredfold, nothing but zeros a thousandfold.
_GROWN, _TIMES = 2**28, 300

Array = np.ndarray[Any, Any]


def read_arrays(path: str | Path, mapped: float = math.inf) -> dict[str, Array]:
    """The plain arrays of a `.npy` or `.npz` file by name; that of a `.npy` file has none.

    An array of pickled objects in an `.npz` file is left out with a warning.

    Args:
        path: the file.
        mapped: from how many bytes on, were it floats, the array of a `.npy` file is mapped and
            not read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, is not what its header says, holds pickled objects, or an
            archive is many times its size.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no data file {str(path)!r}")
    try:
        if zipfile.is_zipfile(path):
            return _of_archive(path)
        with open(path, "rb") as file:
            count, is_pickled = _header(file, os.path.getsize(path))
        if is_pickled:
            raise ValueError("it holds pickled objects")
        if 4 * count > mapped:
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        return {"": np.load(path, allow_pickle=False)}
    except Exception as error:  # of any kind: of zipfile, zlib, tokenize and NumPy
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{str(path)!r} is not a NumPy file of plain arrays: {why}") from error


def _of_archive(path: str | Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as archive:
        inside = archive.infolist()
        grown = sum(each.file_size for each in inside)
        if grown > max(_GROWN, _TIMES * os.path.getsize(path)):
            raise ValueError(f"it would grow to {grown:,} bytes")
        kept = []
        for each in inside:
            with archive.open(each) as file:
                _, is_pickled = _header(file, each.file_size)
            name = each.filename.removesuffix(".npy")
            if not is_pickled:
                kept.append(name)
                continue
            warnings.warn(
                f"{str(path)!r}: {name} holds pickled objects and is left out", stacklevel=5
            )
    with np.load(path, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in kept}


def _header(file: IO[bytes], size: int) -> tuple[int, bool]:
    """How many numbers an array has by its header, and whether they are pickled objects.

    Raises:
        ValueError: if the file is too short for them.
    """
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version {version} is not read")
    read = np.lib.format.read_array_header_1_0
    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)  # type: ignore[arg-type]
    count = math.prod(shape)
    if min(shape, default=0) < 0 or (not dtype.hasobject and count * dtype.itemsize > size):
        raise ValueError(f"its header says {shape} of {dtype}, and it has {size:,} bytes")
    return count, dtype.hasobject
