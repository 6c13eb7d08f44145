"""SIGINT and SIGTERM sent to the documented command: exit status 130, a report, nothing half; a second run ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.small_bundle import make_small_bundle

CASES = 12


@pytest.fixture(scope="module")
def bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_bundle(repository, tmp_path_factory.mktemp("small") / "bundle")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_values_signal_to_the_command(number: int, bundle: Path, volume: Any, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for index in range(CASES):
        volume(shape=(40, 40, 60), spacing=(1.0, 1.0, 2.0), seed=index).save(folder / f"case{index:02d}.nii.gz")
    (folder / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += ["--config_file", str(bundle / "configs" / "inference.yaml"), "--bundle_root", str(bundle)]
    command += ["--dataset_dir", str(folder), "--output_dir", str(out)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("case*_seg.nii.gz")) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        process.send_signal(number)
        log = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130, log
    assert "Traceback" not in log
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["run"]["exit_status"] == 130
    done = {row["case"] for row in report["cases"] if row["status"] == "done"}
    assert 0 < len(done) < CASES
    assert {path.name for path in out.glob("case*_seg.nii.gz")} == {f"{case}_seg.nii.gz" for case in done}
    assert not list(out.rglob(".partial-*"))
    for case in done:
        assert np.asanyarray(nib.load(out / f"{case}_seg.nii.gz").dataobj).shape == (40, 40, 60)

    if number == signal.SIGTERM:
        return  # once is enough: a run takes seconds to start
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    rows = json.loads((out / "report.json").read_text(encoding="utf-8"))["cases"]
    assert {row["case"] for row in rows if row["status"] == "skipped"} == done
    assert len(rows) == CASES
