"""Runs tests on a copy of the tree that has one fault in it."""

import compileall
import contextlib
import importlib
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import pytest

from mutants.source import Mutant

# Imported once: a process for a fault starts with them and is ready in a second.
PRELOADED = (
    "torch", "pyro.infer", "pyro.contrib.easyguide", "scipy.stats", "sklearn.ensemble",
    "sklearn.linear_model", "sklearn.model_selection", "sklearn.svm", "arviz", "hypothesis",
    "matplotlib.pyplot", "torchvision", "pytest", "mutants.run",
)  # fmt: skip
LEFT_OUT = (".git", ".venv", "__pycache__", "build", "dist", "*.egg-info", ".*_cache", "shared")


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        test: the test that caught it, None for a survivor.
        seconds: of processor time that took, which does not depend on what else runs.
    """

    mutant: Mutant
    test: str | None
    seconds: float


class Tests:
    """Runs pytest in processes of their own, each in one of several copies of the tree.

    Args:
        root: the tree.
        folder: where the copies are made.
        jobs: how many.
        limit: seconds for one test; a longer one counts as failed.
    """

    def __init__(self, root: Path, folder: Path, jobs: int, limit: int = 300) -> None:
        self._root, self._limit, self._jobs = root, limit, jobs
        self._sound: dict[str, bool] = {}
        os.environ["OMP_NUM_THREADS"] = "1"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for job in range(jobs):
            copy = folder / f"tree-{job}"
            shutil.copytree(root, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
            # By hash, so that a changed module is never taken for the one compiled here.
            compileall.compile_dir(
                copy, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH
            )
            self._copies.put(copy)

    def outcomes(self, work: Iterable[tuple[Mutant, Sequence[str]]]) -> Iterator[Outcome]:
        """One outcome for each fault and its test files, in order.

        Raises:
            RuntimeError: if a test that caught a fault fails without it too.
        """
        pool = ThreadPoolExecutor(self._jobs)
        try:
            yield from pool.map(lambda item: self._outcome(*item), list(work))
        finally:
            # An error or an interrupt waits for the faults at hand, not for all.
            pool.shutdown(cancel_futures=True)

    def _outcome(self, mutant: Mutant, files: Sequence[str]) -> Outcome:
        copy = self._copies.get()
        try:
            changed = copy / mutant.module.path.relative_to(self._root)
            changed.write_text(mutant.text)
            try:
                test, seconds = self._failing(copy, files, mutant.where)
            finally:
                changed.write_text(mutant.module.text)
            if test is not None and test not in self._sound:
                self._sound[test] = self._failing(copy, [test])[0] is None
        finally:
            self._copies.put(copy)
        if test is not None and not self._sound[test]:
            raise RuntimeError(f"{test} fails without a fault too: the suite must pass first")
        return Outcome(mutant, test, seconds)

    def _failing(
        self, copy: Path, files: Sequence[str], where: str = ""
    ) -> tuple[str | None, float]:
        """The first test that fails, None if none does, and the processor seconds up to it."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_pytest, args=(theirs, copy, files, where, self._limit)
        )
        process.start()
        theirs.close()
        test: str | None = "a crash before the first test"
        seconds, over = 0.0, False
        # A test that hangs where no signal reaches it is ended from here.
        while not over and ours.poll(2 * self._limit):
            try:
                test, seconds, over = ours.recv()
            except EOFError:
                over = True
        process.join(10)  # long enough to clean up
        if process.is_alive():
            _end(process.pid)
        process.join()
        return test, seconds


def _end(pid: int | None) -> None:
    """Ends a process that leads its group, and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        if pid is not None and os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)


class _Reporter:
    """A pytest plugin: puts direct tests first and sends what happens."""

    def __init__(self, pipe: Any, where: str) -> None:
        self._pipe = pipe
        self._words = [word.strip("_") for word in where.split(".") if word]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        place = {path: i for i, path in enumerate(dict.fromkeys(i.path for i in items))}
        items.sort(key=lambda item: (place[item.path], not self._direct(item)))

    def _direct(self, item: pytest.Item) -> bool:
        names = getattr(getattr(item.obj, "__code__", None), "co_names", ())  # type: ignore[attr-defined]
        return any(word in (*names, item.name) for word in self._words)

    def send(self, test: str | None, over: bool) -> None:
        self._pipe.send((test, time.process_time(), over))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.send(nodeid, over=False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.send(report.nodeid, over=True)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.send(report.nodeid, over=True)


def _pytest(pipe: Any, copy: Path, files: Sequence[str], where: str, limit: int) -> None:
    os.setsid()
    os.chdir(copy)
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in [n for n in sys.modules if n.split(".")[0] in ("ppl_vae", "mutants")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", f"--timeout={limit}"]
    reporter = _Reporter(pipe, where)
    code = pytest.main([*options, *files], plugins=[reporter])
    if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        reporter.send(None, over=True)
