"""How a stored image becomes a stack of upright slices and back, by permutations and flips; how slices are resized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["SlicePlan", "check_axis", "resize", "slice_axis", "slice_plan"]

RIGHT_LEFT, POSTERIOR_ANTERIOR, INFERIOR_SUPERIOR = 0, 1, 2
PLANES = {"sagittal": RIGHT_LEFT, "coronal": POSTERIOR_ANTERIOR, "axial": INFERIOR_SUPERIOR}
# Anatomical axes of a slice's rows and columns, by the anatomical axis that the slices are stacked along.
ROWS_AND_COLUMNS = {
    RIGHT_LEFT: (INFERIOR_SUPERIOR, POSTERIOR_ANTERIOR),
    POSTERIOR_ANTERIOR: (INFERIOR_SUPERIOR, RIGHT_LEFT),
    INFERIOR_SUPERIOR: (POSTERIOR_ANTERIOR, RIGHT_LEFT),
}
# Sign of travel along the RAS axis: slices go to left, anterior, superior; rows and columns to left, posterior,
# inferior.
STACK_SIGNS = {RIGHT_LEFT: -1, POSTERIOR_ANTERIOR: 1, INFERIOR_SUPERIOR: 1}
PICTURE_SIGN = -1
SPACING_MARGIN = 1.05
# A fixed rotation vector (radians). Turning the world by it decides exact ties (an axis at 45 degrees lies as near to
# one anatomical axis as to another) by the patient and not by the order of storage; it dwarfs rounding errors.
TIE_BREAK = (0.37e-4, 0.61e-4, 0.70e-4)


@dataclass(frozen=True)
class SlicePlan:
    """How to turn one image into upright slices.

    Args:
        axis: storage axis that the slices are stacked along; 2 for a 2D image, which has no such axis.
        order: storage axes of (slices, rows, columns), for a 2D image of (rows, columns).
        flips: for each entry of ``order``, whether that axis runs against the radiological picture.
    """

    axis: int
    order: tuple[int, ...]
    flips: tuple[bool, ...]

    @property
    def spatial_dims(self) -> int:
        """2 or 3: the number of spatial axes of the images that the plan is for."""
        return len(self.order)

    def to_slices(self, x: Any, start: int = 0, stop: int | None = None) -> Any:
        """The stack of upright slices of an image.

        Args:
            x: array or tensor ``(C, *spatial)``. A ``MetaTensor`` comes back as a plain tensor, for its metadata no
                longer describes the result.
            start: first slice wanted, counted in the order of the result.
            stop: one past the last slice wanted, None for all. Tensors cannot be flipped without a copy; asking for a
                few slices copies only these.

        Returns:
            ``(S, C, H, W)``, a view where no flip of a tensor is needed.
        """
        if x.ndim != self.spatial_dims + 1:
            raise ValueError(f"expected (C, *spatial) with {self.spatial_dims} spatial axes, got {tuple(x.shape)}.")
        x = _plain(x)
        if self.spatial_dims == 2:
            x = x[None]
        count = x.shape[0] if self.spatial_dims == 2 else x.shape[1 + self.axis]
        first, last, _ = slice(start, stop).indices(count)
        x = _permute(x, self._axes())
        if self.spatial_dims == 3 and self.flips[0]:
            return _flip(x[count - max(last, first) : count - first], (0, *self._picture_flips()))
        return _flip(x[first:last], self._picture_flips())

    def from_slices(self, slices: Any) -> Any:
        """The inverse of :meth:`to_slices`, exactly.

        Args:
            slices: array or tensor ``(S, C, H, W)``; C may differ from the image's.

        Returns:
            ``(C, *spatial)`` in the image's storage order.
        """
        if slices.ndim != 4:
            raise ValueError(f"expected slices (S, C, H, W), got {tuple(slices.shape)}.")
        flipped = self._picture_flips()
        if self.spatial_dims == 3 and self.flips[0]:
            flipped = (0, *flipped)
        x = _permute(_flip(_plain(slices), flipped), tuple(int(i) for i in np.argsort(self._axes())))
        return x[0] if self.spatial_dims == 2 else x

    def _axes(self) -> tuple[int, ...]:
        """Axes of ``(C, X, Y, Z)``, or of ``(1, C, X, Y)`` for a 2D image, in the order (S, C, H, W)."""
        if self.spatial_dims == 2:
            return (0, 1, 2 + self.order[0], 2 + self.order[1])
        slices, rows, columns = self.order
        return (1 + slices, 0, 1 + rows, 1 + columns)

    def _picture_flips(self) -> tuple[int, ...]:
        """Axes of ``(S, C, H, W)`` among rows and columns that are reversed."""
        return tuple(axis for axis, flip in zip((2, 3), self.flips[-2:], strict=True) if flip)


def check_axis(axis: int | str | None) -> None:
    """Refuse what :func:`slice_axis` does not know.

    Raises:
        ValueError: when the axis is none of None, 0, 1, 2 and the names of planes.
    """
    if axis is not None and (axis not in PLANES if isinstance(axis, str) else int(axis) not in (0, 1, 2)):
        raise ValueError(f"unknown slicing axis {axis!r}; use 0, 1, 2 or one of {sorted(PLANES)}.")


def slice_axis(
    affine: Any, spatial_shape: Sequence[int], axis: int | str | None = None, stacking_axis: int | None = None
) -> int:
    """Storage axis that slices are stacked along; the first rule that speaks wins.

    1. ``axis``, as asked. 2. ``stacking_axis``. 3. An axis of size 1. 4. The axis whose spacing exceeds the next by
    more than 5 %. 5. The axis nearest to inferior-superior. None of the rules but an asked number and
    ``stacking_axis`` depends on the order in which the volume is stored.

    Args:
        affine: RAS affine of the image, ``(4, 4)`` or, for a 2D image, ``(3, 3)``; mm.
        spatial_shape: ``(X, Y)`` or ``(X, Y, Z)``.
        axis: 0, 1, 2, ``"sagittal"``, ``"coronal"`` or ``"axial"`` (the storage axis nearest to that plane's normal).
        stacking_axis: the axis that the acquisition stacked, where known (DICOM).

    Returns:
        0, 1 or 2; always 2 for a 2D image.

    Raises:
        ValueError: when the affine or the shape cannot be used, or there is no such axis.
    """
    shape = _checked_shape(spatial_shape)
    if len(shape) == 2:
        return 2
    matrix = _linear_part(affine)
    anatomical = [anatomy for anatomy, _ in _orientation(matrix)]
    check_axis(axis)
    check_axis(stacking_axis)
    if isinstance(axis, str):
        return anatomical.index(PLANES[axis])
    for wanted in (axis, stacking_axis):
        if wanted is not None:
            return int(wanted)
    # Several axes of size 1 leave the choice among them to the remaining rules.
    candidates = [i for i in range(3) if shape[i] == 1] or [0, 1, 2]
    if len(candidates) == 1:
        return candidates[0]
    spacing = np.sqrt((matrix**2).sum(axis=0))
    *_, second, first = sorted(candidates, key=lambda i: spacing[i])
    if spacing[first] > SPACING_MARGIN * spacing[second]:
        return first
    return max(candidates, key=lambda i: anatomical[i])  # INFERIOR_SUPERIOR is the largest


def slice_plan(
    affine: Any, spatial_shape: Sequence[int], axis: int | str | None = None, stacking_axis: int | None = None
) -> SlicePlan:
    """Plan that turns an image into slices in the radiological orientation.

    Rows run from anterior to posterior (axial) or superior to inferior (coronal, sagittal), columns from the
    patient's right to left or, in sagittal slices, from anterior to posterior. Slices run inferior to superior, right
    to left or posterior to anterior. The 48 storage orders of one volume give the same stack.

    Args:
        affine: as for :func:`slice_axis`.
        spatial_shape: as for :func:`slice_axis`.
        axis: as for :func:`slice_axis`.
        stacking_axis: as for :func:`slice_axis`.

    Raises:
        ValueError: as for :func:`slice_axis`.
    """
    stack = slice_axis(affine, spatial_shape, axis, stacking_axis)
    orientation = _orientation(_linear_part(affine))
    storage = {anatomy: i for i, (anatomy, _) in enumerate(orientation)}
    stack_anatomy, stack_sign = orientation[stack]
    order = [storage[anatomy] for anatomy in ROWS_AND_COLUMNS[stack_anatomy]]
    flips = [orientation[i][1] != PICTURE_SIGN for i in order]
    if len(_checked_shape(spatial_shape)) == 3:
        order.insert(0, stack)
        flips.insert(0, stack_sign != STACK_SIGNS[stack_anatomy])
    return SlicePlan(stack, tuple(order), tuple(flips))


def resize(x: torch.Tensor, size: Sequence[int], mode: str = "bilinear") -> torch.Tensor:
    """Stretch slices; the one way in training, in inference and back to the image's grid.

    Args:
        x: ``(S, C, H, W)``, float or uint8.
        size: wanted ``(H, W)``.
        mode: ``"bilinear"`` (antialiased along what shrinks, for images and logits) or ``"nearest-exact"`` (for masks).

    Returns:
        Same type as ``x``.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    # Where nothing shrinks it changes nothing but the time, which it doubles.
    shrinks = any(new < old for new, old in zip(size, x.shape[-2:], strict=True))
    return F.interpolate(x, tuple(size), mode=mode, antialias=mode == "bilinear" and shrinks)


def _orientation(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Anatomical axis (0 R, 1 A, 2 S) and sign of each storage axis.

    The rule is that of ``nibabel.io_orientation``: the nearest rotation to the affine (polar decomposition), storage
    axes from the most to the least certain, each taking the nearest anatomical axis that is still free. What differs
    is that ties do not fall to the storage order (see ``TIE_BREAK``).
    """
    u, _, vt = np.linalg.svd(matrix / np.sqrt((matrix**2).sum(axis=0)))
    x, y, z = TIE_BREAK
    cosines = (np.eye(3) + np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])) @ (u @ vt)
    result = [(0, 0)] * 3
    free = [0, 1, 2]
    for column in np.argsort(-np.abs(cosines).max(axis=0)):
        nearest = max(free, key=lambda row: abs(cosines[row, column]))
        free.remove(nearest)
        result[column] = (nearest, 1 if cosines[nearest, column] > 0 else -1)
    return result


def _linear_part(affine: Any) -> np.ndarray:
    """``(3, 3)`` linear part of a ``(4, 4)`` affine or of a ``(3, 3)`` one of a 2D image."""
    if isinstance(affine, torch.Tensor):
        affine = affine.detach().cpu().numpy()
    full = np.asarray(affine, dtype=np.float64)
    if full.shape not in ((3, 3), (4, 4)):
        raise ValueError(f"expected one affine of shape (4, 4) or (3, 3), got {full.shape}.")
    size = full.shape[0] - 1
    matrix = np.eye(3)
    matrix[:size, :size] = full[:size, :size]
    if not np.isfinite(matrix).all():
        raise ValueError("the affine holds values that are not finite; repair the image's header.")
    lengths = np.sqrt((matrix**2).sum(axis=0))
    if not lengths.all() or abs(np.linalg.det(matrix / lengths)) < 1e-6:
        raise ValueError("the affine is singular: two axes of the image point the same way; repair the image's header.")
    return matrix


def _checked_shape(spatial_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in spatial_shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"expected a spatial shape (X, Y) or (X, Y, Z), got {shape}.")
    return shape


def _plain(x: Any) -> Any:
    return x.as_subclass(torch.Tensor) if isinstance(x, torch.Tensor) else x


def _permute(x: Any, axes: tuple[int, ...]) -> Any:
    return x.permute(axes) if isinstance(x, torch.Tensor) else x.transpose(axes)


def _flip(x: Any, axes: tuple[int, ...]) -> Any:
    if not axes:
        return x
    return torch.flip(x, axes) if isinstance(x, torch.Tensor) else np.flip(x, axes)
