"""What becomes of an input, and whether that is a fault."""

import ast
import functools
import io
import json
import os
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import yaml
from test_files import tree

from fuzz.inputs import Json
from fuzz.pairs import use_pair
from ppl_vae import Dataset, load
from ppl_vae.cli import main
from ppl_vae.training.guard import NotFinite

__all__ = ["Fault", "Fuzz", "smaller"]

SECONDS = 20.0
HOME = Path(__file__).resolve().parents[2]
OURS = tuple(str(HOME / name) for name in ("ppl_vae", "guides", "objectives"))

OWN = (ValueError, TypeError, OSError, NotImplementedError, ImportError, RuntimeError)
"""What the library raises on purpose."""


@dataclass(frozen=True)
class Fault:
    """What is wrong: in a few words, by which faults are told apart, and at length."""

    what: str
    text: str


class TooLong(BaseException):
    """An input that has taken too much time."""


class Fuzz:
    """A folder with a run and data, in which inputs are run.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        rows = rng.random((40, 4), dtype=np.float32)
        with _inside(root):
            np.save("x.npy", rows)
            np.savez("x.npz", train=rows)
            np.save("codes.npy", rows[:, :2])
            np.savetxt("x.csv", rows, delimiter=",", header="a,b,c,d", comments="")
            words = ["--data", "arrays", "--data.path", str(root / "x.npy"), "--dim", "2"]
            more = ["--likelihood", "normal", "--epochs", "1", "--out", "run"]
            for part in ("likelihood", "encoder"):
                more += [f"--{part}.body", "MLP", f"--{part}.body.hidden", "[8]"]
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                assert main(["fit", *words, *more]) == 0
                asked = ["--metrics", "elbo,usage", "--quick"]
                assert main(["evaluate", "run", *asked]) == 0
                assert main(["sample", "run", "--n", "4", "--out", "x.npz"]) == 0
            (root / "x.png").write_bytes((root / "run/samples.png").read_bytes())
            self.trained = load("run")
        self.whole = tree(root)

    def fault(self, kind: str, value: Json) -> Fault | None:
        """What is wrong with what becomes of an input; None where nothing is."""
        call = getattr(self, f"_{kind}")
        pyro.clear_param_store()
        torch.manual_seed(0)
        start = time.process_time()
        made: dict[str, Any] = {}
        try:
            with _inside(self.root), _limited(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call(value, made)
            found = None
        except TooLong as error:
            found = Fault("too long", "".join(traceback.format_tb(error.__traceback__)[-3:]))
        except NotFinite:  # a training that went astray
            found = None
        except Exception as error:
            found = _judged(error)
        if found is None and time.process_time() - start > SECONDS:
            found = Fault("too long", "")
        if made.get("refused", True) and found is None and self._changed(made):
            found = Fault("a refused call left or changed a file", str(made.get("changed")))
        self._restore(made)
        return found

    def _command(self, words: Json, made: dict[str, Any]) -> None:
        made["before"] = self.whole
        said, told = io.StringIO(), io.StringIO()
        with redirect_stderr(said), redirect_stdout(told), _traceback():
            code = main([str(word) for word in words])
        made["refused"] = code != 0
        if code not in (0, 2):
            raise AssertionError(f"exit code {code}: {said.getvalue()}")

    def _config(self, value: Json, made: dict[str, Any]) -> None:
        Path("new.yaml").write_text(yaml.safe_dump(value))
        made["before"] = tree(self.root)
        said, told = io.StringIO(), io.StringIO()
        with redirect_stderr(said), redirect_stdout(told), _traceback():
            code = main(["show", "--config", "new.yaml"])
        made["refused"] = code != 0

    def _file(self, value: Json, made: dict[str, Any]) -> None:
        path = Path(value["file"])
        path.write_bytes(_damaged(path.read_bytes(), value["changes"]))
        made["before"] = tree(self.root)
        words = ["encode", "run", "--data", str(path), "--out", "o.npy"]
        if path.suffix == ".png":
            Path("images").mkdir()
            for k in range(3):
                shutil.copy(path, f"images/{k}.png")
            made["before"] = tree(self.root)
            words = ["show", "--data", "folder", "--data.path", "images", "--data.size", "4"]
        elif path.parts[0] == "run":
            reads = ("metrics.jsonl", "summary.json")
            words = ["sample", "run", "--n", "2", "--out", "o.npy"]
            if path.name in reads:
                words = ["report", "run", "--out", "page.html"]
        self._command_of(words, made)

    def _command_of(self, words: list[str], made: dict[str, Any]) -> None:
        said, told = io.StringIO(), io.StringIO()
        with redirect_stderr(said), redirect_stdout(told), _traceback():
            made["refused"] = main(words) != 0

    def _rows(self, value: Json, made: dict[str, Any]) -> None:
        made["before"] = self.whole
        rows = _array(value["rows"])
        settings = {
            k: _array(v) if isinstance(v, dict) else v for k, v in value["settings"].items()
        }
        if value["call"] == "Dataset":
            Dataset(rows, **settings)
        elif value["call"] == "interpolate":
            self.trained.interpolate(rows, rows, 3)
        elif value["call"] == "impute":
            self.trained.impute(rows, num_samples=2)
        elif value["call"] == "log_likelihood":
            self.trained.log_likelihood(rows, 3)
        else:
            getattr(self.trained, value["call"])(rows)

    def _pair(self, value: Json, made: dict[str, Any]) -> None:
        made["before"] = self.whole
        use_pair(value)

    def _changed(self, made: dict[str, Any]) -> bool:
        before, after = made.get("before", self.whole), tree(self.root)
        made["changed"] = sorted(k for k in before | after if before.get(k) != after.get(k))
        return bool(made["changed"])

    def _restore(self, made: dict[str, Any]) -> None:
        """Puts the folder back as it was."""
        now = tree(self.root)
        for name in sorted(now.keys() - self.whole, reverse=True):
            path = self.root / name
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, (mode, content) in self.whole.items():
            if now.get(name) != (mode, content) and not (self.root / name).is_dir():
                (self.root / name).write_bytes(content)


def smaller(value: Json, is_fault: Callable[[Json], bool], tries: int = 200) -> Json:
    """A smaller input with the same fault: parts are left out while it stays."""
    while True:
        for less in _less(value):
            tries -= 1
            if tries < 0:
                return value
            if is_fault(less):
                value = less
                break
        else:
            return value


def _less(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
        for key, part in value.items():
            yield from ({**value, key: less} for less in _less(part))
    elif isinstance(value, list):
        for k in range(len(value)):
            yield value[:k] + value[k + 1 :]
        for k, part in enumerate(value):
            yield from ([*value[:k], less, *value[k + 1 :]] for less in _less(part))
    elif isinstance(value, str) and len(value) > 8:
        yield value[: len(value) // 2]


def _judged(error: Exception) -> Fault | None:
    """Nothing if an error is the library's own, in one line; else what it is and where."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(OURS)]
    where = ours[-1] if ours else frames[-1]
    last = frames[-1]
    place = f"{Path(where.filename).name}:{where.name}"
    if "allocate" in str(error) or isinstance(error, MemoryError):
        return None  # so much was asked for
    # Pyro tells in its own words what is wrong with a program
    known = last.filename.startswith(OURS) or "/pyro/" in last.filename
    if isinstance(error, OSError) and error.filename is not None:
        return None  # which the command line tells, as `ppl_vae.files` does
    deliberate = known and last.lineno in _raising(last.filename)
    if isinstance(error, OWN) and deliberate and len(str(error).splitlines()) == 1:
        return None
    text = "".join(traceback.format_exception(error)[-4:])
    return Fault(f"{type(error).__name__} in {place}", text)


