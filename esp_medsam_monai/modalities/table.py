"""The table of modalities and their targets: pure data, no torch.

A new modality is one row of :data:`MODALITIES`; a new target is one :class:`Target` in a row, or one line of a bundle's
config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .codes import Code, TargetCodes, private_codes
from .colors import palette_color

__all__ = [
    "MODALITIES",
    "PUBLISHED_MODALITIES",
    "SHIPPED_MODALITIES",
    "Intensity",
    "Modality",
    "Target",
    "describe_target",
    "modality_from_code",
    "published_modalities",
    "shipped_modalities",
    "target_codes",
    "target_color",
]


@dataclass(frozen=True)
class Intensity:
    """How stored values become 0..255, the range that every network of this package is trained on.

    Args:
        rule: ``"photograph"`` keeps 8-bit values as they are (wider integers are scaled by their type's range,
            floats in 0..1 by 255); ``"window"`` maps ``[lower, upper]`` in stored units (HU for CT) linearly;
            ``"percentile"`` maps the image's own ``lower``-th and ``upper``-th percentiles. Values outside are clipped.
        lower: lower end, stored units or percent.
        upper: upper end, stored units or percent.
    """

    rule: Literal["photograph", "window", "percentile"]
    lower: float = 0.0
    upper: float = 255.0


@dataclass(frozen=True)
class Target:
    """A structure that can be segmented, with what the shipped weights saw of it.

    Args:
        name: target name without the modality, lower case with underscores.
        body_part: body part in the training images.
        view: kind of picture or acquisition in the training images.
        field_of_view_mm: shortest and longest in-plane side of the training images in mm, None where unknown.
        source: data set the shipped weights learned it from.
        color: red, green, blue in 0..255 for previews and viewers.
        codes: what it is in the words of DICOM.
    """

    name: str
    body_part: str
    view: str
    field_of_view_mm: tuple[float, float] | None
    source: str
    color: tuple[int, int, int]
    codes: TargetCodes


@dataclass(frozen=True)
class Modality:
    """One imaging modality: its name here, its names in DICOM, its intensity rule and its default targets."""

    name: str
    description: str
    dicom_codes: tuple[str, ...]
    intensity: Intensity
    targets: tuple[Target, ...] = ()


# Every SNOMED CT code below is in the dictionary of pydicom, which is made from DICOM PS3.16; a test compares them.
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_LESION = Code("52988006", "SCT", "Lesion")
_HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
_ROWS = (
    Modality(
        "dermoscopy",
        "dermoscopic photograph of the skin",
        (),
        Intensity("photograph"),
        (
            Target(
                "lesion",
                "skin",
                "dermoscopy, one lesion",
                None,
                "ISIC 2018 and HAM10000",
                (230, 159, 0),
                TargetCodes(_ABNORMAL, _LESION, anatomy=Code("39937001", "SCT", "Skin")),
            ),
        ),
    ),
    Modality(
        "xray",
        "projection radiograph",
        ("CR", "DX"),
        Intensity("percentile", 0.5, 99.5),
        (
            Target(
                "lung",
                "chest",
                "frontal chest radiograph",
                None,
                "Shenzhen chest X-rays",
                (86, 180, 233),
                TargetCodes(_ANATOMY, Code("39607008", "SCT", "Lung")),
            ),
        ),
    ),
    Modality(
        "ultrasound",
        "B-mode ultrasound",
        ("US",),
        Intensity("photograph"),
        (
            Target(
                "lesion",
                "breast",
                "B-mode, one lesion",
                None,
                "BUSI",
                (0, 158, 115),
                TargetCodes(_ABNORMAL, _LESION, anatomy=Code("76752008", "SCT", "Breast")),
            ),
        ),
    ),
    Modality(
        "fundus",
        "colour photograph of the retina",
        ("OP",),
        Intensity("photograph"),
        (
            Target(
                "vessel",
                "eye",
                "macula-centred colour fundus",
                None,
                "DRIVE",
                (240, 228, 66),
                TargetCodes(
                    _ANATOMY, Code("59820001", "SCT", "Blood Vessel"), anatomy=Code("5665001", "SCT", "Retina")
                ),
            ),
        ),
    ),
    Modality(
        "microscopy",
        "light or fluorescence microscopy",
        ("SM", "GM"),
        Intensity("photograph"),
        (
            Target(
                "nucleus",
                "cells",
                "fluorescence, bright nuclei",
                None,
                "Data Science Bowl 2018",
                (0, 114, 178),
                TargetCodes(_ANATOMY, Code("84640000", "SCT", "Nucleus")),
            ),
        ),
    ),
    Modality(
        "colonoscopy",
        "endoscopic photograph of the colon",
        (),
        Intensity("photograph"),
        (
            Target(
                "polyp",
                "colon",
                "colonoscopy with a polyp",
                None,
                "Kvasir-SEG",
                (213, 94, 0),
                TargetCodes(
                    _ABNORMAL, Code("68496003", "SCT", "Polyp of colon"), anatomy=Code("71854001", "SCT", "Colon")
                ),
            ),
        ),
    ),
    Modality(
        "mr",
        "magnetic resonance imaging",
        ("MR",),
        Intensity("percentile", 0.5, 99.5),
        (
            Target(
                "hippocampus_anterior",
                "brain",
                "T1-weighted, cropped around the hippocampus",
                (30.0, 70.0),
                "Medical Segmentation Decathlon, hippocampus",
                (204, 121, 167),
                TargetCodes(_ANATOMY, _HIPPOCAMPUS, modifier=Code("255549009", "SCT", "Anterior")),
            ),
            Target(
                "hippocampus_posterior",
                "brain",
                "T1-weighted, cropped around the hippocampus",
                (30.0, 70.0),
                "Medical Segmentation Decathlon, hippocampus",
                (120, 200, 120),
                TargetCodes(_ANATOMY, _HIPPOCAMPUS, modifier=Code("255551008", "SCT", "Posterior")),
            ),
        ),
    ),
    # Soft-tissue window: centre 40 HU, width 400 HU. No weights are shipped for CT yet.
    Modality("ct", "computed tomography", ("CT",), Intensity("window", -160.0, 240.0)),
)

MODALITIES: dict[str, Modality] = {row.name: row for row in _ROWS}
"""Every modality that routing and intensities know, with or without weights."""

PUBLISHED_MODALITIES = ("dermoscopy", "xray", "ultrasound", "fundus", "microscopy", "colonoscopy")
"""The six modalities of the published network; a name's position is its index in the published files."""

