"""Small crops seen inside larger fields of view."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import ensure_tuple

__all__ = ["RandPasteIntoFieldOfViewD", "RandPasteIntoFieldOfViewDict", "RandPasteIntoFieldOfViewd"]


class RandPasteIntoFieldOfViewd(Randomizable, MapTransform):
    """Paste a crop at a random place of a larger canvas of made-up tissue; the mask is background there.

    A network that saw a structure in tight crops only takes the crop's frame for a part of it. The canvas shows blobs
    of the crop's own intensities at random scales, or nothing, so that the frame says nothing about the structure.

    Args:
        keys: image and mask, ``(C, H, W)`` tensors.
        prob: probability to paste.
        fraction: smallest and largest part of the canvas's sides that the crop takes.
        modalities: apply to these only, by the dictionary's ``modality``; None for all.
        label_keys: those of ``keys`` that are masks.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        prob: float = 0.5,
        fraction: tuple[float, float] = (0.3, 0.9),
        modalities: Sequence[str] | None = ("mr",),
        label_keys: KeysCollection = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not 0 < fraction[0] <= fraction[1] <= 1:
            raise ValueError(f"fraction should be two growing numbers in (0, 1], got {fraction}.")
        self.prob = prob
        self.fraction = fraction
        self.modalities = None if modalities is None else set(modalities)
        self.label_keys = ensure_tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.modalities is not None and d["modality"] not in self.modalities:
            return d
        if self.R.random() >= self.prob:
            return d
        height, width = d[next(iter(self.key_iterator(d)))].shape[1:]
        # One fraction for both sides keeps the crop's proportions but for a tenth or so, as fields of view differ.
        fraction = self.R.uniform(*self.fraction)
        sides = [max(n, round(n / fraction * self.R.uniform(0.85, 1.15))) for n in (height, width)]
        top, left = (int(self.R.randint(side - n + 1)) for side, n in zip(sides, (height, width), strict=True))
        for key in self.key_iterator(d):
            crop = d[key]
            if key in self.label_keys:
                canvas = crop.new_zeros((crop.shape[0], *sides))
                canvas[:, top : top + height, left : left + width] = crop
                d[key] = canvas
            else:
                d[key] = self._paste(crop.float(), sides, top, left)
        return d

    def _paste(self, crop: torch.Tensor, sides: Sequence[int], top: int, left: int) -> torch.Tensor:
        height, width = crop.shape[1:]
        canvas = self._background(crop, sides)
        # The edge fades over a few pixels: a sharp frame would be the easiest thing to learn.
        fade = max(1, round(0.06 * min(height, width)))
        rows, columns = (
            torch.minimum(torch.arange(1, n + 1), torch.arange(n, 0, -1)).clamp(max=fade) / fade
            for n in (height, width)
        )
        weight = torch.minimum(rows[:, None], columns[None, :])
        place = canvas[:, top : top + height, left : left + width]
        canvas[:, top : top + height, left : left + width] = weight * crop + (1 - weight) * place
        return canvas

    def _background(self, crop: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
        """Blobs of two sizes, their values drawn from the crop's pixels; empty now and then."""
        channels = crop.shape[0]
        canvas = torch.zeros((channels, *sides))
        if self.R.random() < 0.2:
            return canvas
        pixels = crop.flatten(1)
        spread = float(pixels.std())
        for share in (0.6, 0.4):
            cells = [int(self.R.randint(3, max(4, side // 4 + 1))) for side in sides]
            picked = pixels[:, torch.from_numpy(self.R.randint(pixels.shape[1], size=cells))]
            canvas += share * F.interpolate(picked[None], tuple(sides), mode="bicubic")[0]
        noise = torch.from_numpy(self.R.standard_normal((channels, *sides)).astype(np.float32))
        return (canvas + self.R.uniform(0.0, 0.25) * spread * noise).clamp(0.0, 255.0)


RandPasteIntoFieldOfViewD = RandPasteIntoFieldOfViewDict = RandPasteIntoFieldOfViewd