@functools.cache
def _raising(file: str) -> set[int]:
    """The lines of a file in statements that raise."""
    found = set[int]()
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.Raise):
            found |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return found


def _damaged(content: bytes, changes: Json) -> bytes:
    for change in changes:
        what, place, byte, text = [*change, "set", 0.0, 0, ""][:4] if len(change) == 4 else (
            "set", 0.0, 0, ""
        )  # fmt: skip
        k = int(place * len(content))
        if what == "set":
            content = content[:k] + bytes([byte]) + content[k + 1 :]
        elif what == "cut":
            content = content[:k]
        elif what == "insert":
            content = content[:k] + text.encode("latin-1") + content[k:]
        elif what == "double":
            content = content[:k] + content[k // 2 :]
        else:
            content = content[:k] + content[k + 1 + byte % 16 :]
    return content


def _array(spec: Json) -> Any:
    """An array as its description says."""
    if not isinstance(spec, dict) or not {"shape", "type", "fill", "form"} <= spec.keys():
        return spec
    shape, fill, form = tuple(spec["shape"]), spec["fill"], spec["form"]
    values = np.random.default_rng(0).standard_normal(shape)
    number = {"zeros": 0, "ones": 1, "nan": np.nan, "inf": np.inf, "huge": 1e300, "tiny": 1e-300}
    if fill in number:
        values = np.full(shape, float(number[fill]))
    elif fill == "negative":
        values = -np.abs(values)
    elif fill == "one nan" and values.size:
        values.flat[0] = np.nan
    if form in ("none", "text", "scalar"):
        return {"none": None, "text": "text", "scalar": 3.5}[form]
    with np.errstate(all="ignore"):
        if spec["type"] == "bfloat16":
            array = values.astype(np.float32)
            return torch.from_numpy(np.atleast_1d(array)).bfloat16()
        array = np.asarray(values.astype(spec["type"]))
    if form in ("tensor", "grad"):
        made = torch.as_tensor(values.astype(np.float32))
        return made.requires_grad_() if form == "grad" else made
    if form == "list":
        return array.tolist()
    if form == "tuple":
        return tuple(array.tolist()) if shape else (1,)
    if form in ("pandas", "series"):
        import pandas

        if len(shape) == 2 and form == "pandas":
            return pandas.DataFrame(array, columns=[*"abcdefg"][: shape[1]])
        return pandas.Series(array.reshape(-1).tolist())
    if form == "strided" and shape:
        return array[::-1]
    if form == "readonly":
        array = np.array(array)
        array.flags.writeable = False
    if form == "masked":
        return np.ma.masked_array(array, mask=np.zeros(shape, bool))
    return (array, array) if form == "several" else array


@contextmanager
def _inside(root: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _limited() -> Iterator[None]:
    """Ends what takes too much of the processor's time."""

    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _traceback() -> Iterator[None]:
    """Has the command line raise its errors."""
    os.environ["PPL_VAE_TRACEBACK"] = "1"
    try:
        yield
    finally:
        del os.environ["PPL_VAE_TRACEBACK"]


def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="ppl-vae-fuzz-"))


def shown(value: Json) -> str:
    return json.dumps(value)
