"""The device to compute on."""

from __future__ import annotations

import torch

__all__ = ["default_device"]


def default_device(name: str | None = None) -> torch.device:
    """The device of that name, or the best that this machine has: CUDA, otherwise the CPU.

    Args:
        name: for instance ``"cpu"`` or ``"cuda:1"``.
    """
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
