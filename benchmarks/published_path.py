"""The published ESP-MedSAM, executed as its code executes it: what every speed of ours is compared with.

Nothing is fused, folded or batched that the published code does not: windows are padded before the layer norm,
attention is written out (the gathered bias table is kept in eval mode, as there), convolution and batch norm are two
steps, the decoder runs in a loop over the images and computes the Fourier grid anew for each.

Source: ``xq141839/De-LightSAM`` at d2260d7 (Apache-2.0), from which no code is taken; attribute names are those of its
checkpoints. The two-way transformer, the prompt encoder and the hyper-network MLP come from ``segment-anything``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PublishedESPMedSAM"]

DIMS, DEPTHS, HEADS, WINDOWS, STRIDES = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7), (2, 2, 1)
EMBED_DIM, QUERIES, MASKS = 256, 7, 6


class ConvBN(nn.Sequential):
    """Convolution, then batch norm, as two steps."""

    def __init__(self, into: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))


class Stem(nn.Module):
    """``(B, 3, S, S)`` -> ``(B, 64, S/4, S/4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvBN(3, DIMS[0] // 2, 3, 2), nn.GELU(), ConvBN(DIMS[0] // 2, DIMS[0], 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck; ``(B, C, H, W)`` -> the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, 4 * dim)
        self.conv2 = ConvBN(4 * dim, 4 * dim, 3, groups=4 * dim)
        self.conv3 = ConvBN(4 * dim, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.conv1(x))
        out = self.act(self.conv2(out))
        return self.act(self.conv3(out) + x)


class PatchMerging(nn.Module):
    """Map or tokens at a side -> tokens ``(B, (side/stride)^2, C')``."""

    def __init__(self, dim: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out)
        self.conv2 = ConvBN(out, out, 3, stride, groups=out)
        self.conv3 = ConvBN(out, out)
        self.act = nn.GELU()

    def forward(self, x: Tensor, side: int) -> Tensor:
        if x.ndim == 3:
            x = x.view(x.shape[0], side, side, -1).permute(0, 3, 1, 2)
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x))
        return self.conv3(x).flatten(2).transpose(1, 2)


class TokenMLP(nn.Module):
    """Layer norm, linear, GELU, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(x))))


class WindowAttention(nn.Module):
    """Written-out attention of the windows, one learned token appended to keys and values: ``(N, w*w, C)`` -> same."""

    offsets: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        self.med_attention_biases = nn.Parameter(torch.zeros(1))
        self.deep_QKV_embeddings_med = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        place = torch.arange(window**2)
        rows, columns = place // window, place % window
        offsets = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("offsets", offsets, persistent=False)
        self._gathered: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        windows, tokens, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, tokens, self.heads, -1)
        q, k, v = (part.permute(0, 2, 1, 3) for part in qkv.split(dim // self.heads, dim=3))
        token = self.deep_QKV_embeddings_med.expand(windows, -1, -1, -1)
        k, v = torch.cat((k, token), dim=2), torch.cat((v, token), dim=2)
        if self._gathered is None:
            self._gathered = self.attention_biases[:, self.offsets]
        bias = torch.cat((self._gathered, self.med_attention_biases.expand(self.heads, tokens, 1)), dim=2)
        weights = ((q @ k.transpose(-2, -1)) * self.scale + bias).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(windows, tokens, dim))


class Block(nn.Module):
    """Tokens ``(B, H*H, C)`` -> the same: windows, depth-wise convolution, own MLP and the controller's."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, heads, window)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)
        self.mlp = TokenMLP(dim)
        self.med_dah = TokenMLP(dim)

    def forward(self, x: Tensor, side: int) -> Tensor:
        (batch, tokens, dim), w = x.shape, self.window
        grid = x.view(batch, side, side, dim)
        border = -side % w
        if border:
            grid = F.pad(grid, (0, 0, 0, border, 0, border))
        count = (side + border) // w
        windows = grid.view(batch, count, w, count, w, dim).transpose(2, 3).reshape(-1, w * w, dim)
        grid = self.attn(windows).view(batch, count, count, w, w, dim).transpose(2, 3)
        grid = grid.reshape(batch, count * w, count * w, dim)
        if border:
            grid = grid[:, :side, :side].contiguous()
        x = x + grid.view(batch, tokens, dim)
        x = self.local_conv(x.transpose(1, 2).reshape(batch, dim, side, side))
        x = x.view(batch, dim, tokens).transpose(1, 2)
        return x + self.mlp(x) + self.med_dah(x)


