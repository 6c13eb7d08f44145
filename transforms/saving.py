"""Masks are saved on the grid of their image and in its kind of file."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged
from monai.utils import ImageMetaKey, MetaKeys, ensure_tuple

from esp_medsam_monai.io import write_mask
from esp_medsam_monai.io.label_table import Label
from esp_medsam_monai.io.reader import PICTURE_SUFFIXES
from esp_medsam_monai.io.sidecar import file_stem
from esp_medsam_monai.modalities import label_values, target_color

__all__ = ["SaveMaskD", "SaveMaskDict", "SaveMaskd"]


class SaveMaskd(SaveImaged):
    """Save label values as ``<case>_seg.nii.gz``, those of a PNG or JPEG as ``<case>_seg.png``.

    MONAI's ``SaveImaged`` has one extension for all images, squeezes (X, Y, 1) to (X, Y) and writes in place. This one
    is derived from it because MONAI Label leaves out that class, having its own way to return a mask.

    The path is noted in the mask's metadata under ``saved_to``, as ``SaveImaged`` does.

    Args:
        keys: keys of the masks, ``MetaTensor`` ``(1, *spatial)`` with the metadata of their image: ``case`` (name with
            relative folder; without it the input's name counts) and ``filename_or_obj``.
        output_dir: folder that the masks go to.
        output_postfix: what joins the name.
        modalities: ``{modality: [targets]}`` of the network. With it, names (``xray_lung``) and colours of the targets
            of the mask's own modality (``meta["modality"]``) go into the file, and values of others are refused.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str] | None,
        output_postfix: str = "seg",
        modalities: Mapping[str, Sequence[str]] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.output_dir = output_dir
        self.output_postfix = output_postfix
        self.label_values = None if modalities is None else label_values(modalities)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            ValueError: when there is no ``output_dir``, when ``modalities`` lack that of the mask, or as
                :func:`esp_medsam_monai.io.write_mask`.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            if not self.output_dir:
                raise ValueError("no folder to save masks in; give --output_dir FOLDER.")
            mask = d[key]
            inputs = [str(name) for name in ensure_tuple(mask.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "image"))]
            first = Path(inputs[0])
            case = mask.meta.get("case") or file_stem(first)
            picture = first.suffix.lower() in PICTURE_SUFFIXES
            name = f"{case}_{self.output_postfix}{'.png' if picture else '.nii.gz'}"
            labels = self._labels(mask.meta.get("modality"), inputs[0])
            mask.meta[MetaKeys.SAVED_TO] = str(write_mask(Path(self.output_dir) / name, mask, inputs, labels))
        return d

    def _labels(self, modality: str | None, image: str) -> dict[int, Label] | None:
        if self.label_values is None:
            return None
        if modality not in self.label_values:
            raise ValueError(
                f"the mask of {image} is of modality {modality!r}, the labels are of {sorted(self.label_values)}; name"
                " its modality in the metadata, or the network's in modalities."
            )
        targets = self.label_values[modality]
        return {value: (f"{modality}_{target}", target_color(modality, target)) for target, value in targets.items()}


SaveMaskD = SaveMaskDict = SaveMaskd
