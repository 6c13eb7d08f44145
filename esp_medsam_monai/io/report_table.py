"""The report as a table: one row for each case and target."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .csv_file import write_csv

__all__ = ["COLUMNS", "write_report_table"]

CASE_COLUMNS = ("case", "input", "status", "reason", "modality", "modality_source")
TARGET_COLUMNS = ("target", "label", "name", "voxels", "percent", "volume_ml", "area_mm2")
PLACE_COLUMNS = ("centroid_x_mm", "centroid_y_mm", "centroid_z_mm")
FILE_COLUMNS = ("output", "preview", "dicom_seg", "error", "input_sha256", "finished")

COLUMNS = (
    *CASE_COLUMNS,
    *TARGET_COLUMNS,
    "target_slices",
    "components",
    *PLACE_COLUMNS,
    "shape",
    "slices",
    "seconds",
    "warnings",
    *FILE_COLUMNS,
)
"""Columns of the table. They keep their names and order; new ones are appended.

Of the case: ``case``, ``input``, ``status``, ``reason`` (why it failed, beginning with a code), ``modality``,
``modality_source``, ``shape`` (``64x64x24``), ``slices``, ``seconds``, ``warnings`` (joined by ``|``), files relative
to the table, ``input_sha256``, ``finished``. Of the target, as
:func:`~esp_medsam_monai.io.statistics.target_statistics` has it: ``target``, ``label``, ``name``, ``voxels``,
``percent``, ``volume_ml``, ``area_mm2``, ``target_slices`` (slices that hold it), ``components``, centroid in RAS.
"""


def write_report_table(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write ``report.csv``, see :func:`~esp_medsam_monai.io.csv_file.write_csv`.

    A case without targets, for instance a failed one, has one row.

    Args:
        path: the CSV file.
        content: what ``report.json`` holds, ``{"run": {...}, "cases": [rows]}``.

    Returns:
        The path.
    """
    return write_csv(path, COLUMNS, (row for case in content["cases"] for row in _rows(case)))


def _rows(case: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    keys = (*CASE_COLUMNS, "slices", "seconds", *FILE_COLUMNS)
    known = {key: case.get(key) for key in keys}
    known["shape"] = "x".join(str(size) for size in case.get("shape") or ())
    known["warnings"] = " | ".join(case.get("warnings") or ())
    targets: Sequence[Mapping[str, Any]] = case.get("targets") or [{}]
    for target in targets:
        row = {key: target.get(key) for key in (*TARGET_COLUMNS, "components")}
        centroid = target.get("centroid_mm") or (None, None, None)
        yield known | row | {"target_slices": target.get("slices"), **dict(zip(PLACE_COLUMNS, centroid, strict=True))}
