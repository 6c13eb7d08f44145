"""SPPG, the self-patch prompt generator: a coarse map predicted from the embedding becomes the dense prompt.

Source: ESP-MedSAM (arXiv 2407.14153), self-patch prompt generator; layers as in the public repository
``xq141839/De-LightSAM`` (Apache-2.0), from which no code is taken.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SelfPatchPromptGenerator"]


class SelfPatchPromptGenerator(nn.Module):
    """Predict which patches of 32 x 32 pixels hold foreground and add a prompt for them to the embedding.

    Args:
        embed_dim: channels of the image embedding.
        hidden_dim: channels inside the patch decoder.
    """

    def __init__(self, embed_dim: int = 256, hidden_dim: int = 64) -> None:
        super().__init__()
        self.patch_decoder = nn.Sequential(
            nn.Conv2d(embed_dim, hidden_dim, 2, stride=2),
            LayerNorm2d(hidden_dim),
            nn.GELU(),
            nn.Conv2d(hidden_dim, 1, 1),
        )
        self.dense_prompter = nn.Sequential(nn.Conv2d(1, embed_dim, 1), LayerNorm2d(embed_dim), nn.GELU())

    def forward(self, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Patch map and dense prompt.

        The map is cut at probability 0.5 and detached before it becomes a prompt: the mask loss trains the prompter,
        never the patch decoder, which learns from its own loss.

        Args:
            image_embedding: ``(B, C, h, w)``, stride 16, even sides.

        Returns:
            patch logits ``(B, 1, h/2, w/2)`` and the dense prompt ``(B, C, h, w)``, which takes two values a channel.
        """
        patch_logits = self.patch_decoder(image_embedding)
        hard = (torch.sigmoid(patch_logits.detach()) >= 0.5).to(image_embedding.dtype)
        return patch_logits, self.dense_prompter(F.interpolate(hard, scale_factor=2.0, mode="nearest"))
