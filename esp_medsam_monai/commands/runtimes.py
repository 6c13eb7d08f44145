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
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "runs networks exported to ONNX; not used yet"),
    ("openvino", ("openvino",), "runs exported networks on Intel processors; not used yet"),
    (
        "tensorrt",
        ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        "runs exported networks on NVIDIA; not used yet",
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