class Stage(nn.Module):
    """Blocks of one resolution and the step to the next."""

    def __init__(self, number: int) -> None:
        super().__init__()
        dim, make = DIMS[number], lambda: Block(DIMS[number], HEADS[number], WINDOWS[number])
        self.blocks = nn.ModuleList(MBConv(dim) if number == 0 else make() for _ in range(DEPTHS[number]))
        last = number == len(DIMS) - 1
        self.downsample = None if last else PatchMerging(dim, DIMS[number + 1], STRIDES[number])

    def forward(self, x: Tensor, side: int) -> Tensor:
        for block in self.blocks:
            x = block(x) if isinstance(block, MBConv) else block(x, side)
        return x if self.downsample is None else self.downsample(x, side)


class Encoder(nn.Module):
    """``(B, 3, S, S)`` -> ``(B, 256, S/16, S/16)``; the classifier head is there and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = Stem()
        self.layers = nn.ModuleList(Stage(number) for number in range(len(DIMS)))
        self.norm_head = nn.LayerNorm(DIMS[-1])
        self.head = nn.Linear(DIMS[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[-1], EMBED_DIM, 1, bias=False),
            LayerNorm2d(EMBED_DIM),
            nn.Conv2d(EMBED_DIM, EMBED_DIM, 3, padding=1, bias=False),
            LayerNorm2d(EMBED_DIM),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        side = x.shape[-1]
        for stage, stride in zip(self.layers, (*STRIDES, 1), strict=True):
            x = stage(x, side)
            side = -(-side // stride)
        return self.neck(x.view(x.shape[0], side, side, -1).permute(0, 3, 1, 2))


class Decoder(nn.Module):
    """One image: embedding and grid ``(1, 256, h, h)``, tokens ``(1, 7, 256)`` -> logits ``(1, 6, 4h, 4h)``."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(EMBED_DIM, EMBED_DIM // 4, 2, stride=2),
            LayerNorm2d(EMBED_DIM // 4),
            nn.GELU(),
            nn.ConvTranspose2d(EMBED_DIM // 4, EMBED_DIM // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(EMBED_DIM, EMBED_DIM, EMBED_DIM // 8, 3)])

    def forward(self, embedding: Tensor, grid: Tensor, tokens: Tensor) -> Tensor:
        queries, keys = self.transformer(embedding, grid, tokens)
        upscaled = self.output_upscaling(keys.transpose(1, 2).view(embedding.shape))
        weights = torch.stack([self.output_hypernetworks_mlps[0](queries[:, i]) for i in range(MASKS)], dim=1)
        return (weights @ upscaled.flatten(2)).view(1, MASKS, *upscaled.shape[-2:])


class PublishedESPMedSAM(nn.Module):
    """The network of one published file, in eval mode.

    Args:
        state: the file's 504 entries; None leaves random weights.
        img_size: side of the images, a multiple of 32; the published code has 1024 only.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None, img_size: int = 1024) -> None:
        super().__init__()
        self.SemiTViT = Encoder()
        self.prompt_encoder = PromptEncoder(EMBED_DIM, (img_size // 16, img_size // 16), (img_size, img_size), 16)
        self.mask_decoder = Decoder()
        self.patch_decoder = nn.Sequential(
            nn.Conv2d(EMBED_DIM, 64, 2, stride=2), LayerNorm2d(64), nn.GELU(), nn.Conv2d(64, 1, 1)
        )
        self.dense_prompter = nn.Sequential(nn.Conv2d(1, EMBED_DIM, 1), LayerNorm2d(EMBED_DIM), nn.GELU())
        self.mask_query = nn.Embedding(QUERIES, EMBED_DIM)
        if state is not None:
            self.load_state_dict(state)
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor, index: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Segment a batch of one modality.

        Args:
            x: ``(B, 3, S, S)``, normalised, S as given to the constructor.
            index: the modality's number in the decoder, 0 to 5.

        Returns:
            mask logits ``(B, 1, S, S)``, patch logits ``(B, 1, S/32, S/32)``, embedding ``(B, 256, S/16, S/16)``.
        """
        embedding = self.SemiTViT(x)
        patch_logits = self.patch_decoder(embedding)
        hard = (patch_logits.sigmoid() >= 0.5).to(embedding.dtype)
        prompted = embedding + self.dense_prompter(F.interpolate(hard, scale_factor=2, mode="nearest"))
        masks = []
        for image in prompted.split(1):
            grid = self.prompt_encoder.get_dense_pe()
            masks.append(self.mask_decoder(image, grid, self.mask_query.weight.unsqueeze(0))[:, index : index + 1])
        logits = F.interpolate(torch.cat(masks), x.shape[-2:], mode="bilinear", align_corners=False)
        return logits, patch_logits, embedding
