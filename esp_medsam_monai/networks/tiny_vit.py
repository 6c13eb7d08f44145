"""The modality aggregator: MobileSAM's TinyViT trunk, with a place for a modality controller in every attention block.

Sources: TinyViT (arXiv 2207.10666), MobileSAM (arXiv 2306.14289) and ESP-MedSAM (arXiv 2407.14153). Module names
follow the public checkpoints of ``ChaoningZhang/MobileSAM`` (Apache-2.0), so that their keys fit; no code is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from esp_medsam_monai.networks.checkpointing import run_block
from esp_medsam_monai.networks.modality_controller import RoutedBlockController, TokenMLP

__all__ = ["TinyViT"]


class ConvBN(nn.Module):
    """Convolution without bias, then batch norm; ``(B, C, H, W)`` -> ``(B, C', H/stride, W/stride)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class PatchEmbed(nn.Module):
    """The stem: two 3 x 3 convolutions of stride 2; ``(B, C, H, W)`` -> ``(B, C', H/4, W/4)``."""

    def __init__(self, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvBN(in_channels, embed_dim // 2, 3, 2), nn.GELU(), ConvBN(embed_dim // 2, embed_dim, 3, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck with a residual; ``(B, C, H, W)`` -> ``(B, C, H, W)``."""

    def __init__(self, dim: int, expansion: float = 4.0) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.conv1 = ConvBN(dim, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv3(self.act(self.conv2(self.act(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Change of channels and, with stride 2, of resolution between stages; ``(B, C, H, W)`` -> ``(B, C', H', W')``."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvBN(out_dim, out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Attention inside non-overlapping windows, with the layer norm in front and optional extra keys and values.

    The right and bottom border are padded to whole windows, and padded positions take part as keys and values. The
    norm maps their zeros to its bias, so that all of them share one query-key-value vector: it is computed once and
    set in after the projection.

    Args:
        dim: channels.
        num_heads: heads.
        window: side of a window in positions.
    """

    position_index: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for layer in (self.qkv, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        # One bias a head for each absolute offset (|dy|, |dx|), row-major.
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        offset = (grid[:, :, None] - grid[:, None, :]).abs()
        self.register_buffer("position_index", offset[0] * window + offset[1], persistent=False)

    def forward(self, x: Tensor, controller: RoutedBlockController | None = None) -> Tensor:
        """``(B, H, W, C)`` -> ``(B, H, W, C)``."""
        batch, height, width, dim = x.shape
        w, heads = self.window, self.num_heads
        rows, cols = -(-height // w), -(-width // w)
        qkv = self.qkv(self.norm(x))
        if rows * w > height or cols * w > width:
            border = self.qkv(self.norm.bias).to(qkv.dtype)
            right = border.expand(batch, height, cols * w - width, 3 * dim)
            below = border.expand(batch, rows * w - height, cols * w, 3 * dim)
            qkv = torch.cat((torch.cat((qkv, right), dim=2), below), dim=1)
        # The projection lays q, k and v out head by head.
        qkv = qkv.view(batch, rows, w, cols, w, heads, 3, dim // heads).permute(6, 0, 1, 3, 5, 2, 4, 7)
        q, k, v = qkv.reshape(3, batch, rows * cols, heads, w * w, dim // heads)
        bias = self.attention_biases[:, self.position_index].unsqueeze(0)
        if controller is not None:
            keys, values, token_bias = controller.tokens()
            shape = (batch, rows * cols, *keys.shape[1:])
            k = torch.cat((k, keys.unsqueeze(1).expand(shape).to(k.dtype)), dim=3)
            v = torch.cat((v, values.unsqueeze(1).expand(shape).to(v.dtype)), dim=3)
            token_bias = token_bias.view(-1, 1, 1, 1).expand(-1, heads, w * w, keys.shape[2])
            bias = torch.cat((bias.expand(token_bias.shape[0], -1, -1, -1), token_bias), dim=3)
            if bias.shape[0] > 1:
                bias = bias.repeat_interleave(rows * cols, dim=0)
        out = F.scaled_dot_product_attention(
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=bias.to(q.dtype)
        )
        out = out.view(batch, rows, cols, heads, w, w, dim // heads).permute(0, 1, 4, 2, 5, 3, 6)
        return self.proj(out.reshape(batch, rows * w, cols * w, dim)[:, :height, :width])


class TinyViTBlock(nn.Module):
    """Window attention, depth-wise convolution and MLP; the controller's MLP stands beside the block's own.

    Args:
        dim: channels.
        num_heads: heads.
        window: side of a window in positions.
        mlp_ratio: width of the MLP over ``dim``.
    """

    def __init__(self, dim: int, num_heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = WindowAttention(dim, num_heads, window)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)
        self.mlp = TokenMLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, controller: RoutedBlockController | None = None) -> Tensor:
        """``(B, H, W, C)`` -> ``(B, H, W, C)``."""
        x = x + self.attn(x, controller)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        out = x + self.mlp(x)
        return out if controller is None else out + controller.mlp(x)


class ConvStage(nn.Module):
    """Convolutional blocks of one resolution and the step to the next; ``(B, C, H, W)`` -> ``(B, C', H', W')``."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, use_checkpoint: bool = False) -> Tensor:
        for block in self.blocks:
            x = run_block(block, x, use_checkpoint=use_checkpoint)
        return run_block(self.downsample, x, use_checkpoint=use_checkpoint)


class AttentionStage(nn.Module):
    """Attention blocks of one resolution and the step to the next (None after the last)."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(
        self, x: Tensor, controllers: Sequence[RoutedBlockController | None], use_checkpoint: bool = False
    ) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C', H', W')``; one controller, or None, for each block."""
        x = x.permute(0, 2, 3, 1).contiguous()
        for block, controller in zip(self.blocks, controllers, strict=True):
            x = run_block(block, x, controller, use_checkpoint=use_checkpoint)
        x = x.permute(0, 3, 1, 2)
        return x if self.downsample is None else run_block(self.downsample, x, use_checkpoint=use_checkpoint)


class TinyViT(nn.Module):
    """TinyViT trunk with SAM's neck, stride 16, for any input whose sides are multiples of 16.

    Args:
        in_channels: channels of the input.
        embed_dims: channels of the stages; the first stage is convolutional.
        depths: blocks a stage.
        num_heads: attention heads a stage (the first is not used).
        windows: window side a stage in positions (the first is not used).
        strides: stride between the stages.
        mlp_ratio: width of the MLPs over the channels.
        out_channels: channels of the embedding.
        use_checkpoint: keep the input of each block alone for the backward pass, which computes the block again: less
            memory, and about a third more time, in training.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
        strides: Sequence[int] = (2, 2, 1),
        mlp_ratio: float = 4.0,
        out_channels: int = 256,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.patch_embed = PatchEmbed(in_channels, embed_dims[0])
        self.layers = nn.ModuleList()
        for i, dim in enumerate(embed_dims):
            step = PatchMerging(dim, embed_dims[i + 1], strides[i]) if i + 1 < len(embed_dims) else None
            if i == 0 and step is not None:
                self.layers.append(ConvStage([MBConv(dim, mlp_ratio) for _ in range(depths[i])], step))
            else:
                blocks = [TinyViTBlock(dim, num_heads[i], windows[i], mlp_ratio) for _ in range(depths[i])]
                self.layers.append(AttentionStage(blocks, step))
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dims[-1], out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
        attention_stages = range(1, len(embed_dims))
        self.depths = tuple(depths)
        self.block_dims = [embed_dims[i] for i in attention_stages for _ in range(depths[i])]
        """Channels of the attention blocks, in order: what a controller has to fit."""
        self.block_heads = [num_heads[i] for i in attention_stages for _ in range(depths[i])]
        """Heads of the attention blocks, in order."""

    def forward(self, x: Tensor, controllers: Sequence[RoutedBlockController] | None = None) -> Tensor:
        """Embed images.

        Args:
            x: ``(B, C, H, W)``, normalised.
            controllers: one for each attention block, in order; None runs the trunk alone.

        Returns:
            ``(B, 256, H/16, W/16)``.
        """
        again = self.use_checkpoint
        x = run_block(self.patch_embed, x, use_checkpoint=again)
        x = self.layers[0](x, again)
        pending = iter(controllers if controllers is not None else [None] * len(self.block_dims))
        for stage, depth in zip(self.layers[1:], self.depths[1:], strict=True):
            x = stage(x, list(islice(pending, depth)), again)
        return run_block(self.neck, x, use_checkpoint=again)
