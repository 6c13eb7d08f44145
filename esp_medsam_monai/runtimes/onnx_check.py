"""Does an ONNX file compute what the network computes: compared by ONNX Runtime, image by image and in batches."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esp_medsam_monai.networks import SelfPromptingNetwork
from esp_medsam_monai.runtimes.base import RuntimeMissing
from esp_medsam_monai.runtimes.onnx_export import IMAGE, INDEX, LOGITS

__all__ = ["check_onnx", "decided_images", "missing_for_check"]

NEAR = 1e-3
"""A patch logit that is nearer to zero may fall on the other side by rounding alone, and other masks follow."""

_TRIES = 50


def missing_for_check() -> str | None:
    """Why a file cannot be checked here, with what to do; None when it can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed; pip install 'esp-medsam-monai[export]'."
    return None


@torch.no_grad()
def check_onnx(
    path: str | os.PathLike[str], network: SelfPromptingNetwork, images: Tensor, tolerance: float = 1e-3
) -> float:
    """Compare a file of :func:`~esp_medsam_monai.runtimes.export_onnx` with the network that it was made of.

    Each image is given alone, then all together where the file takes batches. A file for all modalities gets them in
    turn. The comparison is by PyTorch in float32 on the network's device.

    Args:
        path: the file.
        network: the network, float32; it is left as it is.
        images: ``(B, in_channels, S, S)``, normalised, of the file's side; no patch of which lies on the edge, see
            :func:`decided_images`.
        tolerance: largest difference of a logit.

    Returns:
        The largest difference that was found.

    Raises:
        RuntimeMissing: when ONNX Runtime is not installed.
        ValueError: when the difference is larger than the tolerance, or not a number.
    """
    if (reason := missing_for_check()) is not None:
        raise RuntimeMissing(f"check of {path}: {reason}")
    ort = importlib.import_module("onnxruntime")
    session = ort.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    stated = session.get_modelmeta().custom_metadata_map["modality"]
    routed = any(each.name == INDEX for each in session.get_inputs())
    names = json.loads(stated) if routed else [stated]
    index = torch.arange(len(images)) % len(names)
    batched = not isinstance(session.get_inputs()[0].shape[0], int)
    rows = [slice(i, i + 1) for i in range(len(images))] + ([slice(0, len(images))] if batched else [])
    training = network.training
    network.eval()
    found = 0.0
    try:
        for each in rows:
            x, numbers = images[each], index[each]
            given = {IMAGE: x.numpy(), INDEX: numbers.numpy()} if routed else {IMAGE: x.numpy()}
            logits = torch.from_numpy(session.run([LOGITS], given)[0])
            device = network.target_table.device
            expected = network(x.to(device), numbers.to(device) if routed else stated)
            assert isinstance(expected, Tensor)
            found = _larger(found, logits, expected.cpu())
    finally:
        network.train(training)
    if not found <= tolerance:
        raise ValueError(
            f"{path} does not compute what the network computes: logits differ by up to {found:.1e}, allowed are"
            f" {tolerance:.0e}. Do not use it; please report the versions of torch, onnx, onnxscript and onnxruntime."
        )
    return found


def _larger(found: float, logits: Tensor, expected: Tensor) -> float:
    if logits.shape != expected.shape:
        raise ValueError(f"logits have the shape {tuple(logits.shape)}, those of the network {tuple(expected.shape)}.")
    return float(np.maximum(found, (logits - expected).abs().max().item()))


@torch.no_grad()
def decided_images(network: SelfPromptingNetwork, side: int, modality: str | None = None, count: int = 3) -> Tensor:
    """Made-up images whose patches are clearly inside or outside: rounding does not change which.

    Args:
        network: the network that will see them; it is left as it is.
        side: their side in pixels.
        modality: the one that they are meant for; None: the first gets modality 0, the second 1 and so on, in turn.
        count: how many.

    Returns:
        ``(count, in_channels, side, side)``, about as normalised images are, on the CPU.

    Raises:
        ValueError: when there is no such image, as every patch logit is almost zero.
    """
    device = network.target_table.device
    training = network.training
    network.eval()
    chosen: list[Tensor] = []
    try:
        for seed in range(_TRIES * count):
            image = _picture(network.in_channels, side, seed)
            given: Any = modality or torch.tensor([len(chosen) % len(network.modalities)], device=device)
            patches = network.forward_features(image.to(device), given).get("patch_logits")
            if patches is None or patches.abs().min() > NEAR:
                chosen.append(image)
            if len(chosen) == count:
                return torch.cat(chosen)
    finally:
        network.train(training)
    raise ValueError("no image was found whose patches are clearly inside or outside; are these trained weights?")


def _picture(channels: int, side: int, seed: int) -> Tensor:
    """Large soft blobs and some noise, about -2 to 2."""
    generator = torch.Generator().manual_seed(seed)
    blobs = F.interpolate(torch.randn(1, channels, 5, 5, generator=generator), size=(side, side), mode="bicubic")
    return blobs + 0.2 * torch.randn(blobs.shape, generator=generator)
