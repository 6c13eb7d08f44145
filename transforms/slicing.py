"""One upright 2D sample out of a volume or a picture, image and mask alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from esp_medsam_monai.geometry import SlicePlan, slice_plan

__all__ = [
    "LargestSliceD",
    "LargestSliceDict",
    "LargestSliced",
    "RandSliceD",
    "RandSliceDict",
    "RandSliced",
    "TakeSliceD",
    "TakeSliceDict",
    "TakeSliced",
]


def _plan(data: Mapping[Hashable, Any], image_key: str) -> SlicePlan:
    image = data[image_key]
    return slice_plan(image.affine, image.shape[1:], stacking_axis=image.meta.get("slice_axis"))


def _foreground(plan: SlicePlan, label: torch.Tensor) -> torch.Tensor:
    """Number of foreground pixels of every slice, in the order of the plan."""
    here = label.as_subclass(torch.Tensor) > 0
    if plan.spatial_dims == 2:
        return here.sum().view(1)
    sizes = here.sum(dim=[axis for axis in range(4) if axis != 1 + plan.axis])
    return sizes.flip(0) if plan.flips[0] else sizes


def _sample(transform: MapTransform, data: Mapping[Hashable, Any], plan: SlicePlan, index: int) -> dict[Hashable, Any]:
    """The dictionary with one slice under every key, all by the plan of the image: a mask is stored like its image."""
    d = dict(data)
    for key in transform.key_iterator(d):
        # A contiguous copy: a view would keep the whole volume alive, and send all of it to the main process.
        d[key] = plan.to_slices(data[key], index, index + 1)[0].clone(memory_format=torch.contiguous_format)
    return d


class RandSliced(Randomizable, MapTransform):
    """Take random slices, upright, along the axis that inference uses; a picture is one slice.

    Args:
        keys: image and mask, ``(C, *spatial)`` with equal spatial shapes.
        num_samples: slices a call; more than one gives a list of dictionaries, as MONAI's random crops do.
        foreground: probability to choose among the slices in which the mask is not empty.
        image_key: the ``MetaTensor`` whose affine decides orientation and axis.
        label_key: the mask that tells foreground; without it every slice is as likely.
        allow_missing_keys: do not fail when a key is missing.

    Returns:
        Plain tensors ``(C, H, W)`` under the keys: a single slice has no place in the world any more.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        num_samples: int = 1,
        foreground: float = 0.8,
        image_key: str = "image",
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if num_samples < 1:
            raise ValueError(f"num_samples should be at least 1, got {num_samples}.")
        if not 0.0 <= foreground <= 1.0:
            raise ValueError(f"foreground should be a probability in 0..1, got {foreground}.")
        self.num_samples = num_samples
        self.foreground = foreground
        self.image_key = image_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Any:
        plan = _plan(data, self.image_key)
        count = 1 if plan.spatial_dims == 2 else data[self.image_key].shape[1 + plan.axis]
        label = data.get(self.label_key)
        filled = np.zeros(0) if label is None or count == 1 else np.flatnonzero(_foreground(plan, label).numpy())
        samples = []
        for _ in range(self.num_samples):
            if len(filled) and self.R.random() < self.foreground:
                index = int(filled[self.R.randint(len(filled))])
            else:
                index = int(self.R.randint(count))
            samples.append(_sample(self, data, plan, index))
        return samples[0] if self.num_samples == 1 else samples


class LargestSliced(MapTransform):
    """Take the slice with the most foreground, upright; the same one every time, for validation while training.

    Args:
        keys: image and mask, ``(C, *spatial)`` with equal spatial shapes.
        image_key: the ``MetaTensor`` whose affine decides orientation and axis.
        label_key: the mask; where it is empty the middle slice is taken.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        image_key: str = "image",
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        plan = _plan(data, self.image_key)
        sizes = _foreground(plan, data[self.label_key])
        index = int(sizes.argmax()) if int(sizes.max()) else len(sizes) // 2
        return _sample(self, data, plan, index)


class TakeSliced(MapTransform):
    """Take one of evenly spaced slices, upright; which one stands in the dictionary.

    Args:
        keys: images, ``(C, *spatial)`` with equal spatial shapes.
        image_key: the ``MetaTensor`` whose affine decides orientation and axis.
        slice_key: key of ``(place, number)``: of that many slices, each in the middle of an equal part of the volume,
            the one in this place; as many as the volume has are all of them. Without the key: the middle one.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        image_key: str = "image",
        slice_key: str = "slice",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.slice_key = slice_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        plan = _plan(data, self.image_key)
        count = 1 if plan.spatial_dims == 2 else data[self.image_key].shape[1 + plan.axis]
        place, number = data.get(self.slice_key, (0, 1))
        return _sample(self, data, plan, (2 * place + 1) * count // (2 * number))


RandSliceD = RandSliceDict = RandSliced
LargestSliceD = LargestSliceDict = LargestSliced
TakeSliceD = TakeSliceDict = TakeSliced
