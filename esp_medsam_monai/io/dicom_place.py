"""Where the frames of one DICOM file lie in the patient, out of tags that may be missing, odd or broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Place", "place_of", "same_direction", "value_of"]

ORIENTATION_TOLERANCE = 1e-3
CENTIMETRES = 3
"""Physical Units X Direction of an ultrasound region (PS3.3 C.8.5.5)."""


@dataclass(frozen=True)
class Place:
    """Positions and spacings in mm, patient coordinates LPS.

    Args:
        orientation: direction of rows and of columns (ImageOrientationPatient), None when absent or unusable.
        positions: one per frame (ImagePositionPatient), empty when absent.
        spacing: (between columns, between rows), None when absent or unusable.
        thickness: distance between slices as written, 1 when absent; only used for a single slice.
        directions: how many directions the frames face; 0 when none is known.
        lacking: names of the tags that a place needs and that are absent or unusable, with their values.
    """

    orientation: tuple[float, ...] | None = None
    positions: tuple[tuple[float, ...], ...] = ()
    spacing: tuple[float, float] | None = None
    thickness: float = 1.0
    directions: int = 0
    lacking: tuple[str, ...] = ()


def same_direction(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two ImageOrientationPatient agree to 0.001."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= ORIENTATION_TOLERANCE


def value_of(dataset: Any, tag: str) -> Any:
    """A tag's value; None when it is absent, or no such value as its type asks for."""
    try:
        return getattr(dataset, tag, None)
    except Exception:  # "1,5" as a decimal string raises only when it is looked at
        return None


def place_of(dataset: Any, count: int) -> Place:
    """The place of every frame.

    Args:
        dataset: a pydicom dataset, enhanced multi-frame or not.
        count: number of frames.
    """
    per_frame = list(value_of(dataset, "PerFrameFunctionalGroupsSequence") or [])
    shared = list(value_of(dataset, "SharedFunctionalGroupsSequence") or [])

    def look_up(sequence: str, tag: str, frame: int) -> Any:
        """A value of a frame: from its own functional group, the shared one, or the dataset itself."""
        for source in (*per_frame[frame : frame + 1], *shared):
            groups = value_of(source, sequence)
            if groups and (value := value_of(groups[0], tag)) is not None:
                return value
        return value_of(dataset, tag)

    written = [look_up("PlaneOrientationSequence", "ImageOrientationPatient", frame) for frame in range(count)]
    directions: list[tuple[float, ...]] = []
    usable = all(_is_direction(value) for value in written)
    for value in written if usable else ():
        found = tuple(float(v) for v in value)
        if not any(same_direction(found, direction) for direction in directions):
            directions.append(found)
    orientation = directions[0] if len(directions) == 1 else None
    raw = [look_up("PlanePositionSequence", "ImagePositionPatient", frame) for frame in range(count)]
    positions = [position for value in raw if (position := _numbers(value, 3)) is not None]
    if orientation is not None and count > 1 and len(set(positions)) == 1:
        positions = _by_offsets(positions, orientation, _numbers(value_of(dataset, "GridFrameOffsetVector"), count))
    spacing = _spacing(look_up) or _ultrasound_spacing(dataset)
    lacking = []
    if len(positions) != count:
        lacking.append(_described("ImagePositionPatient", next(v for v in raw if _numbers(v, 3) is None)))
    if not usable:
        lacking.append(_described("ImageOrientationPatient", next(v for v in written if not _is_direction(v))))
    if spacing is None:
        lacking.append(_described("PixelSpacing", look_up("PixelMeasuresSequence", "PixelSpacing", 0)))
    return Place(orientation, tuple(positions), spacing, _thickness(look_up), len(directions), tuple(lacking))


def _spacing(look_up: Any) -> tuple[float, float] | None:
    for tag in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = _numbers(look_up("PixelMeasuresSequence", tag, 0), 2)
        if values is not None and min(values) > 0:
            return values[1], values[0]
    return None


def _ultrasound_spacing(dataset: Any) -> tuple[float, float] | None:
    """mm between pixels, where all ultrasound regions that state it in centimetres agree."""
    found = set()
    for region in value_of(dataset, "SequenceOfUltrasoundRegions") or []:
        if {value_of(region, f"PhysicalUnits{axis}Direction") for axis in "XY"} == {CENTIMETRES}:
            steps = _numbers([value_of(region, f"PhysicalDelta{axis}") for axis in "XY"], 2)
            if steps is not None and all(steps):
                found.add((abs(steps[0]) * 10.0, abs(steps[1]) * 10.0))
    return found.pop() if len(found) == 1 else None


def _thickness(look_up: Any) -> float:
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        values = _numbers([look_up("PixelMeasuresSequence", tag, 0)], 1)
        if values is not None and values[0] > 0:
            return values[0]
    return 1.0


def _by_offsets(
    positions: list[tuple[float, ...]], orientation: Sequence[float], offsets: Sequence[float] | None
) -> list[tuple[float, ...]]:
    """Positions of frames that share one place and lie apart by GridFrameOffsetVector along the normal."""
    if offsets is None:
        return positions
    normal = np.cross(orientation[:3], orientation[3:])
    start = np.asarray(positions[0])
    return [tuple((start + (offset - offsets[0]) * normal).tolist()) for offset in offsets]


def _described(tag: str, value: Any) -> str:
    return f"no {tag}" if value is None or str(value) in ("", "[]") else f"{tag} {value}"


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers out of a tag's value, or None."""
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _is_direction(value: Any) -> bool:
    """Whether a value is two directions at right angles, each of length 1, to 1 %."""
    numbers = _numbers(value, 6)
    if numbers is None:
        return False
    pair = np.reshape(numbers, (2, 3))
    return bool(np.allclose(pair @ pair.T, np.eye(2), atol=1e-2))
