"""Runs that share a folder divide its cases, and both reports know all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.engines.folder_runs import exit_status, make_evaluator, report_rows


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_values_cases_are_divided(volume: Callable[..., Any], repository: Path, tmp_path: Path) -> None:
    folder, out, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    for index in range(8):
        volume(shape=(30, 30, 3), spacing=(1.0, 1.0, 2.0), seed=index).save(folder / f"case{index}.nii.gz")
    (folder / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    command = [sys.executable, "-m", "tests.faults.share_folder", str(folder), str(out), str(log), "3"]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [0, 0, 0]
    workers = log.read_text().split()
    assert len(workers) == 8  # nothing twice
    assert len(set(workers)) > 1
    rows = report_rows(out)
    assert set(rows) == {f"case{index}" for index in range(8)}
    assert {row["status"] for row in rows.values()} <= {"done", "skipped"}
    assert exit_status(make_evaluator(folder, tmp_path / "alone")) == 0
    for case in rows:
        labels = [np.asanyarray(nib.load(place / f"{case}_seg.nii.gz").dataobj) for place in (out, tmp_path / "alone")]
        assert np.array_equal(*labels)
    assert not list(out.rglob(".partial-*"))
