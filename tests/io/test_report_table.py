"""report.csv: one row for each case and target, safe in a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from esp_medsam_monai.io.report_table import COLUMNS, write_report_table


def target(name: str, label: int, **facts: Any) -> dict[str, Any]:
    known = {"target": name, "label": label, "name": f"mr_{name}", "voxels": 0, "percent": 0.0, "volume_ml": 0.0}
    return known | {"area_mm2": None, "slices": 0, "centroid_mm": None, "components": 0} | facts


def done(case: str = "a", **facts: Any) -> dict[str, Any]:
    return {
        "case": case,
        "input": f"in/{case}.nii.gz",
        "status": "done",
        "reason": None,
        "modality": "mr",
        "modality_source": "dicom",
        "slices": 24,
        "seconds": 1.5,
        "output": f"{case}_seg.nii.gz",
        "warnings": [],
        "shape": [64, 63, 24],
        "targets": [target("one", 7, voxels=3, volume_ml=0.5, centroid_mm=[-1.5, 2.0, 3.0]), target("two", 8)],
    } | facts


FAILED = {"case": "b", "input": "in/b.dcm", "status": "failed", "reason": "NO_WEIGHTS: ct, no targets", "warnings": []}


def table(path: Path, *cases: dict[str, Any]) -> list[dict[str, str]]:
    write_report_table(path, {"run": {}, "cases": list(cases)})
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def test_values_a_row_for_each_case_and_target(tmp_path: Path) -> None:
    one, two, failed = table(tmp_path / "report.csv", done(warnings=["first, with a comma", "second"]), FAILED)
    assert (one["case"], one["target"], one["label"], one["volume_ml"]) == ("a", "one", "7", "0.5")
    assert (one["centroid_x_mm"], one["centroid_z_mm"], two["centroid_x_mm"]) == ("-1.5", "3.0", "")
    assert (one["shape"], one["slices"], one["target_slices"]) == ("64x63x24", "24", "0")
    assert one["warnings"] == "first, with a comma | second"
    assert (two["case"], two["target"]) == ("a", "two")
    assert (failed["status"], failed["reason"], failed["target"]) == ("failed", "NO_WEIGHTS: ct, no targets", "")


def test_values_done_without_targets_has_a_row(tmp_path: Path) -> None:
    """A case of an older report, say, that knows no statistics."""
    (row,) = table(tmp_path / "report.csv", done(targets=[]))
    assert (row["case"], row["target"]) == ("a", "")


def test_shape_columns_are_stable(tmp_path: Path) -> None:
    """Programs of users read them by name and by place: new ones are appended."""
    assert COLUMNS[:8] == ("case", "input", "status", "reason", "modality", "modality_source", "target", "label")
    assert COLUMNS[8:16] == (
        "name",
        "voxels",
        "percent",
        "volume_ml",
        "area_mm2",
        "target_slices",
        "components",
        "centroid_x_mm",
    )
    assert COLUMNS[16:22] == ("centroid_y_mm", "centroid_z_mm", "shape", "slices", "seconds", "warnings")
    assert COLUMNS[22:28] == ("output", "preview", "dicom_seg", "error", "input_sha256", "finished")
    assert len(COLUMNS) == 28
    assert table(tmp_path / "report.csv") == []
    assert (tmp_path / "report.csv").read_text(encoding="utf-8").strip() == ",".join(COLUMNS)


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\tx", "\rx"])
def test_bad_input_no_name_becomes_a_formula(name: str, tmp_path: Path) -> None:
    row = table(tmp_path / "report.csv", done(name, warnings=[name]))[0]
    assert row["case"] == f"'{name}"
    assert row["warnings"] == f"'{name}"
    assert row["input"] == f"in/{name}.nii.gz"
    assert row["centroid_x_mm"] == "-1.5"  # a number stays one


def test_values_quotes_line_breaks_and_names_that_are_no_text(tmp_path: Path) -> None:
    first, *_, last = table(tmp_path / "report.csv", done('a,"b"\nc'), done("caf\udce9"))
    assert first["case"] == 'a,"b"\nc'
    assert last["case"] == r"caf\udce9"
