"""Where our entries stand in the layouts of SAM, MobileSAM and the published ESP-MedSAM files; pure functions.

Names and shapes follow ``facebookresearch/segment-anything``, ``ChaoningZhang/MobileSAM`` and
``xq141839/De-LightSAM`` (all Apache-2.0).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from esp_medsam_monai.checkpoints.safe import load_state_dict, name_few

__all__ = ["check_entries", "read_entries", "sam_decoder_name", "within"]

_SAM_NAMES = {
    "mask_decoder.transformer.": "mask_decoder.transformer.",
    "mask_decoder.output_upscaling.": "mask_decoder.output_upscaling.",
    "mask_decoder.pe_layer.": "prompt_encoder.pe_layer.",
}


def sam_decoder_name(key: str) -> str | None:
    """SAM's name of one of our decoder's entries, None where it has none; every hyper-network MLP is SAM's MLP 0."""
    for ours, theirs in _SAM_NAMES.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    if key.startswith("mask_decoder.hyper_mlps."):
        return "mask_decoder.output_hypernetworks_mlps.0." + key.split(".", 3)[3]
    return None


def read_entries(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The entries of a file or of a state dict, a ``module.`` of data-parallel training dropped.

    Args:
        source: file of weights, read with ``weights_only=True``, or a state dict.

    Returns:
        the entries, and what to call their source in messages.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the source holds anything but tensors.
    """
    if not isinstance(source, Mapping):
        return load_state_dict(source), str(Path(source))
    foreign = [str(key) for key, value in source.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        raise ValueError(f"the state dict holds entries that are no tensors: {name_few(foreign)}.")
    prefix = "module." if source and all(key.startswith("module.") for key in source) else ""
    return {key.removeprefix(prefix): value for key, value in source.items()}, "the state dict"


def check_entries(
    entries: Mapping[str, Tensor],
    expected: Mapping[str, torch.Size],
    name: str,
    layout: str,
    spare: Sequence[str] = (),
) -> None:
    """Check that entries are those of a layout, none missing, none unknown, none misshapen.

    Args:
        entries: what was read.
        expected: shapes of the entries that must be there.
        name: what to call the source in messages.
        layout: what to call the layout in messages.
        spare: beginnings of names that may be there in any shape.

    Raises:
        ValueError: when they are not; the message names the entries.
    """
    unknown = [key for key in entries if key not in expected and not key.startswith(tuple(spare))]
    misshapen = [
        f"{key} {tuple(entries[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in entries and entries[key].shape != shape
    ]
    wrong = {"missing": [key for key in expected if key not in entries], "unknown": unknown, "misshapen": misshapen}
    if any(wrong.values()):
        told = "; ".join(f"{len(keys)} {what} ({name_few(keys)})" for what, keys in wrong.items() if keys)
        raise ValueError(f"{name} is not in the layout of {layout}: {told}.")


def within(key: str, parts: Sequence[str] | None) -> bool:
    """Whether an entry belongs to one of some modules or parameters, given by their dotted names; None: to all."""
    return parts is None or any(key == part or key.startswith(f"{part}.") for part in parts)
