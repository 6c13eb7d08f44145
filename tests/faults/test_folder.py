"""The whole zoo of broken and odd files in one folder, through the evaluator: nothing is lost, everything is told."""

from __future__ import annotations

import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from esp_medsam_monai.io import find_cases
from tests.engines.folder_runs import exit_status, make_evaluator, report_rows
from tests.faults.broken_files import write_broken_files, write_odd_but_good_files


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run over everything."""
    folder, out = tmp_path_factory.mktemp("zoo") / "in", tmp_path_factory.mktemp("zoo") / "out"
    folder.mkdir()
    broken = {f"broken/{name}": code for name, code in write_broken_files(folder / "broken").items()}
    odd = {f"odd/{name}": text for name, text in write_odd_but_good_files(folder / "odd").items()}
    status = exit_status(make_evaluator(folder, out))
    return {"folder": folder, "out": out, "broken": broken, "odd": odd, "status": status, "rows": report_rows(out)}


def test_values_every_case_has_its_row(zoo: dict[str, Any]) -> None:
    assert zoo["status"] == 8
    assert len(zoo["broken"]) >= 30
    assert set(zoo["rows"]) == set(zoo["broken"]) | set(zoo["odd"])


def test_values_every_broken_case_is_refused_by_its_code(zoo: dict[str, Any]) -> None:
    found = {case: (row["status"], str(row["reason"]).split(":")[0]) for case, row in zoo["rows"].items()}
    assert {case: found[case] for case in zoo["broken"]} == {c: ("failed", code) for c, code in zoo["broken"].items()}


def test_values_every_broken_case_has_an_error_file_and_nothing_else(zoo: dict[str, Any]) -> None:
    for case in zoo["broken"]:
        row = zoo["rows"][case]
        text = (zoo["out"] / row["error"]).read_text(encoding="utf-8")
        assert row["reason"] in text
        assert "Traceback" in text
        assert row["output"] is None
    left = {path.relative_to(zoo["out"]).parts[0] for path in zoo["out"].rglob("*_seg*")}
    assert left == {"odd"}


def test_values_every_odd_case_has_a_mask_that_lies_on_its_image(zoo: dict[str, Any]) -> None:
    cases = {case.name: case for case in find_cases(zoo["folder"])[0]}
    for case, warning in zoo["odd"].items():
        row = zoo["rows"][case]
        assert row["status"] == "done", row["reason"]
        assert any(text.startswith(warning) for text in row["warnings"]) if warning else True, (case, row["warnings"])
        if row["output"].endswith(".png"):
            continue
        mask = nib.load(zoo["out"] / row["output"])
        assert mask.get_data_dtype() == np.uint8
        assert set(np.unique(np.asanyarray(mask.dataobj))) <= {0, 1, 2}
        assert list(mask.shape) == row["shape"]
        if cases[case].kind == "nifti":
            image = nib.load(cases[case].input)
            assert mask.shape == image.shape[:3]
            np.testing.assert_allclose(mask.affine, image.affine, atol=1e-3)


def test_values_pages_tell_of_all(zoo: dict[str, Any]) -> None:
    page = (zoo["out"] / "report.html").read_text(encoding="utf-8")
    table = (zoo["out"] / "report.csv").read_text(encoding="utf-8")
    run = json.loads((zoo["out"] / "report.json").read_text(encoding="utf-8"))["run"]
    assert run["exit_status"] == 8
    for code in set(zoo["broken"].values()):
        assert code in page
        assert code in table
    assert f"{len(zoo['odd'])} of {len(zoo['odd']) + len(zoo['broken'])} cases done" in page


def test_values_input_is_untouched(zoo: dict[str, Any]) -> None:
    assert not [path for path in zoo["folder"].rglob("*") if "_seg" in path.name or path.name.startswith(".partial")]
