"""MONAI's file loader with this package's reader."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from monai.config import KeysCollection
from monai.transforms import LoadImaged

from esp_medsam_monai.io import MedicalImageReader, ReadingRules

__all__ = ["load_medical_imaged"]


def load_medical_imaged(keys: KeysCollection, labels: bool = False, rules: ReadingRules | None = None) -> LoadImaged:
    """``LoadImaged`` for NIfTI, DICOM, PNG and JPEG that keeps the stored type.

    The stored type tells an 8-bit picture from a measurement. ``LoadImaged`` also makes every reader that MONAI knows,
    and one of them complains that it finds no GPU decoder: nobody asked for that, so it is not shown.

    Args:
        keys: keys of the paths.
        labels: the files hold label values, see :class:`~esp_medsam_monai.io.MedicalImageReader`.
        rules: which doubtful inputs are read all the same, see :class:`~esp_medsam_monai.io.ReadingRules`.
    """
    # MONAI takes instances too, whatever its annotation says.
    reader: Any = MedicalImageReader(labels, rules)
    plugin = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = plugin.level
    plugin.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
            return LoadImaged(keys, reader=reader, dtype=None, ensure_channel_first=True)
    finally:
        plugin.setLevel(level)
