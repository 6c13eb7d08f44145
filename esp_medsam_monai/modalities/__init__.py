"""Modalities and their targets, read by everything else: network, routing, intensities, label values, documents."""

from __future__ import annotations

from .choices import AUTO, is_said, modality_choices
from .codes import Code, TargetCodes
from .labels import (
    AddedTarget,
    added_targets,
    check_modalities,
    extended_modalities,
    label_names,
    label_values,
)
from .sizes import image_side, shipped_image_sizes
from .table import (
    MODALITIES,
    PUBLISHED_MODALITIES,
    SHIPPED_MODALITIES,
    Intensity,
    Modality,
    Target,
    describe_target,
    modality_from_code,
    published_modalities,
    shipped_modalities,
    target_codes,
    target_color,
)

__all__ = [
    "AUTO",
    "MODALITIES",
    "PUBLISHED_MODALITIES",
    "SHIPPED_MODALITIES",
    "AddedTarget",
    "Code",
    "Intensity",
    "Modality",
    "Target",
    "TargetCodes",
    "added_targets",
    "check_modalities",
    "describe_target",
    "extended_modalities",
    "image_side",
    "is_said",
    "label_names",
    "label_values",
    "modality_choices",
    "modality_from_code",
    "published_modalities",
    "shipped_image_sizes",
    "shipped_modalities",
    "target_codes",
    "target_color",
]
