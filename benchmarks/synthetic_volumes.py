"""Volumes of any size that behave like scans when they are read, compressed and segmented."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

__all__ = ["write_ct", "write_mr_folder"]

AIR, TISSUE, CONTRAST, NOISE = -1000, 40, 60, 12
MR_SHAPE = (48, 56, 40)


def write_ct(path: Path, slices: int, side: int = 512, air: float = 0.0, seed: int = 0) -> Path:
    """Write a CT-sized volume, int16 in Hounsfield units: a body with soft structures and noise, surrounded by air.

    Args:
        path: ``.nii.gz`` or ``.nii``.
        slices: number of slices, 1.5 mm apart.
        side: pixels of a slice in either direction, 0.8 mm apart.
        air: share of slices, at both ends, that hold nothing but air.
        seed: of the noise.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    coarse = random.normal(size=(16, 16)).astype(np.float32)
    texture = np.kron(coarse, np.ones((-(-side // 16),) * 2, np.float32))[:side, :side] * CONTRAST
    inside = (x / 0.85) ** 2 + (y / 0.65) ** 2 < 1
    volume = np.empty((side, side, slices), dtype=np.int16, order="F")
    empty = round(air * slices / 2)
    for index in range(slices):
        # Neighbours resemble each other, and compress as badly as scans do.
        noise = random.normal(0, NOISE, size=(side, side))
        body = np.where(inside, TISSUE + np.roll(texture, index, axis=0), AIR)
        volume[..., index] = np.rint((body if empty <= index < slices - empty else AIR) + noise)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, np.diag([0.8, 0.8, 1.5, 1.0])), path)
    return path


def write_mr_folder(folder: Path, cases: int, seed: int = 0) -> Path:
    """Write small volumes like those of the hippocampus in the Medical Segmentation Decathlon, float32.

    Args:
        folder: made when missing.
        cases: number of files.
        seed: of the noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for case in range(cases):
        random = np.random.default_rng(seed + case)
        array = random.gamma(2.0, 150.0, size=MR_SHAPE).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0])), folder / f"mr{case:03d}.nii.gz")
    return folder
