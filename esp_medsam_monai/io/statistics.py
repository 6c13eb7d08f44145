"""How much of each target a mask holds, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd

from esp_medsam_monai.geometry import slice_plan

__all__ = ["target_statistics"]

DIGITS = 6
"""Significant digits of what is measured: far more than a mask is worth, and no noise of floating point in files."""

_OTHER_AXES = ((1, 2), (0, 2), (0, 1))


def target_statistics(
    mask: MetaTensor, targets: Mapping[str, int], modality: str, axis: int | str | None = None
) -> list[dict[str, Any]]:
    """Size, place and number of pieces of every target.

    An image without a place in the patient (a photograph, or DICOM with ``has_place`` False) has no thickness, hence an
    area at most; if its pixels have no known size either, it has counts alone.

    Args:
        mask: ``(1, *spatial)`` label values, with the affine and the ``slice_axis`` of its image.
        targets: ``{target: label value}`` of the modality.
        modality: our name of the modality.
        axis: slicing axis that was asked for, as for the inferer.

    Returns:
        For each target, in order: ``target``, ``label`` (value), ``name`` (``mr_hippocampus_anterior``), ``voxels``,
        ``percent`` (of the image), ``volume_ml``, ``area_mm2`` (one slice only), ``slices`` (how many hold it),
        ``centroid_mm`` (RAS), ``components`` (pieces that do not touch, not even by a corner). None: not known, or
        there is nothing to measure.
    """
    plan = slice_plan(mask.affine, mask.shape[1:], axis, mask.meta.get("slice_axis"))
    affine = to_affine_nd(3, mask.affine.detach().cpu().numpy().astype(np.float64))
    values = mask.detach().cpu().numpy()[0]
    values = values[..., None] if values.ndim == 2 else values
    stack = plan.axis
    has_place = mask.ndim == 4 and bool(mask.meta.get("has_place", True))
    voxel_ml, pixel_mm2 = _voxel_sizes(affine, has_place, values.shape[stack] == 1, stack)
    box, corner = _box(values)
    rows = []
    for target, value in targets.items():
        inside = box == value
        # Counts along each axis, from which come place, extent and slices without a list of all voxels.
        profiles = [inside.sum(axis=others) for others in _OTHER_AXES]
        voxels = int(profiles[0].sum())
        in_patient = voxels > 0 and voxel_ml is not None
        rows.append(
            {
                "target": target,
                "label": value,
                "name": f"{modality}_{target}",
                "voxels": voxels,
                "percent": _rounded(100 * voxels / values.size),
                "volume_ml": None if voxel_ml is None else _rounded(voxels * voxel_ml),
                "area_mm2": None if pixel_mm2 is None else _rounded(voxels * pixel_mm2),
                "slices": int(np.count_nonzero(profiles[stack])),
                "centroid_mm": _centroid(profiles, corner, affine) if in_patient else None,
                "components": _components(inside, profiles) if voxels else 0,
            }
        )
    return rows


def _voxel_sizes(affine: np.ndarray, has_place: bool, one_slice: bool, stack: int) -> tuple[float | None, float | None]:
    """Volume of a voxel in mL and, of one slice, area of a pixel in mm²; None where it is not known.

    Args:
        affine: ``(4, 4)``, RAS, mm.
        has_place: whether the image says where it lies in the patient.
        one_slice: the image is one slice.
        stack: storage axis across the slice.
    """
    volume = abs(float(np.linalg.det(affine[:3, :3]))) / 1000 if has_place else None
    # Without a place, sides of 1 are how the readers say that pixels have no size: see docs/design.md.
    if not one_slice or (not has_place and bool((np.abs(np.diag(affine)) == 1).all())):
        return volume, None
    first, second = (affine[:3, i] for i in range(3) if i != stack)
    return volume, float(np.linalg.norm(np.cross(first, second)))


def _box(values: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The part of a volume that holds anything but background, and its first corner; a mask is mostly empty."""
    filled = [np.flatnonzero(values.max(axis=others)) for others in _OTHER_AXES]
    if not filled[0].size:
        return values[:0], [0, 0, 0]
    corner = [int(index[0]) for index in filled]
    return values[tuple(slice(start, int(index[-1]) + 1) for start, index in zip(corner, filled, strict=True))], corner


def _centroid(profiles: list[np.ndarray], corner: list[int], affine: np.ndarray) -> list[float]:
    center = [
        start + float(np.average(np.arange(profile.size), weights=profile))
        for start, profile in zip(corner, profiles, strict=True)
    ]
    return [round(float(value), 3) for value in affine[:3, :3] @ center + affine[:3, 3]]


def _components(inside: np.ndarray, profiles: list[np.ndarray]) -> int:
    # Only the box around the target: counting is the slow part.
    filled = [np.flatnonzero(profile) for profile in profiles]
    box = inside[tuple(slice(int(index[0]), int(index[-1]) + 1) for index in filled)]
    labelled = sitk.ConnectedComponentImageFilter()
    labelled.FullyConnectedOn()
    labelled.Execute(sitk.GetImageFromArray(box.view(np.uint8)))
    return int(labelled.GetObjectCount())


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
