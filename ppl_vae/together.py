"""Being one of several processes that train together: how it begins, and how it ends."""

import itertools
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import PrefixStore, TCPStore, rendezvous  # type: ignore[attr-defined]

from ppl_vae.world import Processes, World, here, inside

__all__ = ["PORT", "TIMEOUT", "Lost", "line", "processes", "started"]

TIMEOUT = 300.0
"""Seconds that a process waits for the others."""

PORT = "PPL_VAE_STORE"
"""Where, in the environment, a `launch` on this machine says the port of its store."""

# Under which the first process that fails says why in the store that all have; which have left at
# the end; and which have waited for others in vain.
_CAUSE, _LEFT, _WAITS = "cause", "left", "waits"

_times = itertools.count(1)
"""How often this process has joined the others: the store may be that of a group before."""


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
        backend: of `torch.distributed`: NCCL for tensors on GPUs, where each process has one, and
            gloo for others, by default.

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
    prefix = f"ppl_vae/{next(_times)}"
    if ours:
        _begin(timeout, backend, prefix)
    world = Processes(timeout)
    store = PrefixStore(prefix, _store())
    try:
        with inside(world), _failing_together(world, store), _quiet(world.rank > 0):
            yield world
    finally:
        world.leave()
        if ours:
            dist.destroy_process_group()


def _begin(timeout: float, backend: str | None, prefix: str) -> None:
    """Joins the group that the environment, or a `launch`, tells of.

    In the store addresses stand under a prefix, as those of a group before are there still.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    able = torch.cuda.is_available() and local < torch.cuda.device_count()
    backend = backend or ("cpu:gloo,cuda:nccl" if able else "gloo")
    if able:
        torch.cuda.set_device(local)
    limit = timedelta(seconds=timeout)
    if port := os.environ.get(PORT):
        store = TCPStore("127.0.0.1", int(port), is_master=False)
        rank, count = int(os.environ["RANK"]), started()
    else:
        store, rank, count = next(rendezvous("env://", timeout=limit))
    dist.init_process_group(
        backend,
        timeout=limit,
        store=PrefixStore(prefix, store),
        rank=rank,
        world_size=count,
    )


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Leaves warnings to the first process."""
    with warnings.catch_warnings():
        if wanted:
            warnings.simplefilter("ignore")
        yield


@contextmanager
def _failing_together(world: Processes, store: Any) -> Iterator[None]:
    """Tells the others why this process fails, and says of them which has failed first."""
    try:
        yield
    except Exception as error:
        if _is_of_the_group(error):
            raise Lost(_reason(world, store, error)) from error
        _tell(store, _CAUSE, f"process {world.rank}: {line(error)}")
        raise
    except BaseException as error:
        _tell(store, _CAUSE, f"process {world.rank}: {line(error)}")
        raise
    _tell(store, f"{_LEFT}/{world.rank}", "1")


def line(error: BaseException) -> str:
    """An error in one line."""
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
    return f"another process is gone, as process {world.rank} sees it: {line(error)}"
