"""Which source frame belongs to which plane of a mask, and source headers as highdicom wants them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.valuerep import DA, TM, DSfloat

from esp_medsam_monai.errors import InputRefused

from .dicom_grid import Grid, arrange
from .dicom_header import DicomHeader, read_header
from .dicom_series import group_series
from .rules import ReadingRules

__all__ = ["SegSources", "match_sources"]

CORNER_TOLERANCE_MM = 0.05
"""How far the corners of mask and source images may lie apart: affines pass through float32."""

# What the reader was allowed to let pass is no business of the writer: the same planes come out.
_ANYTHING = ReadingRules(True, True, True, True, True)

# Attributes that may be empty but must be there (type 2 of the patient and study modules), and that anonymisers remove.
_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@dataclass(frozen=True)
class SegSources:
    """Source images of a mask.

    Args:
        datasets: headers without pixels, in the order of the planes; or one multi-frame image.
        planes: for each source frame the mask's plane that lies on it; None for a frame that the reader left out.
        absent: planes of the mask without a source frame.
    """

    datasets: list[Any]
    planes: list[int | None]
    absent: list[int]


def match_sources(shape: Sequence[int], affine: np.ndarray, sources: Sequence[str | Path], where: str) -> SegSources:
    """Find the source frame of every plane of a mask.

    Args:
        shape: ``(X, Y, Z)`` of the mask, as ``MedicalImageReader`` reads the sources.
        affine: ``(4, 4)``, RAS, mm.
        sources: DICOM files of one case, in any order; localizers beside other images and objects that are no images
            do not count.
        where: name of the sources, for messages.

    Raises:
        InputRefused: ``NO_DICOM_SEG`` when the sources are not those of the mask, or DICOM cannot say where a mask on
            them lies; as :func:`~esp_medsam_monai.io.dicom_header.read_header` when one cannot be read.
    """
    images = [header for header in map(read_header, sources) if header.is_image]
    wanted = [header for header in images if not header.is_localizer] or images
    fitting = [found for group in group_series(wanted) if (found := _fit(group, shape, affine, where)) is not None]
    if len(fitting) != 1:
        raise _refused(where, f"{len(fitting) or 'none'} of its series lie where the mask lies")
    headers, grid = fitting[0]
    if headers[0].frames > 1:
        planes: list[int | None] = [None] * headers[0].frames
        for frame, plane in zip(grid.kept, grid.planes, strict=True):
            planes[frame] = plane
    else:
        planes = list(grid.planes)
        headers = [headers[index] for index in grid.kept]
    datasets = [_completed(header, grid) for header in headers]
    if headers[0].has_geometry and not getattr(datasets[0], "FrameOfReferenceUID", None):
        raise _refused(where, "its images have no FrameOfReferenceUID, so nothing says in which space they lie")
    _unify(datasets)
    return SegSources(datasets, planes, sorted(set(range(shape[2])) - set(grid.planes)))


def _fit(
    group: list[DicomHeader], shape: Sequence[int], affine: np.ndarray, where: str
) -> tuple[list[DicomHeader], Grid] | None:
    """A group in the reader's order and its grid, where that is the grid of the mask."""
    group = sorted(group, key=lambda h: (inf if h.instance is None else h.instance, h.path))
    first = group[0]
    if first.size != tuple(shape[:2]):
        return None
    if not first.has_geometry or first.place.orientation is None or first.place.spacing is None:
        if first.frames != shape[2]:
            return None
        if first.frames > 1:
            raise _refused(where, f"its {first.frames} frames do not say where they lie in the patient")
        return group, Grid((0,), (0,), 1, affine)
    positions = [position for header in group for position in header.place.positions]
    try:
        grid = arrange(positions, first.place.orientation, first.place.spacing, first.place.thickness, where, _ANYTHING)
    except InputRefused:  # no volume, so none that the mask was made from
        return None
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*((0, size - 1) for size in shape))])
    if grid.count != shape[2] or np.abs(corners @ (grid.affine - affine).T).max() > CORNER_TOLERANCE_MM:
        return None
    return group, grid


def _completed(header: DicomHeader, grid: Grid) -> Any:
    """The file's header with what highdicom copies: empty where it is missing or unusable."""
    dataset = pydicom.dcmread(header.path, stop_before_pixels=True, force=True)
    for keyword in _TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    for keyword, kind, separator in (("StudyDate", DA, "."), ("StudyTime", TM, ":")):
        # Old equipment writes 1995.07.24 and 09:39:00 (PS3.5, table 6.2-1).
        text = str(dataset[keyword].value or "").replace(separator, "")
        try:
            setattr(dataset, keyword, kind(text) if text else None)
        except ValueError:
            setattr(dataset, keyword, None)
    if not dataset.get("SpecificCharacterSet"):
        dataset.pop("SpecificCharacterSet", None)
    if header.has_geometry and header.frames == 1 and header.place.spacing is not None:
        across, down = header.place.spacing
        dataset.PixelSpacing = [DSfloat(down, auto_format=True), DSfloat(across, auto_format=True)]
        if not dataset.get("SliceThickness"):
            normal = np.cross(grid.affine[:3, 0], grid.affine[:3, 1])
            step = abs(float(grid.affine[:3, 2] @ normal / np.linalg.norm(normal)))
            dataset.SliceThickness = DSfloat(step, auto_format=True)
    return dataset


def _unify(datasets: list[Any]) -> None:
    """State the first orientation for all frames, and once for all frames of a multi-frame image.

    The reader allows 0.001 between orientations of one series, highdicom no rounding at all.
    """
    first = datasets[0]
    for dataset in datasets:
        if "ImageOrientationPatient" in dataset:
            dataset.ImageOrientationPatient = first.ImageOrientationPatient
    frames, shared = (first.get(f"{name}FunctionalGroupsSequence") for name in ("PerFrame", "Shared"))
    if frames and shared:
        for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            if keyword not in shared[0] and keyword in frames[0]:
                shared[0][keyword] = copy.deepcopy(frames[0][keyword])


def _refused(where: str, reason: str) -> InputRefused:
    return InputRefused("NO_DICOM_SEG", f"{where}: no DICOM SEG can be made, for {reason}; use the NIfTI mask.")
