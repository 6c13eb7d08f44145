"""Slices that lie anywhere become planes of an even grid, or are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.rules import ReadingRules

__all__ = ["Grid", "arrange"]

# Slices may lie off their place by 1 % of the step or by 0.01 mm, whichever is more.
RELATIVE_TOLERANCE, TOLERANCE_MM = 0.01, 0.01
USUAL_STEPS = 0.05
"""Steps within 5 % of the median are averaged to the usual one."""

LARGEST_UNEVEN_STEP = 2.0
"""A step above twice the usual is no uneven one: a slice lies far away, and no mean can be meant."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Where slices go in a volume.

    Args:
        kept: for each slice in the order of the volume, its number among those given.
        planes: the plane that each of them fills.
        count: number of planes; more than ``kept`` where slices are missing.
        affine: RAS, mm, with any shear of a tilted gantry.
        warnings: what the rules let pass.
    """

    kept: tuple[int, ...]
    planes: tuple[int, ...]
    count: int
    affine: np.ndarray
    warnings: tuple[str, ...] = ()


def arrange(
    positions: Sequence[Sequence[float]],
    orientation: Sequence[float],
    spacing: tuple[float, float],
    thickness: float,
    where: str,
    rules: ReadingRules,
) -> Grid:
    """Put the slices of one series in order and check that they form a volume.

    The order is that along the slices' normal; InstanceNumber may count anything. dicom2nifti, dcm2niix and highdicom
    do the same, and the names of the refusals follow dicom2nifti.

    Args:
        positions: ImagePositionPatient of each slice (mm, LPS); of slices in one place the first is preferred.
        orientation: ImageOrientationPatient of all.
        spacing: mm between columns, and between rows.
        thickness: mm, for the affine of a single slice.
        where: file or folder, for messages.
        rules: what to let pass.

    Raises:
        InputRefused: ``DUPLICATE_POSITIONS``, ``MISSING_SLICES``, ``UNEVEN_SPACING`` or ``IRREGULAR_POSITIONS``.
    """
    points = np.asarray(positions, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    heights = points @ normal
    warnings: list[str] = []
    kept = _one_for_each_place(heights, where, rules, warnings)
    points, heights = points[kept], heights[kept]
    planes = _planes(heights, where, rules, warnings)
    step = normal * thickness if len(kept) == 1 else (points[-1] - points[0]) / planes[-1]
    _check_line(points, heights, where)
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(orientation[:3], spacing[0])
    affine[:3, 1] = np.multiply(orientation[3:], spacing[1])
    affine[:3, 2] = step
    affine[:3, 3] = points[0]
    return Grid(tuple(kept), tuple(planes.tolist()), int(planes[-1]) + 1, _LPS_TO_RAS @ affine, tuple(warnings))


def _one_for_each_place(heights: np.ndarray, where: str, rules: ReadingRules, warnings: list[str]) -> list[int]:
    """Numbers of the slices in the order of their heights, the first given of those in one place."""
    places: list[list[int]] = []
    for index in np.argsort(heights, kind="stable").tolist():
        if places and heights[index] - heights[places[-1][0]] < TOLERANCE_MM:
            places[-1].append(index)
        else:
            places.append([index])
    repeated = [place for place in places if len(place) > 1]
    if repeated:
        shown = _heights([heights[place[0]] for place in repeated])
        if not rules.allow_duplicate_positions:
            raise InputRefused(
                "DUPLICATE_POSITIONS",
                f"{where} has {len(repeated[0])} slices at {heights[repeated[0][0]]:.2f} mm ({len(repeated)} of "
                f"{len(places)} places have several): several phases or echoes, or a file twice. Separate them, or set "
                "allow_duplicate_positions to keep the first of each.",
            )
        dropped = len(heights) - len(places)
        warnings.append(
            f"DUPLICATE_POSITIONS: {dropped} slices of {where} lie where others do and were left out ({shown})."
        )
    return [min(place) for place in places]


def _planes(heights: np.ndarray, where: str, rules: ReadingRules, warnings: list[str]) -> np.ndarray:
    """The plane of each slice in an even grid; heights are sorted and differ."""
    if len(heights) == 1:
        return np.zeros(1, dtype=int)
    gaps = np.diff(heights)
    # The lower median: of two gaps, 1 and 2 mm, the slice between is missing.
    median = float(np.percentile(gaps, 50, method="lower"))
    usual = float(gaps[np.abs(gaps - median) <= USUAL_STEPS * median].mean())
    steps = np.rint(gaps / usual).astype(int)
    tolerance = max(RELATIVE_TOLERANCE * usual, TOLERANCE_MM)
    # Over several steps their error adds up; over many, anything would look like a whole number of them.
    uneven = np.abs(gaps - steps * usual) > tolerance * np.clip(steps, 1, 5)
    steps[uneven] = 1
    if uneven.any():
        _check_uneven(heights, int(np.argmax(np.where(uneven, np.abs(gaps - usual), 0))), usual, where, rules)
    planes = np.concatenate([[0], np.cumsum(steps)])
    absent = sorted(set(range(int(planes[-1]) + 1)) - set(planes.tolist()))
    mean = (heights[-1] - heights[0]) / planes[-1]
    if absent:
        _check_missing(heights, int(np.argmax(steps)), usual, len(absent), where, rules)
        places = _heights([heights[0] + plane * mean for plane in absent])
        warnings.append(
            f"MISSING_SLICES: {len(absent)} slices of {where} were missing and hold the lowest value ({places})."
        )
    if uneven.any():
        error = float(np.abs(heights - (heights[0] + planes * mean)).max())
        warnings.append(
            f"UNEVEN_SPACING: the slices of {where} are {gaps.min():.3f} to {gaps.max():.3f} mm apart; the mean step, "
            f"{mean:.3f} mm, was taken, which puts slices up to {error:.3f} mm off their place."
        )
    return planes


def _check_uneven(heights: np.ndarray, index: int, usual: float, where: str, rules: ReadingRules) -> None:
    """Refuse an uneven step; ``index`` is the slice below the worst."""
    far = heights[index + 1] - heights[index] > LARGEST_UNEVEN_STEP * usual
    if rules.allow_uneven_spacing and not far:
        return
    advice = (
        "a slice lies far from the others. Remove it, or send the whole series again."
        if far
        else "they are uneven. Send the series again, or set allow_uneven_spacing to take the mean."
    )
    raise InputRefused("UNEVEN_SPACING", f"{_gap(heights, index, usual, where)}: {advice}")


def _check_missing(
    heights: np.ndarray, index: int, usual: float, missing: int, where: str, rules: ReadingRules
) -> None:
    """Refuse missing slices; ``index`` is the slice below the widest gap."""
    far = missing > len(heights)  # filling would make a volume that is mostly empty
    if rules.allow_missing_slices and not far:
        return
    advice = "remove those that lie far from the others" if far else "set allow_missing_slices to leave them empty"
    raise InputRefused(
        "MISSING_SLICES",
        f"{_gap(heights, index, usual, where)}: {missing} slices are missing in all. Send the whole series again, or "
        f"{advice}.",
    )


def _gap(heights: np.ndarray, index: int, usual: float, where: str) -> str:
    before, after = heights[index], heights[index + 1]
    return (
        f"the slices of {where} at {before:.2f} and {after:.2f} mm are {after - before:.3f} mm apart where {usual:.3f} "
        "mm is usual"
    )


def _check_line(points: np.ndarray, heights: np.ndarray, where: str) -> None:
    """Refuse slices that are shifted sideways against each other; an even shift is the tilt of the gantry."""
    if len(points) < 3:
        return
    share = (heights - heights[0]) / (heights[-1] - heights[0])
    off = float(np.abs(points - (points[0] + share[:, None] * (points[-1] - points[0]))).max())
    tolerance = max(RELATIVE_TOLERANCE * float(np.median(np.diff(heights))), 2 * TOLERANCE_MM)
    if off > tolerance:
        raise InputRefused(
            "IRREGULAR_POSITIONS",
            f"the slices of {where} lie up to {off:.3f} mm off one line; they form no volume: export the series again.",
        )


def _heights(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.2f}" for value in values[:10])
    return f"at {shown}{', ...' if len(values) > 10 else ''} mm"
