"""Starting several processes on this machine, and saying why they ended."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, NoReturn

import torch
from torch import multiprocessing
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from tqdm import tqdm

from ppl_vae.together import PORT, Lost, line

__all__ = ["launch"]

# Seconds that processes have to end once one of them has failed.
_GRACE = 10.0

_CODE = "ppl_vae/code"
"""Under which each process that fails says its exit code and why."""


class Stopped(SystemExit):
    """The processes were told to end, and have; `said` is what the first of them says."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(code)
        self.said = said


def launch(work: Callable[..., Any], args: tuple[Any, ...], count: int) -> None:
    """Starts processes on this machine, which do the same together, and waits for them.

    Tensors among the arguments lie in memory that all of them share. Inside,
    `ppl_vae.processes` makes them one group. SIGINT and SIGTERM are passed on to them.

    Args:
        work: what each does; a function at the top of a module.
        args: of it.
        count: how many processes.

    Raises:
        Lost: if one is killed or fails, in one line that names the first cause.
        ArithmeticError: if that is a number that is not finite.
        Stopped: if they were told to end.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_run, args=(rank, count, store.port, work, args))
        for rank in range(count)
    ]
    try:
        with _passing_on(processes):
            for process in processes:
                process.start()
            waiting = processes
            while waiting and not any(process.exitcode for process in processes):
                wait([process.sentinel for process in waiting])
                waiting = [process for process in waiting if process.exitcode is None]
            # the others see that one is gone, and end by themselves
            until = time.monotonic() + _GRACE
            for process in waiting:
                process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.kill()
                process.join()
    if any(code != 0 for code in codes):
        _raise(store, codes)


@contextmanager
def _passing_on(processes: Sequence[Any]) -> Iterator[None]:
    """Passes signals on to processes, which are in groups of their own."""

    def pass_on(number: int, _: Any) -> None:
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(rank: int, count: int, port: int, work: Callable[..., Any], args: Any) -> None:
    """One of the processes."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal's Ctrl-C comes from the parent, once
    # and so does its end
    multiprocessing._prctl_pr_set_pdeathsig(signal.SIGINT)  # type: ignore[attr-defined]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ[PORT] = str(port)
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    tqdm.set_lock(threading.RLock())  # the one of all processes would be left by a kill
    try:
        work(*args)
    except BaseException as error:
        if os.environ.get("PPL_VAE_TRACEBACK"):
            raise
        store = TCPStore("127.0.0.1", port, is_master=False)
        code = _code(error)
        store.set(f"{_CODE}/{rank}", f"{code} {line(error)}")
        sys.exit(code)


def _code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 2
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return 1 if isinstance(error, ArithmeticError) else 2


def _raise(store: Any, codes: Sequence[int | None]) -> NoReturn:
    """Raises what processes have ended by, the first cause."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            raise Lost(f"process {rank} of {len(codes)} was killed by {name}")
    told = {}
    for rank in range(len(codes)):
        if store.check([f"{_CODE}/{rank}"]):
            code, _, said = store.get(f"{_CODE}/{rank}").decode().partition(" ")
            told[rank] = int(code), said
    for code, said in told.values():  # of the first process first, which keeps the run
        if code >= 128:
            raise Stopped(code, said.partition(": ")[2] or "stopped")
    cause = _cause([said for _, said in told.values()], len(codes))
    if {code for code, _ in told.values()} == {1} or "NotFinite" in cause:
        raise ArithmeticError(cause)
    raise Lost(cause or f"processes ended with exit codes {[*codes]}")


def _cause(said: Sequence[str], count: int) -> str:
    """What the first says that has failed by itself; without its kind where all say the same."""
    own = [words for words in said if not words.startswith("Lost: ")]
    if len(own) == count and len({*own}) == 1:
        return own[0].partition(": ")[2] or own[0]
    lost = [words.removeprefix("Lost: ") for words in said if words not in own]
    # another may have told which it was and why
    named = [words for words in lost if words.startswith("process ")]
    return next(iter([*named, *own, *lost]), "")
