"""Networks: tensors in, tensors out; they know no files and no transforms."""

from __future__ import annotations

from esp_medsam_monai.networks.esp_medsam import ESPMedSAM
from esp_medsam_monai.networks.fused import FusedESPMedSAM, fuse
from esp_medsam_monai.networks.modality_controller import ModalityController
from esp_medsam_monai.networks.query_decoder import QueryDecoder
from esp_medsam_monai.networks.routed_channels import RoutedChannels
from esp_medsam_monai.networks.sam_adapter import SAMBlockAdapter
from esp_medsam_monai.networks.sam_encoder import SAM_ENCODERS, sam_encoder
from esp_medsam_monai.networks.sam_teacher import SAMTeacher
from esp_medsam_monai.networks.self_patch_prompt import SelfPatchPromptGenerator
from esp_medsam_monai.networks.self_prompting import ABSENT_LOGIT, SelfPromptingNetwork
from esp_medsam_monai.networks.tiny_vit import TinyViT

__all__ = [
    "ABSENT_LOGIT",
    "SAM_ENCODERS",
    "ESPMedSAM",
    "FusedESPMedSAM",
    "ModalityController",
    "QueryDecoder",
    "RoutedChannels",
    "SAMBlockAdapter",
    "SAMTeacher",
    "SelfPatchPromptGenerator",
    "SelfPromptingNetwork",
    "TinyViT",
    "fuse",
    "sam_encoder",
]
