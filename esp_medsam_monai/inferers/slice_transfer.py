"""Slices on their way to the network's device, and what it makes of them on its way back.

On a GPU both ways lie beside the network's work: the next batch is there when the network is done with this one, and a
result leaves while the next one is computed. On a CPU nothing is copied, and nothing is made before its turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from esp_medsam_monai.geometry import SlicePlan

from .copy_stream import CopyStream

__all__ = ["SliceFeed", "SliceStack", "varying_slices"]


def varying_slices(image: Tensor, plan: SlicePlan) -> list[int]:
    """Slices that show something: those of more than one value in some channel.

    Args:
        image: ``(C, *spatial)``.
        plan: how it is cut.

    Returns:
        their numbers in the plan's order, ascending; without a copy of the image, and with one wait for its device.
    """
    picture = tuple(1 + axis for axis in plan.order[-2:])
    plain = image.as_subclass(Tensor)
    varies = (plain.amax(picture) != plain.amin(picture)).any(0).reshape(-1)
    if plan.spatial_dims == 3 and plan.flips[0]:
        varies = varies.flip(0)
    return [int(number) for number in varies.nonzero().flatten().tolist()]


class SliceFeed:
    """Chosen slices of an image, batch by batch, on a device.

    Args:
        image: ``(C, *spatial)``, on any device.
        plan: how it is cut.
        chosen: numbers of the slices wanted, in the plan's order, ascending.
        device: where they are wanted.
        stream: what copies them beside the device's work; None copies them when they are asked for.
    """

    def __init__(
        self,
        image: Tensor,
        plan: SlicePlan,
        chosen: Sequence[int],
        device: torch.device,
        stream: CopyStream | None = None,
    ) -> None:
        self.image = image
        self.plan = plan
        self.chosen = chosen
        self.device = device
        self._stream = stream
        self._ahead: tuple[range, Tensor] | None = None

    def take(self, begin: int, size: int) -> Tensor:
        """A batch: those chosen from position ``begin`` on, at most ``size``.

        Returns:
            ``(S, C, H, W)`` on the device, in the image's type.
        """
        batch = self._batch(begin, size)
        ahead, self._ahead = self._ahead, None
        if self._stream is None:
            return self._slices(batch).to(self.device)
        sent = ahead[1] if ahead is not None and ahead[0] == batch else self._stream.send(self._slices(batch))
        return self._stream.receive(sent)

    def look_ahead(self, begin: int, size: int) -> None:
        """Send the batch that is expected next, while the device is busy; without a stream this does nothing.

        When another one is taken it is dropped, and when there is no memory for it, it waits for its turn.
        """
        if self._stream is None:
            return
        if batch := self._batch(begin, size):
            with contextlib.suppress(torch.OutOfMemoryError):
                self._ahead = (batch, self._stream.send(self._slices(batch)))
        self._stream.pace()

    def _batch(self, begin: int, size: int) -> range:
        return range(begin, min(begin + size, len(self.chosen)))

    def _slices(self, batch: range) -> Tensor:
        numbers = self.chosen[batch.start : batch.stop]
        parts = [self.plan.to_slices(self.image, run.start, run.stop) for run in _runs(numbers)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class SliceStack:
    """Results of chosen slices in one stack on the CPU, in the plan's order; the others hold the background.

    Args:
        chosen: as for :class:`SliceFeed`.
        shape: ``(S, C, H, W)`` of the stack.
        background: value of slices that are not chosen.
        dtype: of the results.
        stream: what copies them beside the device's work; None copies them when they are put.
    """

    def __init__(
        self,
        chosen: Sequence[int],
        shape: tuple[int, ...],
        background: float,
        dtype: torch.dtype,
        stream: CopyStream | None = None,
    ) -> None:
        self.chosen = chosen
        self._stream = stream
        self._stack = torch.empty(shape, dtype=dtype) if stream is None else stream.room_for(shape, dtype)
        self._stack.fill_(background)

    def put(self, begin: int, results: Tensor) -> None:
        """Keep the results ``(S, C, H, W)`` of the slices chosen from position ``begin`` on."""
        for run in _runs(self.chosen[begin : begin + len(results)]):
            part, results = results[: len(run)], results[len(run) :]
            target = self._stack[run.start : run.stop]
            if self._stream is not None and part.device.type != "cpu":
                self._stream.fetch(part, target)
            else:
                target.copy_(part)

    def finished(self) -> Tensor:
        """The stack, once all that was put is there."""
        if self._stream is not None:
            self._stream.wait()
        return self._stack


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Ascending numbers as ranges without gaps."""
    start = 0
    for position in range(1, len(numbers) + 1):
        if position == len(numbers) or numbers[position] != numbers[position - 1] + 1:
            yield range(numbers[start], numbers[position - 1] + 1)
            start = position
