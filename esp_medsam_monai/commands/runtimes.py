"""What is installed that can run or serve the networks; asked of the installation's records, without importing it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

__all__ = ["cuda_devices", "runtimes"]

_PACKAGES = (
    ("monai", ("monai",), "needed by everything here: pip install monai"),
    ("torch", ("torch",), "needed by everything here: pip install torch"),
    ("pydicom", ("pydicom",), "needed to read DICOM: pip install pydicom"),
    ("highdicom", ("highdicom",), "would write DICOM SEG: pip install 'esp-medsam-monai[dicom]'"),
    ("openvino", ("openvino",), "would be faster than PyTorch on a CPU: pip install 'esp-medsam-monai[fast]'"),
    ("nncf", ("nncf",), "would make int8 models: pip install 'esp-medsam-monai[int8]'"),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "would run ONNX files: pip install 'esp-medsam-monai[export]'"),
    (
        "tensorrt",
        ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        "would run ONNX files on NVIDIA's GPUs",
    ),
)
"""Name, distributions that bring it, what it would give."""


def runtimes() -> list[dict[str, Any]]:
    """Rows of ``name``, ``version`` (None where absent) and ``gives``, Python first."""
    rows: list[dict[str, Any]] = [{"name": "python", "version": platform.python_version(), "gives": ""}]
    for name, distributions, gives in _PACKAGES:
        versions = filter(None, map(_version, distributions))
        rows.append({"name": name, "version": next(versions, None), "gives": gives})
    return rows


def cuda_devices() -> list[str]:
    """Names of the CUDA devices that torch sees; none without torch."""
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
