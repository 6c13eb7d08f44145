"""Pixel values of one DICOM file in physical units, the same under pydicom 2.4 and 3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.dicom_decoders import stored_pixels

try:
    from pydicom.pixels import apply_modality_lut
except ImportError:  # pydicom 2.4
    from pydicom.pixel_data_handlers.util import apply_modality_lut  # type: ignore[no-redef]

__all__ = ["read_frames"]


def read_frames(path: str) -> np.ndarray:
    """Frames of a DICOM image.

    Rescale slope and intercept, or the Modality LUT, are applied (CT: HU), also for MR, where ITK leaves them out.
    MONOCHROME1 is inverted within the range of stored values, so that more is always brighter. Palettes and YBR become
    RGB.

    Args:
        path: the file.

    Returns:
        float32 ``(frames, rows, columns)`` or, for colour, ``(frames, rows, columns, 3)``.

    Raises:
        InputRefused: ``TRUNCATED`` when pixels are missing or cannot be decoded, ``NO_DECODER`` when nothing that is
            installed knows how they are compressed.
    """
    try:
        return _frames(pydicom.dcmread(path, force=True), path)
    except InputRefused:
        raise
    except Exception as error:  # parsers and decoders raise whatever they like on broken files
        raise InputRefused(
            "TRUNCATED", f"the pixels of {path} cannot be read ({error}); copy or export the file again."
        ) from error


def _frames(dataset: Any, path: str) -> np.ndarray:
    count = int(getattr(dataset, "NumberOfFrames", None) or 1)
    rescale = [_rescale(dataset, index) for index in range(count)]
    photometric = str(getattr(dataset, "PhotometricInterpretation", ""))
    stored = stored_pixels(dataset, path)
    color = stored.ndim > 2 and stored.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2")
    shape = (count, dataset.Rows, dataset.Columns, *([3] if color else []))
    if color:
        return stored.reshape(shape).astype(np.float32)
    if getattr(dataset, "ModalityLUTSequence", None):
        values = apply_modality_lut(stored.reshape(shape), dataset).astype(np.float32)
        return np.max(values) + np.min(values) - values if photometric == "MONOCHROME1" else values
    frames = stored.reshape(shape).astype(np.float32)
    if photometric == "MONOCHROME1":
        signed = int(getattr(dataset, "PixelRepresentation", 0)) == 1
        frames = np.float32(-1 if signed else 2 ** int(dataset.BitsStored) - 1) - frames
    for frame, (slope, intercept) in zip(frames, rescale, strict=True):
        frame *= np.float32(slope)
        frame += np.float32(intercept)
    return frames


def _rescale(dataset: Any, frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame: its own functional group, the shared one, or the dataset's."""
    for source in (*_functional_groups(dataset, frame), dataset):
        groups = getattr(source, "PixelValueTransformationSequence", None)
        holder = groups[0] if groups else source
        slope, intercept = getattr(holder, "RescaleSlope", None), getattr(holder, "RescaleIntercept", None)
        if slope is not None or intercept is not None:
            return float(slope if slope is not None else 1.0), float(intercept if intercept is not None else 0.0)
    return 1.0, 0.0


def _functional_groups(dataset: Any, frame: int) -> tuple[Any, ...]:
    own = getattr(dataset, "PerFrameFunctionalGroupsSequence", None)
    shared = getattr(dataset, "SharedFunctionalGroupsSequence", None)
    return tuple(sequence[i] for sequence, i in ((own, frame), (shared, 0)) if sequence and len(sequence) > i)
