"""How much memory a case will take, by its header, before it is read."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
from PIL import Image

from esp_medsam_monai.io import Case
from esp_medsam_monai.io.dicom_header import read_header

__all__ = ["OVERLAP_BYTES", "is_small", "volume_bytes"]

FLOAT = 4
"""Bytes of a voxel as preprocessing leaves it."""

OVERLAP_BYTES = 256 * 2**20
"""Largest volume, in bytes as float32, that may be in memory beside others: 512 x 512 x 256."""


def is_small(case: Case) -> bool:
    """Whether a case may be in memory beside others; no, where its header does not tell."""
    size = volume_bytes(case)
    return size is not None and size <= OVERLAP_BYTES


def volume_bytes(case: Case) -> int | None:
    """Bytes that a case takes as float32.

    Args:
        case: one of :func:`~esp_medsam_monai.io.find_cases`.

    Returns:
        bytes; None where the header does not tell.
    """
    first = case.paths[0]
    # Opening a pipe would wait for somebody to write to it.
    if not Path(first).is_file():
        return None
    try:
        if case.kind == "nifti":
            image: Any = nib.load(first)
            return FLOAT * prod(int(size) for size in image.shape) * max(1, len(image.get_data_dtype().fields or ()))
        if case.kind == "picture":
            with Image.open(first) as picture:
                return FLOAT * prod(picture.size) * len(picture.getbands())
        header = read_header(first)
        return FLOAT * prod(header.size) * header.frames * len(case.paths) or None
    except Exception:  # whatever a foreign file provokes; to say so is the business of whoever reads the pixels
        return None
