"""Copies to and from a GPU beside its work."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

__all__ = ["CopyStream"]

PINNED_BYTES = 2**30
"""The system cannot use page-locked memory for anything else: larger results (logits) go to ordinary memory."""

IN_FLIGHT = 2
"""Batches that a GPU is given at a time: the next one is queued before it needs it, and memory stays bounded."""


class CopyStream:
    """A stream of copies between page-locked memory and a GPU, and who waits for whom.

    Source of the idea: PyTorch's notes on CUDA semantics (page-locked memory buffers; streams). torch keeps the memory
    of a copy until it is done.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._to, self._from = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._at_work: deque[torch.cuda.Event] = deque()

    @classmethod
    def between(cls, memory: torch.device, device: torch.device) -> CopyStream | None:
        """What copies between ordinary memory and a GPU; None where there is nothing to copy beside."""
        return cls(device) if memory.type == "cpu" and device.type == "cuda" else None

    def send(self, x: Tensor) -> Tensor:
        """Begin to copy to the GPU. :meth:`receive` comes before the copy's first use."""
        locked = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)
        with torch.cuda.stream(self._to):
            return locked.to(self.device, non_blocking=True)

    def receive(self, x: Tensor) -> Tensor:
        """What was sent, for use by the GPU's usual stream from now on."""
        usual = torch.cuda.current_stream(self.device)
        usual.wait_stream(self._to)
        x.record_stream(usual)
        return x

    def room_for(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for :meth:`fetch`, page-locked unless it is large."""
        size = torch.Size(shape).numel() * dtype.itemsize
        return torch.empty(shape, dtype=dtype, pin_memory=size <= PINNED_BYTES)

    def fetch(self, x: Tensor, target: Tensor) -> None:
        """Begin to copy from the GPU, when what it computes now is there; :meth:`wait` comes before the first use."""
        self._from.wait_stream(torch.cuda.current_stream(self.device))
        x.record_stream(self._from)
        with torch.cuda.stream(self._from):
            target.copy_(x, non_blocking=True)

    def pace(self) -> None:
        """A batch has been given to the GPU; wait until it has fewer than ``IN_FLIGHT`` of them."""
        self._at_work.append(torch.cuda.current_stream(self.device).record_event())
        while len(self._at_work) >= IN_FLIGHT:
            self._at_work.popleft().synchronize()

    def wait(self) -> None:
        """Until all that was fetched is there."""
        self._from.record_event().synchronize()  # events, unlike streams, pass torch.cuda.set_sync_debug_mode
