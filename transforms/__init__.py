"""MONAI transforms of ESP-MedSAM: loading, routing, intensities, labels, slices, and the chains made of them."""

from __future__ import annotations

if __name__ == "transforms":
    raise ImportError(
        "this folder is the package esp_medsam_monai.transforms; run `pip install -e .` in the folder that holds "
        "setup.cfg, and import it under that name."
    )

from .augmentation import (
    RandAugmentSliceD,
    RandAugmentSliced,
    RandAugmentSliceDict,
    grey_augmentation,
    photograph_augmentation,
)
from .factories import (
    augmentation_by_modality,
    distillation_transforms,
    evaluation_transforms,
    postprocessing,
    preprocessing,
    training_transforms,
)
from .field_of_view import RandPasteIntoFieldOfViewD, RandPasteIntoFieldOfViewd, RandPasteIntoFieldOfViewDict
from .intensity import (
    ScaleIntensityByModality,
    ScaleIntensityByModalityD,
    ScaleIntensityByModalityd,
    ScaleIntensityByModalityDict,
)
from .labels import EncodeLabels, EncodeLabelsD, EncodeLabelsd, EncodeLabelsDict
from .normalization import NormalizeSlices, NormalizeSlicesD, NormalizeSlicesd, NormalizeSlicesDict
from .resizing import CompactD, Compactd, CompactDict, ResizeSliceD, ResizeSliced, ResizeSliceDict
from .routing import RouteModality, RouteModalityD, RouteModalityd, RouteModalityDict
from .saving import SaveMaskD, SaveMaskd, SaveMaskDict
from .slicing import (
    LargestSliceD,
    LargestSliced,
    LargestSliceDict,
    RandSliceD,
    RandSliced,
    RandSliceDict,
    TakeSliceD,
    TakeSliced,
    TakeSliceDict,
)
from .views import ContentKeyD, ContentKeyd, ContentKeyDict, View, ViewSliceD, ViewSliced, ViewSliceDict, views_of

__all__ = [
    "CompactD",
    "CompactDict",
    "Compactd",
    "ContentKeyD",
    "ContentKeyDict",
    "ContentKeyd",
    "EncodeLabels",
    "EncodeLabelsD",
    "EncodeLabelsDict",
    "EncodeLabelsd",
    "LargestSliceD",
    "LargestSliceDict",
    "LargestSliced",
    "NormalizeSlices",
    "NormalizeSlicesD",
    "NormalizeSlicesDict",
    "NormalizeSlicesd",
    "RandAugmentSliceD",
    "RandAugmentSliceDict",
    "RandAugmentSliced",
    "RandPasteIntoFieldOfViewD",
    "RandPasteIntoFieldOfViewDict",
    "RandPasteIntoFieldOfViewd",
    "RandSliceD",
    "RandSliceDict",
    "RandSliced",
    "ResizeSliceD",
    "ResizeSliceDict",
    "ResizeSliced",
    "RouteModality",
    "RouteModalityD",
    "RouteModalityDict",
    "RouteModalityd",
    "SaveMaskD",
    "SaveMaskDict",
    "SaveMaskd",
    "ScaleIntensityByModality",
    "ScaleIntensityByModalityD",
    "ScaleIntensityByModalityDict",
    "ScaleIntensityByModalityd",
    "TakeSliceD",
    "TakeSliceDict",
    "TakeSliced",
    "View",
    "ViewSliceD",
    "ViewSliceDict",
    "ViewSliced",
    "augmentation_by_modality",
    "distillation_transforms",
    "evaluation_transforms",
    "grey_augmentation",
    "photograph_augmentation",
    "postprocessing",
    "preprocessing",
    "training_transforms",
    "views_of",
]
