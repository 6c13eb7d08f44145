"""Masks as files that lie on their image: same shape, same affine, uint8 label values."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from PIL import Image

from .atomic import atomic_path

__all__ = ["write_mask"]

SCANNER_ANAT = 1
"""NIfTI code "coordinates of the scanner", for inputs that have no code of their own."""


def write_mask(
    path: str | os.PathLike[str], mask: MetaTensor, inputs: str | os.PathLike[str] | Iterable[str] | None = None
) -> Path:
    """Write a mask of label values; the file appears whole or not at all.

    Args:
        path: ends in ``.nii.gz`` or ``.nii`` (any image), or ``.png`` (pictures); missing folders are made.
        mask: ``(1, *spatial)`` of label values 0..255, on the grid of its image; ``(X, Y)`` of a picture is ``(W, H)``,
            as it is loaded. ``meta`` may carry the ``sform_code`` and ``qform_code`` of the image's header.
        inputs: file or files that the mask was made from; they are never overwritten.

    Returns:
        The path.

    Raises:
        ValueError: when the shape, the values or the suffix cannot be written, or ``path`` is one of the inputs.
    """
    path = Path(path)
    sources = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs or [])
    if any(Path(source).resolve() == path.resolve() for source in sources):
        raise ValueError(f"{path} is an input and would be overwritten; choose another output folder.")
    if mask.ndim not in (3, 4) or mask.shape[0] != 1:
        raise ValueError(f"a mask should be (1, X, Y) or (1, X, Y, Z), got {tuple(mask.shape)} for {path}.")
    values = np.asarray(mask.detach().cpu().numpy()[0])
    labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise ValueError(f"label values should be whole numbers in 0..255, got others for {path}.")
    if path.name.endswith((".nii.gz", ".nii")):
        with atomic_path(path) as temporary:
            nib.save(_nifti(labels, mask), temporary)
    elif path.suffix == ".png" and labels.ndim == 2:
        with atomic_path(path) as temporary:
            Image.fromarray(np.ascontiguousarray(labels.T)).save(temporary)
    else:
        raise ValueError(f"cannot write {path}: use .nii.gz for any image, .png for pictures (X, Y) only.")
    return path


def _nifti(labels: np.ndarray, mask: MetaTensor) -> nib.Nifti1Image:
    affine = to_affine_nd(3, mask.affine.detach().cpu().numpy().astype(np.float64))
    image = nib.Nifti1Image(labels, affine)
    # Both codes: readers disagree on which transform counts when one is missing.
    image.set_sform(affine, code=int(mask.meta.get("sform_code", 0)) or SCANNER_ANAT)
    image.set_qform(affine, code=int(mask.meta.get("qform_code", 0)) or SCANNER_ANAT)
    image.header.set_xyzt_units("mm")
    return image
