"""One MONAI reader for NIfTI, DICOM, PNG and JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from PIL import Image, UnidentifiedImageError

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.dicom_header import is_dicom, read_header
from esp_medsam_monai.io.dicom_series import read_series
from esp_medsam_monai.io.guard import check_file, check_values
from esp_medsam_monai.io.nifti import NIFTI_SUFFIXES, read_nifti
from esp_medsam_monai.io.rules import ReadingRules
from esp_medsam_monai.io.sidecar import sidecar_modality

__all__ = ["PICTURE_SUFFIXES", "MedicalImageReader"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
# PIL modes that numpy takes as they are; the others hold a palette, transparency or another colour space.
_GREY_MODES = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L"}
_GREY_ALPHA_MODES = {"LA", "La"}
PICTURE_AFFINE = (-1.0, -1.0, 1.0, 1.0)


class MedicalImageReader(ImageReader):
    """Reads a NIfTI file, a picture, a DICOM file, a list of DICOM files or a folder with one DICOM series.

    Give it to ``LoadImaged(keys, reader=MedicalImageReader(), ensure_channel_first=True)``. Metadata: ``affine`` (RAS),
    ``original_affine``, ``spatial_shape``, ``modality`` and ``modality_source`` (``dicom`` or ``sidecar``) where known,
    ``slice_axis`` for DICOM. NIfTI: stored values with the header's scaling, ``(X, Y)`` or ``(X, Y, Z)``, colours
    first. Pictures: ``(W, H)`` or ``(3, W, H)`` with affine ``diag(-1, -1, 1, 1)``; palettes become RGB, transparency
    is dropped, and pixels stay as stored (no EXIF rotation), so that masks fit the file. DICOM: see
    :func:`~esp_medsam_monai.io.dicom_series.read_series`. ``warnings`` holds what the reader of a result should know
    (:func:`~esp_medsam_monai.errors.warnings_of`).

    All work happens in :meth:`get_data`, for ``LoadImage`` swallows what :meth:`read` raises and tries other readers.

    Args:
        labels: the files are label maps: a palette picture keeps its indices, and no modality is looked for,
            and no value may be NaN or infinite.
        rules: which doubtful inputs are read all the same; None for none.
    """

    def __init__(self, labels: bool = False, rules: ReadingRules | None = None) -> None:
        super().__init__()
        self.labels = labels
        self.rules = rules or ReadingRules()

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether the files, or the folder, are of a kind that this reader knows."""
        paths = [Path(path) for path in ensure_tuple(filename)]
        if len(paths) == 1 and paths[0].is_dir():
            return True
        return all(p.name.lower().endswith((*NIFTI_SUFFIXES, *PICTURE_SUFFIXES)) or is_dicom(p) for p in paths)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[str, ...]:
        """Only remembers the paths."""
        return tuple(str(path) for path in ensure_tuple(data))

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Pixels and metadata.

        Args:
            img: what :meth:`read` returned.

        Raises:
            InputRefused: ``NOT_FOUND``, ``NOT_READABLE``, ``NOT_AN_IMAGE``, ``TRUNCATED``, ``UNSUPPORTED_SHAPE``,
                ``UNSUPPORTED_TYPE``, ``BAD_AFFINE``, ``NON_FINITE``, ``BAD_SIDECAR``, ``SEVERAL_FILES``, or one of
                :func:`~esp_medsam_monai.io.dicom_series.read_series`.
        """
        paths = [str(path) for path in ensure_tuple(img)]
        for path in paths:
            check_file(path)
        array, meta = self._dispatch(paths)
        # Channel first, or no channel at all: the two cases that EnsureChannelFirst tells apart by this key.
        meta.setdefault(MetaKeys.ORIGINAL_CHANNEL_DIM, float("nan"))
        spatial_shape = array.shape[1:] if meta[MetaKeys.ORIGINAL_CHANNEL_DIM] == 0 else array.shape
        where = paths[0] if len(paths) == 1 else str(Path(paths[0]).parent)
        array = check_values(array, meta, where, self.rules.non_finite_limit, self.labels)
        if not self.labels and "modality" not in meta:
            modality = sidecar_modality(paths[0])
            if modality is not None:
                meta |= {"modality": modality, "modality_source": "sidecar"}
        meta[MetaKeys.ORIGINAL_AFFINE] = np.array(meta["affine"])
        meta[MetaKeys.SPATIAL_SHAPE] = np.asarray(spatial_shape)
        meta[MetaKeys.SPACE] = SpaceKeys.RAS
        return array, meta

    def _dispatch(self, paths: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        first = Path(paths[0])
        if first.is_dir():
            return self._dicom(_dicom_files(first))
        name = first.name.lower()
        other = name.endswith((*NIFTI_SUFFIXES, *PICTURE_SUFFIXES))
        if other and len(paths) > 1:
            raise InputRefused("SEVERAL_FILES", f"{first} and {len(paths) - 1} more: only DICOM files form a list.")
        if name.endswith(NIFTI_SUFFIXES):
            return read_nifti(first)
        if name.endswith(PICTURE_SUFFIXES):
            return _picture(first, keep_indices=self.labels)
        return self._dicom(paths)

    def _dicom(self, paths: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
        array, meta = read_series(paths, self.rules)
        if array.ndim == 4:
            meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
        return array, meta


def _dicom_files(folder: Path) -> list[str]:
    files = [str(path) for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]
    if not any(read_header(path).is_image for path in files):
        raise InputRefused("NOT_AN_IMAGE", f"{folder} holds no DICOM images; give a file or the folder of a series.")
    return files


def _picture(path: Path, keep_indices: bool) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        picture: Image.Image = Image.open(path)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputRefused("NOT_AN_IMAGE", f"{path} is no readable picture ({error}); export it again.") from error
    with picture:
        try:
            picture.load()
            if picture.mode in _GREY_ALPHA_MODES:
                picture = picture.convert("L")
            elif picture.mode not in _GREY_MODES and not (keep_indices and picture.mode == "P"):
                picture = picture.convert("RGB")
            array = np.asarray(picture)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputRefused("TRUNCATED", f"the pixels of {path} are damaged ({error}); copy it again.") from error
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(1 if keep_indices else 255)
    meta: dict[str, Any] = {"affine": np.diag(PICTURE_AFFINE)}
    if array.ndim == 3:
        meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
    return array.T, meta
