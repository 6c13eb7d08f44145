"""What the header of one DICOM file says about its series and its place in the patient."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.dicom_place import Place, place_of, value_of
from esp_medsam_monai.modalities import modality_from_code

__all__ = ["DicomHeader", "is_dicom", "read_header"]

SUFFIXES = (".dcm", ".dicom", ".ima")
# Objects that have no picture of the patient, or only one that was derived from others.
NO_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "DOC", "FID", "PLAN", "AU"}
# Kinds whose images lie in the patient, unless they are photographs of a screen.
IN_PATIENT = {"CT", "MR", "PT"}
SCREEN = "Secondary Capture"


@dataclass(frozen=True)
class DicomHeader:
    """What grouping and geometry need of one file.

    Args:
        path: the file.
        is_image: False for SEG, RTSTRUCT, SR, DICOMDIR and other objects without an image of their own.
        kind: modality code as written, or ``DICOMDIR``.
        series: SeriesInstanceUID, empty when absent.
        number: SeriesNumber as written, empty when absent.
        instance: InstanceNumber, None when absent.
        size: (columns, rows).
        frames: number of frames.
        place: where the frames lie in the patient.
        is_localizer: whether ImageType holds ``LOCALIZER``.
        is_in_patient: whether an image of this kind must state its place.
    """

    path: str
    is_image: bool
    kind: str = ""
    series: str = ""
    number: str = ""
    instance: int | None = None
    size: tuple[int, int] = (0, 0)
    frames: int = 1
    place: Place = field(default_factory=Place)
    is_localizer: bool = False
    is_in_patient: bool = False

    @property
    def has_geometry(self) -> bool:
        """Whether every frame has a place in the patient."""
        place = self.place
        return place.orientation is not None and place.spacing is not None and len(place.positions) == self.frames

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
        InputRefused: ``NOT_AN_IMAGE`` when the file is no DICOM file or its header cannot be read, ``TRUNCATED`` when
            it is an image and its header ends too early.
    """
    path = str(path)
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        storage = _storage(dataset)
        if storage == "Media Storage Directory Storage":
            return DicomHeader(path, is_image=False, kind="DICOMDIR")
        if not ("Rows" in dataset or "Modality" in dataset or "Storage" in storage):
            raise ValueError("it holds no DICOM object")
        return _header(dataset, path, storage)
    except InputRefused:
        raise
    except Exception as error:  # a broken file can raise anything
        code = "TRUNCATED" if isinstance(error, (zlib.error, EOFError)) else "NOT_AN_IMAGE"
        raise InputRefused(code, f"{path} cannot be read as DICOM ({error}); copy or export it again.") from error


def _storage(dataset: Any) -> str:
    """Name of the kind of object, for instance ``MR Image Storage``; empty when nothing states it."""
    uid = value_of(dataset, "SOPClassUID") or value_of(dataset.file_meta, "MediaStorageSOPClassUID")
    return pydicom.uid.UID(uid).name if uid else ""


def _header(dataset: Any, path: str, storage: str) -> DicomHeader:
    kind = str(value_of(dataset, "Modality") or "")
    size = _whole(value_of(dataset, "Columns")) or 0, _whole(value_of(dataset, "Rows")) or 0
    # The size comes before the type of the pixels, which comes before the pixels.
    if (0 in size or "BitsAllocated" not in dataset) and "Image Storage" in storage and kind not in NO_IMAGES:
        raise InputRefused(
            "TRUNCATED", f"{path} is a {storage} object whose header ends too early; copy or export it again."
        )
    if kind in NO_IMAGES or 0 in size:
        return DicomHeader(path, is_image=False, kind=kind)
    frames = _whole(value_of(dataset, "NumberOfFrames")) or 1
    number = value_of(dataset, "SeriesNumber")
    image_type = value_of(dataset, "ImageType") or ()
    return DicomHeader(
        path=path,
        is_image=True,
        kind=kind,
        series=str(value_of(dataset, "SeriesInstanceUID") or ""),
        number="" if number is None else str(number),
        instance=_whole(value_of(dataset, "InstanceNumber")),
        size=size,
        frames=frames,
        place=place_of(dataset, frames),
        is_localizer="LOCALIZER" in ([image_type] if isinstance(image_type, str) else list(image_type)),
        is_in_patient=kind in IN_PATIENT and SCREEN not in storage,
    )


def _whole(value: Any) -> int | None:
    """A whole number, None for anything else that stands in its place."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
