"""A finite, numbered set of views of each image, so that a teacher's answers to all of them can be kept.

Random augmentation makes every image new, and a frozen teacher would be asked for ever. Here an image has a handful of
views, each a pure function of the image and a number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTrait

from esp_medsam_monai.geometry import resize
from esp_medsam_monai.modalities import image_side

__all__ = [
    "WITHOUT_UPSIDE",
    "ContentKeyD",
    "ContentKeyDict",
    "ContentKeyd",
    "View",
    "ViewSliceD",
    "ViewSliceDict",
    "ViewSliced",
    "cut_view",
    "views_of",
]

WITHOUT_UPSIDE = frozenset({"dermoscopy", "fundus", "microscopy", "colonoscopy"})
"""Photographs that look the same upside down."""


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Args:
        window: top, left, height and width of what is seen, in parts of the image's sides.
        flip: axes of ``(C, H, W)`` that are mirrored, 1 up and down, 2 left and right.
    """

    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    flip: tuple[int, ...] = ()


def views_of(modality: str, crop: float = 0.75) -> tuple[View, ...]:
    """The views of a modality's images: as it is, mirrored, and crops that together cover it.

    Args:
        modality: its name; those of :data:`WITHOUT_UPSIDE` are mirrored up and down, too.
        crop: side of a crop over the image's side, above 0; 1 means no crops.

    Returns:
        Number 0 is the whole image unchanged. The order is part of what the numbers mean.
    """
    if not 0 < crop <= 1:
        raise ValueError(f"crop should be a part of the side, above 0 and at most 1; got {crop}.")
    views = [View(), View(flip=(2,))]
    if modality in WITHOUT_UPSIDE:
        views.append(View(flip=(1,)))
    if crop < 1:
        places = math.ceil(1 / crop)
        starts = [i * (1 - crop) / (places - 1) for i in range(places)]
        views += [View(window=(top, left, crop, crop)) for top in starts for left in starts]
    return tuple(views)


def cut_view(image: torch.Tensor, view: View, side: int) -> torch.Tensor:
    """Look at an image in one way.

    Args:
        image: ``(C, H, W)`` in 0..255.
        view: what is seen.
        side: side S of the result in pixels.

    Returns:
        uint8 ``(C, S, S)``: whole grey levels, so that the same view has the same content on every machine.
    """
    (top, height), (left, width) = (
        _pixels(start, part, size)
        for start, part, size in zip(view.window[:2], view.window[2:], image.shape[1:], strict=True)
    )
    seen = image[:, top : top + height, left : left + width]
    seen = resize(seen[None].float(), (side, side))[0].round().clamp(0, 255).to(torch.uint8)
    return seen.flip(view.flip) if view.flip else seen


def _pixels(start: float, part: float, size: int) -> tuple[int, int]:
    """First pixel of a window, and how many there are."""
    length = max(1, round(part * size))
    return min(round(start * size), size - length), length


class ViewSliced(MapTransform, RandomizableTrait):
    """Replace a slice by one of its numbered views, at the network's side.

    The dictionary's ``view`` is the number and its ``modality`` says which views there are. Nothing is random here; the
    trait tells MONAI's ``CacheDataset`` that what follows differs from time to time.

    Args:
        keys: keys of ``(C, H, W)`` images in 0..255.
        image_size: side S of the network's square in pixels.
        image_sizes: ``{modality: side}`` of modalities that are seen larger; the views of these have side S as well,
            and their crops are as large as S is in that side.
        crop: side of the other modalities' crops over the image's side.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_size: int,
        image_sizes: Mapping[str, int] | None = None,
        crop: float = 0.75,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_size = image_size
        self.image_sizes = dict(image_sizes or {})
        self.crop = crop

    def views(self, modality: str) -> tuple[View, ...]:
        """The views of a modality's images, by their numbers."""
        side = image_side(modality, self.image_size, self.image_sizes)
        return views_of(modality, self.image_size / side if side > self.image_size else self.crop)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        view = self.views(d["modality"])[d["view"]]
        for key in self.key_iterator(d):
            d[key] = cut_view(torch.as_tensor(d[key]), view, self.image_size)
        return d


class ContentKeyd(MapTransform):
    """Write a hash of an image's content, as it goes to the network, beside it.

    Args:
        keys: key of the image, a uint8 tensor.
        output_key: where the hash goes, SHA-256 in hexadecimal.
        settings: what follows and changes the content, such as the divisor.
        allow_missing_keys: do not fail when the key is missing.
    """

    def __init__(
        self, keys: KeysCollection, output_key: str = "key", settings: str = "", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_key = output_key
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        digest = hashlib.sha256(f"{self.settings} {d['modality']}".encode())
        for key in self.key_iterator(d):
            digest.update(f" {tuple(d[key].shape)} ".encode())
            digest.update(d[key].contiguous().numpy().tobytes())
        d[self.output_key] = digest.hexdigest()
        return d


ViewSliceD = ViewSliceDict = ViewSliced
ContentKeyD = ContentKeyDict = ContentKeyd
