"""Pixel values of one DICOM file in physical units, the same under pydicom 2.4 and 3."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk

from esp_medsam_monai.errors import InputRefused

__all__ = ["read_frames"]

# What pydicom reads alone, in both versions and without colour conversion; the rest is for SimpleITK's decoders.
_PLAIN = {"MONOCHROME1", "MONOCHROME2", "RGB"}
_RESCALE = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


def read_frames(path: str) -> np.ndarray:
    """Frames of a DICOM image.

    Rescale slope and intercept are applied (CT: HU), also for MR, where ITK leaves them out. MONOCHROME1 is inverted
    within the range of stored values, so that more is always brighter. Palettes and YBR become RGB.

    Args:
        path: the file.

    Returns:
        float32 ``(frames, rows, columns)`` or, for colour, ``(frames, rows, columns, 3)``.

    Raises:
        InputRefused: ``TRUNCATED`` when pixels are missing or cannot be decoded.
    """
    try:
        dataset = pydicom.dcmread(path, force=True)
        return _frames(dataset)
    except Exception as error:  # parsers and decoders raise whatever they like on broken files
        raise InputRefused(
            "TRUNCATED", f"the pixels of {path} cannot be read ({error}); copy or export the file again."
        ) from error


def _frames(dataset: Any) -> np.ndarray:
    photometric = dataset.PhotometricInterpretation
    syntax = dataset.file_meta.TransferSyntaxUID
    count = int(getattr(dataset, "NumberOfFrames", None) or 1)
    rescale = [_rescale(dataset, index) for index in range(count)]
    native = not syntax.is_compressed and photometric in _PLAIN
    stored = dataset.pixel_array if native else _decode(dataset)
    color = stored.shape[-1] == 3 and stored.ndim > 2 and photometric not in ("MONOCHROME1", "MONOCHROME2")
    frames = stored.reshape(count, dataset.Rows, dataset.Columns, *([3] if color else [])).astype(np.float32)
    if color:
        return frames
    if photometric == "MONOCHROME1":
        signed = int(getattr(dataset, "PixelRepresentation", 0)) == 1
        frames = np.float32(-1 if signed else 2 ** int(dataset.BitsStored) - 1) - frames
    for frame, (slope, intercept) in zip(frames, rescale, strict=True):
        frame *= np.float32(slope)
        frame += np.float32(intercept)
    return frames


def _decode(dataset: Any) -> np.ndarray:
    """Stored values by SimpleITK, without the tags that would make it rescale some kinds of image and not others."""
    for tag in _RESCALE:
        if tag in dataset:
            del dataset[tag]
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        dataset.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "image.dcm")
        dataset.save_as(file)
        return sitk.GetArrayFromImage(sitk.ReadImage(file))


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
