"""The table of modalities and their targets: pure data, no torch.

A new modality is one row of :data:`MODALITIES`; a new target is one :class:`Target` in a row, or one line of a bundle's
config. Everything else (network, routing, intensities, label values, documents) reads from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "MODALITIES",
    "PUBLISHED_MODALITIES",
    "SHIPPED_MODALITIES",
    "Intensity",
    "Modality",
    "Target",
    "check_modalities",
    "describe_target",
    "label_names",
    "label_values",
    "modality_from_code",
    "published_modalities",
    "shipped_modalities",
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
    """

    name: str
    body_part: str
    view: str
    field_of_view_mm: tuple[float, float] | None
    source: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Modality:
    """One imaging modality: its name here, its names in DICOM, its intensity rule and its default targets."""

    name: str
    description: str
    dicom_codes: tuple[str, ...]
    intensity: Intensity
    targets: tuple[Target, ...] = ()


_ROWS = (
    Modality(
        "dermoscopy",
        "dermoscopic photograph of the skin",
        (),
        Intensity("photograph"),
        (Target("lesion", "skin", "dermoscopy, one lesion", None, "ISIC 2018 and HAM10000", (230, 159, 0)),),
    ),
    Modality(
        "xray",
        "projection radiograph",
        ("CR", "DX"),
        Intensity("percentile", 0.5, 99.5),
        (Target("lung", "chest", "frontal chest radiograph", None, "Shenzhen chest X-rays", (86, 180, 233)),),
    ),
    Modality(
        "ultrasound",
        "B-mode ultrasound",
        ("US",),
        Intensity("photograph"),
        (Target("lesion", "breast", "B-mode, one lesion", None, "BUSI", (0, 158, 115)),),
    ),
    Modality(
        "fundus",
        "colour photograph of the retina",
        ("OP",),
        Intensity("photograph"),
        (Target("vessel", "eye", "macula-centred colour fundus", None, "DRIVE", (240, 228, 66)),),
    ),
    Modality(
        "microscopy",
        "light or fluorescence microscopy",
        ("SM", "GM"),
        Intensity("photograph"),
        (Target("nucleus", "cells", "fluorescence, bright nuclei", None, "Data Science Bowl 2018", (0, 114, 178)),),
    ),
    Modality(
        "colonoscopy",
        "endoscopic photograph of the colon",
        (),
        Intensity("photograph"),
        (Target("polyp", "colon", "colonoscopy with a polyp", None, "Kvasir-SEG", (213, 94, 0)),),
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
            ),
            Target(
                "hippocampus_posterior",
                "brain",
                "T1-weighted, cropped around the hippocampus",
                (30.0, 70.0),
                "Medical Segmentation Decathlon, hippocampus",
                (120, 200, 120),
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

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def _defaults(names: Sequence[str]) -> dict[str, list[str]]:
    return {name: [target.name for target in MODALITIES[name].targets] for name in names}


def published_modalities() -> dict[str, list[str]]:
    """The published six modalities with one target each, as ``{modality: [targets]}``."""
    return _defaults(PUBLISHED_MODALITIES)


def shipped_modalities() -> dict[str, list[str]]:
    """Modalities and targets of the shipped weights, as ``{modality: [targets]}``."""
    return _defaults(SHIPPED_MODALITIES)


def check_modalities(modalities: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Check a mapping ``{modality: [targets]}`` and return a copy of it with tuples.

    Raises:
        ValueError: when it is empty, a modality has no target, a target is named twice in one modality, a name is not
            lower-case letters, digits and underscores, or two targets would share a label (``a_b`` + ``c``, ``a`` +
            ``b_c``).
    """
    if not modalities:
        raise ValueError("modalities is empty; give at least one, for instance {'dermoscopy': ['lesion']}.")
    checked: dict[str, tuple[str, ...]] = {}
    for modality, targets in modalities.items():
        if isinstance(targets, str):
            raise ValueError(f"the targets of {modality!r} should be a list of names, got the text {targets!r}.")
        if not targets:
            raise ValueError(f"modality {modality!r} has no target; name at least one.")
        if len(set(targets)) != len(targets):
            raise ValueError(f"modality {modality!r} names a target twice: {list(targets)}.")
        for name in (modality, *targets):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no usable name: lower-case letters, digits and underscores only.")
        checked[modality] = tuple(targets)
    labels = [f"{modality}_{target}" for modality, targets in checked.items() for target in targets]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two targets would have the same label {twice[0]!r}; rename one of them.")
    return checked


def label_values(modalities: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Label value of every target: 1, 2, ... over modalities and targets in their order; 0 is background.

    Returns:
        ``{modality: {target: value}}``.
    """
    values: dict[str, dict[str, int]] = {}
    count = 0
    for modality, targets in check_modalities(modalities).items():
        values[modality] = {target: count + i for i, target in enumerate(targets, start=1)}
        count += len(targets)
    return values


def label_names(modalities: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """Names of the label values, as in a bundle's ``channel_def``: ``{0: "background", 1: "xray_lung", ...}``."""
    names = {0: "background"}
    for modality, targets in label_values(modalities).items():
        names.update({value: f"{modality}_{target}" for target, value in targets.items()})
    return names


def describe_target(modality: str, target: str) -> Target | None:
    """The row of a target, or None where the table has none (a user's own target)."""
    row = MODALITIES.get(modality)
    return next((entry for entry in row.targets if entry.name == target), None) if row else None


def modality_from_code(code: str) -> str | None:
    """Our name for a DICOM modality code (``"MR"``, case ignored) or for one of our own names; None if unknown.

    ``ES`` and ``XC`` say too little (any endoscope, any camera) and give None.
    """
    text = code.strip()
    if text.lower() in MODALITIES:
        return text.lower()
    return next((row.name for row in _ROWS if text.upper() in row.dicom_codes), None)
