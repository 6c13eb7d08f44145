"""Numbers of a device that the host wants to know, without waiting for the work that is queued behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["HostNumbers"]


class HostNumbers:
    """Scalars on their way to the host; the copy begins at once, and :meth:`get` waits for nothing but the copy.

    ``float(x)`` waits until a GPU has done everything that it was given. Whoever makes this right after computing the
    scalars, queues more work, and asks then, leaves the GPU busy.

    Args:
        scalars: of one element each, all on one device.
    """

    def __init__(self, scalars: Sequence[Tensor]) -> None:
        values = torch.stack([scalar.detach().reshape(()) for scalar in scalars])
        self._copied: torch.cuda.Event | None = None
        self._values = values.to("cpu", non_blocking=values.is_cuda)  # into pinned memory
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def get(self) -> list[Tensor]:
        """The scalars, of no dimension, on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
        return list(self._values.unbind())
