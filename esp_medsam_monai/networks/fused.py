"""ESP-MedSAM folded for inference: the same function with fewer and larger operations.

Source of the network: see :class:`~esp_medsam_monai.networks.esp_medsam.ESPMedSAM`. What is folded is told in
:mod:`~esp_medsam_monai.networks.fused_blocks` and :mod:`~esp_medsam_monai.networks.fused_decoder`. The module is
traced and exported as it is: its shapes depend on shapes only.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esp_medsam_monai.networks.esp_medsam import ESPMedSAM
from esp_medsam_monai.networks.fused_blocks import FusedBlock, FusedConv, FusedMBConv, FusedMerging, FusedNorm, constant
from esp_medsam_monai.networks.fused_decoder import FusedDecoder
from esp_medsam_monai.networks.modality_controller import ModalityController
from esp_medsam_monai.networks.self_patch_prompt import SelfPatchPromptGenerator
from esp_medsam_monai.networks.self_prompting import ABSENT_LOGIT
from esp_medsam_monai.networks.tiny_vit import TinyViT

__all__ = ["FusedESPMedSAM", "fuse"]


class FusedPrompt(nn.Module):
    """:class:`SelfPatchPromptGenerator`: the prompt of a patch is one of two vectors, computed once."""

    def __init__(self, generator: SelfPatchPromptGenerator) -> None:
        super().__init__()
        parts: list[Any] = list(generator.patch_decoder)
        conv, norm, _, last = parts
        self.norm = FusedNorm(norm)
        self.weight = constant(conv.weight.permute(0, 2, 3, 1).flatten(1))
        self.bias = constant(conv.bias)
        self.last_weight = constant(last.weight.flatten(1))
        self.last_bias = constant(last.bias)
        both = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).to(conv.weight)
        background, foreground = generator.dense_prompter(both).flatten(1)
        self.background = constant(background)
        self.step = constant(foreground - background)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, h, w, C)`` -> the same with the prompt added."""
        batch, height, width, dim = x.shape
        patches = x.view(batch, height // 2, 2, width // 2, 2, dim).transpose(2, 3).flatten(3)
        patches = F.linear(patches, self.weight, self.bias)
        patches = F.gelu(self.norm(patches))
        hard = (F.linear(patches, self.last_weight, self.last_bias) >= 0).to(x.dtype)
        hard = hard.view(batch, height // 2, 1, width // 2, 1, 1)
        prompt = self.background + hard * self.step
        return (x.view(batch, height // 2, 2, width // 2, 2, dim) + prompt).view(x.shape)


class FusedTinyViT(nn.Module):
    """:class:`TinyViT` with controllers, ``(B, C, S, S)`` -> ``(B, S/16, S/16, 256)``."""

    def __init__(self, trunk: TinyViT, experts: list[list[Any]]) -> None:
        super().__init__()
        stem: list[Any] = list(trunk.patch_embed.seq)
        first, _, second = stem
        self.stem = nn.ModuleList((FusedConv.of(first), FusedConv.of(second)))
        layers: list[Any] = list(trunk.layers)
        convolutional, *stages = layers
        self.convolutional = nn.Sequential(
            *(FusedMBConv(block) for block in convolutional.blocks), FusedMerging(convolutional.downsample)
        )
        self.blocks = nn.ModuleList()
        pending = iter(experts)
        for stage in stages:
            self.blocks.extend(FusedBlock(block, next(pending)) for block in stage.blocks)
            if stage.downsample is not None:
                self.blocks.append(FusedMerging(stage.downsample))
        neck: list[Any] = list(trunk.neck)
        self.neck = nn.ModuleList((FusedConv(neck[0]), FusedConv(neck[2])))
        self.norms = nn.ModuleList((FusedNorm(neck[1]), FusedNorm(neck[3])))

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        first, second = self.stem
        x = self.convolutional(second(F.gelu(first(x)))).permute(0, 2, 3, 1)
        for block in self.blocks:
            merging = isinstance(block, FusedMerging)
            x = block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if merging else block(x, index)
        for conv, norm in zip(self.neck, self.norms, strict=True):
            x = norm(conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return x


class FusedESPMedSAM(nn.Module):
    """See :func:`fuse`.

    Args:
        network: in any mode; it is copied and left as it is.
        modality: the one to segment, or None for all, chosen by an index.
    """

    absent: Tensor

    def __init__(self, network: ESPMedSAM, modality: str | None) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval().requires_grad_(False)
        names = (
            list(network.modalities)
            if modality is None
            else [list(network.modalities)[network.modality_index(modality)]]
        )
        numbers = [network.targets_of(name) for name in names]
        channels = max(len(row) for row in numbers)
        absent = torch.tensor([[i >= len(row) for i in range(channels)] for row in numbers])
        self.register_buffer("absent", absent[:, :, None, None], persistent=False)
        self.routed = modality is None
        experts: list[list[Any]] = [[] for _ in network.image_encoder.block_dims]
        self.controlled = bool(network.controllers)
        if self.controlled:
            controllers = [cast(ModalityController, network.controllers[name]).blocks for name in names]
            experts = [list(block) for block in zip(*controllers, strict=True)]
        self.image_encoder = FusedTinyViT(network.image_encoder, experts)
        generator = network.prompt_generator
        self.prompt = None if generator is None else FusedPrompt(generator)
        self.mask_decoder = FusedDecoder(
            network.mask_decoder, [row + row[:1] * (channels - len(row)) for row in numbers]
        )
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Segment a batch.

        Args:
            x: ``(B, in_channels, S, S)``, S a multiple of 32.
            index: number of each image's modality ``(B,)``, for a network made for all modalities only.

        Returns:
            mask logits ``(B, C, S, S)``.
        """
        x = self.image_encoder(x.to(self.mask_decoder.tokens.dtype), index if self.controlled else None)
        if self.prompt is not None:
            x = self.prompt(x)
        masks = self.mask_decoder(x.flatten(1, 2), (x.shape[1], x.shape[2]), index)
        side = (4 * masks.shape[2], 4 * masks.shape[3])
        logits = F.interpolate(masks.float(), size=side, mode="bilinear", align_corners=False)
        if index is None:
            return logits
        return logits.masked_fill(self.absent[index], ABSENT_LOGIT)


def fuse(network: ESPMedSAM, modality: str | None = None) -> FusedESPMedSAM:
    """Fold a trained network for inference; the result equals it to rounding and is not for training.

    Args:
        network: left as it is.
        modality: the one to segment, then called as ``fused(x)``; None for all, then called as ``fused(x, index)`` with
            the number of each image's modality ``(B,)``, int64, and as many channels as the largest modality has.

    Raises:
        ValueError: when the modality is unknown.
    """
    return FusedESPMedSAM(network, modality)
