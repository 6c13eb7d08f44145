"""Random changes to 2D samples, image and mask alike, each modality within what it can look like."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import ensure_tuple
from torchvision import tv_tensors
from torchvision.transforms import v2

__all__ = [
    "RandAugmentSliceD",
    "RandAugmentSliceDict",
    "RandAugmentSliced",
    "grey_augmentation",
    "photograph_augmentation",
]

_BILINEAR = v2.InterpolationMode.BILINEAR


class RandomGamma(v2.Transform):
    """Raise values in 0..1 to a random power, as likely to darken as to brighten.

    Args:
        largest: largest exponent, above 1; its inverse is the smallest.
    """

    def __init__(self, largest: float = 1.5) -> None:
        super().__init__()
        self.spread = float(torch.tensor(largest).log())

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw one exponent for the sample."""
        return {"gamma": float(torch.exp((2 * torch.rand(()) - 1) * self.spread))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply it to the image; masks pass."""
        return v2.functional.adjust_gamma(inpt, params["gamma"]) if isinstance(inpt, tv_tensors.Image) else inpt


class QuarterTurn(v2.Transform):
    """Turn image and mask by 90 degrees; with flips in both directions this reaches all eight symmetries."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn anything that has rows and columns."""
        return tv_tensors.wrap(torch.rot90(inpt.as_subclass(torch.Tensor), 1, (-2, -1)), like=inpt)


def _affine(degrees: float) -> v2.Transform:
    return v2.RandomApply(
        [v2.RandomAffine(degrees, translate=(0.08, 0.08), scale=(0.7, 1.4), shear=8, interpolation=_BILINEAR)], p=0.8
    )


def _degrade() -> v2.Transform:
    """What lenses, compression and receivers add."""
    return v2.Compose(
        [
            v2.RandomApply([v2.GaussianBlur(5, sigma=(0.3, 1.5))], p=0.15),
            v2.RandomApply([v2.GaussianNoise(sigma=0.03)], p=0.2),
        ]
    )


def photograph_augmentation() -> v2.Transform:
    """For colour pictures without an upside: dermoscopy, fundus, microscopy, colonoscopy."""
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([QuarterTurn()]),
            _affine(45),
            v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.4)], p=0.7),
            v2.RandomApply([v2.ColorJitter(hue=0.05)], p=0.2),
            v2.RandomApply([RandomGamma(1.5)], p=0.3),
            _degrade(),
        ]
    )


def grey_augmentation(flip: bool = True) -> v2.Transform:
    """For pictures with an upside: radiographs, ultrasound, MR and CT slices.

    Args:
        flip: mirror left and right half of the time.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
            _affine(15),
            v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3)], p=0.7),
            v2.RandomApply([RandomGamma(1.8)], p=0.5),
            _degrade(),
        ]
    )


class RandAugmentSliced(Randomizable, MapTransform):
    """Apply torchvision transforms (v2) to a sample, the same geometry to image and mask, chosen by modality.

    Their randomness comes from this transform's own state, so that ``set_random_state`` and MONAI's workers govern it.

    Args:
        keys: image and mask.
        transforms: ``{modality: torchvision transform}`` on float images in 0..1 and uint8 masks.
        default: for modalities without an entry; None leaves them as they are.
        label_keys: those of ``keys`` that are masks (nearest neighbour, no change of values).
        allow_missing_keys: do not fail when a key is missing.

    The dictionary's ``modality`` names the modality. Images are ``(C, H, W)`` in 0..255 and stay so, as float32.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transforms: Mapping[str, v2.Transform],
        default: v2.Transform | None = None,
        label_keys: KeysCollection = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transforms = dict(transforms)
        self.default = default
        self.label_keys = ensure_tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        transform = self.transforms.get(d["modality"], self.default)
        if transform is None:
            return d
        sample = {
            key: tv_tensors.Mask(d[key]) if key in self.label_keys else tv_tensors.Image(d[key].float() / 255)
            for key in self.key_iterator(d)
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.R.randint(2**31)))
            sample = transform(sample)
        for key, value in sample.items():
            x = value.as_subclass(torch.Tensor)
            d[key] = x if key in self.label_keys else x.clamp(0, 1) * 255
        return d


RandAugmentSliceD = RandAugmentSliceDict = RandAugmentSliced
