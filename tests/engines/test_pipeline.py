"""FolderEvaluator: reading, segmenting and writing go on at the same time, in order, and tell how long they took."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from esp_medsam_monai.engines import CaseDataset, case_records, case_size, case_writer
from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.io import RunReport
from esp_medsam_monai.networks import ESPMedSAM
from tests.engines.folder_runs import MODALITIES, Bright, exit_status, make_evaluator, report_rows
from tests.networks.conftest import randomise

CASES = ["chest", "mr/deep/a", "mr/deep/b"]
LONG = 60.0
"""Seconds after which a test has failed; none of them is waited for when it passes."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was read and written, as it began, by case; the network's calls join it."""
    entries: list[tuple[str, str]] = []
    transform, write = CaseDataset._transform, case_records.CaseRecords.write

    def reading(self: CaseDataset, index: int) -> Any:
        entries.append(("read", self.cases[index].name))
        return transform(self, index)

    def writing(self: Any, outcome: Any, *args: Any) -> None:
        entries.append(("write", outcome.case.name))
        write(self, outcome, *args)
        entries.append(("written", outcome.case.name))

    monkeypatch.setattr(CaseDataset, "_transform", reading)
    monkeypatch.setattr(case_records.CaseRecords, "write", writing)
    return entries


def test_values_the_next_case_is_read_while_the_network_works(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, transform, seen = threading.Event(), CaseDataset._transform, []

    def reading(self: CaseDataset, index: int) -> Any:
        if index == 1:
            begun.set()
        return transform(self, index)

    monkeypatch.setattr(CaseDataset, "_transform", reading)
    network = Bright(lambda call: seen.append(begun.wait(LONG)) if call == 1 else None)
    assert exit_status(make_evaluator(folder, tmp_path / "out", network)) == 0
    assert seen == [True]


def test_values_a_case_is_written_while_the_network_works_on_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, write, seen = threading.Event(), case_records.CaseRecords.write, []

    def writing(self: Any, outcome: Any, *args: Any) -> None:
        if outcome.case.name == "chest":
            seen.append(begun.wait(LONG))
        write(self, outcome, *args)

    monkeypatch.setattr(case_records.CaseRecords, "write", writing)
    network = Bright(lambda call: begun.set() if call == 2 else None)
    assert exit_status(make_evaluator(folder, tmp_path / "out", network)) == 0
    assert seen == [True]


def test_values_a_large_case_is_alone_in_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[tuple[str, str]]
) -> None:
    for module in (case_size, case_writer):
        monkeypatch.setattr(module, "OVERLAP_BYTES", 100)
    network = Bright(lambda call: log.append(("network", CASES[call - 1])))
    assert exit_status(make_evaluator(folder, tmp_path / "out", network)) == 0
    assert log == [(what, case) for case in CASES for what in ("read", "network", "write", "written")]


def test_values_at_most_one_case_is_ahead_and_one_behind(
    folder: Path, tmp_path: Path, log: list[tuple[str, str]]
) -> None:
    network = Bright(lambda call: log.append(("network", CASES[call - 1])))
    assert exit_status(make_evaluator(folder, tmp_path / "out", network)) == 0
    for what in ("read", "network", "write", "written"):
        assert [case for entry, case in log if entry == what] == CASES, what
    # The third is read when the network has begun with the second at the earliest, which the first has left by then.
    assert log.index(("read", CASES[2])) > log.index(("network", CASES[0]))
    assert log.index(("written", CASES[0])) < log.index(("write", CASES[1]))


def test_values_a_failure_of_each_kind_costs_its_case_alone(
    folder: Path, volume: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reader, network and writer fail in cases that follow each other, between two that go well."""
    caplog.set_level(logging.INFO)
    for name in "cdef":
        volume(shape=(40, 45, 1), dtype="uint8").save(folder / "mr" / "deep" / f"{name}.nii")
    (folder / "mr/deep/b.nii").write_bytes(b"no image")

    def stumble(call: int) -> None:
        if call == 3:  # chest, a, c
            raise RuntimeError("no such luck")

    made = make_evaluator(folder, tmp_path / "out", Bright(stumble))
    save = made._writer.postprocessing
    assert save is not None

    def saving(data: dict[str, Any]) -> Any:
        if data["case"] == "mr/deep/d":
            raise OSError("disk on fire")
        return save(data)

    monkeypatch.setattr(made._writer, "postprocessing", saving)
    assert exit_status(made) == 8
    rows = report_rows(tmp_path / "out")
    codes = {case: row["reason"] and row["reason"].split(":", 1)[1].strip() for case, row in rows.items()}
    assert codes["mr/deep/b"]
    assert codes["mr/deep/c"] == "RuntimeError: no such luck"
    assert codes["mr/deep/d"] == "OSError: disk on fire"
    assert [case for case, reason in codes.items() if reason is None] == [
        "chest",
        "mr/deep/a",
        "mr/deep/e",
        "mr/deep/f",
    ]
    told = [record.getMessage().split(":")[0] for record in caplog.records if record.getMessage().split(":")[0] in rows]
    assert told == sorted(rows), "cases are not told in their order"


def test_bad_input_an_error_beyond_the_cases_is_not_lost_in_a_thread(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no account can be kept")

    monkeypatch.setattr(RunReport, "add", broken)
    assert exit_status(make_evaluator(folder, tmp_path / "out")) == 1
    run = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["run"]
    assert "no account can be kept" in run["notes"][0]


def test_values_no_thread_outlives_the_run(folder: Path, tmp_path: Path) -> None:
    assert exit_status(make_evaluator(folder, tmp_path / "out")) == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("case-writer")]


def test_values_times_add_up(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out)) == 0
    rows, run = report_rows(out), json.loads((out / "report.json").read_text(encoding="utf-8"))["run"]
    assert list(run["seconds_by_stage"]) == ["read", "prepare", "network", "write"]
    for row in rows.values():
        assert all(seconds >= 0 for seconds in row["seconds_by_stage"].values())
        assert row["seconds"] == pytest.approx(sum(row["seconds_by_stage"].values()), abs=0.003)
    for stage, seconds in run["seconds_by_stage"].items():
        assert seconds == pytest.approx(sum(row["seconds_by_stage"][stage] for row in rows.values()), abs=0.003)
    # Writing is one thread's work, so it cannot take longer than the run.
    assert run["seconds_by_stage"]["write"] <= run["seconds"]

    assert exit_status(make_evaluator(folder, out)) == 0
    again = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(again["run"]["seconds_by_stage"].values()) == {0.0}, "what an earlier run did is no time of this one"
    assert [row["seconds_by_stage"] for row in again["cases"]] == [row["seconds_by_stage"] for row in rows.values()]


def test_bad_input_a_runtime_that_is_not_there_ends_the_run_at_once(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = make_evaluator(folder, out, randomise(ESPMedSAM(MODALITIES, img_size=64)))
    made.inferer = made.slices = SliceBatchInferer(runtime="torch", precision="fp16")
    assert exit_status(made) == 1
    run = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert run["cases"] == []
    assert "NO_RUNTIME" in run["run"]["notes"][0]
