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

__all__ = [
    "CompactD",
    "CompactDict",
    "Compactd",
    "ResizeSliceD",
    "ResizeSliceDict",
    "ResizeSliced",
]


class _ToSide(MapTransform):
    """What the two transforms below share: the network's side, and a way to interpolate for each key."""

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        mode: str | tuple[str, ...] = ("bilinear", "nearest-exact"),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size
        self.mode = ensure_tuple_rep(mode, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key, mode in self.key_iterator(d, self.mode):
            d[key] = self._apply(d[key], mode)
        return d

    def _apply(self, img: Any, mode: str) -> torch.Tensor:
        raise NotImplementedError


class ResizeSliced(_ToSide):
    """Stretch 2D samples to a square; plain tensor operations, ten times faster than ``Resized`` on small slices.

    Args:
        keys: keys of ``(C, H, W)`` tensors.
        size: side of the square in pixels.
        mode: for each key ``"bilinear"`` or ``"nearest-exact"``.
        allow_missing_keys: do not fail when a key is missing.
    """

    def _apply(self, img: torch.Tensor, mode: str) -> torch.Tensor:
        return resize(img[None], (self.size, self.size), mode)[0]


class Compactd(_ToSide):
    """Make samples small for a cache: values in one byte, pictures no larger than the network's square.

    Volumes keep their shape, because their spacing decides how they are sliced. Values of 0..255 lose less than half a
    grey level.

    Args:
        keys: keys of ``MetaTensor`` images in 0..255 and of label maps.
        size: side of the network's square in pixels.
        mode: for each key ``"bilinear"`` or ``"nearest-exact"``.
        allow_missing_keys: do not fail when a key is missing.
    """

    def _apply(self, img: MetaTensor, mode: str) -> MetaTensor:
        x, meta = img.as_tensor(), dict(img.meta)
        spatial = tuple(x.shape[1:])
        # A stack of one slice is a picture too, and its axis of size 1 decides the slicing whatever the spacing.
        plane = [axis for axis, side in enumerate(spatial) if side > 1 or len(spatial) == 2]
        if len(plane) == 2 and max(spatial) > self.size:
            small = tuple(min(side, self.size) for side in spatial)
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
