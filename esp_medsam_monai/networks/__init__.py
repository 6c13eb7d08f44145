"""Networks: tensors in, tensors out; they know no files and no transforms."""

from __future__ import annotations

from esp_medsam_monai.networks.esp_medsam import ABSENT_LOGIT, ESPMedSAM
from esp_medsam_monai.networks.modality_controller import ModalityController
from esp_medsam_monai.networks.query_decoder import QueryDecoder
from esp_medsam_monai.networks.self_patch_prompt import SelfPatchPromptGenerator
from esp_medsam_monai.networks.tiny_vit import TinyViT

__all__ = [
    "ABSENT_LOGIT",
    "ESPMedSAM",
    "ModalityController",
    "QueryDecoder",
    "SelfPatchPromptGenerator",
    "TinyViT",
]
