"""Masks as files that lie on their image: same shape, same affine, uint8 label values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from PIL import Image

from .atomic import atomic_path
from .label_counts import label_counts
from .label_table import Label, label_table_extensions

__all__ = ["write_mask"]

SCANNER_ANAT = 1
"""NIfTI code "coordinates of the scanner", for inputs that have no code of their own."""

AFFINE_TOLERANCE = 1e-3
"""How far the stored affine may lie from the image's, in voxels: the header holds float32."""


def write_mask(
    path: str | os.PathLike[str],
    mask: MetaTensor,
    inputs: str | os.PathLike[str] | Iterable[str] | None = None,
    labels: Mapping[int, Label] | None = None,
) -> Path:
    """Write a mask of label values; the file appears whole, read back and compared, or not at all.

    The same mask gives the same bytes.

    Args:
        path: ends in ``.nii.gz`` or ``.nii`` (any image), or ``.png`` (pictures); missing folders are made.
        mask: ``(1, *spatial)`` of label values 0..255, on the grid of its image; ``(X, Y)`` of a picture is ``(W, H)``,
            as it is loaded. ``meta`` may carry the ``sform_code`` and ``qform_code`` of the image's header.
        inputs: file or files that the mask was made from; they are never overwritten.
        labels: ``{value: (name, (red, green, blue))}`` of all values but 0 that the mask may hold. A NIfTI file carries
            them in its header, see :func:`~esp_medsam_monai.io.label_table.read_label_table`.

    Returns:
        The path.

    Raises:
        ValueError: when the shape, the values or the suffix cannot be written, or ``path`` is one of the inputs.
        OSError: when the disk refuses, or what is read back is not the mask.
    """
    path = Path(path)
    sources = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs or [])
    if any(_same_file(path, Path(source)) for source in sources):
        raise ValueError(f"{path} is an input and would be overwritten; choose another output folder.")
    if mask.ndim not in (3, 4) or mask.shape[0] != 1:
        raise ValueError(f"a mask should be (1, X, Y) or (1, X, Y, Z), got {tuple(mask.shape)} for {path}.")
    stated = mask.detach().cpu().numpy()[0]
    # Turned once into the order of NIfTI files: writing and comparing across the orders takes several times as long.
    values = np.asarray(stated, dtype=np.uint8, order="F")
    if stated.dtype != np.uint8 and not np.array_equal(values, stated):
        raise ValueError(f"label values should be whole numbers in 0..255, got others for {path}.")
    if labels is not None and (unknown := sorted({*label_counts(values)} - {*labels})):
        raise ValueError(f"the mask for {path} holds the values {unknown}, its labels are {sorted(labels)}.")
    if path.name.endswith((".nii.gz", ".nii")):
        with atomic_path(path) as temporary:
            affine = to_affine_nd(3, mask.affine.detach().cpu().numpy().astype(np.float64))
            nib.save(_nifti(values, affine, mask, labels), temporary)
            _check(path, values, affine, temporary)
    elif path.suffix == ".png" and values.ndim == 2:
        with atomic_path(path) as temporary:
            Image.fromarray(np.ascontiguousarray(values.T)).save(temporary)
            _check(path, values, None, temporary)
    else:
        raise ValueError(f"cannot write {path}: use .nii.gz for any image, .png for pictures (X, Y) only.")
    return path


def _same_file(path: Path, source: Path) -> bool:
    """Whether two names lead to one file, through links of either kind."""
    if path.exists() and source.exists():
        return path.samefile(source)
    return path.resolve() == source.resolve()


def _nifti(
    values: np.ndarray, affine: np.ndarray, mask: MetaTensor, labels: Mapping[int, Label] | None
) -> nib.Nifti1Image:
    image = nib.Nifti1Image(values, affine)
    # Both codes: readers disagree on which transform counts when one is missing.
    image.set_sform(affine, code=int(mask.meta.get("sform_code", 0)) or SCANNER_ANAT)
    image.set_qform(affine, code=int(mask.meta.get("qform_code", 0)) or SCANNER_ANAT)
    image.header.set_xyzt_units("mm")
    if labels is not None:
        image.header.extensions.extend(label_table_extensions(labels))
    return image


def _check(path: Path, values: np.ndarray, affine: np.ndarray | None, temporary: Path) -> None:
    """Read the file back and compare; ``affine`` is None for pictures, which have none."""
    try:
        stored, stored_affine = _read(temporary)
    except Exception as error:  # gzip, zlib and PIL each fail in their own way on a damaged file
        raise _differs(path, f"it cannot be read: {error}") from error
    if stored.dtype != np.uint8 or stored.shape != values.shape:
        raise _differs(path, f"{stored.dtype} {stored.shape} instead of uint8 {values.shape}")
    if affine is not None and stored_affine is not None:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        allowed = AFFINE_TOLERANCE * np.append(spacing, spacing.min())
        # "Not within" instead of "beyond": it is also true of NaN.
        if not (np.abs(stored_affine - affine)[:3] <= allowed).all():
            raise _differs(path, "another affine; its numbers may be too large for the header")
    if not np.array_equal(stored, values):
        raise _differs(path, "other label values")


def _read(temporary: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if temporary.suffix == ".png":
        with Image.open(temporary) as picture:
            return np.asarray(picture).T, None
    # Without a memory map, which would keep the file open.
    image: Any = nib.load(temporary, mmap=False)
    return np.asanyarray(image.dataobj), image.affine


def _differs(path: Path, what: str) -> OSError:
    return OSError(f"{path} was not kept: what was read back differs from the mask ({what}); check the disk.")
