"""The commands that the overlays name, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM
from tests.bundles.small_run import SIDE
from tests.conftest import make_volume

pytestmark = pytest.mark.slow


def torchrun(repository: Path, run_id: str, *configs: str, **options: object) -> subprocess.CompletedProcess[str]:
    bundle = repository / "bundles" / "esp_medsam"
    files = str([str(bundle / "configs" / name) for name in configs])
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "monai.bundle", "run", run_id, "--config_file", files, "--bundle_root", str(bundle)]
    # Without GPUs: two processes may not share one.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    common = {"image_size": SIDE, "image_sizes": None}
    words += [word for name, value in common.items() for word in (f"--{name}", str(value))]
    return subprocess.run([*command, *words], env=env, capture_output=True, text=True, timeout=600, check=False)


def test_inference_in_two_processes_writes_one_report(repository: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(ESPMedSAM(shipped_modalities(), img_size=SIDE).state_dict(), tmp_path / "weights.pt")
    for index in range(3):
        make_volume(shape=(30, 30, 3), spacing=(1.0, 1.0, 2.0), seed=index).save(tmp_path / "in" / f"{index}.nii.gz")
    (tmp_path / "in" / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    configs = ("inference.yaml", "multi_gpu_inference.yaml")
    options = {"dataset_dir": tmp_path / "in", "output_dir": tmp_path / "out", "ckpt": tmp_path / "weights.pt"}
    run = torchrun(repository, "inference", *configs, **options)
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(row["case"], row["status"]) for row in content["cases"]] == [(str(index), "done") for index in range(3)]
    assert run.stdout.count("3 cases done") == 1


def test_a_training_that_cannot_start_ends_in_both_processes(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('{"training": [{"image": "gone.png", "label": "gone.png"}]}')
    options = {"datalist": tmp_path / "list.json", "output_dir": tmp_path / "run"}
    run = torchrun(repository, "training", "train.yaml", "multi_gpu.yaml", **options)
    assert run.returncode == 1
    assert (run.stdout + run.stderr).count("NOT_FOUND") == 1
    assert "exitcode: 8" in run.stdout + run.stderr or "exitcode  : 8" in run.stdout + run.stderr