SHIPPED_MODALITIES = (*PUBLISHED_MODALITIES, "mr")
"""The modalities of the shipped weights, in the order of their label values."""


def _defaults(names: Sequence[str]) -> dict[str, list[str]]:
    return {name: [target.name for target in MODALITIES[name].targets] for name in names}


def published_modalities() -> dict[str, list[str]]:
    """The published six modalities with one target each, as ``{modality: [targets]}``."""
    return _defaults(PUBLISHED_MODALITIES)


def shipped_modalities() -> dict[str, list[str]]:
    """Modalities and targets of the shipped weights, as ``{modality: [targets]}``."""
    return _defaults(SHIPPED_MODALITIES)


def describe_target(modality: str, target: str) -> Target | None:
    """The row of a target, or None where the table has none (a user's own target)."""
    row = MODALITIES.get(modality)
    return next((entry for entry in row.targets if entry.name == target), None) if row else None


def target_color(modality: str, target: str) -> tuple[int, int, int]:
    """Colour of a target for previews and viewers: the table's, otherwise one of a palette, chosen by the names alone.

    The same name has the same colour in every run, network and file; two targets that the table does not know may get
    the same one.

    Args:
        modality: our name of the modality.
        target: target name without the modality.

    Returns:
        Red, green, blue in 0..255.
    """
    row = describe_target(modality, target)
    return row.color if row is not None else palette_color(f"{modality}_{target}")


def target_codes(modality: str, target: str) -> TargetCodes:
    """What a target is in the words of DICOM: the table's codes, or private ones for a user's own target.

    See :func:`~esp_medsam_monai.modalities.codes.private_codes` for the latter.
    """
    row = describe_target(modality, target)
    return row.codes if row is not None else private_codes(modality, target)


def modality_from_code(code: str) -> str | None:
    """Our name for a DICOM modality code (``"MR"``, case ignored) or for one of our own names; None if unknown.

    ``ES`` and ``XC`` say too little (any endoscope, any camera) and give None.
    """
    text = code.strip()
    if text.lower() in MODALITIES:
        return text.lower()
    return next((row.name for row in _ROWS if text.upper() in row.dicom_codes), None)
