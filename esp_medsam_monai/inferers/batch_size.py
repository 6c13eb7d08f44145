"""How many slices a device takes at a time."""

from __future__ import annotations

import torch

__all__ = ["slices_at_a_time"]

BYTES_PER_PIXEL = 512
"""What a forward pass in float32 takes for a pixel of the network's square, at its widest."""

GPU_SHARE = 0.5
"""Share of a GPU's free memory that a batch may take; if it is too much all the same, the batch is halved."""

CPU_PIXELS = 2**20
"""Pixels of a batch on a CPU: caches are small there, and larger batches are slower if anything."""

MOST = 64
"""Larger batches gain nothing."""


def slices_at_a_time(device: torch.device, side: int) -> int:
    """Size of a batch that suits a device.

    Args:
        device: where the network computes.
        side: of the network's square, in pixels.

    Returns:
        1 to 64: on a GPU as many as half of its free memory holds, as a power of two, which stays the same while the
        free memory varies a little; on a CPU as many as have the pixels of one square of side 1024.
    """
    if device.type == "cuda":
        # What torch keeps for later is free too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + kept
        fitting = int(free * GPU_SHARE) // BYTES_PER_PIXEL // side**2
        return min(MOST, 1 << max(0, fitting.bit_length() - 1))
    return max(1, min(MOST, CPU_PIXELS // side**2))
