"""Masks as DICOM Segmentation objects, for viewers and archives that speak DICOM.

highdicom does the encoding. What this module adds: which source image belongs to which plane, the table's label values,
codes and colours, and that a file is whole, read back and compared, or absent.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.data import MetaTensor

from esp_medsam_monai import __version__
from esp_medsam_monai.errors import InputRefused, add_warning
from esp_medsam_monai.modalities import Code, target_codes, target_color

from .atomic import atomic_path
from .dicom_seg_sources import SegSources, match_sources
from .label_counts import label_counts

__all__ = ["missing_for_dicom_seg", "write_dicom_seg"]

PRODUCT = "ESP-MedSAM for MONAI"
SERIES_OFFSET = 1000
"""Added to the number of the source series, so that the new series stands beside it."""

_LONGEST_LABEL = 64


def missing_for_dicom_seg() -> str | None:
    """What has to be installed before a DICOM SEG can be written, as a sentence; None when nothing is missing."""
    remedy = 'install it with: pip install "esp-medsam-monai[dicom]"'
    if int(pydicom.__version__.split(".")[0]) < 3:
        return f"DICOM SEG needs the package pydicom 3 or newer and {pydicom.__version__} is installed; {remedy}"
    try:
        import highdicom.seg  # noqa: F401
    except ImportError as error:
        return f"DICOM SEG needs the package highdicom, which cannot be imported ({error}); {remedy}"
    return None


def write_dicom_seg(
    path: str | os.PathLike[str],
    mask: MetaTensor,
    sources: Sequence[str | os.PathLike[str]],
    modality: str,
    targets: Mapping[str, int],
    segmentation_type: str = "binary",
) -> Path | None:
    """Write a mask of label values as a DICOM SEG beside its source images.

    ``"binary"`` (Segmentation Storage) is what viewers read. Only targets that were found have a segment, in the order
    of their label values; the standard numbers the segments of such a file 1, 2, ..., so the table's value stands in
    Segment Description: ``label value 7``. ``"labelmap"`` (Label Map Segmentation Storage, DICOM 2024d) stores the
    table's values as pixels, and they are the segment numbers too; few viewers read it yet. Every source image has its
    frame for every segment, empty or not: some viewers shift a mask whose empty frames were left out (MONAI Deploy App
    SDK #397). A frame lies where its source image lies, also where the NIfTI mask had to even out slices.

    Each segment has the codes of :func:`~esp_medsam_monai.modalities.target_codes`, the colour of
    :func:`~esp_medsam_monai.modalities.target_color`, and identifiers of its own to track it. Patient and study are
    copied from the sources; no person is named as the creator.

    Args:
        path: the file to write; it appears whole, read back and compared, or not at all.
        mask: ``(1, X, Y, Z)`` of label values on the grid that ``MedicalImageReader`` gives the sources, with its RAS
            ``affine``. Planes that have no source image (filled, ``allow_missing_slices``) are left out; where that
            loses labels, a warning in ``mask.meta`` says so.
        sources: the DICOM files of the case, in any order: a series, a single image or one enhanced multi-frame image,
            grey or colour. An image without a place in the patient (radiograph, ultrasound) may be one frame.
        modality: our name of the modality.
        targets: ``{target: label value}`` of the modality.
        segmentation_type: ``"binary"`` or ``"labelmap"``.

    Returns:
        The path; None when the mask is empty: the standard has no object without a segment, and none is written.

    Raises:
        ImportError: when :func:`missing_for_dicom_seg` says so.
        ValueError: when the shape, the values or the type cannot be written, or ``path`` is one of the sources.
        InputRefused: ``NO_DICOM_SEG`` when the sources are not those of the mask or cannot carry one; or a code of
            reading.
        OSError: when the disk refuses, or what is read back is not the mask.
    """
    missing = missing_for_dicom_seg()
    if missing is not None:
        raise ImportError(missing)
    path = Path(path)
    if segmentation_type not in ("binary", "labelmap"):
        raise ValueError(f'segmentation_type should be "binary" or "labelmap", got {segmentation_type!r}.')
    if any(Path(source).resolve() == path.resolve() for source in sources):
        raise ValueError(f"{path} is an input and would be overwritten; choose another output folder.")
    labels = _labels(mask, targets, path)
    if not labels.any():
        return None
    where = str(sources[0]) if len(sources) == 1 else str(Path(sources[0]).parent)
    affine = mask.affine.detach().cpu().numpy().astype(np.float64)
    matched = match_sources(labels.shape, affine, [str(source) for source in sources], where)
    if lost := int(np.count_nonzero(labels[..., matched.absent])):
        add_warning(
            mask.meta,
            f"DICOM_SEG_PLANES: {lost} labelled voxels lie on {len(matched.absent)} planes without a source image and "
            "are not in the DICOM SEG.",
        )
    frames = np.zeros((len(matched.planes), labels.shape[1], labels.shape[0]), np.uint8)
    for frame, plane in zip(frames, matched.planes, strict=True):
        if plane is not None:
            frame[:] = labels[..., plane].T
    if not frames.any():
        return None
    found = label_counts(frames)
    numbers = {target: value for target, value in sorted(targets.items(), key=lambda t: t[1]) if value in found}
    if segmentation_type == "binary":
        table = np.zeros(256, np.uint8)
        table[list(numbers.values())] = np.arange(1, len(numbers) + 1)
        frames = table[frames]
    try:
        with warnings.catch_warnings():
            # They are about odd values in the sources' headers, which are copied as they are.
            warnings.simplefilter("ignore", UserWarning)
            seg = _encode(frames, matched, modality, numbers, segmentation_type)
    except Exception as error:  # highdicom copies from headers of any kind, and fails on them in any way
        raise InputRefused(
            "NO_DICOM_SEG", f"{where}: no DICOM SEG can be made of its images ({error}); use the NIfTI mask."
        ) from error
    with atomic_path(path) as temporary:
        seg.save_as(temporary)
        _check(path, frames, matched, temporary)
    return path


def _labels(mask: MetaTensor, targets: Mapping[str, int], path: Path) -> np.ndarray:
    """uint8 ``(X, Y, Z)``."""
    if mask.ndim != 4 or mask.shape[0] != 1:
        raise ValueError(f"a mask of a DICOM image should be (1, X, Y, Z), got {tuple(mask.shape)} for {path}.")
    stated = mask.detach().cpu().numpy()[0]
    labels = stated.astype(np.uint8)
    if not np.array_equal(labels, stated):
        raise ValueError(f"label values should be whole numbers in 0..255, got others for {path}.")
    unknown = sorted({*label_counts(labels)} - {*targets.values()})
    if unknown:
        raise ValueError(f"the mask for {path} holds the values {unknown}, its targets are {dict(targets)}.")
    return labels


def _encode(
    frames: np.ndarray, matched: SegSources, modality: str, targets: Mapping[str, int], segmentation_type: str
) -> Any:
    """The object, from frames that hold segment numbers."""
    import highdicom as hd

    first = matched.datasets[0]
    binary = segmentation_type == "binary"
    seg = hd.seg.Segmentation(
        source_images=matched.datasets,
        pixel_array=frames,
        segmentation_type=segmentation_type.upper(),
        segment_descriptions=[
            _segment(modality, target, value, index if binary else value)
            for index, (target, value) in enumerate(targets.items(), start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=SERIES_OFFSET + int(first.get("SeriesNumber") or 0),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name="esp-medsam-monai",
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=f"{modality}: {', '.join(targets)}".replace("_", " ")[:_LONGEST_LABEL],
        series_description=f"{PRODUCT}: segmentation",
        omit_empty_frames=False,
    )
    seg.ContentCreatorName = None  # no person; the attribute itself is required
    return seg


def _segment(modality: str, target: str, value: int, number: int) -> Any:
    """Description of one segment."""
    import highdicom as hd
    from pydicom.sr.codedict import codes as dictionary

    codes = target_codes(modality, target)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{modality} {target}".replace("_", " ")[:_LONGEST_LABEL],
        segmented_property_category=_coded(codes.category),
        segmented_property_type=_coded(codes.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=PRODUCT, family=dictionary.DCM.ArtificialIntelligence, version=__version__
        ),
        tracking_uid=hd.UID(),
        tracking_id=f"{modality}_{target}"[:_LONGEST_LABEL],
        anatomic_regions=[_coded(codes.anatomy)] if codes.anatomy is not None else None,
        display_color=hd.color.CIELabColor.from_rgb(*target_color(modality, target)),
    )
    segment.SegmentDescription = f"label value {value}"
    if codes.modifier is not None:
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            _coded(codes.modifier)
        ]
    return segment


def _coded(code: Code) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _check(path: Path, frames: np.ndarray, matched: SegSources, temporary: Path) -> None:
    """Read the file back: space, places and pixels, by pydicom alone."""
    try:
        seg = pydicom.dcmread(temporary)
        stored, places = _stored(seg)
    except Exception as error:  # a damaged file can raise anything
        raise OSError(f"{path} was not kept: it cannot be read back ({error}); check the disk.") from error
    if seg.get("FrameOfReferenceUID") != matched.datasets[0].get("FrameOfReferenceUID"):
        raise OSError(f"{path} was not kept: it has another frame of reference than its images.")
    wanted = label_counts(frames)
    if stored != wanted:
        raise OSError(f"{path} was not kept: it holds {stored} pixels of its segments instead of {wanted}.")
    if len(places) != len(frames):
        raise OSError(f"{path} was not kept: its frames lie in {len(places)} places instead of {len(frames)}.")


def _stored(seg: Any) -> tuple[dict[int, int], set[tuple[float, ...]]]:
    """Pixels of each segment, and places of the frames."""
    pixels = seg.pixel_array.reshape(int(seg.NumberOfFrames), seg.Rows, seg.Columns)
    counts: dict[int, int] = {}
    places = set()
    shared = seg.SharedFunctionalGroupsSequence[0]
    for frame, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        plane = group.get("PlanePositionSequence")
        places.add(tuple(plane[0].ImagePositionPatient) if plane else ())
        named = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        for number, count in label_counts(frame[None]).items():
            segment = int(named[0].ReferencedSegmentNumber) if named else number
            counts[segment] = counts.get(segment, 0) + count
    return counts, places
