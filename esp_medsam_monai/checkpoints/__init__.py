"""Weights: safe loading, published files, SAM's checkpoints."""

from __future__ import annotations

from esp_medsam_monai.checkpoints.import_bundle import import_weights
from esp_medsam_monai.checkpoints.official import export_official, load_official
from esp_medsam_monai.checkpoints.safe import load_state_dict, load_weights
from esp_medsam_monai.checkpoints.sam import Initialised, load_mobile_sam, load_sam
from esp_medsam_monai.checkpoints.sam_export import save_sam_layout
from esp_medsam_monai.checkpoints.start import StartingWeights

__all__ = [
    "Initialised",
    "StartingWeights",
    "export_official",
    "import_weights",
    "load_mobile_sam",
    "load_official",
    "load_sam",
    "load_state_dict",
    "load_weights",
    "save_sam_layout",
]
