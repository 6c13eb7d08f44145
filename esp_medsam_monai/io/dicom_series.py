"""DICOM files into series and series into volumes, with the geometry taken from the position of every slice.

MONAI's readers differ by what is installed: one drops the shear of a tilted gantry, the other trusts InstanceNumber,
and both stretch a series over its missing slices. Here pixels come from a decoder library, the geometry from the tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.dicom_header import DicomHeader, read_header, same_direction
from esp_medsam_monai.io.dicom_pixels import read_frames

__all__ = ["group_series", "read_series"]

# Slices may lie off their place by 1 % of the spacing or by 0.01 mm, whichever is more.
RELATIVE_TOLERANCE, TOLERANCE_MM = 0.01, 0.01
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def group_series(headers: Iterable[DicomHeader]) -> list[list[DicomHeader]]:
    """Images that belong together: one series, one orientation, one size.

    A file with several frames, or without geometry, is a group of its own: it cannot be stacked with others.

    Returns:
        Groups in the order of their first files; files of a group sorted by path.
    """
    groups: list[list[DicomHeader]] = []
    for header in sorted((h for h in headers if h.is_image), key=lambda h: h.path):
        for group in groups:
            if _belong_together(group[0], header):
                group.append(header)
                break
        else:
            groups.append([header])
    return groups


def read_series(paths: Sequence[str | Path]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one series (or one file) as a volume.

    Args:
        paths: all files of the series, in any order. Files that are no images are left out.

    Returns:
        float32 array ``(X, Y, Z)`` or, for colour, ``(3, X, Y, Z)``; Z = 1 for a single slice. X runs along rows (from
        column to column), Y along columns, Z along the slices' normal. And a dictionary with ``affine`` (RAS, mm, with
        any shear of a tilted gantry; ``diag(-sx, -sy, 1, 1)`` where the file has no geometry), ``slice_axis`` 2 and
        ``modality`` where the tags tell.

    Raises:
        InputRefused: ``NOT_AN_IMAGE``, ``TRUNCATED``, ``SEVERAL_SERIES``, ``DUPLICATE_POSITIONS``, ``MISSING_SLICES``,
            ``IRREGULAR_POSITIONS``, ``MIXED_SPACING`` or ``MIXED_SHAPES``.
    """
    groups = group_series(read_header(path) for path in paths)
    where = str(paths[0]) if len(paths) == 1 else str(Path(paths[0]).parent)
    if not groups:
        raise InputRefused("NOT_AN_IMAGE", f"{where} holds no DICOM image; give the images, not SEG or RTSTRUCT.")
    if len(groups) > 1:
        listed = ", ".join(f"{g[0].series or g[0].path} ({len(g)} files)" for g in groups[:5])
        raise InputRefused(
            "SEVERAL_SERIES", f"{where} holds {len(groups)} series, orientations or sizes: {listed}; give one of them."
        )
    headers, affine = _arrange(groups[0], where)
    first = headers[0]
    stack = _read_stack(headers, where)
    if first.frames > 1 and first.has_geometry and first.orientation is not None:
        stack = stack[_order(first.positions, first.orientation)]
    array = stack.transpose(3, 2, 1, 0) if stack.ndim == 4 else stack.transpose(2, 1, 0)
    meta: dict[str, Any] = {"affine": affine, "slice_axis": 2}
    if first.modality is not None:
        meta |= {"modality": first.modality, "modality_source": "dicom"}
    return array, meta


def _read_stack(headers: list[DicomHeader], where: str) -> np.ndarray:
    """Frames of all files, one after another: ``(frames, rows, columns)`` or ``(frames, rows, columns, 3)``."""
    frames = read_frames(headers[0].path)
    if len(headers) == 1:
        return frames
    stack = np.empty((len(headers), *frames.shape[1:]), np.float32)
    for index, header in enumerate(headers):
        frames = read_frames(header.path)
        if frames.shape[1:] != stack.shape[1:]:
            raise InputRefused("MIXED_SHAPES", f"{where} mixes grey and colour slices; export the series again.")
        stack[index] = frames[0]
    return stack


def _belong_together(a: DicomHeader, b: DicomHeader) -> bool:
    if a.orientation is None or b.orientation is None or not (a.has_geometry and b.has_geometry):
        return False
    if a.frames > 1 or b.frames > 1:
        return False
    return a.series == b.series and a.size == b.size and same_direction(a.orientation, b.orientation)


def _normal(orientation: Sequence[float]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def _order(positions: Sequence[Sequence[float]] | np.ndarray, orientation: Sequence[float]) -> np.ndarray:
    """Order of slices along their normal."""
    return np.argsort(np.asarray(positions) @ _normal(orientation), kind="stable")


def _arrange(group: list[DicomHeader], where: str) -> tuple[list[DicomHeader], np.ndarray]:
    """A group's files in the order of their slices, and the RAS affine of the volume."""
    first = group[0]
    if not first.has_geometry or first.orientation is None or first.spacing is None:
        across, down = first.spacing or (1.0, 1.0)
        return group, np.diag([-across, -down, 1.0, 1.0])
    if any(not np.allclose(h.spacing, first.spacing, rtol=1e-3) for h in group if h.spacing is not None):
        raise InputRefused("MIXED_SPACING", f"the slices of {where} have several pixel spacings; export them again.")
    if len(group) > 1:
        group = [group[i] for i in _order([h.positions[0] for h in group], first.orientation)]
    positions = np.asarray([p for h in group for p in h.positions])
    positions = positions[_order(positions, first.orientation)]
    normal = _normal(first.orientation)
    step = normal * first.thickness
    if len(positions) > 1:
        _check_positions(positions, normal, where)
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(first.orientation[:3], first.spacing[0])
    affine[:3, 1] = np.multiply(first.orientation[3:], first.spacing[1])
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return group, _LPS_TO_RAS @ affine


def _check_positions(positions: np.ndarray, normal: np.ndarray, where: str) -> None:
    """Refuse slices that are not evenly spaced along one line; ``positions`` are sorted along the normal."""
    distances = positions @ normal
    gaps = np.diff(distances)
    expected = float(np.median(gaps))
    tolerance = max(RELATIVE_TOLERANCE * expected, TOLERANCE_MM)
    for (before, after), gap in zip(pairwise(distances), gaps, strict=True):
        if gap < TOLERANCE_MM:
            raise InputRefused(
                "DUPLICATE_POSITIONS",
                f"{where} has two slices at {before:.2f} mm: several phases or echoes, or a file twice; separate them.",
            )
        if abs(gap - expected) > tolerance:
            raise InputRefused(
                "MISSING_SLICES",
                f"the slices of {where} at {before:.2f} and {after:.2f} mm are {gap:.3f} mm apart where {expected:.3f} "
                "mm is usual: slices are missing or unevenly spaced; send the whole series again.",
            )
    line = positions[0] + np.linspace(0, 1, len(positions))[:, None] * (positions[-1] - positions[0])
    if (off := float(np.abs(positions - line).max())) > max(tolerance, 2 * TOLERANCE_MM):
        raise InputRefused(
            "IRREGULAR_POSITIONS", f"the slices of {where} lie up to {off:.3f} mm off one line; they form no volume."
        )
