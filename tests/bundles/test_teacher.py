"""The stage of the medical teacher, from a small checkpoint of SAM to weights that a student can start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from esp_medsam_monai.checkpoints import save_sam_layout
from esp_medsam_monai.networks import SAMTeacher
from tests.bundles.small_run import SIDE, make_pictures, run_training

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def sam(folder: Path) -> dict[str, torch.Tensor]:
    """``sam.pt``, made for twice the side that the teacher is trained at."""
    torch.manual_seed(0)
    options = {"use_adapters": False, "shared_query": True, "shared_hyper_mlp": True}
    network = SAMTeacher({"xray": ["lung"]}, 2 * SIDE, SMALL, **options)
    torch.nn.init.normal_(network.image_encoder.pos_embed, std=0.02)
    return save_sam_layout(network, folder / "sam.pt")


@pytest.fixture(scope="module")
def options(folder: Path) -> dict[str, object]:
    return {
        "datalist": str(make_pictures(folder)),
        "output_dir": str(folder / "run"),
        "sam_checkpoint": str(folder / "sam.pt"),
        "sam_model": SMALL,
        "samples_per_epoch": 8,
        "lr": 0.002,
    }


@pytest.fixture(scope="module")
def trained(repository: Path, folder: Path, sam: dict[str, torch.Tensor], options: dict[str, object]) -> Path:
    """Folder of a training of two epochs."""
    run_training(repository, "teacher.yaml", max_epochs=2, **options)
    return folder / "run"


def test_the_encoder_is_sams_to_the_bit(trained: Path, sam: dict[str, torch.Tensor]) -> None:
    """All of it but the tables that were interpolated when the training began."""
    network = torch.load(trained / "last.pt", weights_only=True)["network"]
    encoder = {key: value for key, value in network.items() if key.startswith("image_encoder.")}
    moved = [key for key, value in encoder.items() if not torch.equal(value, sam[key])]
    tables = ["image_encoder.pos_embed", *(f"image_encoder.blocks.1.attn.rel_pos_{axis}" for axis in "hw")]
    assert sorted(moved) == sorted(tables)
    proof = json.loads((trained / "frozen.json").read_text())
    assert proof["started"] == proof["now"] and proof["frozen_tensors"] >= len(encoder)


def test_adapters_and_decoder_side_learned(trained: Path, sam: dict[str, torch.Tensor]) -> None:
    network = torch.load(trained / "last.pt", weights_only=True)["network"]
    assert all(network[f"adapters.{i}.mlp.lin2.weight"].any() for i in (0, 1))  # zero in a fresh adapter
    key = "mask_decoder.transformer.layers.0.mlp.lin1.weight"
    assert 0 < (network[key] - sam[key]).abs().max() < 0.1  # moved away from SAM's
    losses = [row["loss"] for row in json.loads((trained / "history.json").read_text())]
    assert losses[1] < losses[0]


def test_it_resumes(trained: Path, repository: Path, options: dict[str, object]) -> None:
    run_training(repository, "teacher.yaml", max_epochs=3, resume="true", **options)
    assert [row["epoch"] for row in json.loads((trained / "history.json").read_text())] == [1, 2, 3]


def test_it_starts_from_a_teacher_of_ours(
    trained: Path, repository: Path, folder: Path, options: dict[str, object]
) -> None:
    """``ckpt`` has the last word, also where a checkpoint of SAM is named."""
    first = torch.load(trained / "best.pt", weights_only=True)
    given = {**options, "output_dir": str(folder / "again"), "ckpt": str(trained / "best.pt"), "lr": 0.0}
    run_training(repository, "teacher.yaml", **given)
    again = torch.load(folder / "again" / "best.pt", weights_only=True)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
