"""Modules recorded as CUDA graphs: a GPU repeats their kernels without waiting for Python to launch each of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GraphStore", "GraphedModule", "powers_of_two"]

_KEPT = 64
"""Recordings kept, each with buffers for its inputs and result: seven sizes of batches for nine modules."""


class GraphStore:
    """Recordings of one or more modules, by module and shapes of the inputs, in one pool of memory.

    They may share the memory of what they compute in between, since a device runs one after the other and every result
    is copied before the next one starts. A recording of its own memory would be as large as a batch's forward pass, for
    each modality and size. Source of the idea: PyTorch's notes on CUDA graphs (sharing memory across captures).
    """

    def __init__(self) -> None:
        self._recorded: OrderedDict[tuple[Any, ...], Recording | None] = OrderedDict()
        self._pool: Any = None

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """The module's result. What cannot be recorded, which is tried once, runs as it is.

        Raises:
            torch.OutOfMemoryError: when there is no memory for a recording; then all are dropped, to make room.
        """
        key = (module, *(tensor.shape for tensor in inputs))
        if key not in self._recorded:
            self._recorded[key] = self._record(module, inputs)
            while len(self._recorded) > _KEPT:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(key)
        recording = self._recorded[key]
        result: Tensor = module(*inputs) if recording is None else recording.replay(inputs)
        return result

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Recording | None:
        if self._pool is None:
            self._pool = Recording.new_pool()
        try:
            return Recording(module, inputs, self._pool)
        except torch.OutOfMemoryError:
            self._recorded.clear()
            self._pool = None
            raise
        except RuntimeError:
            return None


class GraphedModule:
    """Calls a module through recordings of batches of 1, 2, 4, ... images.

    A batch of any other size goes in parts of these sizes: the last batch of every volume has another one, and to
    record each would take longer than it saves.

    Args:
        module: in eval mode, on a GPU; what it does must depend on shapes only.
        store: keeps the recordings.
    """

    def __init__(self, module: nn.Module, store: GraphStore) -> None:
        self.module = module
        self.store = store

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's result; it stays as it is when the next batch comes.

        Args:
            inputs: tensors with the same number of rows, at least one.
        """
        sizes = list(powers_of_two(len(inputs[0])))
        parts = zip(*(tensor.split(sizes) for tensor in inputs), strict=True)
        results = [self.store.run(self.module, part) for part in parts]
        return results[0] if len(results) == 1 else torch.cat(results)


def powers_of_two(number: int) -> Iterator[int]:
    """The powers of two that a positive number is the sum of, largest first."""
    while number:
        largest = 1 << (number.bit_length() - 1)
        yield largest
        number -= largest


class Recording:
    """One graph with its input and output buffers.

    Args:
        module: see :class:`GraphedModule`.
        inputs: of the shapes to be recorded.
        pool: of :meth:`new_pool`.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], pool: Any) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        device = inputs[0].device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries choose their algorithms before the recording
            for _ in range(2):
                module(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # The threads that read and write cases may do with the device what they like meanwhile.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.output: Tensor = module(*self.inputs)

    @staticmethod
    def new_pool() -> Any:
        """Memory that recordings share."""
        return torch.cuda.graph_pool_handle()

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The result for other inputs of these shapes, in memory of its own."""
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.output.clone()
