"""DICOM files into series and series into volumes, with the geometry taken from the position of every slice.

MONAI's readers differ by what is installed: one drops the shear of a tilted gantry, the other trusts InstanceNumber,
and both stretch a series over its missing slices. Here pixels come from a decoder library, the geometry from the tags.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from esp_medsam_monai.errors import InputRefused, add_warning
from esp_medsam_monai.io.dicom_grid import Grid, arrange
from esp_medsam_monai.io.dicom_header import DicomHeader, read_header
from esp_medsam_monai.io.dicom_pixels import read_frames
from esp_medsam_monai.io.dicom_place import same_direction
from esp_medsam_monai.io.guard import check_affine
from esp_medsam_monai.io.rules import ReadingRules

__all__ = ["group_series", "read_series"]


def group_series(headers: Iterable[DicomHeader]) -> list[list[DicomHeader]]:
    """Images that belong together: one series, one orientation, one size; localizers apart.

    A file with several frames, or without geometry, is a group of its own: it cannot be stacked with others.

    Returns:
        Groups in the order of their first files; files of a group sorted by path.
    """
    groups: list[list[DicomHeader]] = []
    alike: dict[Hashable, list[list[DicomHeader]]] = {}
    for header in sorted((h for h in headers if h.is_image), key=lambda h: h.path):
        if header.frames > 1 or not header.has_geometry:
            groups.append([header])
            continue
        # Only orientations need comparing one by one, and a series has few.
        candidates = alike.setdefault((header.series, header.size, header.is_localizer), [])
        for group in candidates:
            if same_direction(group[0].place.orientation or (), header.place.orientation or ()):
                group.append(header)
                break
        else:
            candidates.append([header])
            groups.append(candidates[-1])
    return groups


def read_series(paths: Sequence[str | Path], rules: ReadingRules | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one series (or one file) as a volume.

    Args:
        paths: all files of the series, in any order. Files that are no images are left out, and so are localizers
            beside other images.
        rules: what to let pass; None for nothing.

    Returns:
        float32 array ``(X, Y, Z)`` or, for colour, ``(3, X, Y, Z)``; Z = 1 for a single slice. X runs along rows (from
        column to column), Y along columns, Z along the slices' normal. And a dictionary with ``affine`` (RAS, mm, with
        any shear of a tilted gantry; ``diag(-sx, -sy, 1, 1)`` where the file has no geometry), ``slice_axis`` 2,
        ``modality`` where the tags tell, and warnings.

    Raises:
        InputRefused: ``NOT_AN_IMAGE``, ``TRUNCATED``, ``NO_DECODER``, ``LOCALIZER``, ``BAD_AFFINE``,
            ``MIXED_ORIENTATION``, ``SEVERAL_SERIES``, ``MIXED_SPACING``, ``MIXED_SHAPES``, or one of
            :func:`~esp_medsam_monai.io.dicom_grid.arrange`.
    """
    rules = rules or ReadingRules()
    where = str(paths[0]) if len(paths) == 1 else str(Path(paths[0]).parent)
    meta: dict[str, Any] = {"slice_axis": 2}
    images = _wanted([read_header(path) for path in paths], where, rules, meta)
    for header in images:
        _check_place(header, rules, meta)
    headers = _only(group_series(images), where)
    first = headers[0]
    if first.modality is not None:
        meta |= {"modality": first.modality, "modality_source": "dicom"}
    if first.has_geometry:
        stack, meta["affine"] = _volume(headers, where, rules, meta)
        check_affine(meta["affine"], (first.size[0], first.size[1], len(stack)), where)
    else:
        stack = read_frames(first.path)
        across, down = first.place.spacing or (1.0, 1.0)
        meta["affine"] = np.diag([-across, -down, 1.0, 1.0])
    return stack.transpose(3, 2, 1, 0) if stack.ndim == 4 else stack.transpose(2, 1, 0), meta


def _wanted(headers: list[DicomHeader], where: str, rules: ReadingRules, meta: dict[str, Any]) -> list[DicomHeader]:
    """Images without localizers; localizers where there is nothing else and the rules allow it."""
    images = [header for header in headers if header.is_image]
    if not images:
        raise InputRefused("NOT_AN_IMAGE", f"{where} holds no DICOM image; give the images, not SEG or RTSTRUCT.")
    others = [header for header in images if not header.is_localizer]
    left_out = len(images) - len(others)
    if others:
        if left_out:
            add_warning(meta, f"LOCALIZER: {left_out} localizer images of {where} were left out.")
        return others
    if not rules.allow_localizer:
        raise InputRefused(
            "LOCALIZER",
            f"{where} is a localizer (its ImageType holds LOCALIZER): a rough view to plan the examination. Leave it "
            "out, or set allow_localizer.",
        )
    add_warning(meta, f"LOCALIZER: {where} is a localizer, a rough view to plan the examination.")
    return images


