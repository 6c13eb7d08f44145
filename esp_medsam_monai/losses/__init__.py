"""Losses that MONAI lacks."""

from __future__ import annotations

from esp_medsam_monai.losses.distillation import EmbeddingLoss, embedding_errors
from esp_medsam_monai.losses.segmentation import ESPMedSAMLoss, labelled_targets, patch_target

__all__ = ["ESPMedSAMLoss", "EmbeddingLoss", "embedding_errors", "labelled_targets", "patch_target"]
