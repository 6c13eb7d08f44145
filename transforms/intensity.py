"""Stored values of any modality become 0..255, by the rule in the modality's row of the table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import MODALITIES, Intensity

from .percentiles import percentiles

__all__ = [
    "ScaleIntensityByModality",
    "ScaleIntensityByModalityD",
    "ScaleIntensityByModalityDict",
    "ScaleIntensityByModalityd",
]

# What a modality of the user's own gets: robust against a few extreme values, whatever the unit.
_OTHERWISE = Intensity("percentile", 0.5, 99.5)


def _full_scale(peak: float, integer: bool) -> float:
    """The value that stands for white: 1 (floats only), 255, 65535 or 2**32 - 1, the first that holds the maximum.

    Readers and MONAI widen integer types (uint16 becomes int32), so the type alone does not say it.
    """
    scales = (255.0, 65535.0, 4294967295.0) if integer else (1.0, 255.0, 65535.0, 4294967295.0)
    return next((scale for scale in scales if peak <= scale), peak)


def _planes(values: np.ndarray) -> np.ndarray:
    """A view whose first axis is the one along which pieces lie farthest apart, so that each piece lies together."""
    axis = max(range(values.ndim), key=lambda i: abs(values.strides[i]) if values.shape[i] > 1 else 0)
    return np.moveaxis(values, axis, 0)


def _finite(plane: np.ndarray) -> np.ndarray:
    """The values that are numbers, as float32."""
    plane = plane.astype(np.float32, copy=False)
    usable = np.isfinite(plane)
    return plane if usable.all() else plane[usable]


def _finite_range(values: np.ndarray) -> tuple[float, float]:
    """Least and greatest of the values that are numbers; (inf, -inf) where none is."""
    low, high = np.inf, -np.inf
    for plane in map(_finite, _planes(values)):
        if plane.size:
            low, high = min(low, float(plane.min())), max(high, float(plane.max()))
    return low, high


class ScaleIntensityByModality(Transform):
    """Map an image to 0..255 float32 by its modality's :class:`~esp_medsam_monai.modalities.Intensity`.

    Colour pictures in 8 bits keep their values whatever the modality; grey ones stored in three equal channels do not
    count as colour. A modality that the table does not know (a user's own) goes by its 0.5-th and 99.5-th percentile.
    Percentiles are of the whole volume; values that are not finite neither count nor survive (NaN becomes 0).
    """

    def __call__(self, img: torch.Tensor, modality: str | None = None) -> torch.Tensor:
        """
        Args:
            img: ``(C, *spatial)`` in stored units, C = 1 or 3, any type; ``MetaTensor`` or plain.
            modality: its modality; None takes ``img.meta["modality"]``.

        Returns:
            float32 in 0..255, same shape and metadata.

        Raises:
            InputRefused: ``NON_FINITE`` when no value is a finite number.
        """
        meta = getattr(img, "meta", {})
        modality = meta["modality"] if modality is None else modality
        row = MODALITIES.get(modality)
        rule = row.intensity if row else _OTHERWISE
        if img.dtype == torch.uint8 and (rule.rule == "photograph" or self._is_colour(img)):
            return img.float()
        values = img.numpy(force=True)
        low, high = _finite_range(values)
        if low > high:
            raise InputRefused(
                "NON_FINITE", f"{meta.get('filename_or_obj', 'an image')} holds no finite value; export it again."
            )
        if rule.rule == "photograph":
            lower, upper = 0.0, _full_scale(high, integer=not img.dtype.is_floating_point)
        elif rule.rule == "window":
            lower, upper = rule.lower, rule.upper
        else:
            lower, upper = percentiles(lambda: map(_finite, _planes(values)), (rule.lower, rule.upper))
            if upper <= lower:  # a small bright thing on a constant background
                lower, upper = low, high
        scale = 255.0 / (upper - lower) if upper > lower else 0.0
        # In the order in which the input is stored, plane by plane: nothing but the result takes memory.
        result = np.empty_like(values, dtype=np.float32, order="K")
        for plane, scaled in zip(_planes(values), _planes(result), strict=True):
            np.subtract(plane, np.float32(lower), out=scaled, dtype=np.float32, casting="unsafe")
            scaled *= np.float32(scale)
            np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
            np.clip(scaled, 0.0, 255.0, out=scaled)
        return convert_to_dst_type(torch.from_numpy(result), img, dtype=torch.float32)[0]

    @staticmethod
    def _is_colour(img: torch.Tensor) -> bool:
        return img.shape[0] == 3 and not (torch.equal(img[0], img[1]) and torch.equal(img[1], img[2]))


class ScaleIntensityByModalityd(MapTransform):
    """Dictionary form of :class:`ScaleIntensityByModality`; the modality stands in each image's ``meta``.

    Args:
        keys: keys of the images.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scaler = ScaleIntensityByModality()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.scaler(d[key])
        return d


ScaleIntensityByModalityD = ScaleIntensityByModalityDict = ScaleIntensityByModalityd
