"""Blocks of the trunk as inference runs them: constants folded into weights, two MLPs as one, channels last throughout.

All of it is algebra on the weights of :class:`~esp_medsam_monai.networks.tiny_vit.TinyViT` and its controllers; results
are equal to rounding. The ideas are common ones: a batch norm is an affine map of the convolution before it, the affine
part of a layer norm belongs to the linear layer after it, parallel MLPs on the same input are one wider MLP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from esp_medsam_monai.networks.modality_controller import BlockController, TokenMLP
from esp_medsam_monai.networks.tiny_vit import ConvBN, MBConv, PatchMerging, TinyViTBlock, WindowAttention

__all__ = ["FusedBlock", "FusedConv", "FusedMBConv", "FusedMerging", "FusedNorm", "ModalityLinear", "constant"]

CACHED_VALUES = 2**21
"""Values between two layers at a time on a CPU, 8 MB: about what stays in its cache."""


def constant(value: Tensor) -> nn.Parameter:
    """A weight of a network that is not trained any more: contiguous and apart from the one that it was made of."""
    return nn.Parameter(value.detach().clone().contiguous(), requires_grad=False)


def rows_at_a_time(x: Tensor, rows: int, width: int) -> int | None:
    """How many rows PyTorch takes at a time on a CPU, so that what lies between two layers stays in the cache.

    Args:
        x: the input; a GPU, an export and a compiler take all rows.
        rows: number of rows.
        width: values a row between the layers.

    Returns:
        a number smaller than ``rows``, or None for all.
    """
    if x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return None
    fitting = max(1, CACHED_VALUES // width)
    return fitting if fitting < rows else None


class ModalityLinear(nn.Module):
    """A linear layer with one weight a modality.

    Args:
        weights: ``(out, in)`` of each modality.
        biases: ``(out,)`` of each modality.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = constant(torch.stack(tuple(weights)))
        self.bias = constant(torch.stack(tuple(biases)))

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        """``(B, N, in)`` -> ``(B, N, out)``; ``index``: the modality of each image ``(B,)``, None for the only one."""
        if index is None:
            return F.linear(x, self.weight[0], self.bias[0])
        return torch.baddbmm(self.bias[index].unsqueeze(1), x, self.weight[index].transpose(1, 2))


class FusedNorm(nn.Module):
    """SAM's ``LayerNorm2d`` on tokens: ``(..., C)`` -> ``(..., C)``."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.weight = constant(norm.weight)
        self.bias = constant(norm.bias)
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class FusedConv(nn.Module):
    """A convolution with the batch norm after it folded in; ``(B, C, H, W)`` -> ``(B, C', H', W')``."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        if norm is not None:
            conv = fuse_conv_bn_eval(conv, norm)
        self.stride = conv.stride
        self.padding = conv.padding
        self.groups = conv.groups
        self.weight = constant(conv.weight)
        self.bias = None if conv.bias is None else constant(conv.bias)

    @classmethod
    def of(cls, module: ConvBN) -> FusedConv:
        """Fold a :class:`ConvBN`."""
        return cls(module.c, module.bn)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)


