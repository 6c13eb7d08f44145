"""Stored pixels of a DICOM dataset: plain ones by pydicom, compressed ones by SimpleITK, else by pydicom."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from esp_medsam_monai.errors import InputRefused

__all__ = ["stored_pixels"]

_NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
# What pydicom reads alone, in both versions and without colour conversion; the rest is for SimpleITK.
_PLAIN = {"MONOCHROME1", "MONOCHROME2", "RGB"}
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_RESCALE = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_SYNTAX = "1.2.840.10008.1.2."
# JPEG, JPEG-LS, JPEG 2000 and RLE: what GDCM inside SimpleITK decodes.
_SIMPLEITK = {_SYNTAX + end for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")}
# Names and packages that pydicom 2.4 does not know.
_NEWER = {
    _SYNTAX + "4.110": ("JPEG XL Lossless", ""),
    _SYNTAX + "4.111": ("JPEG XL JPEG Recompression", ""),
    _SYNTAX + "4.112": ("JPEG XL", ""),
    **{
        _SYNTAX + end: (f"High-Throughput JPEG 2000 {kind}", "pydicom>=3, pylibjpeg and pylibjpeg-openjpeg")
        for end, kind in (("4.201", "(lossless)"), ("4.202", "with RPCL options (lossless)"), ("4.203", ""))
    },
}
_FILMS = ("MPEG", "HEVC", "SMPTE")


def stored_pixels(dataset: Any, path: str) -> np.ndarray:
    """Stored values, before any rescaling and inversion; colours as RGB.

    Args:
        dataset: with pixels. Tags that would make SimpleITK rescale some kinds of image and not others are taken out.
        path: for messages.

    Raises:
        InputRefused: ``NO_DECODER``.
        Exception: what decoders raise when the pixels are missing or damaged.
    """
    if not any(tag in dataset for tag in _PIXELS):
        raise ValueError("the file ends before its pixels, or has none")
    syntax = _transfer_syntax(dataset)
    if syntax in _NATIVE:
        if "PixelData" in dataset:
            _check_length(dataset)
        return dataset.pixel_array if dataset.PhotometricInterpretation in _PLAIN else _by_simpleitk(dataset)
    if syntax in _SIMPLEITK:
        try:
            return _by_simpleitk(dataset)
        except Exception:
            if not _pydicom_decodes(syntax):
                raise
    if not _pydicom_decodes(syntax):
        raise InputRefused("NO_DECODER", f"the pixels of {path} are compressed as {_name(syntax)}: {_advice(syntax)}")
    return _by_pydicom(dataset)


def _transfer_syntax(dataset: Any) -> UID:
    """How the pixels are encoded; files from before DICOM's file header are plain and say only their byte order."""
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        if hasattr(dataset, "original_encoding"):
            _, little_endian = dataset.original_encoding
        else:  # pydicom 2.4
            little_endian = dataset.read_little_endian
        syntax = ExplicitVRBigEndian if little_endian is False else ImplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return syntax


def _check_length(dataset: Any) -> None:
    samples = int(getattr(dataset, "SamplesPerPixel", 1))
    values = int(getattr(dataset, "NumberOfFrames", None) or 1) * int(dataset.Rows) * int(dataset.Columns) * samples
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        values = values // 3 * 2
    expected, found = (values * int(dataset.BitsAllocated) + 7) // 8, len(dataset.PixelData)
    if found < expected:
        raise ValueError(f"the file ends too early: it holds {found} of {expected} bytes")


def _by_simpleitk(dataset: Any) -> np.ndarray:
    for tag in _RESCALE:
        if tag in dataset:
            del dataset[tag]
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        dataset.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "image.dcm")
        dataset.save_as(file)
        return sitk.GetArrayFromImage(sitk.ReadImage(file))


def _by_pydicom(dataset: Any) -> np.ndarray:
    try:
        from pydicom.pixels import pixel_array
    except ImportError:  # pydicom 2.4
        from pydicom.pixel_data_handlers.util import convert_color_space

        stored, space = dataset.pixel_array, dataset.PhotometricInterpretation
        return convert_color_space(stored, space, "RGB") if space.startswith("YBR") else stored
    return pixel_array(dataset)


def _pydicom_decodes(syntax: UID) -> bool:
    try:
        from pydicom.pixels import get_decoder
    except ImportError:  # pydicom 2.4
        handlers = pydicom.config.pixel_data_handlers
        return any(h.is_available() and h.supports_transfer_syntax(syntax) for h in handlers)
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _name(syntax: UID) -> str:
    name = _NEWER[syntax][0] if syntax in _NEWER else syntax.name
    return str(syntax) if name == syntax else f"{name} ({syntax})"


def _advice(syntax: UID) -> str:
    """What to do about pixels that nothing here decodes."""
    if any(word in syntax.name for word in _FILMS):
        return "this is a film; export the frames wanted as pictures."
    packages = _NEWER[syntax][1] if syntax in _NEWER else ""
    try:
        from pydicom.pixels import get_decoder

        wanted = [line.rpartition("requires ")[2] for line in get_decoder(syntax).missing_dependencies]
        packages = " or ".join(wanted) or packages
    except (ImportError, NotImplementedError):
        pass
    if packages:
        return f"install {packages}, or export the file uncompressed."
    return f"pydicom {pydicom.__version__} knows no package that decodes it; export the file uncompressed."
