"""Where this process stands among those of a distributed run; with a single process everything here is trivial.

A thin layer over ``torch.distributed``, so that code can ask without knowing whether ``torchrun`` started it.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

__all__ = ["barrier", "gather_objects", "is_main_rank", "rank", "world_size"]


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
