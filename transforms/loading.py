"""MONAI's file loader with this package's reader."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import LoadImaged
from monai.utils.type_conversion import UNSUPPORTED_TYPES

from esp_medsam_monai.io import MedicalImageReader, ReadingRules

__all__ = ["load_medical_imaged"]


class _ReaderInStoredOrder(MedicalImageReader):
    """Gives a tensor, whose order in memory ``LoadImage`` leaves as it is; of an array it would make a copy in C order.

    NIfTI and DICOM store slice after slice. In C order the pixels of a slice are scattered over the whole volume, and
    to take out slices costs several times as much.
    """

    def get_data(self, img: Any) -> tuple[Any, dict[str, Any]]:
        array, meta = super().get_data(img)
        if any(stride < 0 for stride in array.strides):  # torch has none of these
            array = np.ascontiguousarray(array)
        # The types that MONAI widens, because torch knows little of them.
        array = array.astype(UNSUPPORTED_TYPES.get(array.dtype, array.dtype), copy=False)
        if not array.flags.writeable:
            array = array.copy(order="K")
        return torch.from_numpy(array), meta


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
    reader: Any = _ReaderInStoredOrder(labels, rules)
    plugin = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = plugin.level
    plugin.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
            return LoadImaged(keys, reader=reader, dtype=None, ensure_channel_first=True)
    finally:
        plugin.setLevel(level)
