"""The report's fields are the contract's, and the warning about strange images says why."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from esp_medsam_monai.io import RunReport, atomic_path, examined_body_part, outside_training

ROW = ["case", "input", "status", "reason", "modality", "modality_source", "slices", "seconds", "output", "warnings"]


def test_values_rows_have_exactly_the_fields_of_the_contract(tmp_path: Path) -> None:
    report = RunReport(tmp_path / "out" / "report.json", {"image_size": 256}, ignored=["a_seg.dcm"])
    report.add("sub/a", "in/sub/a.nii.gz", "done", modality="mr", slices=3, seconds=1.23456, output="sub/a_seg.nii.gz")
    report.add("b", "in/b.png", "failed", reason="NO_MODALITY: nothing says it")
    report.finish(8)
    stored = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert list(stored) == ["run", "cases"]
    assert [list(row)[: len(ROW)] for row in stored["cases"]] == [ROW, ROW]
    assert stored["cases"][1]["seconds"] == pytest.approx(1.235)
    assert stored["run"]["ignored"] == ["a_seg.dcm"]
    assert stored["run"]["exit_status"] == 8
    assert {"esp_medsam_monai", "monai", "torch", "python"} <= set(stored["run"]["versions"])
    assert (report.count("done"), report.count("failed")) == (1, 1)


def test_values_saved_after_every_case(tmp_path: Path) -> None:
    report = RunReport(tmp_path / "report.json")
    for count in (1, 2):
        report.add(f"case{count}", "x", "done")
        assert len(json.loads(report.path.read_text(encoding="utf-8"))["cases"]) == count
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.json"]


def test_values_two_reports_in_one_file_keep_each_others_rows(tmp_path: Path) -> None:
    one, two = (RunReport(tmp_path / "report.json", cases=["a", "b", "c"]) for _ in range(2))
    one.add("a", "x", "done")
    two.add("b", "x", "failed", reason="TRUNCATED: x")
    one.add("c", "x", "done")
    known = two.known("c")
    assert known is not None and known["status"] == "done"
    assert two.known("nothing") is None
    one.finish(0)
    two.finish(8)
    rows = json.loads(one.path.read_text(encoding="utf-8"))["cases"]
    assert [(row["case"], row["status"]) for row in rows] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert one.count("failed") == 0  # what the other did is not ours


def test_values_rows_of_an_earlier_run_stay_until_the_end(tmp_path: Path) -> None:
    early = RunReport(tmp_path / "report.json", cases=["a", "b"])
    early.add("a", "x", "done")
    early.add("gone", "x", "done")
    early.finish(0)
    content = json.loads(early.path.read_text(encoding="utf-8"))
    for row in content["cases"]:
        row["finished"] = "2020-01-01T00:00:00+00:00"
    early.path.write_text(json.dumps(content), encoding="utf-8")
    late = RunReport(tmp_path / "report.json", cases=["a", "b"])
    late.add("b", "x", "done")  # and killed here, nothing would be lost
    assert {row["case"] for row in json.loads(late.path.read_text(encoding="utf-8"))["cases"]} == {"a", "b", "gone"}
    late.finish(130)
    assert {row["case"] for row in json.loads(late.path.read_text(encoding="utf-8"))["cases"]} == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ('{"run": {}, "cases": []}', False),
        ('\ufeff{"run": {}, "cases": []}', False),
        ('{"coverage": 98}', True),
        ("[" * 200_000, True),
        ('{"run": {"started"', True),
    ],
)
def test_values_what_is_no_report_of_ours_is_kept(content: str, kept: bool, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    report = RunReport(tmp_path / "report.json", cases=["a"])
    assert report.known("a") is None
    report.add("a", "x", "done")
    assert len(report.finish(0)["cases"]) == 1
    backup = tmp_path / "report.json.~1~"
    assert backup.exists() == kept
    assert report.run["notes"] == ([report.run["notes"][0]] if kept else [])
    if kept:
        assert backup.read_text(encoding="utf-8") == content
        assert backup.name in report.run["notes"][0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_values_what_is_no_file_does_not_stop_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    report = RunReport(tmp_path / "report.json")
    report.save()
    assert report.path.is_file()


def test_values_a_run_without_cases_keeps_the_rows_of_others(tmp_path: Path) -> None:
    early = RunReport(tmp_path / "report.json", cases=["a"])
    early.add("a", "x", "done")
    early._rows["a"]["finished"] = "2020-01-01T00:00:00+00:00"
    early.finish(0)
    assert [row["case"] for row in RunReport(tmp_path / "report.json").finish(2)["cases"]] == ["a"]


def test_values_saving_a_large_report_takes_little_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esp_medsam_monai.io import report as module

    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    report, saves = RunReport(tmp_path / "report.json"), []

    def slow(path: Path) -> Any:
        clock[0] += 1.0
        saves.append(path)
        return atomic_path(path)

    monkeypatch.setattr(module, "atomic_path", slow)
    for index in range(100):
        clock[0] += 1.0
        report.add(f"case{index}", "x", "done")
    assert 2 <= len(saves) <= 100 * module.SHARE + 1
    assert len(report.finish(0)["cases"]) == 100


def test_values_hashes(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    report = RunReport(tmp_path / "report.json", {"b": 1, "a": 2})
    report.note_weights(weights)
    assert report.run["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    same, other = (RunReport(tmp_path / "report.json", settings) for settings in ({"a": 2, "b": 1}, {"a": 2, "b": 3}))
    assert report.run["configuration_sha256"] == same.run["configuration_sha256"]
    assert report.run["configuration_sha256"] != other.run["configuration_sha256"]


@pytest.mark.parametrize(
    ("modality", "target", "sides", "body_part", "words"),
    [
        ("mr", "hippocampus_anterior", (36.0, 50.0), "BRAIN", None),
        ("mr", "hippocampus_anterior", (36.0, 50.0), "head", None),
        ("mr", "hippocampus_anterior", (36.0, 50.0), None, None),
        ("mr", "hippocampus_anterior", (36.0, 50.0), "KNEE", "KNEE"),
        ("mr", "hippocampus_anterior", (3000.0, 3000.0), None, "3000 x 3000 mm"),
        ("mr", "hippocampus_anterior", (2.0, 2.0), None, "2 x 2 mm"),
        ("xray", "lung", None, "CHEST", None),
        ("xray", "lung", None, "HAND", "HAND"),
        ("xray", "my_own", (1.0, 1.0), "HAND", None),
    ],
)
def test_values_outside_training(
    modality: str, target: str, sides: tuple[float, float] | None, body_part: str | None, words: str | None
) -> None:
    found = outside_training(modality, [target], sides, body_part)
    assert len(found) == (words is not None)
    if words is not None:
        assert words in found[0]
        assert found[0].startswith("outside what the weights were trained on")


def test_values_same_difference_is_told_once() -> None:
    targets = ["hippocampus_anterior", "hippocampus_posterior"]
    assert len(outside_training("mr", targets, (3000.0, 3000.0))) == 1


def test_values_body_part_of_dicom(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file
    from pydicom.filereader import dcmread

    source = get_testdata_file("CT_small.dcm")
    assert isinstance(source, str)
    dataset = dcmread(source)
    for written, read in (("CHEST ", "CHEST"), ("", None)):
        dataset.BodyPartExamined = written
        dataset.save_as(tmp_path / "a.dcm")
        assert examined_body_part(tmp_path / "a.dcm") == read
