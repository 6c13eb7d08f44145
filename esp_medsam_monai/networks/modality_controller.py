"""The modality controller: what one modality adds to every attention block of the shared trunk.

Source: ESP-MedSAM (arXiv 2407.14153), semi-parameter-sharing encoder; shapes as in the public repository
``xq141839/De-LightSAM`` (Apache-2.0), from which no code is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esp_medsam_monai.networks.routing import Route, apply_experts, select

__all__ = ["BlockController", "ModalityController", "RoutedBlockController", "TokenMLP"]


class TokenMLP(nn.Module):
    """Layer norm, linear, GELU, linear on tokens.

    Args:
        dim: channels in and out.
        hidden_dim: channels between.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.act = nn.GELU()
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., C)``."""
        return self.fc2(self.act(self.fc1(self.norm(x))))


class BlockController(nn.Module):
    """Extra key and value tokens for one block's attention, and an MLP beside the block's own.

    Args:
        dim: channels of the block.
        num_heads: attention heads of the block.
        mlp_ratio: width of the MLP over ``dim``.
        num_tokens: extra tokens a head.
        shared_token: use the same tokens for keys and values, as the published code does; the paper has two.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, num_tokens: int = 1, shared_token: bool = False
    ) -> None:
        super().__init__()
        shape = (num_heads, num_tokens, dim // num_heads)
        bound = math.sqrt(6.0 / (3 * 16 * 16 + 16))
        self.key_tokens = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.value_tokens = None if shared_token else nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.attention_bias = nn.Parameter(torch.zeros(1))
        self.mlp = TokenMLP(dim, int(dim * mlp_ratio))


class ModalityController(nn.Module):
    """The controller of one modality: one :class:`BlockController` for each attention block of the trunk.

    Args:
        dims: channels of the trunk's attention blocks, in order.
        num_heads: their heads, in order.
        mlp_ratio: see :class:`BlockController`.
        num_tokens: see :class:`BlockController`.
        shared_token: see :class:`BlockController`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: float = 4.0,
        num_tokens: int = 1,
        shared_token: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            BlockController(dim, heads, mlp_ratio, num_tokens, shared_token)
            for dim, heads in zip(dims, num_heads, strict=True)
        )


@dataclass(frozen=True)
class RoutedBlockController:
    """The controllers of all modalities at one block, seen by a batch with a given route.

    Args:
        experts: one :class:`BlockController` a modality.
        route: the modality of each image.
    """

    experts: Sequence[BlockController]
    route: Route

    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Extra keys and values ``(B or 1, heads, tokens, head_dim)`` and their bias ``(B or 1, 1)``."""
        keys = select([expert.key_tokens for expert in self.experts], self.route)
        own = [expert.value_tokens for expert in self.experts if expert.value_tokens is not None]
        values = select(own, self.route) if own else keys
        return keys, values, select([expert.attention_bias for expert in self.experts], self.route)

    def mlp(self, x: Tensor) -> Tensor:
        """Each image's own MLP: ``(B, H, W, C)`` -> ``(B, H, W, C)``."""
        return apply_experts([expert.mlp for expert in self.experts], self.route, x)