class FusedMBConv(nn.Module):
    """:class:`MBConv`, ``(B, C, H, W)`` -> ``(B, C, H, W)``."""

    def __init__(self, block: MBConv) -> None:
        super().__init__()
        self.convs = nn.ModuleList(FusedConv.of(conv) for conv in (block.conv1, block.conv2, block.conv3))
        self.width = block.conv1.c.out_channels

    def forward(self, x: Tensor) -> Tensor:
        rows = rows_at_a_time(x, x.shape[2], x.shape[0] * x.shape[3] * self.width)
        if rows is None:
            return self._strip(x, 0, x.shape[2])
        return torch.cat([self._strip(x, row, row + rows) for row in range(0, x.shape[2], rows)], dim=2)

    def _strip(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the result; the depth-wise convolution looks one row beyond them."""
        expand, depthwise, project = self.convs
        height = x.shape[2]
        above, below = max(start - 1, 0), min(stop + 1, height)
        wide = F.gelu(depthwise(F.gelu(expand(x[:, :, above:below]))))
        stop = min(stop, height)
        return F.gelu(x[:, :, start:stop] + project(wide[:, :, start - above : stop - above]))


class FusedMerging(nn.Module):
    """:class:`PatchMerging`, ``(B, C, H, W)`` -> ``(B, C', H', W')``."""

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.convs = nn.ModuleList(FusedConv.of(conv) for conv in (merging.conv1, merging.conv2, merging.conv3))

    def forward(self, x: Tensor) -> Tensor:
        first, depthwise, last = self.convs
        return last(F.gelu(depthwise(F.gelu(first(x)))))


class FusedAttention(nn.Module):
    """:class:`WindowAttention` with the controllers' tokens.

    The scale is folded into the queries, the norm's affine part into the projection, and the table of biases is
    gathered once, with the tokens' column.

    Args:
        attention: the trunk's attention.
        experts: the block's controllers, one a modality; empty for none.
    """

    def __init__(self, attention: WindowAttention, experts: Sequence[BlockController]) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.window = attention.window
        dim = attention.proj.out_features
        self.head_dim = dim // self.heads
        weight, bias = _absorb(attention.norm, attention.qkv)
        # From head by head to all queries, all keys, all values; the queries divided by the root of their length.
        weight = weight.view(self.heads, 3, self.head_dim, dim).transpose(0, 1)
        bias = bias.view(self.heads, 3, self.head_dim).transpose(0, 1)
        scale = torch.tensor([self.head_dim**-0.5, 1.0, 1.0]).to(weight)
        self.qkv_weight = constant((weight * scale.view(3, 1, 1, 1)).reshape(3 * dim, dim))
        self.qkv_bias = constant((bias * scale.view(3, 1, 1)).reshape(3 * dim))
        self.proj_weight = constant(attention.proj.weight)
        self.proj_bias = constant(attention.proj.bias)
        table = attention.attention_biases[:, attention.position_index].detach()
        self.keys: nn.Parameter | None = None
        self.values: nn.Parameter | None = None
        if experts:
            keys: list[Tensor] = [e.key_tokens for e in experts]
            self.keys = constant(torch.stack(keys))
            values: list[Tensor] = [e.key_tokens if e.value_tokens is None else e.value_tokens for e in experts]
            self.values = constant(torch.stack(values))
            columns = [e.attention_bias.detach().expand(*table.shape[:2], e.key_tokens.shape[1]) for e in experts]
            self.table = constant(torch.stack([torch.cat((table, column), dim=2) for column in columns]))
        else:
            self.table = constant(table.unsqueeze(0))

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        """``(B, H, W, C)`` -> ``(B, H, W, C)``."""
        batch, height, width, dim = x.shape
        w, heads = self.window, self.heads
        rows, cols = -(-height // w), -(-width // w)
        qkv = F.linear(F.layer_norm(x, (dim,)), self.qkv_weight, self.qkv_bias)
        # A padded position is a zero before the norm: what the projection makes of it is its bias.
        if cols * w > width:
            qkv = torch.cat((qkv, self.qkv_bias.expand(batch, height, cols * w - width, 3 * dim)), dim=2)
        if rows * w > height:
            qkv = torch.cat((qkv, self.qkv_bias.expand(batch, rows * w - height, cols * w, 3 * dim)), dim=1)
        qkv = qkv.view(batch, rows, w, cols, w, 3, heads, self.head_dim).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, batch, rows * cols, heads, w * w, self.head_dim)
        table = self.table if index is None else self.table[index]
        if self.keys is not None and self.values is not None:
            keys = self.keys if index is None else self.keys[index]
            values = self.values if index is None else self.values[index]
            shape = (batch, rows * cols, *keys.shape[1:])
            k = torch.cat((k, keys.unsqueeze(1).expand(shape)), dim=3)
            v = torch.cat((v, values.unsqueeze(1).expand(shape)), dim=3)
        if index is not None:
            table = table.repeat_interleave(rows * cols, dim=0)
        out = F.scaled_dot_product_attention(
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=table, scale=1.0
        )
        out = out.view(batch, rows, cols, heads, w, w, self.head_dim).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(batch, rows * w, cols * w, dim)[:, :height, :width]
        return F.linear(out, self.proj_weight, self.proj_bias)


class FusedMLP(nn.Module):
    """The block's MLP and the controller's as one of twice the width; both read the same normalised tokens.

    Args:
        mlp: the trunk's.
        experts: the controllers', one a modality; empty for none.
    """

    def __init__(self, mlp: TokenMLP, experts: Sequence[TokenMLP]) -> None:
        super().__init__()
        groups: list[list[TokenMLP]] = [[mlp, expert] for expert in experts] or [[mlp]]
        first = [[_absorb(part.norm, part.fc1) for part in group] for group in groups]
        self.fc1 = ModalityLinear(
            [torch.cat([weight for weight, _ in parts]) for parts in first],
            [torch.cat([bias for _, bias in parts]) for parts in first],
        )
        self.fc2 = ModalityLinear(
            [torch.cat([part.fc2.weight for part in group], dim=1) for group in groups],
            [torch.stack([part.fc2.bias for part in group]).sum(0) for group in groups],
        )

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        """``(B, N, C)`` -> ``(B, N, C)``."""
        rows = rows_at_a_time(x, x.shape[1], x.shape[0] * self.fc1.weight.shape[1])
        if rows is None:
            return self._run(x, index)
        return torch.cat([self._run(part, index) for part in x.split(rows, dim=1)], dim=1)

    def _run(self, x: Tensor, index: Tensor | None) -> Tensor:
        return self.fc2(F.gelu(self.fc1(F.layer_norm(x, (x.shape[-1],)), index)), index)


class FusedBlock(nn.Module):
    """:class:`TinyViTBlock` with its controllers.

    Args:
        block: the trunk's block.
        experts: the block's controllers, one a modality; empty for none.
    """

    def __init__(self, block: TinyViTBlock, experts: Sequence[BlockController]) -> None:
        super().__init__()
        self.attn = FusedAttention(block.attn, experts)
        self.local_conv = FusedConv.of(block.local_conv)
        self.mlp = FusedMLP(block.mlp, [expert.mlp for expert in experts])

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        """``(B, H, W, C)`` -> ``(B, H, W, C)``."""
        x = x + self.attn(x, index)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens = x.flatten(1, 2)
        return (tokens + self.mlp(tokens, index)).view(x.shape)


def _absorb(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``linear`` on tokens that were normalised without the affine part of ``norm``."""
    weight = linear.weight.detach() * norm.weight.detach()
    return weight, linear.bias.detach() + linear.weight.detach() @ norm.bias.detach()
