"""FolderEvaluator where disks, other runs, workers and names misbehave."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from esp_medsam_monai.io import atomic, claim
from tests.engines.folder_runs import Bright, exit_status, make_evaluator, report_rows


def test_bad_input_disk_full(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills while the second of three masks is written, and has room again afterwards."""
    from esp_medsam_monai.io import writers

    saved, calls = writers.nib.save, []

    def full(image: Any, path: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            Path(path).write_bytes(b"half of")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        saved(image, path)

    monkeypatch.setattr(writers.nib, "save", full)
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out)) == 8
    reasons = {case: row["reason"] for case, row in report_rows(out).items()}
    assert reasons["mr/deep/a"].startswith("CANNOT_WRITE: ")
    assert "No space left" in reasons["mr/deep/a"]
    assert reasons["chest"] is reasons["mr/deep/b"] is None
    assert not [path for path in out.rglob("*") if path.name.startswith((".partial", "a_seg"))]


@pytest.mark.parametrize("before", [False, True])
def test_bad_input_disk_full_behind_the_mask(
    before: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask without what belongs to it would pass for a result of a case that failed."""
    from esp_medsam_monai.engines import case_results

    out = tmp_path / "out"
    if before:
        assert exit_status(make_evaluator(folder, out)) == 0

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(case_results, "write_mask_sidecar", full)
    assert exit_status(make_evaluator(folder, out, overwrite=True)) == 8
    assert {row["reason"].split(":")[0] for row in report_rows(out).values()} == {"CANNOT_WRITE"}
    assert not [path for path in out.rglob("*_seg.*") if not path.name.endswith("~")]
    monkeypatch.undo()
    assert exit_status(make_evaluator(folder, out)) == 0
    assert len(list(out.rglob("*_seg.[np]*"))) == 3


def test_bad_input_output_dir_that_cannot_be_written(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    assert exit_status(make_evaluator(folder, tmp_path / "file" / "out")) == 1
    assert "file" in caplog.text


def test_bad_input_report_that_cannot_be_written_is_told_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from esp_medsam_monai.io import report

    def closed(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(report, "atomic_path", closed)
    network = Bright()
    assert exit_status(make_evaluator(folder, tmp_path / "out", network)) == 1
    assert "CANNOT_WRITE" in caplog.text
    assert network.calls == 0


def test_values_table_that_somebody_has_open(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It costs neither the page nor the exit status."""
    out = tmp_path / "out"
    (out / "report.csv").mkdir(parents=True)
    assert exit_status(make_evaluator(folder, out)) == 0
    assert "report.csv was not written: CANNOT_WRITE" in caplog.text
    assert "All 3 cases done" in (out / "report.html").read_text(encoding="utf-8")


def test_values_older_files_that_cannot_be_removed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They belong to another user, say; the other cases go on."""
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out)) == 0
    unlink = Path.unlink

    def not_ours(path: Path, missing_ok: bool = False) -> None:
        if path.name == "chest_seg.json":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", not_ours)
    (folder / "chest.png").write_bytes(b"cut")
    assert exit_status(make_evaluator(folder, out)) == 8
    assert [row["status"] for row in report_rows(out).values()] == ["failed", "skipped", "skipped"]


def test_values_case_that_another_run_gave_up(folder: Path, tmp_path: Path) -> None:
    """It was busy with it when we came by, and died without a result."""
    out = tmp_path / "out"
    with ExitStack() as other:
        assert other.enter_context(claim(out, "chest"))

        def die(call: int) -> None:
            if call == 2:
                other.close()

        assert exit_status(make_evaluator(folder, out, Bright(die))) == 0
    assert {case: row["status"] for case, row in report_rows(out).items()} == dict.fromkeys(
        ("chest", "mr/deep/a", "mr/deep/b"), "done"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_values_worker_that_is_killed_costs_no_case(folder: Path, tmp_path: Path) -> None:
    """As the system does for want of memory; the rest is read in the process itself."""
    out = tmp_path / "out"

    def kill_workers(call: int) -> None:
        if call == 1:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    for index in range(6):
        shutil.copy(folder / "mr/deep/b.nii", folder / "mr" / f"more{index}.nii")
    assert exit_status(make_evaluator(folder, out, Bright(kill_workers), num_workers=1)) == 0
    assert {row["status"] for row in report_rows(out).values()} == {"done"}
    assert len(report_rows(out)) == 9
    notes = json.loads((out / "report.json").read_text(encoding="utf-8"))["run"]["notes"]
    assert "--num_workers" in notes[0]


@pytest.mark.skipif(sys.platform == "win32", reason="not a name there")
def test_values_names_cannot_play_with_the_terminal(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "chest.png").rename(folder / "\x1b[31mred\nchest.png")
    (folder / "chest.json").rename(folder / "\x1b[31mred\nchest.json")
    (folder / "\x1b]0;cut.nii.gz").write_bytes(b"cut")
    caplog.set_level(logging.INFO)
    assert exit_status(make_evaluator(folder, tmp_path / "out", preview=True)) == 8
    assert "\x1b" not in caplog.text
    assert "\\x1b[31mred chest: done" in caplog.text


def test_values_broken_remains_of_a_killed_run_go(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "mr" / "deep").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    half = out / "mr" / "deep" / f".partial-{atomic._host()}-{dead.pid}-a_seg.nii.gz"
    half.write_bytes(b"half")
    assert exit_status(make_evaluator(folder, out)) == 0
    assert not half.exists()
