"""Which runtime, in which precision: what the user asks for, or the fastest that can be trusted on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from esp_medsam_monai.networks import SelfPromptingNetwork
from esp_medsam_monai.runtimes.base import PRECISIONS, Runtime, RuntimeMissing
from esp_medsam_monai.runtimes.checking import self_check
from esp_medsam_monai.runtimes.onnx_runtime import OnnxRuntime
from esp_medsam_monai.runtimes.openvino_runtime import OpenVINORuntime
from esp_medsam_monai.runtimes.tensorrt_runtime import TensorRTRuntime
from esp_medsam_monai.runtimes.torch_runtime import TorchRuntime

__all__ = ["RUNTIMES", "available_runtimes", "make_runtime"]

RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime for runtime in (TorchRuntime, OpenVINORuntime, OnnxRuntime, TensorRTRuntime)
}
"""Every runtime by its name; a new one is one more here."""

_NEVER_AUTOMATIC = {
    "onnxruntime": "an export takes longer than OpenVINO's conversion, and it is slower after that",
    "tensorrt": "its engines take minutes to build",
    "int8": "it wants calibration, and changes masks more than the others do",
}
_LOGGER = logging.getLogger(__name__)


def make_runtime(
    network: SelfPromptingNetwork,
    runtime: str = "auto",
    precision: str = "auto",
    device: torch.device | str | None = None,
    quantized: Mapping[tuple[str, int], Path] | None = None,
) -> Runtime:
    """A runtime for a trained network.

    ``auto`` takes the fastest of what is installed and agrees with PyTorch in fp32 on a fixed picture; both are tried
    once on a machine and remembered, see :func:`~esp_medsam_monai.runtimes.checking.self_check`. It never takes
    ``onnxruntime`` and ``tensorrt``, which take long to be ready, nor ``int8``, which wants calibration: name them.

    Args:
        network: the trained network.
        runtime: ``auto``, ``torch``, ``openvino``, ``onnxruntime`` or ``tensorrt``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        device: where to compute; None for the network's.
        quantized: for ``int8``: ``{(modality, side): file of the quantised model}``.

    Raises:
        RuntimeMissing: when what is asked for cannot be used here; the message says why.
        ValueError: when there is no such runtime or precision.
    """
    if runtime not in ("auto", *RUNTIMES):
        raise ValueError(f"there is no runtime {runtime!r}; take auto, {', '.join(RUNTIMES)}.")
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"there is no precision {precision!r}; take auto, {', '.join(PRECISIONS)}.")
    where = torch.device(device) if device is not None else network.target_table.device
    asked = _candidates(runtime, precision)
    reasons = {pair: RUNTIMES[pair[0]].missing(where, pair[1]) for pair in asked}
    usable = [pair for pair in asked if reasons[pair] is None]
    options: dict[str, Any] = {"quantized": quantized} if quantized else {}
    if not usable:
        told = "; ".join(f"{name} {numbers}: {reasons[name, numbers]}" for name, numbers in asked)
        raise RuntimeMissing(f"runtime {runtime} in precision {precision} cannot be used here. {told}")
    if len(usable) == 1:
        return _make(network, *usable[0], where, options)
    checked: list[tuple[float, Runtime]] = []
    for name, numbers in usable:
        try:
            made = _make(network, name, numbers, where, options)
            result = self_check(made)
        except Exception as error:  # a broken installation of one runtime must not cost the run
            _LOGGER.warning(f"runtime {name} in {numbers} is left out: {type(error).__name__}: {error}")
            continue
        _LOGGER.debug(f"{made}: {1000 * result.seconds:.1f} ms an image, relative error {result.error:.1e}")
        if result.passed:
            checked.append((result.seconds, made))
        else:
            _LOGGER.warning(f"{made} is left out: its logits differ from PyTorch's by {result.error:.1e}.")
    if not checked:
        return TorchRuntime(network, "fp32", where)
    return min(checked, key=lambda pair: pair[0])[1]


def available_runtimes(device: torch.device | str = "cpu") -> dict[str, dict[str, str | None]]:
    """For each runtime and precision why it cannot be used on a device, None where it can."""
    where = torch.device(device)
    return {name: {p: runtime.missing(where, p) for p in PRECISIONS} for name, runtime in RUNTIMES.items()}


def _make(
    network: SelfPromptingNetwork, name: str, precision: str, device: torch.device, options: dict[str, Any]
) -> Runtime:
    return RUNTIMES[name](network, precision, device, **(options if precision == "int8" else {}))


def _candidates(runtime: str, precision: str) -> list[tuple[str, str]]:
    """Pairs to be tried; what is never automatic only where it is named."""
    names = [runtime] if runtime != "auto" else [name for name in RUNTIMES if name not in _NEVER_AUTOMATIC]
    precisions = [precision] if precision != "auto" else [p for p in PRECISIONS if p not in _NEVER_AUTOMATIC]
    return [(name, numbers) for name in names for numbers in precisions]
