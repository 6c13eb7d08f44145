"""DICOM SEG out of MONAI Label and into it, with the right name, code and colour on every segment.

MONAI Label's converter gives the i-th value that a mask holds the i-th entry of ``label_info``. A client that lists all
labels of the model gets "dermoscopy_lesion" on a hippocampus that way; one that sends nothing gets a refusal.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom_seg
import SimpleITK as sitk
from monai.transforms import LoadImage
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from pydicom.dataset import Dataset

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import Code, label_names, target_codes, target_color

from .saved_labels import stated_names

__all__ = ["mask_values", "read_label_dicom_seg", "segment_infos", "write_label_dicom_seg"]

_LONGEST_LABEL = 64  # DICOM's limit of Segment Label
_CONVERTER = "itkimage2segimage"
_ALGORITHM = "ESP-MedSAM for MONAI"


def mask_values(file: Path) -> list[int]:
    """Label values that a mask holds, in ascending order, without background."""
    found = np.unique(np.asarray(LoadImage(image_only=True)(file)))
    return [int(value) for value in found if value]


def segment_infos(
    values: Sequence[int], label_info: Sequence[Mapping[str, Any]] | None, modalities: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """What MONAI Label's converter should know of each value of a mask.

    A value is what the client says of it (3D Slicer numbers segments anew and sends ``idx`` with each ``name``), and
    otherwise what the table says. Values that neither knows take the client's entries that name no target of the table,
    in their order, as MONAI Label means them.

    Args:
        values: as of :func:`mask_values`.
        label_info: the client's entries, each with ``name`` and perhaps ``idx``, ``description``, ``color`` (0..255),
            ``model_name``.
        modalities: ``{modality: targets}`` of the network.

    Returns:
        An entry a value, with ``idx`` and ``name``.
    """
    entries = [dict(entry) for entry in label_info or ()]
    targets = {f"{modality}_{target}": (modality, target) for modality in modalities for target in modalities[modality]}
    stated = stated_names({"label_info": entries})
    names = {**label_names(modalities), **stated}
    others = iter([entry for entry in entries if not stated and str(entry.get("name", "")).lower() not in targets])
    infos = []
    for value in values:
        info: dict[str, Any] = {"name": names.get(value, f"label {value}"), "idx": value}
        if info["name"] in targets:
            info["segmentAttribute"] = _attribute(value, *targets[info["name"]])
        elif value in stated:
            info = next(entry for entry in entries if int(entry["idx"]) == value)
        else:
            info |= next(others, {})
        infos.append({"model_name": _ALGORITHM, **info})
    return infos


def _attribute(value: int, modality: str, target: str) -> dict[str, Any]:
    """A segment in the words of dcmqi's JSON."""
    codes = target_codes(modality, target)
    attribute: dict[str, Any] = {
        "labelID": value,
        "SegmentLabel": f"{modality} {target}".replace("_", " ")[:_LONGEST_LABEL],
        "SegmentDescription": f"label value {value}",
        "SegmentAlgorithmType": "AUTOMATIC",
        "SegmentAlgorithmName": _ALGORITHM,
        "SegmentedPropertyCategoryCodeSequence": _coded(codes.category),
        "SegmentedPropertyTypeCodeSequence": _coded(codes.kind),
        "recommendedDisplayRGBValue": list(target_color(modality, target)),
    }
    if codes.modifier is not None:
        attribute["SegmentedPropertyTypeModifierCodeSequence"] = _coded(codes.modifier)
    if codes.anatomy is not None:
        attribute["AnatomicRegionSequence"] = _coded(codes.anatomy)
    return attribute


def _coded(code: Code) -> dict[str, str]:
    return {"CodeValue": code.value, "CodingSchemeDesignator": code.scheme, "CodeMeaning": code.meaning}


def write_label_dicom_seg(
    series: Path,
    mask: Path,
    label_info: Sequence[Mapping[str, Any]] | None,
    modalities: Mapping[str, Sequence[str]],
) -> Path:
    """A mask as DICOM SEG, by MONAI Label's converter (which runs dcmqi's ``itkimage2segimage``).

    Args:
        series: folder with the DICOM files of the series and nothing else.
        mask: its mask, NIfTI or NRRD.
        label_info: the client's entries, see :func:`segment_infos`.
        modalities: ``{modality: targets}`` of the network.

    Returns:
        A temporary file.

    Raises:
        InputRefused: ``NO_DICOM_SEG`` when the mask is empty, or dcmqi does not make one.
    """
    values = mask_values(mask)
    if not values:
        raise InputRefused(
            "NO_DICOM_SEG", "the mask is empty, and a DICOM SEG has at least one segment; nothing was found or drawn."
        )
    if shutil.which(_CONVERTER) is None:
        raise InputRefused("NO_DICOM_SEG", f"there is no {_CONVERTER} here; install it with: pip install dcmqi")
    infos = segment_infos(values, label_info, modalities)
    seg = Path(nifti_to_dicom_seg(str(series), str(mask), infos))
    if not seg.is_file():
        raise InputRefused(
            "NO_DICOM_SEG",
            f"dcmqi made no DICOM SEG of series {series.name}; it wants one file a slice, each with a place in the"
            " patient, which radiographs, ultrasound, photographs and multi-frame files are not. Take the NIfTI mask,"
            " or `esp-medsam segment` on the exported series, whose DICOM SEG can be of these too.",
        )
    return seg


def read_label_dicom_seg(
    seg: Dataset, image: Path, mask: Path, modalities: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The segments of a DICOM SEG as a mask on the grid of its image, in the table's values.

    Args:
        seg: the object, from any workstation.
        image: NIfTI file of the image.
        mask: NIfTI file to write. Where segments overlap, the later one counts.
        modalities: ``{modality: targets}`` of the network.

    Returns:
        ``{"idx": value, "name": ...}`` of each segment, as a client would send it. A name that is none of the table's
        has a value above all of the table's.
    """
    grid = sitk.ReadImage(str(image))
    table = {name: value for value, name in label_names(modalities).items() if value}
    unknown = itertools.count(max(table.values()) + 1)
    read = pydicom_seg.SegmentReader().read(seg)
    labels, infos = np.zeros(grid.GetSize()[::-1], np.uint8), []
    for number in sorted(read.available_segments):
        name = "_".join(str(read.segment_infos[number].SegmentLabel).lower().split())
        value = table[name] if name in table else next(unknown)
        # A SEG may hold fewer slices than its image, in another order.
        placed = sitk.Resample(read.segment_image(number), grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        labels[sitk.GetArrayViewFromImage(placed) > 0] = value
        infos.append({"idx": value, "name": name})
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(grid)
    sitk.WriteImage(result, str(mask))
    return infos
