"""A zoo of small inputs: broken ones, each with the code that it is refused by, and odd ones that must be done.

All are synthetic. Each states its modality, so that nothing but the fault it is named for can stop it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import AXIAL, write_dicom
from tests.faults import makers as make

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SHEAR = [[1.5, 0.3, 0.0, 0.0], [0.0, 1.25, 0.4, 0.0], [0.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


@dataclass(frozen=True)
class Broken:
    """One broken input.

    Args:
        code: what it is refused by.
        says: regular expression for the offending value in the message.
        write: writes it into a folder.
    """

    code: str
    says: str
    write: Callable[[Path], Any]


def _nifti(code: str, says: str, name: str, *args: Any, **fields: Any) -> Broken:
    return Broken(code, says, lambda folder: make.nifti(folder / name, *args, **fields))


def _diagonal(*spacing: float) -> np.ndarray:
    return np.diag((*spacing, 1.0))


def _sidecar(folder: Path, name: str, content: str) -> None:
    make.nifti(folder / f"{name}.nii.gz")
    make.text(folder / f"{name}.json", content)


def _last_moved(folder: Path, **tags: Any) -> None:
    make.edited(make.series(folder)[0], **tags)


BROKEN: dict[str, Broken] = {
    "nifti/truncated": Broken(
        "TRUNCATED", "end-of-stream|ended", lambda f: make.cut(make.nifti(f / "truncated.nii.gz"), 0.5)
    ),
    "nifti/cut_in_header": Broken(
        "TRUNCATED", "damaged within its header", lambda f: make.cut(make.nifti(f / "cut_in_header.nii.gz"), 0.02)
    ),
    "nifti/truncated_plain": Broken(
        "TRUNCATED", r"\d bytes|length", lambda f: make.cut(make.nifti(f / "truncated_plain.nii"), 0.9)
    ),
    "nifti/damaged": Broken("TRUNCATED", "Error -3|CRC", lambda f: make.damage(make.nifti(f / "damaged.nii.gz"))),
    "nifti/zero_bytes": Broken("NOT_AN_IMAGE", "0 bytes", lambda f: make.text(f / "zero_bytes.nii.gz", "")),
    "nifti/zero_bytes_plain": Broken("NOT_AN_IMAGE", "0 bytes", lambda f: make.text(f / "zero_bytes_plain.nii", "")),
    "nifti/text": Broken("NOT_AN_IMAGE", "gzip", lambda f: make.text(f / "text.nii.gz")),
    "nifti/text_plain": Broken("NOT_AN_IMAGE", "file type", lambda f: make.text(f / "text_plain.nii")),
    "nifti/dangling": Broken(
        "NOT_FOUND", "nowhere", lambda f: make.link(f / "dangling.nii.gz", Path("nowhere.nii.gz"))
    ),
    "nifti/two_volumes": _nifti("UNSUPPORTED_SHAPE", r"\(8, 8, 4, 2\)", "two_volumes.nii.gz", make.noise((8, 8, 4, 2))),
    "nifti/one_line": _nifti("UNSUPPORTED_SHAPE", r"\(9,\)", "one_line.nii.gz", make.noise((9,))),
    "nifti/complex": _nifti("UNSUPPORTED_TYPE", "complex64", "complex.nii.gz", make.noise(dtype=np.complex64)),
    "nifti/zero_column": _nifti("BAD_AFFINE", "0.0, 0.0, 0.0", "zero_column.nii.gz", None, _diagonal(0.0, 1.0, 1.0)),
    "nifti/nan_affine": _nifti("BAD_AFFINE", "nan", "nan_affine.nii.gz", None, _diagonal(1.0, np.nan, 1.0)),
    "nifti/parallel_axes": _nifti(
        "BAD_AFFINE",
        r"\[3.0, 3.0,",
        "parallel_axes.nii.gz",
        None,
        [[3, 3, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]],
    ),
    "nifti/tiny_pixels": _nifti("BAD_AFFINE", "0.001", "tiny_pixels.nii.gz", None, _diagonal(0.001, 1.0, 1.0)),
    "nifti/huge_pixels": _nifti("BAD_AFFINE", "800", "huge_pixels.nii.gz", None, _diagonal(800.0, 800.0, 3.0)),
    "nifti/broken_qform": Broken(
        "BAD_AFFINE", "qform", lambda f: make.broken_qform(f / "broken_qform.nii.gz", sform_code=0)
    ),
    "nifti/mostly_nan": _nifti("NON_FINITE", r"960 of 1600 .*60.00%", "mostly_nan.nii.gz", make.with_nan(0.6)),
    "nifti/all_nan": _nifti("NON_FINITE", "100.00%", "all_nan.nii.gz", make.with_nan(1.0)),
    "nifti/mostly_infinite": _nifti("NON_FINITE", "75.00%", "mostly_infinite.nii.gz", make.with_nan(0.75, -np.inf)),
    "nifti/bad_sidecar": Broken("BAD_SIDECAR", "bad_sidecar.json", lambda f: _sidecar(f, "bad_sidecar", "{not json")),
    "nifti/unknown_modality": Broken(
        "UNKNOWN_MODALITY", "'mrr'", lambda f: _sidecar(f, "unknown_modality", '{"modality": "mrr"}')
    ),
    "nifti/no_weights": Broken("NO_WEIGHTS", "ct", lambda f: _sidecar(f, "no_weights", '{"modality": "ct"}')),
    "silent/no_modality": Broken("NO_MODALITY", "nothing says", lambda f: make.nifti(f / "no_modality.nii.gz")),
    "pictures/text": Broken("NOT_AN_IMAGE", "cannot identify", lambda f: make.text(f / "text.png")),
    "pictures/zero_bytes": Broken("NOT_AN_IMAGE", "0 bytes", lambda f: make.text(f / "zero_bytes.jpg", "")),
    "pictures/truncated": Broken("TRUNCATED", "truncated", lambda f: make.cut(make.picture(f / "truncated.png"), 0.5)),
    "pictures/truncated_jpeg": Broken(
        "TRUNCATED", "truncated", lambda f: make.cut(make.picture(f / "truncated_jpeg.jpg"), 0.7)
    ),
    "dicom/missing_slice/missing_slice": Broken(
        "MISSING_SLICES", "4.00 and 8.00 mm .* 1 slices", lambda f: make.series(f, (0, 2, 4, 8, 10))
    ),
    "dicom/stray_slice/stray_slice": Broken(
        "MISSING_SLICES", "8.00 and 120.00 mm .* far", lambda f: make.series(f, (0, 2, 4, 6, 8, 120))
    ),
    "dicom/stray_between/stray_between": Broken(
        "UNEVEN_SPACING", "8.00 and 121.00 mm .* far", lambda f: make.series(f, (0, 2, 4, 6, 8, 121))
    ),
    "dicom/uneven/uneven": Broken(
        "UNEVEN_SPACING", "4.00 and 6.90 mm .* 2.900 mm", lambda f: make.series(f, (0, 2, 4, 6.9, 8.9))
    ),
    "dicom/duplicate/duplicate": Broken(
        "DUPLICATE_POSITIONS", "2 slices at 4.00 mm", lambda f: make.series(f, (0, 2, 4, 4, 6))
    ),
    "dicom/sideways/sideways": Broken(
        "IRREGULAR_POSITIONS", "0.700 mm", lambda f: make.series(f, (0, 2, (0.7, 0.0, 4.0), 6, 8))
    ),
    "dicom/localizer/localizer": Broken(
        "LOCALIZER", "ImageType", lambda f: make.series(f, (0, 2), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ),
    "dicom/several_ways/several_ways": Broken(
        "MIXED_ORIENTATION",
        "3 frames .* 2 directions",
        lambda f: make.enhanced(f, [(AXIAL, 0), (AXIAL, 2), (CORONAL, 4)]),
    ),
    "dicom/no_position/no_position": Broken(
        "BAD_AFFINE", "no ImagePositionPatient", lambda f: make.slice_with(f, ImagePositionPatient=None)
    ),
    "dicom/zero_orientation/zero_orientation": Broken(
        "BAD_AFFINE", "ImageOrientationPatient .*0", lambda f: make.slice_with(f, ImageOrientationPatient=[0] * 6)
    ),
    "dicom/no_spacing/no_spacing": Broken(
        "BAD_AFFINE", "no PixelSpacing", lambda f: make.slice_with(f, PixelSpacing=None)
    ),
    "dicom/huge_spacing/huge_spacing": Broken(
        "BAD_AFFINE", "90 x 90", lambda f: make.slice_with(f, PixelSpacing=[90, 90])
    ),
    "dicom/decimal_comma/decimal_comma": Broken("BAD_AFFINE", "ImagePositionPatient .*1,25", make.comma),
    "dicom/two_spacings/two_spacings": Broken(
        "MIXED_SPACING", r"0\.9", lambda f: _last_moved(f, PixelSpacing=[0.9, 0.9])
    ),
    "dicom/cut_pixels/cut_pixels": Broken(
        "TRUNCATED", r"\d+ of 60 bytes|\d+ vs 60 bytes", lambda f: make.cut(make.slice_with(f), 0.95)
    ),
    "dicom/cut_header/001": Broken("TRUNCATED", "header ends", lambda f: make.cut(make.slice_with(f), 0.6)),
    "dicom/text/text": Broken("NOT_AN_IMAGE", "DICOM", lambda f: make.text(f / "text.dcm")),
    "dicom/zero_bytes/empty": Broken("NOT_AN_IMAGE", "0 bytes", lambda f: make.text(f / "empty.dcm", "")),
    "dicom/htj2k/htj2k": Broken(
        "NO_DECODER", "High-Throughput JPEG 2000.*pylibjpeg", lambda f: make.compressed(f, "1.2.840.10008.1.2.4.201")
    ),
    "dicom/jpeg_xl/jpeg_xl": Broken(
        "NO_DECODER", "JPEG XL .*uncompressed", lambda f: make.compressed(f, "1.2.840.10008.1.2.4.110")
    ),
    "dicom/film/film": Broken("NO_DECODER", "MPEG.*film", lambda f: make.compressed(f, "1.2.840.10008.1.2.4.102")),
    "dicom/photograph/photograph": Broken(
        "NO_MODALITY", "nothing says", lambda f: write_dicom(f / "a.dcm", make.noise((9, 8), np.uint8), Modality="XC")
    ),
}
"""Name of the case, as ``find_cases`` names it, and what is wrong with it."""


@dataclass(frozen=True)
class Odd:
    """An odd input that must be done; ``warning`` is how its warning begins, empty for none."""

    warning: str
    write: Callable[[Path], Any]


def _odd(name: str, *args: Any, warning: str = "", **fields: Any) -> Odd:
    return Odd(warning, lambda folder: make.nifti(folder / name, *args, **fields))


def _two_series(folder: Path) -> None:
    for number in (1, 2):
        for path in make.series(folder / "work", SeriesNumber=number):
            path.rename(folder / f"{number}_{path.name}")
    (folder / "work").rmdir()


def _numbered(folder: Path, numbers: tuple[int | None, ...]) -> None:
    for path, number in zip(make.series(folder), numbers, strict=True):
        make.edited(path, InstanceNumber=number)


def _linked_folder(folder: Path) -> None:
    make.series(folder.parent.parent / ".elsewhere" / "series")
    make.link(folder / "linked", folder.parent.parent / ".elsewhere" / "series")


def _spaces(folder: Path) -> None:
    for path in make.series(folder, (10, 12, 14)):
        path.write_bytes(path.read_bytes().replace(b"0.0\\0.0\\1", b"  0\\  0\\1"))


ODD: dict[str, Odd] = {
    "nifti/one_nan": _odd("one_nan.nii.gz", make.with_nan(1 / 1600), warning="NON_FINITE"),
    "nifti/nan_block": _odd("nan_block.nii.gz", make.with_nan(0.3), warning="NON_FINITE"),
    "nifti/constant": _odd("constant.nii.gz", np.full((20, 16, 5), 7, np.int16), warning="EMPTY_IMAGE"),
    "nifti/single_slice": _odd("single_slice.nii.gz", make.noise((20, 16, 1))),
    "nifti/thick_slice": _odd("thick_slice.nii.gz", make.noise((20, 16, 1)), _diagonal(1.0, 1.0, 300.0)),
    "nifti/one_row": _odd("one_row.nii.gz", make.noise((1, 16, 20))),
    "nifti/flat": _odd("flat.nii.gz", make.noise((20, 16))),
    "nifti/int64": _odd("int64.nii.gz", make.noise(dtype=np.int64)),
    "nifti/uint64": _odd("uint64.nii.gz", make.noise(dtype=np.uint64)),
    "nifti/float64": _odd("float64.nii.gz", make.noise(dtype=np.float64)),
    "nifti/rgb": _odd("rgb.nii.gz", make.rgb()),
    "nifti/one_volume": _odd("one_volume.nii.gz", make.noise((20, 16, 5, 1))),
    "nifti/lps": _odd("lps.nii.gz", None, make.turned("LPS")),
    "nifti/asr": _odd("asr.nii.gz", None, make.turned("ASR")),
    "nifti/oblique": _odd("oblique.nii.gz", None, [[1, -0.6, 0, 5], [0.6, 1, 0, -9], [0, 0, 3, 2], [0, 0, 0, 1]]),
    "nifti/sheared": _odd("sheared.nii.gz", None, SHEAR),
    "nifti/two_forms": _odd("two_forms.nii.gz", None, None, _diagonal(1.5, 1.25, 5.0), warning="SFORM_QFORM"),
    "nifti/broken_qform": Odd("BROKEN_QFORM", lambda f: make.broken_qform(f / "broken_qform.nii.gz", sform_code=2)),
    "nifti/no_forms": _odd("no_forms.nii.gz", sform_code=0, warning="NO_ORIENTATION"),
    "nifti/metres": _odd("metres.nii.gz", xyzt_units=1, warning="UNITS"),
    "nifti/with blanks and Ünïcödé 脳": _odd("with blanks and Ünïcödé 脳.nii.gz"),
    "nifti/linked": Odd("", lambda f: make.link(f / "linked.nii", make.nifti(f.parent / ".elsewhere" / "a.nii"))),
    "pictures/deep": Odd("", lambda f: make.picture(f / "deep.png", make.noise((40, 30), np.uint16))),
    "pictures/black": Odd("EMPTY_IMAGE", lambda f: make.picture(f / "black.png", np.zeros((40, 30), np.uint8))),
    "dicom/tilted/tilted": Odd("", lambda f: make.series(f, [(0.0, 0.3 * k, 1.0 * k) for k in range(5)])),
    "dicom/no_numbers/no_numbers": Odd("", lambda f: _numbered(f, (1, None, 3, None, 5))),
    "dicom/other_order/other_order": Odd("", lambda f: _numbered(f, (3, 1, 5, 2, 4))),
    "dicom/two_series/two_series_1": Odd("", _two_series),
    "dicom/two_series/two_series_2": Odd("", lambda folder: None),
    "dicom/spaces/spaces": Odd("", _spaces),
    "dicom/enhanced/enhanced": Odd("", lambda f: make.enhanced(f, [(AXIAL, height) for height in (4, 0, 2)])),
    "dicom/one slice/one slice": Odd("", lambda f: make.slice_with(f)),
    "dicom/folder/linked/series": Odd("", lambda f: _linked_folder(f.parent)),
}
"""Name of the case, as ``find_cases`` names it, and what is odd about it."""


def write_broken_files(folder: Path) -> dict[str, str]:
    """Write every broken input below a folder.

    Returns:
        For each case, by the name that ``find_cases`` gives it, the code that it must be refused by.
    """
    _write(folder, BROKEN)
    return {name: broken.code for name, broken in BROKEN.items()}


def write_odd_but_good_files(folder: Path) -> dict[str, str]:
    """Write every odd input below a folder.

    Returns:
        For each case, by the name that ``find_cases`` gives it, how its warning begins; empty for none.
    """
    _write(folder, ODD)
    return {name: odd.warning for name, odd in ODD.items()}


def _write(folder: Path, table: dict[str, Broken] | dict[str, Odd]) -> None:
    for name, modality in (("nifti", "mr"), ("pictures", "xray")):
        make.text(folder / name / "modality.json", json.dumps({"modality": modality}))
    for name, entry in table.items():
        entry.write((folder / name).parent)
