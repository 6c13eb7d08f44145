"""Runtimes: a trained network computed by PyTorch, OpenVINO, ONNX Runtime or TensorRT, behind one call."""

from __future__ import annotations

from esp_medsam_monai.runtimes.base import PRECISIONS, Runtime, RuntimeMissing
from esp_medsam_monai.runtimes.checking import SelfCheck, fingerprint, self_check
from esp_medsam_monai.runtimes.choose import RUNTIMES, available_runtimes, make_runtime
from esp_medsam_monai.runtimes.folded_for_export import FoldedForExport
from esp_medsam_monai.runtimes.onnx_check import check_onnx, decided_images, missing_for_check
from esp_medsam_monai.runtimes.onnx_export import export_onnx, missing_for_export
from esp_medsam_monai.runtimes.onnx_runtime import OnnxRuntime
from esp_medsam_monai.runtimes.openvino_runtime import OpenVINORuntime
from esp_medsam_monai.runtimes.quantized_files import find_quantized, quantized_folder
from esp_medsam_monai.runtimes.tensorrt_runtime import TensorRTRuntime
from esp_medsam_monai.runtimes.torch_runtime import TorchRuntime

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "FoldedForExport",
    "OnnxRuntime",
    "OpenVINORuntime",
    "Runtime",
    "RuntimeMissing",
    "SelfCheck",
    "TensorRTRuntime",
    "TorchRuntime",
    "available_runtimes",
    "check_onnx",
    "decided_images",
    "export_onnx",
    "find_quantized",
    "fingerprint",
    "make_runtime",
    "missing_for_check",
    "missing_for_export",
    "quantized_folder",
    "self_check",
]
