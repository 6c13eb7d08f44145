"""label.yaml, by which a MONAI Label server trains, without the server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM
from tests.bundles.small_run import SIDE, make_pictures, run_training


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.save(ESPMedSAM(shipped_modalities(), img_size=SIDE).state_dict(), path)
    return path


def run(
    repository: Path,
    tmp_path: Path,
    weights: Path,
    sections: Sequence[str] = ("training", "validation"),
    **override: object,
) -> Path:
    """A training of one epoch with these sections of the made-up pictures; its folder."""
    datalist, out = make_pictures(tmp_path), tmp_path / "run"
    content = json.loads(datalist.read_text())
    datalist.write_text(json.dumps({name: content[name] for name in sections}))
    given = {"datalist": str(datalist), "output_dir": str(out), "ckpt": str(weights), **override}
    run_training(repository, "finetune.yaml", "label.yaml", **given)
    return out


def test_the_start_is_measured_as_the_epochs_are(repository: Path, tmp_path: Path, weights: Path) -> None:
    """With a learning rate of 0, and batch norms that stay, nothing changes, so that both are the same number."""
    out = run(repository, tmp_path, weights, lr=0.0, trainable=["controllers"])
    (row,) = json.loads((out / "history.json").read_text())
    assert json.loads((out / "start.json").read_text()) == {"dice": row["dice"]["mean"]}


def test_without_validation_images_nothing_is_measured(repository: Path, tmp_path: Path, weights: Path) -> None:
    out = run(repository, tmp_path, weights, sections=("training",))
    assert (out / "best.pt").is_file() and not (out / "start.json").exists()
