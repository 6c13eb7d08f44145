"""The query decoder as inference runs it: cross-attention by few tokens never projects the image.

With T tokens and h heads a score is ``(Wq t) . (Wk x)``, which is ``(Wk' Wq t) . x``: the projection is moved from the
4096 positions of the image to the few tokens, and the same holds for values. Biases of the keys shift all scores of a
token alike and drop out of the softmax. Transposed convolutions of stride 2 are linear layers, and nothing between them
mixes positions, so pixels are put in place once, on the finished mask. Equal to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from esp_medsam_monai.networks.fused_blocks import FusedNorm, ModalityLinear, constant
from esp_medsam_monai.networks.query_decoder import QueryDecoder

__all__ = ["FusedDecoder"]


class TokenToImage(nn.Module):
    """Cross-attention of tokens ``(B, K, T, C)`` to an image ``(B, 1 or K, N, C)``."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        heads, inner = attention.num_heads, attention.internal_dim
        self.heads = heads
        self.q_proj = nn.Linear(attention.embedding_dim, inner)
        self.q_proj.weight = constant(attention.q_proj.weight * (inner // heads) ** -0.5)
        self.q_proj.bias = constant(attention.q_proj.bias * (inner // heads) ** -0.5)
        self.key_weight = constant(attention.k_proj.weight.view(heads, inner // heads, -1))
        self.value_weight = constant(attention.v_proj.weight.view(heads, inner // heads, -1).transpose(1, 2))
        self.value_bias = constant(attention.v_proj.bias)
        self.out_weight = constant(attention.out_proj.weight)
        self.out_bias = constant(attention.out_proj.bias)

    def forward(self, tokens: Tensor, image: Tensor, placed: Tensor) -> Tensor:
        """``placed``: the image with its positions added."""
        batch, groups, count, _ = tokens.shape
        q = self.q_proj(tokens).unflatten(-1, (self.heads, -1)).transpose(2, 3)
        q = (q @ self.key_weight).flatten(2, 3)
        mixed = torch.softmax(q @ placed.transpose(2, 3), dim=-1) @ image
        values = mixed.view(batch, groups, self.heads, count, -1) @ self.value_weight
        values = values.transpose(2, 3).flatten(3) + self.value_bias
        return F.linear(values, self.out_weight, self.out_bias)


class ImageToToken(nn.Module):
    """Cross-attention of an image ``(B, 1 or K, N, C)`` to tokens ``(B, K, T, C)``."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        heads, inner = attention.num_heads, attention.internal_dim
        self.heads = heads
        scale = (inner // heads) ** -0.5
        self.k_proj = nn.Linear(attention.embedding_dim, inner)
        self.k_proj.weight, self.k_proj.bias = constant(attention.k_proj.weight), constant(attention.k_proj.bias)
        self.v_proj = nn.Linear(attention.embedding_dim, inner)
        self.v_proj.weight, self.v_proj.bias = constant(attention.v_proj.weight), constant(attention.v_proj.bias)
        self.query_weight = constant(attention.q_proj.weight.view(heads, inner // heads, -1) * scale)
        self.query_bias = constant(attention.q_proj.bias.view(heads, inner // heads, 1) * scale)
        self.out_weight = constant(attention.out_proj.weight.view(-1, heads, inner // heads).permute(1, 2, 0))
        self.out_bias = constant(attention.out_proj.bias)

    def forward(self, placed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``keys``, ``values``: tokens with and without their positions; -> ``(B, K, N, C)``."""
        batch, groups, count, _ = keys.shape
        k = self.k_proj(keys).unflatten(-1, (self.heads, -1)).transpose(2, 3)
        shift = (k @ self.query_bias).view(batch, groups, 1, self.heads * count)
        scores = placed @ (k @ self.query_weight).flatten(2, 3).transpose(2, 3) + shift
        weights = torch.softmax(scores.unflatten(3, (self.heads, count)), dim=-1).flatten(3)
        v = self.v_proj(values).unflatten(-1, (self.heads, -1)).transpose(2, 3)
        return weights @ (v @ self.out_weight).flatten(2, 3) + self.out_bias


class FusedTwoWayBlock(nn.Module):
    """SAM's two-way block on groups of tokens that share an image."""

    def __init__(self, block: TwoWayAttentionBlock) -> None:
        super().__init__()
        self.first = block.skip_first_layer_pe
        self.self_attn = block.self_attn
        self.mlp = block.mlp
        self.norms = nn.ModuleList((block.norm1, block.norm2, block.norm3, block.norm4))
        self.to_image = TokenToImage(block.cross_attn_token_to_image)
        self.to_token = ImageToToken(block.cross_attn_image_to_token)

    def forward(self, tokens: Tensor, image: Tensor, origin: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, K, T, C)`` and image ``(B, K, N, C)`` after the block; ``origin``: the tokens' positions."""
        norm1, norm2, norm3, norm4 = self.norms
        flat = tokens.flatten(0, 1)
        if self.first:
            flat = self.self_attn(q=flat, k=flat, v=flat)
        else:
            q = flat + origin.flatten(0, 1)
            flat = flat + self.self_attn(q=q, k=q, v=flat)
        tokens = norm1(flat).view(tokens.shape)
        placed = image + position
        tokens = norm2(tokens + self.to_image(tokens + origin, image, placed))
        tokens = norm3(tokens + self.mlp(tokens))
        return tokens, norm4(image + self.to_token(placed, tokens + origin, tokens))


class FusedDecoder(nn.Module):
    """:class:`QueryDecoder` for the targets of given modalities.

    Args:
        decoder: the network's decoder, in eval mode; its parts are copied.
        targets: numbers of the targets of each modality; rows of equal length, filled up with any target.
    """

    rows: Tensor

    def __init__(self, decoder: QueryDecoder, targets: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.coupled = decoder.coupled_queries
        queries = [decoder.queries[name].detach() for name in decoder.query_names]
        extra = decoder.extra_queries.detach()
        self.chosen: list[list[int]] = [list(row) for row in targets]
        if self.coupled:
            own = [torch.cat((torch.stack(queries), extra)).unsqueeze(0)] * len(targets)
        else:
            own = [torch.stack([torch.cat((queries[t].unsqueeze(0), extra)) for t in row]) for row in targets]
        self.tokens = constant(torch.stack(own))
        self.register_buffer("rows", torch.tensor(self.chosen), persistent=False)
        mlps: list[list[Any]] = [[decoder.hyper_mlps[decoder.mlp_names[t]] for t in row] for row in targets]
        self.hyper = nn.ModuleList(
            ModalityLinear(
                [torch.stack([mlp.layers[layer].weight for mlp in row]).flatten(0, 1) for row in mlps],
                [torch.stack([mlp.layers[layer].bias for mlp in row]).flatten() for row in mlps],
            )
            for layer in range(len(mlps[0][0].layers))
        )
        self._kept: tuple[tuple[int, int], Tensor] | None = None
        # In a list, so that the network's number format never reaches it: its phases need float32.
        self._grid: list[PositionEmbeddingRandom] = [decoder.pe_layer.float()]
        blocks = decoder.transformer.layers
        self.blocks = nn.ModuleList(FusedTwoWayBlock(block) for block in blocks)
        self.final = TokenToImage(decoder.transformer.final_attn_token_to_image)
        self.final_norm = decoder.transformer.norm_final_attn
        upscaling: list[Any] = list(decoder.output_upscaling)
        first, norm, _, second, _ = upscaling
        self.norm = FusedNorm(norm)
        self.first_weight, self.first_bias = _as_linear(first)
        self.second_weight, self.second_bias = _as_linear(second)

    def forward(self, embedding: Tensor, size: tuple[int, int], index: Tensor | None) -> Tensor:
        """``(B, N, C)`` of ``size`` positions, the prompt added -> mask logits ``(B, targets, 4h, 4w)``."""
        batch, height, width = embedding.shape[0], *size
        position = self._position(size, embedding.device).to(embedding)
        origin = self.tokens.expand(batch, -1, -1, -1) if index is None else self.tokens[index]
        tokens, image = origin, embedding.unsqueeze(1)
        for block in self.blocks:
            tokens, image = block(tokens, image, origin, position)
        tokens = self.final_norm(tokens + self.final(tokens + origin, image, image + position))
        weights = self._hyper_weights(tokens, index)
        x = F.linear(image, self.first_weight, self.first_bias).unflatten(-1, (4, -1))
        x = F.gelu(self.norm(x))
        x = F.gelu(F.linear(x, self.second_weight, self.second_bias)).unflatten(-1, (4, -1))
        masks = (x.flatten(2, 4) @ weights.transpose(2, 3)).transpose(2, 3).flatten(1, 2)
        # (h, w, first y, first x, second y, second x) -> rows and columns.
        masks = masks.view(batch, -1, height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(batch, -1, 4 * height, 4 * width)

    def _position(self, size: tuple[int, int], device: torch.device) -> Tensor:
        """SAM's Fourier grid as ``(N, C)``; the last one is kept."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._grid[0](size).flatten(1).t()
        if self._kept is None or self._kept[0] != size or self._kept[1].device != device:
            self._kept = size, self._grid[0].to(device)(size).flatten(1).t().contiguous()
        return self._kept[1]

    def _hyper_weights(self, tokens: Tensor, index: Tensor | None) -> Tensor:
        """Each target's weights of the mask features: ``(B, K, 1, C/8)``, coupled ``(B, 1, targets, C/8)``."""
        if self.coupled:
            rows = self.rows.expand(tokens.shape[0], -1) if index is None else self.rows[index]
            x = tokens[:, 0].gather(1, rows.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        else:
            x = tokens[:, :, 0]
        targets = x.shape[1]
        for layer, linear in enumerate(cast(Iterable[ModalityLinear], self.hyper)):
            weight = linear.weight if index is None else linear.weight[index]
            bias = linear.bias if index is None else linear.bias[index]
            weight = weight.unflatten(1, (targets, -1))
            x = (weight @ x.unsqueeze(-1)).squeeze(-1) + bias.unflatten(1, (targets, -1))
            x = F.relu(x) if layer + 1 < len(self.hyper) else x
        return x.unsqueeze(1) if self.coupled else x.unsqueeze(2)


def _as_linear(conv: nn.ConvTranspose2d) -> tuple[nn.Parameter, nn.Parameter]:
    """A transposed convolution of kernel and stride 2 as a linear layer to four pixels, row by row."""
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return constant(weight), constant(cast(Tensor, conv.bias).repeat(4))
