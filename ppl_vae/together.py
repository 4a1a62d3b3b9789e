"""Being one of several processes that train together: how it begins, and how it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from ppl_vae.world import Processes, World, here, inside

__all__ = ["Lost", "processes", "started"]

TIMEOUT = 300.0
"""Seconds that a process waits for the others."""

# Of a process that fails, what the others are told; and the steps at which others wait.
_CAUSE, _LEFT, _WAITS = "ppl_vae/cause", "ppl_vae/left", "ppl_vae/waits"


class Lost(RuntimeError):
    """Another process has failed, or is not heard from."""


def started() -> int:
    """How many processes a launcher has started this one among; 1 without a launcher."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ValueError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']!r} in the environment is no number of processes"
        ) from None


@contextmanager
def processes(timeout: float = TIMEOUT, backend: str | None = None) -> Iterator[World]:
    r"""Joins the processes that a launcher has started, `torchrun` for one, to train together.

    Inside, `ppl_vae.fit`, and any training loop with an objective of `ppl_vae.objectives`, train
    on the rows of all processes as one process would on all of them at once: divergences compare
    the aggregate posterior of all rows, batch norms take the moments of all, and gradients are
    summed. Started by itself a process is alone, and nothing is changed.

    `fit` is given all rows in each process and gives each its share. In a loop of your own each
    process gives its own share, `world.shard(x)`; parameters are those of the first process from
    the first step on, and every process takes as many steps as the others.

    Args:
        timeout: seconds to wait for another process before it counts as lost.
        backend: of `torch.distributed`: "nccl" where there are GPUs, else "gloo", by default.

    Yields:
        The `World`: `rank`, `size` and `shard`.

    Raises:
        Lost: if another process fails, or is not heard from for so long; the first cause is named.
        ValueError: for an environment that tells no number of processes.

    Example:
        >>> import torch
        >>> from ppl_vae import processes
        >>> with processes() as world:
        ...     (rows,) = world.shard(torch.zeros(8, 2))
        >>> world.size, len(rows)
        (1, 8)
    """
    if not timeout > 0:
        raise ValueError(f"timeout={timeout}: seconds, above 0")
    ours = not dist.is_initialized()
    if ours and started() < 2:
        yield here()
        return
    if ours:
        backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    world = Processes(timeout)
    try:
        with inside(world), _failing_together(world):
            yield world
    finally:
        world.leave()
        if ours:
            dist.destroy_process_group()


@contextmanager
def _failing_together(world: Processes) -> Iterator[None]:
    """Tells the others why this process fails, and says of them which has failed first."""
    store = _store()
    try:
        yield
    except Exception as error:
        if _is_of_the_group(error):
            raise Lost(_reason(world, store, error)) from error
        _tell(store, _CAUSE, f"process {world.rank}: {_line(error)}")
        raise
    except BaseException as error:
        _tell(store, _CAUSE, f"process {world.rank}: {_line(error)}")
        raise
    _tell(store, f"{_LEFT}/{world.rank}", "1")


def _line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def _store() -> Any:
    """What all processes can write to, also when one of them is gone."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def _tell(store: Any, key: str, said: str) -> None:
    with suppress(Exception):
        if key != _CAUSE or not store.check([key]):
            store.set(key, said)


def _is_of_the_group(error: Exception) -> bool:
    """Whether an error is one of `torch.distributed`, as when a peer is gone."""
    if isinstance(error, dist.DistError):
        return True
    words = ("Connection closed", "Connection reset", "Timed out", "gloo", "Broken pipe", "NCCL")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _reason(world: Processes, store: Any, error: Exception) -> str:
    """Why the others are not there, in one line, by what they have told."""
    import time

    _tell(store, f"{_WAITS}/{world.rank}", "1")
    others = [rank for rank in range(world.size) if rank != world.rank]
    with suppress(Exception):
        for _ in range(10):
            if store.check([_CAUSE]):
                return str(store.get(_CAUSE).decode())
            time.sleep(0.1)
        left = [r for r in others if store.check([f"{_LEFT}/{r}"])]
        if left:
            return (
                f"process {left[0]} has left while process {world.rank} goes on: let all take as "
                "many steps"
            )
        if "imed out" in str(error):
            silent = [r for r in others if not store.check([f"{_WAITS}/{r}"])] or others
            return (
                f"process {silent[0]} has not been heard from for {world.timeout:g} s "
                "(timeout=), so it is slow, asleep or gone"
            )
    return f"another process is gone, as process {world.rank} sees it: {_line(error)}"
