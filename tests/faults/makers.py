"""How odd and broken images are made: NIfTI headers that nibabel would not write, DICOM with a fault in one tag."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests.conftest import write_dicom, write_dicom_series

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SPACING = (1.5, 1.25, 4.0)


def noise(shape: Sequence[int] = (20, 16, 5), dtype: Any = np.int16) -> np.ndarray:
    """Values 1..200."""
    return np.random.default_rng(0).integers(1, 200, size=tuple(shape)).astype(dtype)


def with_nan(share: float, value: float = np.nan) -> np.ndarray:
    """A volume in which this share of voxels holds ``value``."""
    array = noise(dtype=np.float32)
    array.ravel()[: round(share * array.size)] = value
    return array


def nifti(
    path: Path,
    array: np.ndarray | None = None,
    affine: Any = None,
    qform: Any = None,
    sform_code: int = 1,
    **fields: Any,
) -> Path:
    """Write a NIfTI-1 file by its header's fields, so that any nonsense can stand in it.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        array: values, noise when None.
        affine: sform; ``diag(SPACING)`` when None.
        qform: another affine for the qform, which is unset when None.
        sform_code: 0 leaves the sform out.
        fields: header fields to set last.
    """
    array = noise() if array is None else array
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_zooms((*SPACING, 1.0, 1.0)[: array.ndim])
    if qform is not None:
        header.set_qform(np.asarray(qform, dtype=float), code=1)
    header["sform_code"] = sform_code
    matrix = np.diag((*SPACING, 1.0)) if affine is None else np.asarray(affine, dtype=float)
    header["srow_x"], header["srow_y"], header["srow_z"] = matrix[:3]
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + b"\0" * 4 + array.tobytes(order="F")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def rgb() -> np.ndarray:
    """A colour volume as NIfTI stores it."""
    return noise((20, 16, 5, 3), np.uint8).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]


def broken_qform(path: Path, sform_code: int) -> Path:
    """A header whose quaternion is longer than 1."""
    fields = {"qform_code": 1, "quatern_b": 1.5, "quatern_c": 0.9}
    return nifti(path, sform_code=sform_code, **fields)


def turned(codes: str) -> np.ndarray:
    """Affine of a volume stored in this order, for instance ``LPS``."""
    spaced = nib.orientations.axcodes2ornt(tuple(codes))
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(spaced):
        affine[int(world), axis] = sign * SPACING[axis]
    affine[3, 3] = 1.0
    return affine


def cut(path: Path, share: float) -> Path:
    """Keep only the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def damage(path: Path) -> Path:
    """Overwrite the middle of a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(bytes(content))
    return path


def text(path: Path, content: str = "This is no image.") -> Path:
    """A text file under the name of an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def picture(path: Path, array: np.ndarray | None = None) -> Path:
    """A PNG or JPEG of noise, 40 x 30."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise((40, 30), np.uint8) if array is None else array).save(path)
    return path


def link(path: Path, target: Path) -> Path:
    """A symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def series(folder: Path, heights: Sequence[float] = (0, 2, 4, 6, 8), **tags: Any) -> list[Path]:
    """An axial MR series with slices at these heights (mm)."""
    positions = [height if isinstance(height, tuple) else (0.0, 0.0, float(height)) for height in heights]
    return write_dicom_series(folder, positions, **{"Modality": "MR", "sop_class": MR, **tags})


def edited(path: Path, **tags: Any) -> Path:
    """The file with tags set, or with those of value None taken out."""
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is not None:
            setattr(dataset, name, value)
        elif name in dataset:
            delattr(dataset, name)
    dataset.save_as(path)
    return path


def slice_with(folder: Path, **tags: Any) -> Path:
    """One MR slice with tags set or, where None, taken out."""
    return edited(series(folder, (0,))[0], **tags)


def comma(folder: Path) -> Path:
    """One MR slice in whose position stands a decimal comma."""
    path = series(folder, (1.25,))[0]
    path.write_bytes(path.read_bytes().replace(b"1.25", b"1,25"))
    return path


def compressed(folder: Path, syntax: str) -> Path:
    """One MR slice that claims to be compressed in this way; its pixels are 64 bytes of nothing."""
    path = slice_with(folder, PixelData=encapsulate([b"\0" * 64]))
    dataset = pydicom.dcmread(path)
    dataset["PixelData"].is_undefined_length = True
    # A name of the same length, known to any pydicom, stands for those that it may not know.
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    dataset.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.100", syntax.encode(), 1))
    return path


def enhanced(folder: Path, planes: Sequence[tuple[Sequence[float], float]]) -> Path:
    """An enhanced MR file; each plane is an orientation and a height."""
    frames = []
    for orientation, height in planes:
        frame, position, direction = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0.0, 0.0, float(height)]
        direction.ImageOrientationPatient = list(orientation)
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [direction]
        frames.append(frame)
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.7, 0.5]
    shared.PixelMeasuresSequence = [measures]
    return write_dicom(
        folder / "enhanced.dcm",
        noise((len(planes), 6, 5), np.uint16),
        ENHANCED_MR,
        Modality="MR",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
