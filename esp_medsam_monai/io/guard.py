"""Checks that every kind of file goes through: the file itself, its geometry, its values."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esp_medsam_monai.errors import InputRefused, add_warning

__all__ = ["check_affine", "check_file", "check_values"]

SPACING_MM = (0.01, 50.0)
"""Smallest and largest distance between pixels of a patient's image that is believed."""

SMALLEST_DETERMINANT = 1e-6


def check_file(path: str | Path) -> None:
    """Refuse what cannot be opened, with the reason.

    Args:
        path: file, or folder of a DICOM series.

    Raises:
        InputRefused: ``NOT_FOUND``, ``NOT_READABLE``, or ``NOT_AN_IMAGE`` when the file is empty or no regular file.
    """
    path = Path(path)
    try:
        if not path.exists():
            if path.is_symlink():
                raise InputRefused("NOT_FOUND", f"{path} is a link to {path.readlink()}, which does not exist.")
            raise InputRefused("NOT_FOUND", f"{path} does not exist; check the path.")
        if path.is_dir():
            next(path.iterdir(), None)
            return
        if not path.is_file():
            raise InputRefused("NOT_AN_IMAGE", f"{path} is no regular file; give a copy of the image.")
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputRefused("NOT_READABLE", f"{path} cannot be opened ({reason}); ask for access or copy it.") from error
    if empty:
        raise InputRefused("NOT_AN_IMAGE", f"{path} is empty (0 bytes); copy it again.")


def check_affine(affine: np.ndarray, spatial_shape: Sequence[int], where: str) -> None:
    """Refuse a place in the patient that cannot be meant. Not for pictures, whose pixels may have any size.

    Args:
        affine: ``(4, 4)``, mm.
        spatial_shape: ``(X, Y)`` or ``(X, Y, Z)``. The thickness of a single slice is not looked at: nothing is
            measured along it.
        where: file or folder, for the message.

    Raises:
        InputRefused: ``BAD_AFFINE``.
    """
    matrix = np.array(affine[:3, :3], dtype=np.float64)
    if not np.isfinite(affine).all():
        raise InputRefused(
            "BAD_AFFINE", f"the affine of {where} holds NaN or infinity: {_shown(affine)}; repair the header."
        )
    spacing = np.sqrt((matrix**2).sum(axis=0))
    for axis in range(3):
        if (axis >= len(spatial_shape) or spatial_shape[axis] == 1) and spacing[axis] > 0:
            matrix[:, axis] /= spacing[axis]
            spacing[axis] = 1.0
    # Of the directions alone too: large voxels would hide that two axes point the same way.
    determinant = abs(float(np.linalg.det(matrix / spacing))) if spacing.all() else 0.0
    if determinant * min(1.0, float(np.prod(spacing))) <= SMALLEST_DETERMINANT:
        raise InputRefused(
            "BAD_AFFINE",
            f"the affine of {where} is singular, two of its axes point the same way or one has no length: "
            f"{_shown(affine)}; repair the header.",
        )
    low, high = SPACING_MM
    if spacing.min() < low or spacing.max() > high:
        sizes = " x ".join(f"{size:.4g}" for size in spacing[: len(spatial_shape)])
        raise InputRefused(
            "BAD_AFFINE",
            f"the pixels of {where} would measure {sizes} mm; {low} to {high:.0f} mm is believed: repair the header.",
        )


def check_values(
    array: np.ndarray, meta: MutableMapping[str, Any], where: str, limit: float, labels: bool = False
) -> np.ndarray:
    """Replace the few values that are no numbers, and say when there is nothing to see.

    One NaN would spoil percentiles and, through them, the whole mask (Project-MONAI/MONAI#1846).

    Args:
        array: any shape and type. Values beyond float32, which networks compute in, count as infinite.
        meta: receives the warnings.
        where: file or folder, for the message.
        limit: largest share of values that is replaced by the lowest finite one, 0..1.
        labels: the values are label values: none may be NaN or infinite, and one value everywhere is fine.

    Returns:
        The array, or a copy with values replaced.

    Raises:
        InputRefused: ``NON_FINITE``.
    """
    largest = np.finfo(np.float32).max
    if array.dtype.kind == "f" and not (array.min() >= -largest and array.max() <= largest):  # NaN is neither
        usable = np.abs(array) <= largest
        count = array.size - int(np.count_nonzero(usable))
        if count:
            first = tuple(int(i) for i in np.unravel_index(int(np.argmin(usable)), usable.shape))
            share = count / array.size
            found = f"{count} of {array.size} values of {where} ({share:.2%}) are NaN or infinite, the first at {first}"
            if labels:
                raise InputRefused("NON_FINITE", f"{found}; label values are whole numbers: repair the file.")
            if share > limit or count == array.size:
                raise InputRefused(
                    "NON_FINITE", f"{found}; up to {limit:.0%} are replaced (non_finite_limit): export the image again."
                )
            lowest = np.min(array, where=usable, initial=np.inf)
            array = np.where(usable, array, lowest.astype(array.dtype))
            add_warning(meta, f"NON_FINITE: {found}; they were replaced by {float(lowest):g}.")
    if not labels and array.min() == array.max():
        add_warning(
            meta, f"EMPTY_IMAGE: every pixel of {where} has the value {float(array.min()):g}; there is nothing to find."
        )
    return array


def _shown(affine: np.ndarray) -> str:
    return str(np.asarray(affine)[:3].round(4).tolist())
