"""Fine-tuning by the command of the README, and inference and evaluation with what comes out of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM

NEW = "{'dermoscopy': ['hair'], 'oct': ['fluid']}"


@pytest.fixture(scope="module")
def bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configs and random weights in half precision."""
    root = tmp_path_factory.mktemp("bundle")
    shutil.copytree(repository / "bundles" / "esp_medsam" / "configs", root / "configs")
    torch.manual_seed(0)
    state = ESPMedSAM(shipped_modalities(), img_size=64).state_dict()
    (root / "models").mkdir()
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    torch.save(halved, root / "models" / "model.pt")
    return root


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dermoscopy whose labels speak of hair alone, one picture whose label has both, and a modality of one's own."""
    folder = tmp_path_factory.mktemp("pictures")
    rows, columns = np.mgrid[:48, :64]
    entries: list[dict[str, Any]] = []
    for i in range(4):
        hair, lesion = abs(columns - 20 - 6 * i) < 3, (rows - 24) ** 2 + (columns - 44) ** 2 < 100
        modality = "oct" if i == 3 else "dermoscopy"
        Image.fromarray(np.where(hair, 30, np.where(lesion, 110, 200)).astype(np.uint8)).save(folder / f"{i}.png")
        label = np.where(hair, 2, lesion) if i == 2 else hair * 255
        Image.fromarray(label.astype(np.uint8)).save(folder / f"{i}_seg.png")
        entries.append({"image": f"{i}.png", "label": f"{i}_seg.png", "modality": modality})
    entries[2]["labels"] = {"lesion": 1, "hair": 2}
    lists = {"training": entries, "validation": entries[1:], "test": entries}
    path = folder / "list.json"
    path.write_text(json.dumps({**lists, "labels": {"dermoscopy": {"hair": 255}}}))
    return path


def run(bundle: Path, run_id: str, configs: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """MONAI's own command."""
    files = [str(bundle / "configs" / f"{name}.yaml") for name in configs]
    given = {"image_size": 64, "device": "$torch.device('cpu')", "bundle_root": bundle, **options}
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def finetuned(bundle: Path, datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a fine-tuning of the new parts."""
    folder = tmp_path_factory.mktemp("finetuned")
    options = {"max_epochs": 1, "samples_per_epoch": 6, "batch_size": 2, "accumulation": 2, "num_workers": 0}
    result = run(
        bundle,
        "training",
        ["train", "finetune"],
        **options,
        datalist=datalist,
        output_dir=folder,
        new_targets=NEW,
        trainable="new",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def test_the_old_weights_are_the_bundles_and_the_new_ones_have_learned(finetuned: Path, bundle: Path) -> None:
    old = torch.load(bundle / "models" / "model.pt", weights_only=True)
    new = torch.load(finetuned / "best.pt", weights_only=True)
    assert all(torch.equal(value.to(new[key].dtype), new[key]) for key, value in old.items())
    assert {key.split(".")[-1] for key in new.keys() - old.keys() if "queries" in key} == {
        "dermoscopy_hair",
        "oct_fluid",
    }
    frozen = json.loads((finetuned / "frozen.json").read_text())
    assert frozen["started"] == frozen["now"] and "controllers.oct" in frozen["trained"]
    (row,) = json.loads((finetuned / "history.json").read_text())
    assert np.isfinite(row["loss"]) and set(row["dice"]) == {"mean", "dermoscopy", "oct"}


def test_inference_takes_the_weights_with_the_same_new_targets(finetuned: Path, bundle: Path, datalist: Path) -> None:
    folder = finetuned / "masks"
    pictures = finetuned / "in"
    for name in ("dermoscopy", "oct"):
        (pictures / name).mkdir(parents=True)
        shutil.copy(datalist.parent / "0.png", pictures / name / "a.png")
        (pictures / name / "modality.json").write_text(json.dumps({"modality": name}))
    options = {"dataset_dir": pictures, "output_dir": folder, "ckpt": finetuned / "best.pt", "new_targets": NEW}
    result = run(bundle, "inference", ["inference"], **options)
    assert result.returncode == 0, result.stderr[-3000:]
    cases = {case["modality"]: case for case in json.loads((folder / "report.json").read_text())["cases"]}
    assert [case["status"] for case in cases.values()] == ["done", "done"]
    told = {name: {each["target"]: each["label"] for each in case["targets"]} for name, case in cases.items()}
    assert told == {"dermoscopy": {"lesion": 1, "hair": 9}, "oct": {"fluid": 10}}
    values = set(np.unique(np.asarray(Image.open(folder / "dermoscopy" / "a_seg.png"))).tolist())
    assert values <= {0, 1, 9}


def test_weights_with_new_targets_are_refused_without_their_names(
    finetuned: Path, bundle: Path, datalist: Path
) -> None:
    options = {"dataset_dir": datalist.parent, "output_dir": finetuned / "none", "ckpt": finetuned / "best.pt"}
    result = run(bundle, "inference", ["inference"], **options, modality="dermoscopy")
    assert result.returncode != 0
    assert "not known to the network (controllers.oct." in result.stdout
    assert "--new_targets" in result.stdout


def test_evaluation_counts_what_the_labels_speak_of(finetuned: Path, bundle: Path, datalist: Path) -> None:
    options = {"datalist": datalist, "output_dir": finetuned / "tables", "ckpt": finetuned / "best.pt"}
    result = run(bundle, "evaluation", ["train", "evaluate"], **options, new_targets=NEW)
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((finetuned / "tables" / "metrics.json").read_text())
    assert metrics["dermoscopy"]["hair"]["n"] == 3 and metrics["oct"]["fluid"]["n"] == 1
