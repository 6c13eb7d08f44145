"""Modalities and their targets, read by everything else: network, routing, intensities, label values, documents."""

from __future__ import annotations

from .codes import Code, TargetCodes
from .labels import check_modalities, label_names, label_values
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
    "MODALITIES",
    "PUBLISHED_MODALITIES",
    "SHIPPED_MODALITIES",
    "Code",
    "Intensity",
    "Modality",
    "Target",
    "TargetCodes",
    "check_modalities",
    "describe_target",
    "label_names",
    "label_values",
    "modality_from_code",
    "published_modalities",
    "shipped_modalities",
    "target_codes",
    "target_color",
]
