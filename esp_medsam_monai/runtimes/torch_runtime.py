"""PyTorch itself, with the network folded for inference. It is always there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from esp_medsam_monai.networks import ESPMedSAM, SelfPromptingNetwork, fuse
from esp_medsam_monai.runtimes.base import Runtime
from esp_medsam_monai.runtimes.cuda_graph import GraphedModule, GraphStore
from esp_medsam_monai.runtimes.processor import has_bf16

__all__ = ["TorchRuntime"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime(Runtime):
    """The folded network in PyTorch; on a GPU as CUDA graphs.

    Networks that cannot be folded (the teacher) run as they are, under autocast for less than float32.

    Args:
        network: see :class:`Runtime`.
        precision: ``fp32``; on a GPU also ``fp16`` and ``bf16``, on a CPU ``bf16`` where it has instructions for it.
        device: see :class:`Runtime`.
        graphs: record CUDA graphs, so that a GPU does not wait for Python; without effect on a CPU.
    """

    name = "torch"

    def __init__(
        self,
        network: SelfPromptingNetwork,
        precision: str = "fp32",
        device: torch.device | None = None,
        graphs: bool = True,
    ) -> None:
        super().__init__(network, precision, device)
        self.graphs = graphs and self.device.type == "cuda"
        self._modules: dict[str | None, Callable[..., Any]] = {}
        self._graphs = GraphStore()

    @classmethod
    def missing(cls, device: torch.device, precision: str) -> str | None:
        """See :class:`Runtime`."""
        if precision == "int8":
            return "it has no 8-bit integers here; use runtime openvino."
        if device.type == "cpu" and precision == "fp16":
            return "PyTorch has no fast fp16 on a CPU; use fp32 or bf16."
        if device.type == "cpu" and precision == "bf16" and not has_bf16():
            return "this processor has no bf16 instructions, and in software it is many times slower; use fp32."
        if (
            device.type == "cuda"
            and precision == "bf16"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            return "this GPU has no bf16; use fp16."
        return None

    def prepare(self, modality: str, side: int) -> None:
        """See :class:`Runtime`; a CUDA graph is recorded at the first batch of its size."""
        self._module(modality)

    def release(self) -> None:
        """See :class:`Runtime`."""
        self._modules.clear()
        self._graphs = GraphStore()

    @torch.no_grad()
    def __call__(self, x: Tensor, modality: str | Sequence[str] | Tensor | None = None) -> Tensor:
        """See :class:`Runtime`. A mixed batch on a GPU is one pass, and nothing waits for the host."""
        mixed = isinstance(modality, Tensor) or not (modality is None or isinstance(modality, str))
        if self.device.type == "cuda" and mixed and isinstance(self.network, ESPMedSAM):
            if isinstance(modality, Tensor):
                return self._module(None)(x.to(self.device, non_blocking=True), modality.to(self.device))
            names = self._names(modality, len(x))
            index = torch.tensor([self.network.modality_index(name) for name in names]).pin_memory()
            width = max(len(self.modalities[name]) for name in names)
            x, index = x.to(self.device, non_blocking=True), index.to(self.device, non_blocking=True)
            return self._module(None)(x, index)[:, :width]
        return super().__call__(x, modality)

    def _segment(self, x: Tensor, modality: str) -> Tensor:
        return self._module(modality)(x).float()

    def _module(self, modality: str | None) -> Callable[..., Any]:
        """The network for one modality, or for all."""
        if modality not in self._modules:
            self._modules[modality] = self._make(modality)
        return self._modules[modality]

    def _make(self, modality: str | None) -> Callable[..., Any]:
        dtype = _DTYPES[self.precision]
        if not isinstance(self.network, ESPMedSAM):
            network = self.network

            def plain(x: Tensor) -> Any:
                with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                    return network(x, modality)

            return plain
        # Convolutions of a GPU and of oneDNN are fastest with the channels last.
        module = fuse(self.network, modality).to(self.device, dtype).to(memory_format=torch.channels_last)
        return GraphedModule(module, self._graphs) if self.graphs else module
