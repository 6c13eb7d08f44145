"""TensorRT through ONNX Runtime: NVIDIA's compiler, for GPUs that segment all day."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from esp_medsam_monai.runtimes.checking import cache_folder
from esp_medsam_monai.runtimes.onnx_runtime import OnnxRuntime, missing_provider

__all__ = ["TensorRTRuntime"]

_USUAL, _LARGEST = 8, 32
"""Images at a time that engines are tuned for, and that they take at most."""


class TensorRTRuntime(OnnxRuntime):
    """TensorRT's engines, built at the first use of a modality and side in minutes, then kept with the exported files.

    Args:
        network: see :class:`Runtime`.
        precision: ``fp32`` or ``fp16``.
        device: see :class:`Runtime`; NVIDIA's GPUs only.
    """

    name = "tensorrt"
    # TensorRT chooses the layers that it computes in fp16 by itself, from a file in fp32.
    dtypes = {"fp32": torch.float32, "fp16": torch.float32}  # noqa: RUF012

    @classmethod
    def missing(cls, device: torch.device, precision: str) -> str | None:
        """See :class:`Runtime`."""
        if device.type != "cuda":
            return f"it computes on NVIDIA's GPUs only, and the device is {device}; use another runtime."
        return super().missing(device, precision) or missing_provider("TensorrtExecutionProvider")

    def _segment(self, x: Tensor, modality: str) -> Tensor:
        return torch.cat([super(TensorRTRuntime, self)._segment(part, modality) for part in x.split(_LARGEST)])

    def _providers(self, side: int) -> list[Any]:
        def shape(batch: int) -> str:
            return f"image:{batch}x{self.network.in_channels}x{side}x{side}"

        engines = cache_folder() / "tensorrt"
        options = {
            "device_id": self._gpu,
            "trt_fp16_enable": self.precision == "fp16",
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(engines),
            "trt_profile_min_shapes": shape(1),
            "trt_profile_opt_shapes": shape(_USUAL),
            "trt_profile_max_shapes": shape(_LARGEST),
        }
        return [("TensorrtExecutionProvider", options), *super()._providers(side)]
