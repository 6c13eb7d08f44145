"""Where this process stands among those of a distributed run; with a single process everything here is trivial.

A thin layer over ``torch.distributed``, so that code can ask without knowing whether ``torchrun`` started it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

__all__ = [
    "barrier",
    "from_main_rank",
    "gather_objects",
    "is_main_rank",
    "on_main_rank",
    "rank",
    "share_running_statistics",
    "world_size",
]

T = TypeVar("T")


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 without a process group."""
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def is_main_rank() -> bool:
    """Whether this process writes files and summaries."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if _is_distributed():
        dist.barrier()


def gather_objects(x: Any) -> list[Any]:
    """One object of every process, by rank, on every process.

    Args:
        x: anything that pickles; what the processes of one run send each other is trusted.
    """
    if not _is_distributed():
        return [x]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, x)
    return gathered


def from_main_rank(x: T) -> T:
    """The main rank's object, on every process.

    Args:
        x: as for :func:`gather_objects`; that of the other ranks is not looked at.
    """
    if not _is_distributed():
        return x
    told: list[Any] = [x]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def on_main_rank(function: Callable[[], T]) -> T:
    """Let the main rank do what is to be done once, while the others wait; an end of the main rank ends them too.

    Args:
        function: called on the main rank alone.

    Returns:
        What it returned, on every process.

    Raises:
        SystemExit: on every process, when it did so.
        RuntimeError: on the other ranks, when it raised anything else.
    """
    if not _is_distributed():
        return function()
    told: tuple[str, Any] | None = None
    raised: BaseException | None = None
    if is_main_rank():
        try:
            told = "result", function()
        except SystemExit as end:
            # A text would be printed by every rank.
            raised, told = end, ("exit", 1 if isinstance(end.code, str) else end.code)
        except BaseException as error:
            raised, told = error, ("error", f"{type(error).__name__}: {error}")
    told = from_main_rank(told)
    assert told is not None
    if raised is not None:
        raise raised
    kind, value = told
    if kind == "exit":
        raise SystemExit(value)
    if kind == "error":
        raise RuntimeError(f"the main rank ended with {value}")
    return value


def share_running_statistics(network: nn.Module) -> None:
    """Give every rank the main rank's running means and variances of batch norms, which is what checkpoints hold.

    Each rank has seen other images; without this, ranks would validate networks that differ a little.

    Args:
        network: the same on all ranks.
    """
    if not _is_distributed():
        return
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for buffer in module.buffers(recurse=False):
                dist.broadcast(buffer, src=0)
