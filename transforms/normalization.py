"""The last step before the network: three channels, SAM's mean, and the divisor that the weights were trained with."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

__all__ = ["NormalizeSlices", "NormalizeSlicesD", "NormalizeSlicesDict", "NormalizeSlicesd"]

# Segment Anything's constants, `Sam.__init__` in github.com/facebookresearch/segment-anything.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class NormalizeSlices(Transform):
    """``(x - mean) / divisor`` on three channels; grey becomes three equal channels.

    Args:
        divisor: ``"sam"`` divides by SAM's standard deviation; ``"published"`` divides by the mean, as the published
            code does by mistake and as the published weights therefore need
            (``pixel_std`` set from ``pixel_mean`` in ``dataloader.py`` of github.com/xq141839/De-LightSAM).
    """

    def __init__(self, divisor: Literal["sam", "published"] = "sam") -> None:
        divisors = {"sam": _STD, "published": _MEAN}
        if divisor not in divisors:
            raise ValueError(f"divisor should be one of {sorted(divisors)}, got {divisor!r}.")
        self.divisor = divisor
        cpu = torch.device("cpu")
        self._constants = {cpu: tuple(torch.tensor(each).view(3, 1, 1) for each in (_MEAN, divisors[divisor]))}

    def __call__(self, slices: torch.Tensor) -> torch.Tensor:
        """
        Args:
            slices: ``(B, C, H, W)`` or ``(C, H, W)``, C = 1 or 3, values in 0..255.

        Returns:
            float32 on the same device, with three channels.

        Raises:
            ValueError: when the number of channels is neither 1 nor 3.
        """
        if slices.ndim not in (3, 4) or slices.shape[-3] not in (1, 3):
            raise ValueError(f"expected ([B,] 1 or 3, H, W), got shape {tuple(slices.shape)}.")
        x = slices.float()
        if x.device not in self._constants:  # once: each copy to a GPU would wait for all that it has to do
            self._constants[x.device] = tuple(each.to(x.device) for each in self._constants[torch.device("cpu")])
        mean, divisor = self._constants[x.device]
        return (x - mean) / divisor


class NormalizeSlicesd(MapTransform):
    """Dictionary form of :class:`NormalizeSlices`, for one ``(C, H, W)`` sample.

    Args:
        keys: keys of the images.
        divisor: see :class:`NormalizeSlices`.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self, keys: KeysCollection, divisor: Literal["sam", "published"] = "sam", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalizer = NormalizeSlices(divisor)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.normalizer(d[key])
        return d


NormalizeSlicesD = NormalizeSlicesDict = NormalizeSlicesd