def _check_place(header: DicomHeader, rules: ReadingRules, meta: dict[str, Any]) -> None:
    """Refuse an image whose place in the patient is not what its kind promises."""
    if header.place.directions > 1:
        raise InputRefused(
            "MIXED_ORIENTATION",
            f"the {header.frames} frames of {header.path} face {header.place.directions} directions and form no "
            "volume; export them as one series for each direction.",
        )
    meta["has_place"] = header.has_geometry
    if header.has_geometry or not (header.is_in_patient or header.modality in ("ct", "mr")):
        return
    lacking = ", ".join(header.place.lacking)
    # Frames of one file keep its order, and anonymisers strip their geometry as a whole: nothing can be misplaced that
    # anybody placed. A single slice, or a part of a geometry, is damaged.
    stripped = header.frames > 1 and not header.place.positions and header.place.orientation is None
    if header.is_in_patient and not stripped and not rules.allow_identity:
        raise InputRefused(
            "BAD_AFFINE",
            f"{header.path} is a {header.kind} image that does not say where it lies ({lacking}). Export it again with "
            "its geometry, or set allow_identity to read it as a picture.",
        )
    add_warning(
        meta, f"NO_PLACE: {header.path} does not say where it lies ({lacking}); lengths and orientation are assumed."
    )


def _only(groups: list[list[DicomHeader]], where: str) -> list[DicomHeader]:
    """The one group; several are refused, with the reason why they are several."""
    if len(groups) == 1:
        return groups[0]
    kinds = {(group[0].series, group[0].size) for group in groups}
    if len(kinds) == 1 and all(group[0].has_geometry and group[0].frames == 1 for group in groups):
        listed = "; ".join(f"{len(g)} slices face {g[0].place.orientation}" for g in groups[:5])
        raise InputRefused(
            "MIXED_ORIENTATION",
            f"the slices of {where} face {len(groups)} directions and form no volume: {listed}. Give the slices of one "
            "direction.",
        )
    listed = ", ".join(f"{g[0].series or g[0].path} ({len(g)} files)" for g in groups[:5])
    raise InputRefused(
        "SEVERAL_SERIES", f"{where} holds {len(groups)} series, orientations or sizes: {listed}; give one of them."
    )


def _volume(
    headers: list[DicomHeader], where: str, rules: ReadingRules, meta: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Planes ``(Z, rows, columns)`` or ``(Z, rows, columns, 3)`` of a group with geometry, and their affine."""
    headers = sorted(headers, key=lambda h: (inf if h.instance is None else h.instance, h.path))
    place = headers[0].place
    spacings = {h.path: h.place.spacing for h in headers if h.place.spacing is not None}
    assert place.orientation is not None
    assert place.spacing is not None  # they have geometry
    for path, spacing in spacings.items():
        if not np.allclose(spacing, place.spacing, rtol=1e-3):
            raise InputRefused(
                "MIXED_SPACING",
                f"the slices of {where} have several pixel spacings: {place.spacing} mm, and {spacing} mm in "
                f"{Path(path).name}; export them again.",
            )
    grid = arrange(
        [position for h in headers for position in h.place.positions],
        place.orientation,
        place.spacing,
        place.thickness,
        where,
        rules,
    )
    for sentence in grid.warnings:
        add_warning(meta, sentence)
    if len(headers) == 1:
        frames = read_frames(headers[0].path)[list(grid.kept)]
    else:
        frames = _read_files([headers[index] for index in grid.kept], where)
    return _on_planes(frames, grid), grid.affine


def _on_planes(frames: np.ndarray, grid: Grid) -> np.ndarray:
    if grid.count == len(frames):
        return frames
    volume = np.full((grid.count, *frames.shape[1:]), np.nanmin(frames), frames.dtype)
    volume[list(grid.planes)] = frames
    return volume


def _read_files(headers: list[DicomHeader], where: str) -> np.ndarray:
    """The frame of each file, one after another."""
    stack: np.ndarray | None = None
    for index, header in enumerate(headers):
        frames = read_frames(header.path)
        if stack is None:
            stack = np.empty((len(headers), *frames.shape[1:]), np.float32)
        if frames.shape[1:] != stack.shape[1:]:
            raise InputRefused("MIXED_SHAPES", f"{where} mixes grey and colour slices; export the series again.")
        stack[index] = frames[0]
    assert stack is not None
    return stack
