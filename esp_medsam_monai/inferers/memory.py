"""What to do when a device runs out of memory."""

from __future__ import annotations

import torch

from esp_medsam_monai.runtimes.freed_memory import trim_memory

__all__ = ["is_out_of_memory", "release_memory"]

# What torch's CPU allocator, cuBLAS and cuDNN say, as plain RuntimeError.
_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or the machine, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def release_memory(device: torch.device) -> None:
    """Give back what is cached for a device and no longer used."""
    trim_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
