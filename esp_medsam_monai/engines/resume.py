"""Which cases of a folder need not be done again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from esp_medsam_monai.hashing import sha256_of_files, stamp_of_files

__all__ = ["files_of_row", "is_as_left", "is_still_valid", "read_labels"]

_OUTPUTS = ("output", "preview", "dicom_seg", "sidecar")
"""Entries of a report's row that name a file."""


def is_still_valid(
    row: Mapping[str, Any] | None,
    files: Sequence[str],
    folder: Path,
    weights: str | None,
    configuration: str,
    wanted: Sequence[str] = ("output",),
) -> bool:
    """Whether a case was done with the same weights, settings and input, and its results are still whole.

    Files whose names, sizes and times of change are as before count as unchanged without being read; otherwise their
    contents decide. A mask that somebody corrected by hand is still a mask: the case counts as done.

    Args:
        row: the report's row of the case.
        files: what the case is read from, sidecars included.
        folder: folder of the report.
        weights: SHA-256 of the weights.
        configuration: SHA-256 of the settings.
        wanted: entries of the row that must name a file, and the file be there.
    """
    if row is None or row.get("status") not in ("done", "skipped"):
        return False
    if row.get("weights_sha256") != weights or row.get("configuration_sha256") != configuration:
        return False
    present = dict(files_of_row(row, folder))
    if any(name not in present for name in wanted) or not all(path.is_file() for path in present.values()):
        return False
    mask = present["output"]
    return _is_same_input(row, files) and (is_as_left(row, mask) or _is_mask(mask, row.get("shape")))


def is_as_left(row: Mapping[str, Any] | None, mask: Path) -> bool:
    """Whether a mask is, by size and time of change, as the run left it that wrote the row."""
    try:
        return row is not None and row.get("output_stamp") == stamp_of_files([mask])
    except OSError:
        return False


def files_of_row(row: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """The files that a row names, by their entry; never one outside the report's folder, whatever the report says."""
    for name in _OUTPUTS:
        value = row.get(name)
        if isinstance(value, str):
            path = folder / value
            # Path.resolve() raises where links lead in a circle.
            if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                yield name, path


def _is_same_input(row: Mapping[str, Any], files: Sequence[str]) -> bool:
    try:
        return row.get("input_stamp") == stamp_of_files(files) or row.get("input_sha256") == sha256_of_files(files)
    except OSError:
        return False


def _is_mask(path: Path, shape: Any) -> bool:
    """Whether a mask is whole and has the shape of its image."""
    labels = read_labels(path)
    return labels is not None and labels.dtype == np.uint8 and list(labels.shape) == shape


def read_labels(path: Path) -> np.ndarray | None:
    """What a mask holds, read to its end (gzip and PNG carry check sums); None for what cannot be read."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                return np.asarray(picture).T
        image: Any = nib.load(path)
        return np.asanyarray(image.dataobj)
    except Exception:  # whatever a damaged file provokes
        return None
