"""kill -9 at any moment of a folder run: nothing wrong, half or missing, and resuming ends as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.folder_runs import report_rows

TRIALS = 20
PASSING = {"seconds", "seconds_by_stage", "finished", "status", "input_stamp", "output_stamp"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_values_twenty_kills(volume: Callable[..., Any], repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for index in range(6):
        volume(shape=(48, 40, 30), spacing=(1.0, 1.2, 2.0 + index), seed=index).save(folder / f"case{index}.nii.gz")
    (folder / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    command = [sys.executable, "-m", "tests.faults.kill_folder_runs", str(folder), str(tmp_path), str(TRIALS), "7"]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stderr
    saw = json.loads(run.stdout.splitlines()[-1])
    assert saw["calm"] == saw["final"] == 0
    assert len(saw["killed"]) == TRIALS
    assert saw["bad"] == []
    # The moments were spread over the run, and some fell between two cases.
    assert len({trial["done"] for trial in saw["killed"]}) >= 3
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    files = [{str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} for out in (calm, killed)]
    assert files[0] == {name for name in files[1] if not name.endswith(".lock")} | {".locks/report.lock"}
    for name in files[0]:
        if name.endswith("_seg.nii.gz"):
            assert (calm / name).read_bytes() == (killed / name).read_bytes()
    first, second = report_rows(calm), report_rows(killed)
    assert first.keys() == second.keys()
    for case in first:
        keep = [{key: value for key, value in rows[case].items() if key not in PASSING} for rows in (first, second)]
        assert keep[0] == keep[1]
