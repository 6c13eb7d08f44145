"""Losses that MONAI lacks."""

from __future__ import annotations

from esp_medsam_monai.losses.segmentation import ESPMedSAMLoss, patch_target

__all__ = ["ESPMedSAMLoss", "patch_target"]
