"""Distances between the surfaces of two masks, in mm where the image says how large its pixels are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing, to_affine_nd
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

__all__ = ["Grid", "SurfaceTolerance", "surface_metrics"]

PERCENTILE = 95.0
# Affines are rounded: a neighbour stored at 1.00001 mm lies within 1 mm.
ROUNDING = 1e-4
DIGITS = 5  # MONAI's distances are single precision


@dataclass(frozen=True)
class SurfaceTolerance:
    """How far apart two surfaces may lie and still count as the same, for the normalised surface Dice.

    Args:
        mm: where the size of the pixels is known. 1 mm is about a voxel of a clinical volume; a reference is hardly
            drawn better than that.
        px: where it is not. 2 pixels are about the width of a line that a person draws around a target.
    """

    mm: float = 1.0
    px: float = 2.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.mm, self.px]).all() and min(self.mm, self.px) >= 0):
            raise ValueError(f"tolerances of surfaces should be 0 or more, got {self.mm} mm and {self.px} px.")

    def of(self, unit: Literal["mm", "px"]) -> float:
        """The tolerance in this unit."""
        return self.mm if unit == "mm" else self.px


@dataclass(frozen=True)
class Grid:
    """The grid that distances are measured on: axes of size 1 are left out, so that one slice is a 2D picture.

    Args:
        shape: sizes of the axes, two or three.
        spacing: distance of neighbours along them.
        unit: of the spacing; in ``px`` it is 1.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: Literal["mm", "px"]

    @classmethod
    def of(cls, image: MetaTensor) -> Grid:
        """Grid of an image ``(C, *spatial)``.

        NIfTI and DICOM with a place in the patient are in mm, as is a DICOM picture without one whose pixels have a
        size; photographs are in pixels (docs/design.md says how readers tell). Axes are taken to be at right angles.
        """
        spatial = tuple(image.shape[1:])
        axes = [i for i, size in enumerate(spatial) if size > 1]
        axes = sorted([*axes, *(i for i in range(len(spatial)) if i not in axes)][: max(2, len(axes))])
        affine = to_affine_nd(3, image.affine.detach().cpu().numpy().astype(np.float64))
        sides = tuple(float(affine_to_spacing(affine)[i]) for i in axes)
        has_place = len(spatial) == 3 and bool(image.meta.get("has_place", True))
        # Without a place there is no distance between slices, and sides of 1 mean that pixels have no size.
        known = has_place or (len(axes) == 2 and not np.allclose(sides, 1))
        shape = tuple(spatial[i] for i in axes)
        return cls(shape, sides, "mm") if known else cls(shape, (1.0,) * len(axes), "px")

    @property
    def diagonal(self) -> float:
        """Length of the image's diagonal: no distance within the image is longer."""
        return float(np.linalg.norm(np.multiply(self.shape, self.spacing)))


def surface_metrics(
    predicted: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """HD95 and normalised surface Dice of two masks that both hold something, with MONAI's metrics.

    HD95 is the larger of the two directed 95th percentiles. A surface is the pixels or voxels of a mask that have a
    neighbour (by a side) outside of it or lie at the edge of the image; each counts the same in the surface Dice.

    Args:
        predicted: boolean ``(*spatial)``, two or three axes.
        reference: boolean, of the same shape.
        spacing: distance of neighbours along each axis.
        tolerance: surfaces this near to each other agree, in the unit of the spacing.

    Returns:
        HD95 in the unit of the spacing, and surface Dice in 0..1.
    """
    masks = predicted[None, None], reference[None, None]
    steps = [float(step) for step in spacing]
    limit = tolerance * (1 + ROUNDING)
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an option of its own that it passes on.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        distance = compute_hausdorff_distance(*masks, include_background=True, percentile=PERCENTILE, spacing=steps)
        nsd = compute_surface_dice(*masks, class_thresholds=[limit], include_background=True, spacing=steps)
    return round(float(distance), DIGITS), float(nsd)
