"""What the header of one DICOM file says about its series and its place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import modality_from_code

__all__ = ["DicomHeader", "is_dicom", "read_header", "same_direction"]

SUFFIXES = (".dcm", ".dicom", ".ima")
# Objects that have no picture of the patient, or only one that was derived from others.
NO_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "DOC", "FID", "PLAN", "AU"}
ORIENTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class DicomHeader:
    """What grouping and geometry need of one file. Positions and spacings in mm, patient coordinates LPS.

    Args:
        path: the file.
        is_image: False for SEG, RTSTRUCT, SR, DICOMDIR and other objects without an image of their own.
        kind: modality code as written, or ``DICOMDIR``.
        series: SeriesInstanceUID, empty when absent.
        number: SeriesNumber as written, empty when absent.
        size: (columns, rows).
        orientation: direction of rows and of columns (ImageOrientationPatient), None when absent or unusable.
        positions: one per frame (ImagePositionPatient), empty when absent.
        spacing: (between columns, between rows), None when absent or unusable.
        thickness: distance between slices as written, 1 when absent; only used for a single slice.
        frames: number of frames.
    """

    path: str
    is_image: bool
    kind: str = ""
    series: str = ""
    number: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: tuple[float, ...] | None = None
    positions: tuple[tuple[float, ...], ...] = ()
    spacing: tuple[float, float] | None = None
    thickness: float = 1.0
    frames: int = 1

    @property
    def has_geometry(self) -> bool:
        """Whether every frame has a place in the patient."""
        return self.orientation is not None and self.spacing is not None and len(self.positions) == self.frames

    @property
    def modality(self) -> str | None:
        """Our name of the modality, None where DICOM says too little (``ES``, ``XC``) or something unknown."""
        return modality_from_code(self.kind)


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its suffix (.dcm, .dicom, .ima) or its first 132 bytes."""
    if Path(path).suffix.lower() in SUFFIXES:
        return True
    try:
        with Path(path).open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: str | Path) -> DicomHeader:
    """Read one file's header, without pixels.

    Raises:
        InputRefused: ``NOT_AN_IMAGE`` when the file is no DICOM file or its header cannot be read.
    """
    path = str(path)
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        storage = getattr(dataset.file_meta, "MediaStorageSOPClassUID", None)
        if storage is not None and pydicom.uid.UID(storage).name == "Media Storage Directory Storage":
            return DicomHeader(path, is_image=False, kind="DICOMDIR")
        if "SOPClassUID" not in dataset and "Rows" not in dataset:
            raise ValueError("it holds no DICOM object")
        return _header(dataset, path)
    except Exception as error:  # a broken file can raise anything
        raise InputRefused(
            "NOT_AN_IMAGE", f"{path} cannot be read as DICOM ({error}); copy or export it again."
        ) from error


def same_direction(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two ImageOrientationPatient agree to 0.001."""
    return bool(np.allclose(a, b, rtol=0, atol=ORIENTATION_TOLERANCE))


def _header(dataset: Any, path: str) -> DicomHeader:
    kind = str(getattr(dataset, "Modality", ""))
    size = int(getattr(dataset, "Columns", 0) or 0), int(getattr(dataset, "Rows", 0) or 0)
    if kind in NO_IMAGES or 0 in size:
        return DicomHeader(path, is_image=False, kind=kind)
    count = int(getattr(dataset, "NumberOfFrames", None) or 1)
    per_frame = list(getattr(dataset, "PerFrameFunctionalGroupsSequence", None) or [])
    shared = list(getattr(dataset, "SharedFunctionalGroupsSequence", None) or [])

    def look_up(sequence: str, tag: str, frame: int) -> Any:
        """A value of a frame: from its own functional group, the shared one, or the dataset itself."""
        for source in (*per_frame[frame : frame + 1], *shared):
            groups = getattr(source, sequence, None)
            if groups and getattr(groups[0], tag, None) is not None:
                return getattr(groups[0], tag)
        return getattr(dataset, tag, None)

    positions, orientations = [], []
    for frame in range(count):
        positions.append(_numbers(look_up("PlanePositionSequence", "ImagePositionPatient", frame), 3))
        orientations.append(_numbers(look_up("PlaneOrientationSequence", "ImageOrientationPatient", frame), 6))
    orientation = orientations[0]
    if orientation is not None and any(o is None or not same_direction(o, orientation) for o in orientations):
        orientation = None  # frames that face several ways are no volume
    spacing = None
    for tag in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = _numbers(look_up("PixelMeasuresSequence", tag, 0), 2)
        if spacing is None and values is not None and min(values) > 0:
            spacing = (values[1], values[0])
    thickness = None
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        values = _numbers([look_up("PixelMeasuresSequence", tag, 0)], 1)
        if thickness is None and values is not None and values[0] > 0:
            thickness = values[0]
    return DicomHeader(
        path=path,
        is_image=True,
        kind=kind,
        series=str(getattr(dataset, "SeriesInstanceUID", "")),
        number=str(number) if (number := getattr(dataset, "SeriesNumber", None)) is not None else "",
        size=size,
        orientation=orientation if orientation is not None and _is_orthonormal(orientation) else None,
        positions=tuple(position for position in positions if position is not None),
        spacing=spacing,
        thickness=thickness or 1.0,
        frames=count,
    )


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers out of a tag's value, or None."""
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _is_orthonormal(orientation: Sequence[float]) -> bool:
    pair = np.reshape(orientation, (2, 3))
    return bool(np.allclose(pair @ pair.T, np.eye(2), atol=1e-2))
