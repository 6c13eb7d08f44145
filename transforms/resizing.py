"""Slices are stretched to the network's square; what a cache holds is made small beforehand."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform
from monai.transforms.utils import scale_affine
from monai.utils import ensure_tuple_rep

from esp_medsam_monai.geometry import resize
from esp_medsam_monai.modalities import image_side

__all__ = [
    "CompactD",
    "CompactDict",
    "Compactd",
    "ResizeSliceD",
    "ResizeSliceDict",
    "ResizeSliced",
]


class _ToSide(MapTransform):
    """What the two transforms below share: the side of the image's modality, and a way to interpolate for each key."""

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        mode: str | tuple[str, ...] = ("bilinear", "nearest-exact"),
        sizes: Mapping[str, int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size
        self.sizes = dict(sizes or {})
        self.mode = ensure_tuple_rep(mode, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        size = image_side(d.get("modality"), self.size, self.sizes)
        for key, mode in self.key_iterator(d, self.mode):
            d[key] = self._apply(d[key], size, mode)
        return d

    def _apply(self, img: Any, size: int, mode: str) -> torch.Tensor:
        raise NotImplementedError


class ResizeSliced(_ToSide):
    """Stretch 2D samples to a square; plain tensor operations, ten times faster than ``Resized`` on small slices.

    Args:
        keys: keys of ``(C, H, W)`` tensors.
        size: side of the square in pixels.
        mode: for each key ``"bilinear"`` or ``"nearest-exact"``.
        sizes: ``{modality: side}`` of modalities that are seen larger, by the dictionary's ``modality``.
        allow_missing_keys: do not fail when a key is missing.
    """

    def _apply(self, img: torch.Tensor, size: int, mode: str) -> torch.Tensor:
        return resize(img[None], (size, size), mode)[0]


class Compactd(_ToSide):
    """Make samples small for a cache: values in one byte, pictures no larger than the network's square.

    Volumes keep their shape, because their spacing decides how they are sliced. Values of 0..255 lose less than half a
    grey level.

    Args:
        keys: keys of ``MetaTensor`` images in 0..255 and of label maps.
        size: side of the network's square in pixels.
        mode: for each key ``"bilinear"`` or ``"nearest-exact"``.
        sizes: ``{modality: side}`` of modalities that are seen larger, by the dictionary's ``modality``.
        allow_missing_keys: do not fail when a key is missing.
    """

    def _apply(self, img: MetaTensor, size: int, mode: str) -> MetaTensor:
        x, meta = img.as_tensor(), dict(img.meta)
        spatial = tuple(x.shape[1:])
        # A stack of one slice is a picture too, and its axis of size 1 decides the slicing whatever the spacing.
        plane = [axis for axis, side in enumerate(spatial) if side > 1 or len(spatial) == 2]
        if len(plane) == 2 and max(spatial) > size:
            small = tuple(min(side, size) for side in spatial)
            rows, columns = plane
            flat = x.reshape(x.shape[0], spatial[rows], spatial[columns])
            x = resize(flat[None], (small[rows], small[columns]), mode).reshape(x.shape[0], *small)
            zoom = to_affine_nd(len(img.affine) - 1, scale_affine(spatial, small))
            meta["affine"] = img.affine @ torch.as_tensor(zoom, dtype=img.affine.dtype)
        if x.is_floating_point():
            x = x.round()
        return MetaTensor(x.to(torch.uint8).contiguous(), meta=meta)


ResizeSliceD = ResizeSliceDict = ResizeSliced
CompactD = CompactDict = Compactd
