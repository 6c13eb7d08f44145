"""SAM's image encoder in its three sizes, or any other, for any side of image.

Source: Segment Anything (arXiv 2304.02643); the encoder is ``segment-anything``'s own, so that its checkpoints fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SAM_ENCODERS", "resize_grid", "resize_offsets", "sam_encoder"]

PATCH_SIZE = 16

SAM_ENCODERS: dict[str, dict[str, Any]] = {
    "vit_b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)},
    "vit_l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_attn_indexes": (5, 11, 17, 23)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_attn_indexes": (7, 15, 23, 31)},
}
"""SAM's published sizes, in the words of ``segment_anything.modeling.ImageEncoderViT``."""

_REQUIRED = ("embed_dim", "depth", "num_heads", "global_attn_indexes")
_OPTIONAL = ("mlp_ratio", "window_size")


def sam_encoder(encoder: str | Mapping[str, Any], img_size: int) -> ImageEncoderViT:
    """An image encoder of SAM with fresh weights.

    Args:
        encoder: ``vit_b``, ``vit_l``, ``vit_h``, or ``{"embed_dim", "depth", "num_heads", "global_attn_indexes"}`` of
            another one, with ``mlp_ratio`` (4) and ``window_size`` (14) if they differ from SAM's.
        img_size: side of the images that its position tables are made for, in pixels, a multiple of 16.

    Returns:
        ``(B, 3, img_size, img_size)`` -> ``(B, 256, img_size/16, img_size/16)``.

    Raises:
        ValueError: when ``encoder`` is an unknown name, or lacks an entry, or has one too many or an impossible one.
    """
    if isinstance(encoder, str) and encoder not in SAM_ENCODERS:
        raise ValueError(f"encoder {encoder!r} is unknown; there are {', '.join(SAM_ENCODERS)}, or give its sizes.")
    sizes: Mapping[str, Any] = SAM_ENCODERS[encoder] if isinstance(encoder, str) else encoder
    wrong = [key for key in _REQUIRED if key not in sizes]
    wrong += [str(key) for key in sizes if key not in _REQUIRED + _OPTIONAL]
    if wrong:
        raise ValueError(
            f"encoder: {wrong[0]} is missing or unknown; give {', '.join(_REQUIRED)}, and {' or '.join(_OPTIONAL)} "
            "where they differ from SAM's."
        )
    if sizes["embed_dim"] % sizes["num_heads"]:
        raise ValueError(f"encoder: embed_dim {sizes['embed_dim']} is no multiple of num_heads {sizes['num_heads']}.")
    outside = [i for i in sizes["global_attn_indexes"] if not 0 <= i < sizes["depth"]]
    if outside:
        raise ValueError(f"encoder: global_attn_indexes names block {outside[0]} of {sizes['depth']}, from 0.")
    return ImageEncoderViT(
        img_size=img_size,
        patch_size=PATCH_SIZE,
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes.get("mlp_ratio", 4.0),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=sizes.get("window_size", 14),
        global_attn_indexes=tuple(sizes["global_attn_indexes"]),
    )


def resize_grid(table: Tensor, side: int) -> Tensor:
    """Absolute positions for another side, bicubic, low-passed where they become fewer.

    Args:
        table: ``(1, n, n, C)``.
        side: positions a side.

    Returns:
        ``(1, side, side, C)``; the table itself where it fits.
    """
    if table.shape[1] == side:
        return table
    grid = F.interpolate(table.permute(0, 3, 1, 2), (side, side), mode="bicubic", align_corners=False, antialias=True)
    return grid.permute(0, 2, 3, 1)


def resize_offsets(table: Tensor, side: int) -> Tensor:
    """Relative positions along one axis for another side, linear, as SAM's ``get_rel_pos`` does in its forward pass.

    Args:
        table: ``(2n - 1, C)``, one row an offset.
        side: positions a side.

    Returns:
        ``(2 * side - 1, C)``; the table itself where it fits.
    """
    if table.shape[0] == 2 * side - 1:
        return table
    return F.interpolate(table.T.unsqueeze(0), 2 * side - 1, mode="linear")[0].T
