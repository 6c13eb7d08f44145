"""Inference in MONAI Label: the bundle's own transforms and inferer, on what a study's reader knows best."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from monai.inferers import Inferer
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import file_ext

from esp_medsam_monai.errors import warnings_of
from esp_medsam_monai.io import write_mask
from esp_medsam_monai.modalities import label_values, target_color

__all__ = ["SegmentationInferTask", "source_of"]

_NIFTI = ".nii.gz"


class SegmentationInferTask(BundleInferTask):
    """Segments a study as the bundle's command does.

    Args:
        path: folder of the bundle's copy.
        conf: the server's ``--conf``.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        self._inferer: Inferer | None = None
        # Weights that do not fit are an error, not a warning. The inferer's mask is on the image's grid already.
        super().__init__(path, conf, type="segmentation", load_strict=True, add_post_restore=False)

    def info(self) -> dict[str, Any]:
        """What the server tells of the model; its ``label_colors`` are red, green, blue in 0..255 by label name."""
        modalities = self.network.modalities
        colors = {f"{name}_{target}": target_color(name, target) for name in modalities for target in modalities[name]}
        return {**super().info(), "label_colors": colors}

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[str | None, dict[str, Any]]:
        """Segment one image; see MONAI Label.

        Args:
            request: ``image`` is a file, or a folder with one DICOM series; ``modality`` one of
                :func:`~esp_medsam_monai.modalities.modality_choices`.

        Returns:
            The mask's file, and what is to be known of it: ``modality``, who said it, ``warnings``.
        """
        image = request.get("image")
        if isinstance(image, str):
            source = source_of(Path(image))
            # The kind of file is the client's choice where it makes one: OHIF asks for NRRD and reads nothing else.
            request = {**source, **request, "image": source.get("image", image)}
        return super().__call__(request, callbacks)

    def inferer(self, data: Any = None) -> Inferer:
        """The bundle's inferer, kept from request to request with the runtime that it compiled."""
        if self._inferer is None:
            self._inferer = super().inferer(data)
        return self._inferer

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the mask; see MONAI Label.

        NIfTI and PNG are written as by the bundle's command: MONAI Label's own way through ITK turns the axes of a
        sheared grid square, and the mask is no longer in place. What a client may ask for besides (NRRD) goes that way.
        """
        mask, meta = data[self.key_pred], data[self.key_image].meta
        suffix = extension or data.get("result_extension") or file_ext(data.get("image_path") or "")
        if mask.ndim == 3:
            suffix = ".png"
        told: dict[str, Any] = {}
        if suffix in (_NIFTI, ".nii", ".png") and data.get("result_write_to_file", True):
            handle, file = tempfile.mkstemp(suffix)
            os.close(handle)
            write_mask(file, mask, labels=self._labels(meta["modality"]))
        else:
            data[self.key_pred] = mask[0]
            file, told = super().writer(data, suffix, dtype)
        # The word of a request takes the way of a datalist entry's; here it is the user's.
        source = "user" if meta["modality_source"] == "datalist" else meta["modality_source"]
        told |= {"modality": meta["modality"], "modality_source": source, "warnings": warnings_of(meta)}
        return file, told

    def _labels(self, modality: str) -> dict[int, tuple[str, tuple[int, int, int]]]:
        values = label_values(self.network.modalities)[modality]
        return {value: (f"{modality}_{target}", target_color(modality, target)) for target, value in values.items()}


def source_of(image: Path) -> dict[str, str]:
    """Where to read an image, and the kind of file for its mask.

    MONAI Label hands on a DICOM series as a NIfTI that it made of it, beside the series' own folder, and only the
    series says its modality and its place in full.
    """
    if image.name.endswith(_NIFTI):
        series = image.with_name(image.name.removesuffix(_NIFTI))
        if series.is_dir():
            return {"image": str(series), "result_extension": _NIFTI}
    return {"result_extension": _NIFTI} if image.is_dir() else {}
