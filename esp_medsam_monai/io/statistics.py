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


def target_statistics(
    mask: MetaTensor, targets: Mapping[str, int], modality: str, axis: int | str | None = None
) -> list[dict[str, Any]]:
    """Size, place and number of pieces of every target.

    An image without a place in the patient (a photograph, a radiograph in DICOM) has no thickness, hence an area at
    most; if its pixels have no known size either, it has counts alone.

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
    voxel_ml, pixel_mm2 = _voxel_sizes(affine, flat=mask.ndim == 3, one_slice=values.shape[stack] == 1, stack=stack)
    rows = []
    for target, value in targets.items():
        inside = values == value
        # Counts along each axis, from which come place, extent and slices without a list of all voxels.
        profiles = [inside.sum(axis=tuple({0, 1, 2} - {i})) for i in range(3)]
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
                "centroid_mm": _centroid(profiles, affine) if in_patient else None,
                "components": _components(inside, profiles) if voxels else 0,
            }
        )
    return rows


def _voxel_sizes(affine: np.ndarray, flat: bool, one_slice: bool, stack: int) -> tuple[float | None, float | None]:
    """Volume of a voxel in mL and, of one slice, area of a pixel in mm²; None where it is not known.

    Args:
        affine: ``(4, 4)``, RAS, mm.
        flat: the image has two spatial axes.
        one_slice: the image is one slice.
        stack: storage axis across the slice.
    """
    sides = np.diag(affine)
    # How the readers say that a file states no place: see docs/design.md.
    nowhere = one_slice and np.array_equal(affine, np.diag([*sides[:2], 1.0, 1.0]))
    nowhere = nowhere and (flat or bool((sides[:2] < 0).all()))
    volume = None if flat or nowhere else abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    if not one_slice or (nowhere and bool((np.abs(sides) == 1).all())):
        return volume, None
    first, second = (affine[:3, i] for i in range(3) if i != stack)
    return volume, float(np.linalg.norm(np.cross(first, second)))


def _centroid(profiles: list[np.ndarray], affine: np.ndarray) -> list[float]:
    center = [float((profile * np.arange(profile.size)).sum() / profile.sum()) for profile in profiles]
    return [round(float(value), 3) for value in affine[:3, :3] @ center + affine[:3, 3]]


def _components(inside: np.ndarray, profiles: list[np.ndarray]) -> int:
    # Only the box around the target: counting is the slow part.
    filled = [np.flatnonzero(profile) for profile in profiles]
    box = inside[tuple(slice(int(index[0]), int(index[-1]) + 1) for index in filled)]
    labelled = sitk.ConnectedComponentImageFilter()
    labelled.FullyConnectedOn()
    labelled.Execute(sitk.GetImageFromArray(box.astype(np.uint8)))
    return int(labelled.GetObjectCount())


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
