"""What the medical teacher adds to a block of SAM's encoder: key and value tokens, and a branch beside the MLP.

Source: ESP-MedSAM (arXiv 2407.14153), figure of the medical teacher: learned key and value tokens in every block's
attention, and a trained branch that starts from the block's second layer norm and is added beside the frozen MLP. The
number of tokens and the width of the branch are not published; one token and a quarter of the channels are our choice.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SAMBlockAdapter"]

_ALIGNMENT = 8
"""Channels a head are filled up to a multiple of this, which CUDA's fused attention asks for."""


class SAMBlockAdapter(nn.Module):
    """The trained part of one block.

    The branch starts at zero (its second layer has zero weights), so that a fresh adapter changes the block by its
    tokens alone. A token starts near zero and takes a share of the softmax as an average key would, about 1/197 in a
    window. Ways to less: ``token_bias=-10`` starts with next to nothing; ``num_tokens=0`` has no tokens; an
    ``attention_bias`` of minus infinity switches them off to the bit.

    Args:
        dim: channels of the block.
        num_heads: attention heads of the block.
        num_tokens: key tokens and value tokens a head.
        hidden_dim: channels inside the branch.
        token_bias: what is added to the tokens' attention logits at the start; it is learned.
    """

    def __init__(self, dim: int, num_heads: int, num_tokens: int, hidden_dim: int, token_bias: float = 0.0) -> None:
        super().__init__()
        shape = (num_heads, num_tokens, dim // num_heads)
        bound = math.sqrt(6.0 / (3 * 16 * 16 + 16))  # as the student's controller
        self.key_tokens = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.value_tokens = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.attention_bias = nn.Parameter(torch.full((1,), float(token_bias)))
        self.mlp = MLPBlock(dim, hidden_dim)
        nn.init.trunc_normal_(self.mlp.lin1.weight, std=0.02)
        for parameter in (self.mlp.lin1.bias, self.mlp.lin2.weight, self.mlp.lin2.bias):
            nn.init.zeros_(parameter)

    def forward(self, block: Block, x: Tensor) -> Tensor:
        """Run a block with what this adapter adds.

        Args:
            block: ``segment_anything``'s block, used as it is.
            x: tokens ``(B, H, W, C)``.

        Returns:
            ``(B, H, W, C)``.
        """
        shortcut, size = x, (x.shape[1], x.shape[2])
        x = block.norm1(x)
        if block.window_size > 0:
            x, padded = window_partition(x, block.window_size)
            x = window_unpartition(_attend(block.attn, self, x), block.window_size, padded, size)
        else:
            x = _attend(block.attn, self, x)
        x = shortcut + x
        normed = block.norm2(x)
        return x + block.mlp(normed) + self.mlp(normed)


def _attend(attn: Attention, adapter: SAMBlockAdapter, x: Tensor) -> Tensor:
    """SAM's attention with relative positions, with the adapter's tokens as further keys and values.

    SAM adds ``q . R_h[row of key] + q . R_w[column of key]`` to each logit. Here these products are further channels
    of the query and one-hot places further channels of the key, so that the logits come out of one product and no
    table of queries x keys is ever stored: memory grows with the positions, not with their square.

    Args:
        attn: SAM's attention.
        adapter: tokens ``(heads, T, d)`` and their bias.
        x: ``(B, H, W, C)``.

    Returns:
        ``(B, H, W, C)``.
    """
    batch, height, width, dim = x.shape
    heads, places = attn.num_heads, height * width
    q, k, v = attn.qkv(x).reshape(batch, places, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    grid = q.unflatten(2, (height, width))
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(height, height, attn.rel_pos_h).to(q.dtype))
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(width, width, attn.rel_pos_w).to(q.dtype))
    q = torch.cat((q * attn.scale, rows.flatten(2, 3), columns.flatten(2, 3), q.new_ones(batch, heads, places, 1)), 3)

    eye_h = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, 0)
    eye_w = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    place = torch.cat((eye_h, eye_w, k.new_zeros(places, 1)), 1)
    count = adapter.key_tokens.shape[1]
    nowhere = k.new_zeros(heads, count, height + width)
    bias = adapter.attention_bias.to(k.dtype).expand(heads, count, 1)
    tokens = torch.cat((adapter.key_tokens.to(k.dtype), nowhere, bias), 2)
    k = torch.cat((k, place.expand(batch, heads, -1, -1)), 3)
    k = torch.cat((k, tokens.expand(batch, -1, -1, -1)), 2)
    v = torch.cat((v, adapter.value_tokens.to(v.dtype).expand(batch, -1, -1, -1)), 2)

    own = v.shape[3]
    channels = -(-q.shape[3] // _ALIGNMENT) * _ALIGNMENT
    q, k, v = (F.pad(part, (0, channels - part.shape[3])) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :own]
    return attn.proj(out.transpose(1, 2).reshape(batch, height, width, dim))
