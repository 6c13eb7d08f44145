"""How many slices an image has, without its pixels where a header says it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib

from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.io import MedicalImageReader
from esp_medsam_monai.io.nifti import NIFTI_SUFFIXES
from esp_medsam_monai.io.reader import PICTURE_SUFFIXES

__all__ = ["count_slices"]


def count_slices(path: str | os.PathLike[str]) -> int:
    """Number of slices along the axis that inference uses.

    A picture has one. The header of a NIfTI file tells; DICOM is read.

    Args:
        path: an image as in a datalist.

    Returns:
        at least 1; 1 for what cannot be read: to say so is the business of whoever reads the pixels.
    """
    name = Path(path).name.lower()
    if name.endswith(PICTURE_SUFFIXES):
        return 1
    try:
        if name.endswith(NIFTI_SUFFIXES):
            image: Any = nib.load(path)
            shape, affine, axis = image.shape[:3], image.header.get_best_affine(), None
        else:
            reader = MedicalImageReader()
            meta = reader.get_data(reader.read(path))[1]
            shape, affine, axis = meta["spatial_shape"], meta["affine"], meta.get("slice_axis")
        if len(shape) < 3:
            return 1
        return max(1, int(shape[slice_plan(affine, shape, stacking_axis=axis).axis]))
    except Exception:  # whatever a foreign file provokes
        return 1
