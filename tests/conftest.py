"""What all tests share: polite use of the machine, the optional folder of real data, awkward synthetic volumes."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from absl import logging as absl_logging
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]

# absl (it comes with TensorBoard, and NNCF starts it) closes its stream when MONAI sets up logging. In a test that is
# pytest's capture file, and the worker dies of it; outside it is the terminal, which absl leaves open.
absl_logging.PythonHandler.close = logging.StreamHandler.close  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout (bundles, configs, top-level transforms)."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real data beside the checkout; tests that need it are skipped without it."""
    folder = Path(os.environ.get("ESP_MEDSAM_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set ESP_MEDSAM_SHARED)")
    return folder


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Rotation matrix of three angles in degrees about the x, y and z axes, in this order."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad((x, y, z))):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class Volume:
    """A synthetic image: ``array`` of shape ``(X, Y, Z)`` or ``(X, Y)`` and its RAS ``affine`` ``(4, 4)``."""

    array: np.ndarray
    affine: np.ndarray

    def save(self, path: Path) -> Path:
        """Write as NIfTI, keeping the data type."""
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(self.array, self.affine, dtype=self.array.dtype), path)
        return path

    def orientations(self) -> list[Volume]:
        """All 48 storage orders (axis permutations and flips) of a 3D volume, made by nibabel."""
        image = nib.Nifti1Image(self.array, self.affine, dtype=self.array.dtype)
        stored = []
        for order in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                turned = image.as_reoriented(np.stack([order, signs], axis=1))
                stored.append(Volume(np.ascontiguousarray(turned.dataobj), turned.affine))
        return stored


def make_volume(
    shape: tuple[int, ...] = (12, 10, 8),
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    origin: tuple[float, float, float] = (-3.0, 5.0, 7.0),
    dtype: str = "int16",
    seed: int = 0,
) -> Volume:
    """A noisy volume in which no two voxels can be told apart by symmetry; angles in degrees, lengths in mm."""
    array = np.random.default_rng(seed).integers(0, 200, size=shape).astype(dtype)
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) @ np.diag((*spacing, 1.0)[:3])
    affine[:3, 3] = origin
    return Volume(array, affine)


AWKWARD: dict[str, Callable[[], Volume]] = {
    "isotropic": make_volume,
    "anisotropic": lambda: make_volume(spacing=(0.7, 0.8, 5.0)),
    "thick_first_axis": lambda: make_volume(spacing=(4.0, 0.9, 0.9), dtype="uint8"),
    "oblique": lambda: make_volume(angles=(17.0, -24.0, 9.0), spacing=(1.0, 1.0, 3.0), dtype="float64"),
    "oblique_isotropic": lambda: make_volume(angles=(31.0, 12.0, -40.0)),
    "half_way": lambda: make_volume(angles=(0.0, 0.0, 45.0)),
    "half_way_twice": lambda: make_volume(angles=(45.0, 45.0, 45.0)),
    "flipped": lambda: make_volume().orientations()[7],
    "permuted": lambda: make_volume(spacing=(1.0, 2.0, 3.0)).orientations()[30],
    "one_slice": lambda: make_volume(shape=(12, 10, 1), dtype="uint8"),
    "one_column": lambda: make_volume(shape=(12, 1, 1)),
    "int64": lambda: make_volume(dtype="int64"),
    "uint8": lambda: make_volume(dtype="uint8"),
    "float64": lambda: make_volume(dtype="float64"),
}


@pytest.fixture(params=sorted(AWKWARD))
def awkward_volume(request: pytest.FixtureRequest) -> Volume:
    """Each awkward 3D volume in turn."""
    return AWKWARD[request.param]()


@pytest.fixture
def volume() -> Callable[..., Volume]:
    """Factory of synthetic volumes, see :func:`make_volume`."""
    return make_volume


CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_dicom(path: Path, pixels: np.ndarray | None = None, sop_class: str = CT_STORAGE, **tags: Any) -> Path:
    """Write one file; ``pixels`` ``(rows, columns)``, ``(frames, rows, columns)`` or with 3 colours at the end."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CT"
    if pixels is not None:
        color = pixels.shape[-1] == 3
        spatial = pixels.shape[:-1] if color else pixels.shape
        dataset.Rows, dataset.Columns = spatial[-2:]
        if len(spatial) == 3:
            dataset.NumberOfFrames = spatial[0]
        dataset.SamplesPerPixel = 3 if color else 1
        if color:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    if int(pydicom.__version__.split(".")[0]) < 3:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.save_as(path)
    return path


def write_dicom_series(
    folder: Path,
    positions: Sequence[Sequence[float]],
    orientation: Sequence[float] = AXIAL,
    shape: tuple[int, int] = (6, 5),
    **tags: Any,
) -> list[Path]:
    """One file per position (mm, LPS), named in the reverse order of the positions; rows 0.7, columns 0.5 mm apart.

    The pixel at (row, column) of the slice at ``positions[k]`` holds ``1000 k + 10 row + column``.
    """
    uid = tags.pop("SeriesInstanceUID", generate_uid())
    row, column = np.indices(shape)
    return [
        write_dicom(
            folder / f"{len(positions) - k:03d}.dcm",
            (1000 * k + 10 * row + column).astype(np.int16),
            SeriesInstanceUID=uid,
            ImagePositionPatient=[float(v) for v in position],
            ImageOrientationPatient=list(orientation),
            PixelSpacing=[0.7, 0.5],
            **tags,
        )
        for k, position in enumerate(positions)
    ]


@pytest.fixture
def dicom_file() -> Callable[..., Path]:
    """Writer of one DICOM file, see :func:`write_dicom`."""
    return write_dicom


@pytest.fixture
def dicom_series() -> Callable[..., list[Path]]:
    """Writer of a DICOM series, see :func:`write_dicom_series`."""
    return write_dicom_series
