"""Which cases of a folder need not be done again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from esp_medsam_monai.hashing import sha256_of_files, stamp_of_files

__all__ = ["OUTPUTS", "files_of_row", "is_still_valid"]

OUTPUTS = ("output", "preview", "dicom_seg", "sidecar")
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
    contents decide. A mask that somebody corrected by hand is still a mask: it is kept.

    Args:
        row: the report's row of the case.
        files: what the case is read from, sidecars included.
        folder: folder of the report.
        weights: SHA-256 of the weights.
        configuration: SHA-256 of the settings.
        wanted: entries of :data:`OUTPUTS` that must be there.
    """
    if row is None or row.get("status") not in ("done", "skipped"):
        return False
    if row.get("weights_sha256") != weights or row.get("configuration_sha256") != configuration:
        return False
    present = dict(files_of_row(row, folder))
    if any(name not in present for name in wanted) or not all(path.is_file() for path in present.values()):
        return False
    return _is_same_input(row, files) and _is_mask(present["output"], row.get("shape"))


def files_of_row(row: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """The files that a row names, by their entry; never one outside the report's folder, whatever the report says."""
    for name in OUTPUTS:
        value = row.get(name)
        if isinstance(value, str):
            path = folder / value
            if path.resolve().is_relative_to(folder.resolve()):
                yield name, path


def _is_same_input(row: Mapping[str, Any], files: Sequence[str]) -> bool:
    try:
        return row.get("input_stamp") == stamp_of_files(files) or row.get("input_sha256") == sha256_of_files(files)
    except OSError:
        return False


def _is_mask(path: Path, shape: Any) -> bool:
    """Whether a mask can be read to its end (gzip and PNG carry check sums) and has the shape of its image."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                labels = np.asarray(picture).T
        else:
            image: Any = nib.load(path)
            labels = np.asanyarray(image.dataobj)
    except Exception:  # whatever a damaged file provokes
        return False
    return labels.dtype == np.uint8 and list(labels.shape) == shape
