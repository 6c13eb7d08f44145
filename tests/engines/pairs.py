"""Made-up images with labels, for tests of what looks at both."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

Entry = dict[str, str]
"""An entry of a datalist."""


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    """Write a NIfTI file; the identity where there is no affine."""
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def save_picture(path: Path, array: np.ndarray) -> str:
    """Write a picture of 8 bits."""
    Image.fromarray(array.astype(np.uint8)).save(path)
    return str(path)
