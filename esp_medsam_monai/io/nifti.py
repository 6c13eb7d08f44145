"""NIfTI files: stored values, and the one affine that counts."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.utils import MetaKeys
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from esp_medsam_monai.errors import InputRefused, add_warning
from esp_medsam_monai.io.guard import check_affine

__all__ = ["NIFTI_SUFFIXES", "read_nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
FORMS_TOLERANCE = 1e-3
_GZIP = b"\x1f\x8b"


def read_nifti(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a NIfTI-1 or NIfTI-2 file.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.

    Returns:
        Stored values with the header's scaling, ``(X, Y)``, ``(X, Y, Z)`` or, for colour, ``(3, X, Y, Z)``; and
        metadata with ``affine`` (RAS, mm: the sform, else the qform) and the warnings about the header.

    Raises:
        InputRefused: ``NOT_AN_IMAGE``, ``TRUNCATED``, ``BAD_AFFINE``, ``UNSUPPORTED_SHAPE`` or ``UNSUPPORTED_TYPE``.
    """
    meta: dict[str, Any] = {}
    header = _header(path, meta)
    try:
        array = _values(path, header)
    except Exception as error:  # zlib, gzip, mmap and reshape each fail in their own way on a short file
        raise InputRefused("TRUNCATED", f"the pixels of {path} cannot be read ({error}); copy it again.") from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputRefused(
            "UNSUPPORTED_SHAPE",
            f"{path} has shape {array.shape}; only 2D and 3D images with one volume work: split it into volumes.",
        )
    meta["affine"] = np.array(header.get_best_affine(), dtype=np.float64)
    if array.dtype.fields:
        array = np.stack([array[name] for name in ("R", "G", "B")])
        meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
    elif array.dtype.kind not in "iufb" or array.dtype.itemsize > 8:
        raise InputRefused(
            "UNSUPPORTED_TYPE", f"{path} holds {array.dtype} values; save real numbers of at most 64 bits instead."
        )
    check_affine(meta["affine"], array.shape[-3:] if array.ndim == 4 else array.shape, str(path))
    # torch knows the machine's byte order only.
    return array.astype(array.dtype.newbyteorder("="), copy=False), meta


def _values(path: Path, header: Any) -> np.ndarray:
    """The values; a compressed file is read to its end, for the checksum of a damaged one stands there."""
    if path.suffix.lower() != ".gz":
        return _scaled(ArrayProxy(str(path), header))
    with gzip.open(path) as stream:
        array = _scaled(ArrayProxy(stream, header))
        try:
            while stream.read(1 << 20):
                pass
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):  # what follows the image does no harm
                raise
    return array


def _scaled(proxy: ArrayProxy) -> np.ndarray:
    """The values with the header's scaling; real numbers as float32, which networks compute in, and not as float64."""
    stored: np.ndarray = proxy.get_unscaled()
    slope, inter = proxy.slope, proxy.inter
    if (slope, inter) == (1, 0):
        return stored
    kind = apply_read_scaling(stored[..., :1], slope, inter).dtype
    result = np.empty(stored.shape, np.float32 if kind == np.float64 else kind, order="F")
    with np.errstate(over="ignore"):  # becomes infinite, and is told like any infinity
        for index in range(stored.shape[-1]):
            result[..., index] = apply_read_scaling(stored[..., index], slope, inter)
    return result


def _header(path: Path, meta: dict[str, Any]) -> Any:
    """The header; what it says about the place is checked, doubts go to ``meta``."""
    try:
        image: Any = nib.load(path)
        header = _read_header(path, image.header_class)
    except Exception as error:  # whatever a damaged file provokes
        if _has_broken_qform(path):
            raise InputRefused(
                "BAD_AFFINE", f"{path} has a broken qform and no sform ({error}); repair its header."
            ) from error
        raise _unreadable(path, error) from error
    if not hasattr(header, "get_sform"):
        raise InputRefused("NOT_AN_IMAGE", f"{path} is a {type(image).__name__}, no NIfTI file; convert it.")
    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError) as error:
        qform = None
        add_warning(meta, f"BROKEN_QFORM: the header of {path} has a broken qform ({error}); its sform counts.")
    if sform is None and qform is None:
        add_warning(
            meta, f"NO_ORIENTATION: the header of {path} does not say how the image lies; left and right are assumed."
        )
    elif sform is not None and qform is not None and np.abs(sform - qform).max() > FORMS_TOLERANCE:
        add_warning(
            meta,
            f"SFORM_QFORM: the sform and the qform of {path} differ by up to {np.abs(sform - qform).max():.4g} mm; "
            "the sform counts.",
        )
    unit = header.get_xyzt_units()[0]
    if unit in ("meter", "micron"):
        add_warning(meta, f"UNITS: the header of {path} states lengths in {unit}; they are taken as mm all the same.")
    return header


def _read_header(path: Path, kind: Any) -> Any:
    with ImageOpener(str(path)) as stream:
        return kind.from_fileobj(stream)


def _has_broken_qform(path: Path) -> bool:
    """Whether a file that cannot be opened is NIfTI with nothing but a broken qform."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        try:
            header = _read_header(path, kind)
        except Exception:  # anything, for this is no such file
            continue
        try:
            header.get_qform(coded=True)
        except (ValueError, HeaderDataError):
            return True
    return False


def _unreadable(path: Path, error: Exception) -> InputRefused:
    with path.open("rb") as stream:
        zipped = stream.read(2) == _GZIP
    try:
        if zipped:
            with gzip.open(path) as stream:
                stream.read(540)  # the longest header
    except (EOFError, zlib.error) as damage:
        return InputRefused("TRUNCATED", f"{path} is damaged within its header ({damage}); copy it again.")
    except gzip.BadGzipFile:
        pass
    return InputRefused("NOT_AN_IMAGE", f"{path} is no readable NIfTI file ({error}); copy it again.")
