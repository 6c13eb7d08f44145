"""What ``slice_speed.py`` times: our network in every runtime and precision, and what it is compared with."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from bench import cpu_flags
from esp_medsam_monai.transforms import NormalizeSlices
from published_path import PublishedESPMedSAM
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esp_medsam_monai.bundle import bundle_weights, shipped_bundle
from esp_medsam_monai.checkpoints import load_official, load_weights
from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM
from esp_medsam_monai.networks.sam_encoder import sam_encoder
from esp_medsam_monai.runtimes import fingerprint, make_runtime
from esp_medsam_monai.runtimes.quantize import quantize
from esp_medsam_monai.runtimes.quantized_files import save_quantized

__all__ = [
    "MODALITY",
    "RUNTIMES",
    "SAM",
    "Call",
    "example_images",
    "gflop_per_image",
    "has_bf16",
    "make_network",
    "other_candidates",
    "runtime_candidates",
]

Call = Callable[[Tensor], Tensor]
"""A batch of images ``(B, 3, S, S)`` -> logits, or the embedding of what is an encoder only."""

MODALITY = "dermoscopy"
SAM = "sam_vit_b_encoder"
CALIBRATION_IMAGES = 4
RUNTIMES = {
    "cpu": {
        "torch": ("fp32", "bf16"),
        "openvino": ("fp32", "bf16", "int8"),
        "onnxruntime": ("fp32",),
    },
    "cuda": {
        "torch": ("fp32", "fp16", "bf16"),
        "onnxruntime": ("fp32", "fp16"),
        "tensorrt": ("fp32", "fp16", "bf16"),
    },
}
"""Precisions of each runtime that are tried on a kind of device."""


def example_images(batch: int, side: int) -> Tensor:
    """Pictures of a dark spot on skin, normalised, ``(B, 3, S, S)``: the shipped network finds something to draw."""
    generator = torch.Generator().manual_seed(0)
    place = (torch.arange(side) + 0.5) / side
    skin, dark = (torch.tensor(color).view(3, 1, 1) for color in ([215.0, 165.0, 145.0], [90.0, 55.0, 45.0]))
    images = []
    for _ in range(batch):
        row, column, radius = torch.rand(3, generator=generator) * 0.1 + torch.tensor([0.45, 0.45, 0.2])
        distance = ((place[:, None] - row) ** 2 + ((place - column) / 1.2) ** 2).sqrt()
        spot = torch.sigmoid((radius - distance) * 60)
        images.append(skin + spot * (dark - skin) + 6 * torch.randn(3, side, side, generator=generator))
    return NormalizeSlices("sam")(torch.stack(images).clamp(0, 255))


def make_network(weights: str) -> tuple[ESPMedSAM, Mapping[str, Tensor]]:
    """Our network, and the entries of a published file for the published path.

    Args:
        weights: ``"shipped"``: ours has the weights of the bundle, the published path random ones; ``"published"``:
            both have the same random weights in the published layout.
    """
    torch.manual_seed(0)
    state = PublishedESPMedSAM().state_dict()
    if weights == "published":
        return load_official({MODALITY: state}), state
    network = ESPMedSAM(shipped_modalities(), default_modality=MODALITY)
    load_weights(network, bundle_weights(shipped_bundle()))
    return network.eval(), state


def other_candidates(
    network: ESPMedSAM, state: Mapping[str, Tensor], side: int, device: torch.device, sam: bool
) -> dict[str, Call]:
    """What our runtimes are compared with.

    Args:
        network: ours, on the device.
        state: weights of the published path.
        side: side of the images in pixels.
        device: where everything runs.
        sam: with SAM's encoder.
    """
    published = PublishedESPMedSAM(state, img_size=side).to(device)
    calls: dict[str, Call] = {
        "published": lambda x: published(x)[0],
        "plain": lambda x: network(x, MODALITY),
        "mobile_sam_encoder": network.image_encoder,
    }
    if sam:
        calls[SAM] = sam_encoder("vit_b", side).eval().to(device)
    return {name: _without_gradients(call) for name, call in calls.items()}


def _without_gradients(call: Call) -> Call:
    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return call(x)

    return run


def runtime_candidates(
    network: ESPMedSAM, device: torch.device, sides: Sequence[int], only: Iterable[str] | None = None
) -> tuple[dict[str, Call], dict[str, str]]:
    """Our network in every runtime and precision that can be had here.

    Args:
        network: ours, on the device.
        device: where it runs.
        sides: sides of the images in pixels.
        only: names of runtimes; None tries all.

    Returns:
        calls by ``<runtime>_<precision>``, and why the others cannot be had.
    """
    calls: dict[str, Call] = {}
    reasons: dict[str, str] = {}
    for runtime, precisions in RUNTIMES[device.type].items():
        if only is not None and runtime not in only:
            continue
        for precision in precisions:
            name = f"{runtime}_{precision}"
            if precision == "bf16" and not has_bf16(device):
                reasons[name] = "not supported by this CPU: it has no bf16 instructions"
                continue
            try:
                quantized = _quantized(network, sides) if (runtime, precision) == ("openvino", "int8") else None
                made = make_runtime(network, runtime, precision, device, quantized)
                calls[name] = _with_modality(made)
            except Exception as error:  # one that cannot be had must not end the others
                reasons[name] = f"{type(error).__name__}: {error}"
    return calls, reasons


def _quantized(network: ESPMedSAM, sides: Sequence[int]) -> dict[tuple[str, int], Path]:
    """int8 models, calibrated on the example pictures: good enough to be timed; ``agreement.py`` takes real images."""
    folder = Path(tempfile.mkdtemp(prefix="int8_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = {}
    for side in sides:
        model = quantize(network, MODALITY, example_images(CALIBRATION_IMAGES, side), side)
        files[MODALITY, side] = save_quantized(model, folder, fingerprint(network), MODALITY, side, {})
    return files


def _with_modality(run: Callable[[Tensor, str], Tensor]) -> Call:
    return lambda x: run(x, MODALITY)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags()))


def gflop_per_image(side: int) -> float:
    """Work of the published network for one image in GFLOP, a multiply-add counted as two (torch's counter)."""
    with torch.device("meta"):
        network: nn.Module = PublishedESPMedSAM(img_size=side).requires_grad_(False)
        counter = FlopCounterMode(display=False)
        with counter:
            network(torch.empty(1, 3, side, side))
    return round(counter.get_total_flops() / 1e9, 1)
