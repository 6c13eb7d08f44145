"""An error that MONAI wraps is told in the last line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml


def test_the_last_line_of_a_failed_run_is_its_cause(tmp_path: Path) -> None:
    config = {
        "initialize": [{"_target_": "esp_medsam_monai.bundle.StartCheck", "bundle_root": "."}],
        "run": ["$open('not_there.txt')"],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "run.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("What stopped the run: FileNotFoundError:")
    assert "not_there.txt" in done.stderr.splitlines()[-1]
