"""The chains that bundles name: what happens to a file before the network sees it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal

from monai.config import KeysCollection
from monai.transforms import CenterSpatialCropd, Compose, RandSpatialCropd
from torchvision.transforms import v2

from esp_medsam_monai.io import ReadingRules

from .augmentation import RandAugmentSliced, grey_augmentation, photograph_augmentation
from .field_of_view import RandPasteIntoFieldOfViewd
from .intensity import ScaleIntensityByModalityd
from .labels import EncodeLabelsd
from .loading import load_medical_imaged
from .normalization import NormalizeSlicesd
from .resizing import Compactd, ResizeSliced
from .routing import RouteModalityd
from .saving import SaveMaskd
from .slicing import LargestSliced, RandSliced, TakeSliced
from .views import WITHOUT_UPSIDE, ContentKeyd, ViewSliced

__all__ = [
    "augmentation_by_modality",
    "distillation_transforms",
    "evaluation_transforms",
    "postprocessing",
    "preprocessing",
    "training_transforms",
]


def preprocessing(
    keys: KeysCollection = "image",
    modality: str | None = None,
    modalities: Mapping[str, Sequence[str]] | None = None,
    default_modality: str | None = None,
    rules: ReadingRules | None = None,
) -> Compose:
    """Chain for inference: load, route, scale to 0..255.

    Flat, and loading comes first, because MONAI Label looks for it there.

    Args:
        keys: keys of the images: paths, lists of DICOM files or folders with one series.
        modality: the user's word for all images; None, empty text or ``auto`` when she said nothing.
        modalities: the network's ``{modality: [targets]}``; images of other modalities are refused.
        default_modality: what to assume when nothing says it; None refuses such an image.
        rules: which doubtful inputs are read all the same, see :class:`~esp_medsam_monai.io.ReadingRules`.

    Returns:
        Chain after which each key is a float32 ``MetaTensor`` ``(1 or 3, *spatial)`` in 0..255, with ``modality`` and
        ``modality_source`` in its ``meta``.
    """
    return Compose(
        [
            load_medical_imaged(keys, rules=rules),
            RouteModalityd(keys, modality, modalities, default_modality),
            ScaleIntensityByModalityd(keys),
        ]
    )


def postprocessing(
    keys: KeysCollection = "pred",
    output_dir: str | os.PathLike[str] | None = None,
    modalities: Mapping[str, Sequence[str]] | None = None,
) -> Compose:
    """Chain after inference: save. The inferer has decided already, so there is nothing to activate or discretise.

    Args:
        keys: keys of the masks.
        output_dir: see :class:`~esp_medsam_monai.transforms.SaveMaskd`.
        modalities: the network's ``{modality: [targets]}``, whose names and colours the masks carry.
    """
    return Compose([SaveMaskd(keys, output_dir, modalities=modalities)])


def evaluation_transforms(
    modalities: Mapping[str, Sequence[str]],
    default_modality: str | None = None,
    label_values: Mapping[str, Mapping[str, int]] | None = None,
    rules: ReadingRules | None = None,
) -> Compose:
    """Chain for evaluation: whole images as inference takes them, and their labels on the same grid.

    Args:
        modalities: the network's ``{modality: [targets]}``.
        default_modality: modality of entries that do not name one.
        label_values: the datalist's ``labels``, see :class:`~esp_medsam_monai.transforms.EncodeLabels`.
        rules: see :func:`preprocessing`.

    Returns:
        Chain after which ``image`` is as after :func:`preprocessing` and ``label`` uint8 ``(1, *spatial)`` of the
        network's label values.
    """
    return Compose(
        [
            *preprocessing("image", None, modalities, default_modality, rules).transforms,
            load_medical_imaged("label", labels=True, rules=rules),
            EncodeLabelsd("label", "image", modalities, label_values),
        ]
    )


def augmentation_by_modality(modalities: Sequence[str]) -> dict[str, v2.Transform]:
    """Random changes for each modality: photographs have no upside and vary in colour, the others are grey."""
    return {name: photograph_augmentation() if name in WITHOUT_UPSIDE else grey_augmentation() for name in modalities}


def training_transforms(
    modalities: Mapping[str, Sequence[str]],
    image_size: int,
    divisor: Literal["sam", "published"] = "sam",
    default_modality: str | None = None,
    label_values: Mapping[str, Mapping[str, int]] | None = None,
    augment: bool = True,
    foreground: float = 0.8,
    paste_prob: float = 0.5,
    paste_modalities: Sequence[str] = ("mr",),
    rules: ReadingRules | None = None,
    image_sizes: Mapping[str, int] | None = None,
    listed_slices: bool = False,
) -> Compose:
    """Chain for training: one 2D sample out of each entry ``{"image", "label", "modality"}`` of a datalist.

    Whatever is the same every time comes first and leaves a byte a value, so that ``CacheDataset`` keeps it.

    Args:
        modalities: the network's ``{modality: [targets]}``.
        image_size: side S of the network's square in pixels.
        divisor: see :class:`~esp_medsam_monai.transforms.NormalizeSlices`.
        default_modality: modality of entries that do not name one.
        label_values: the datalist's ``labels``, see :class:`~esp_medsam_monai.transforms.EncodeLabels`.
        augment: False for validation: the slice with the most foreground, unchanged and the same every time.
        foreground: probability to choose a slice in which the mask is not empty.
        paste_prob: probability to paste a sample of ``paste_modalities`` into a larger field of view.
        paste_modalities: modalities whose training images are tight crops.
        rules: see :func:`preprocessing`.
        image_sizes: ``{modality: side}`` of modalities that are seen larger: stretched to that side, of which a sample
            is a random square of side S (for validation the one in the middle), so that batches stay uniform.
        listed_slices: for validation, take the slice that an entry names under ``slice`` instead, see
            :class:`~esp_medsam_monai.transforms.TakeSliced`.

    Returns:
        Chain after which ``image`` is float32 ``(3, S, S)`` as the network takes it, ``label`` uint8 ``(1, S, S)`` of
        the network's label values and ``modality`` the name; other keys of the entry pass.
    """
    keys = ("image", "label")
    steps = [
        load_medical_imaged("image", rules=rules),
        load_medical_imaged("label", labels=True, rules=rules),
        RouteModalityd("image", None, modalities, default_modality),
        ScaleIntensityByModalityd("image"),
        EncodeLabelsd("label", "image", modalities, label_values),
        Compactd(keys, image_size, sizes=image_sizes),
    ]
    if augment:
        steps += [
            RandSliced(keys, foreground=foreground),
            RandPasteIntoFieldOfViewd(keys, paste_prob, modalities=paste_modalities),
            # Before the other changes, which cost by the pixel.
            ResizeSliced(keys, image_size, sizes=image_sizes),
            RandSpatialCropd(keys, image_size, random_size=False),
            RandAugmentSliced(keys, augmentation_by_modality(list(modalities))),
        ]
    else:
        steps += [
            TakeSliced(keys) if listed_slices else LargestSliced(keys),
            ResizeSliced(keys, image_size, sizes=image_sizes),
            CenterSpatialCropd(keys, image_size),
        ]
    return Compose([*steps, NormalizeSlicesd("image", divisor)])


def distillation_transforms(
    modalities: Mapping[str, Sequence[str]],
    image_size: int,
    image_sizes: Mapping[str, int] | None = None,
    divisor: Literal["sam", "published"] = "sam",
    default_modality: str | None = None,
    rules: ReadingRules | None = None,
) -> Compose:
    """Chain for distillation: a numbered view of a slice of each ``{"image", "modality"}``; a label is not looked at.

    What comes before :class:`~esp_medsam_monai.transforms.ViewSliced` is the same every time and leaves a byte a value.

    Args:
        modalities: the network's ``{modality: [targets]}``.
        image_size: side S of the network's square in pixels, for every modality.
        image_sizes: ``{modality: side}`` of modalities that are seen larger, see
            :class:`~esp_medsam_monai.transforms.ViewSliced`.
        divisor: see :class:`~esp_medsam_monai.transforms.NormalizeSlices`.
        default_modality: modality of entries that do not name one.
        rules: see :func:`preprocessing`.

    Returns:
        Chain for entries with ``view`` (a number) and ``slice`` (:class:`~esp_medsam_monai.transforms.TakeSliced`),
        after which ``image`` is float32 ``(3, S, S)`` as the network takes it, ``key`` the hash of its content and
        ``modality`` the name.
    """
    views = ViewSliced("image", image_size, image_sizes)
    return Compose(
        [
            *preprocessing("image", None, modalities, default_modality, rules).transforms,
            # Large enough that a crop is not blurred.
            Compactd("image", math.ceil(image_size / views.crop), "bilinear", image_sizes),
            TakeSliced("image"),
            views,
            ContentKeyd("image", settings=f"divisor {divisor}"),
            NormalizeSlicesd("image", divisor),
        ]
    )
