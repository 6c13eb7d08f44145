"""The report as a table: one row for each case and target."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from .atomic import atomic_path

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

FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_report_table(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write ``report.csv`` (UTF-8, commas); the file appears whole or not at all.

    A case without targets, for instance a failed one, has one row. Text that a spreadsheet would take for a formula
    (OWASP, CSV injection: it begins with ``=``, ``+``, ``-``, ``@``, tab or a line break) gets an apostrophe in front,
    for names of files come from anywhere.

    Args:
        path: the CSV file.
        content: what ``report.json`` holds, ``{"run": {...}, "cases": [rows]}``.

    Returns:
        The path.
    """
    with atomic_path(path) as temporary, _open(temporary) as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for case in content["cases"]:
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in _rows(case))
    return Path(path)


def _open(path: Path) -> TextIO:
    # Names of files need not be UTF-8; then escapes stand for what cannot be written.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


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


def _cell(value: Any) -> Any:
    """Numbers as they are: a negative one is no formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_MARKS) else value
