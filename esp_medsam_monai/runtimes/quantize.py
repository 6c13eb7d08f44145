"""Eight-bit integers instead of floats, by NNCF's post-training quantisation: no training, but real images to look at.

The encoder's projections and MLPs become eight bits; the rest stays in floats. On ultrasound images masks agreed less
with the decoder or the encoder's convolutions quantised, and logits were far off with their enlarging quantised. The
patch prompt, which ends in a threshold, and attention's products are left out as a precaution.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

from esp_medsam_monai.networks import ESPMedSAM
from esp_medsam_monai.runtimes.base import RuntimeMissing
from esp_medsam_monai.runtimes.openvino_runtime import convert

__all__ = ["KEPT_IN_FLOATS", "missing_for_int8", "quantize"]

KEPT_IN_FLOATS: dict[str, tuple[str, ...]] = {
    "patterns": (".*mask_decoder.*", ".*prompt.*"),
    "types": ("ScaledDotProductAttention", "GroupConvolution", "Convolution", "Interpolate"),
}
"""Parts that are not quantised: names and types of OpenVINO's operations, as ``nncf.IgnoredScope`` takes them."""


def missing_for_int8() -> str | None:
    """What has to be installed to quantise a network, with the command; None when all is there."""
    missing = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} not installed; pip install 'esp-medsam-monai[int8]'."


def quantize(
    network: ESPMedSAM,
    modality: str,
    images: torch.Tensor | Sequence[torch.Tensor],
    side: int | None = None,
    kept_in_floats: dict[str, tuple[str, ...]] | None = None,
    overflow_fix: bool = True,
) -> Any:
    """Quantise the folded network of one modality for OpenVINO.

    Weights and activations of the encoder's linear layers become eight bits, weights symmetric a channel, activations
    asymmetric, after SmoothQuant (Xiao et al., 2023, arXiv:2211.10438), as NNCF does it for transformers. Bias
    correction is off: on ultrasound images it made no clear difference.

    Args:
        network: the trained network; it is left as it is.
        modality: name.
        images: images of the modality as inference gives them to the network, ``(B, 3, S, S)`` or a sequence of
            ``(3, S, S)``, float32, normalised; a few dozen.
        side: side S that the model is for; None for that of the images.
        kept_in_floats: other parts than :data:`KEPT_IN_FLOATS`.
        overflow_fix: keep weights of all quantised layers to seven bits. Processors without VNNI, AMX or Arm's dot
            product add pairs of products in 16 bits, which can overflow otherwise.

    Returns:
        an ``openvino.Model``, ``(1, 3, S, S)`` -> mask logits ``(1, targets, S, S)``.

    Raises:
        RuntimeMissing: when OpenVINO or NNCF are not installed.
        ValueError: when there are no images, or they have another shape.
    """
    reason = missing_for_int8()
    if reason is not None:
        raise RuntimeMissing(f"int8 needs {reason}")
    if len(images) == 0:
        raise ValueError(f"there are no images of {modality} to calibrate with.")
    side = side or images[0].shape[-1]
    expected = (network.in_channels, side, side)
    for image in images:
        if tuple(image.shape) != expected:
            raise ValueError(f"images of {modality} should have the shape {expected}, got {tuple(image.shape)}.")
    kept = KEPT_IN_FLOATS if kept_in_floats is None else kept_in_floats
    os.environ.setdefault("NNCF_CI", "1")  # NNCF's own switch: without it, it reports its use to Intel
    nncf = importlib.import_module("nncf")
    fix = nncf.OverflowFix.ENABLE if overflow_fix else nncf.OverflowFix.DISABLE
    model = convert(network, modality, side)
    passes = importlib.import_module("openvino.passes")
    folding = passes.Manager()
    # NNCF takes what selects from a weight for an operation of its own, and fails.
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(model)
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset([image.unsqueeze(0).float().numpy() for image in images]),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            # A network of another build may lack a kind of operation; that is no error.
            ignored_scope=nncf.IgnoredScope(**{key: list(value) for key, value in kept.items()}, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix, disable_bias_correction=True),
        )


@contextlib.contextmanager
def _quiet() -> Any:
    """Without NNCF's bars and lists of layers."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
