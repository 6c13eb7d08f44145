"""Is an image like what the weights were trained on? Only what the files state is compared; nothing is guessed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import pydicom

from esp_medsam_monai.modalities import describe_target

__all__ = ["examined_body_part", "outside_training"]

MARGIN = 1.5
"""A field of view counts as far outside when it is this many times too large or too small."""

BODY_PARTS = {
    "brain": {"BRAIN", "HEAD", "SKULL"},
    "chest": {"CHEST", "LUNG", "THORAX", "PORT CHEST"},
    "breast": {"BREAST"},
    "skin": {"SKIN"},
    "eye": {"EYE", "RETINA"},
    "colon": {"COLON"},
}
"""Values of DICOM's Body Part Examined (PS3.16 Annex L, and common local ones) that agree with a training body part."""


def outside_training(
    modality: str, targets: Iterable[str], field_of_view_mm: Sequence[float] | None, body_part: str | None = None
) -> list[str]:
    """Sentences on how an image differs from what the weights of its targets were trained on.

    Args:
        modality: our name of the modality.
        targets: the network's targets for it. Targets without a row in the table are left out.
        field_of_view_mm: height and width of a slice in mm; None where pixels have no size (photographs).
        body_part: DICOM Body Part Examined, where the file has it.

    Returns:
        One sentence for each kind of difference, empty when nothing speaks against the image.
    """
    rows = [row for target in targets if (row := describe_target(modality, target)) is not None]
    found: list[str] = []
    for row in rows:
        ranges = row.field_of_view_mm
        if ranges is not None and field_of_view_mm is not None:
            low, high = ranges
            if min(field_of_view_mm) < low / MARGIN or max(field_of_view_mm) > high * MARGIN:
                sides = " x ".join(f"{side:.0f}" for side in field_of_view_mm)
                found.append(
                    f"outside what the weights were trained on: slices of {sides} mm, training had {low:.0f} to"
                    f" {high:.0f} mm ({row.view})."
                )
        known = BODY_PARTS.get(row.body_part)
        if body_part and body_part.strip() and known and body_part.strip().upper() not in known:
            found.append(
                f"outside what the weights were trained on: body part {body_part.strip()}, training had"
                f" {row.body_part} ({row.view})."
            )
    return list(dict.fromkeys(found))


def examined_body_part(path: str | os.PathLike[str]) -> str | None:
    """DICOM Body Part Examined of a file that has been read before, None where it is empty or absent."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["BodyPartExamined"])
    return str(dataset.get("BodyPartExamined", "")).strip() or None
