"""A module recorded as CUDA graphs: a GPU repeats its kernels without waiting for Python to launch each of them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["GraphedModule"]

_KEPT = 4
"""Graphs kept, each with its own buffers: full and last batches of two sides."""


class GraphedModule:
    """Calls a module through a CUDA graph of the inputs' shapes, recorded at their first use.

    Source of the idea: PyTorch's notes on CUDA graphs (whole-network capture). Recording is tried once a shape: what
    cannot be recorded runs as it is.

    Args:
        module: in eval mode, on a GPU; what it does must depend on shapes only.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._recorded: OrderedDict[tuple[torch.Size, ...], _Recording | None] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's result; it stays as it is when the next batch comes."""
        key = tuple(tensor.shape for tensor in inputs)
        if key not in self._recorded:
            self._recorded[key] = self._record(inputs)
            while len(self._recorded) > _KEPT:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(key)
        recording = self._recorded[key]
        result: Tensor = self.module(*inputs) if recording is None else recording.replay(inputs)
        return result

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording | None:
        try:
            return _Recording(self.module, inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return None


class _Recording:
    """One graph with its input and output buffers."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        device = inputs[0].device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries choose their algorithms before the recording
            for _ in range(2):
                module(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output: Tensor = module(*self.inputs)

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.output.clone()
