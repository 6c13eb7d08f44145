"""The stages that learn from embeddings: a trunk from a small SAM, then controllers from a medical teacher."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from esp_medsam_monai.checkpoints import save_sam_layout
from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import SAMTeacher
from tests.bundles.small_run import SIDE, make_pictures, run_training

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}
SHARED = "# From here on as in "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distillation")


@pytest.fixture(scope="module")
def datalist(folder: Path) -> Path:
    """Pictures without labels."""
    content = json.loads(make_pictures(folder).read_text())
    bare = {
        section: [{key: entry[key] for key in ("image", "modality")} for entry in entries]
        for section, entries in content.items()
    }
    (folder / "bare.json").write_text(json.dumps(bare))
    return folder / "bare.json"


@pytest.fixture(scope="module")
def trunk(repository: Path, folder: Path, datalist: Path) -> Path:
    """Folder of an aggregator stage on photographs of anything."""
    torch.manual_seed(0)
    sam = SAMTeacher({"xray": ["lung"]}, SIDE, SMALL, use_adapters=False, shared_query=True, shared_hyper_mlp=True)
    save_sam_layout(sam, folder / "sam.pt")
    content = json.loads(datalist.read_text())
    natural = {section: [{"image": entry["image"]} for entry in content[section]] for section in content}
    (folder / "natural.json").write_text(json.dumps(natural))
    run_training(
        repository,
        "aggregator.yaml",
        datalist=str(folder / "natural.json"),
        output_dir=str(folder / "trunk"),
        sam_checkpoint=str(folder / "sam.pt"),
        sam_model=SMALL,
        schedule="published",
        lr=0.002,
        samples_per_epoch=12,
        max_epochs=2,
    )
    return folder / "trunk"


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Path:
    """Weights of a medical teacher that nobody trained."""
    torch.manual_seed(1)
    network = SAMTeacher(shipped_modalities(), SIDE, SMALL)
    torch.save(network.state_dict(), folder / "teacher.pt")
    return folder / "teacher.pt"


@pytest.fixture(scope="module")
def options(folder: Path, datalist: Path, trunk: Path, teacher: Path) -> dict[str, Any]:
    return {
        "datalist": str(datalist),
        "sam_model": SMALL,
        "teacher_ckpt": str(teacher),
        "trunk_ckpt": str(trunk / "best.pt"),
        "samples_per_epoch": 8,
        "schedule": "published",  # does not depend on the number of epochs, which a resume changes
    }


@pytest.fixture(scope="module")
def distilled(repository: Path, folder: Path, options: dict[str, Any]) -> Path:
    """Folder of a training of two epochs without a cache."""
    run_training(repository, "distill.yaml", output_dir=str(folder / "run"), max_epochs=2, **options)
    return folder / "run"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in json.loads((run / "history.json").read_text())]


def of(state: dict[str, torch.Tensor], *parts: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key.startswith(parts)}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return bool(ours) and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_the_trunk_learns_from_sam_without_labels(trunk: Path) -> None:
    rows = json.loads((trunk / "history.json").read_text())
    assert rows[1]["loss"] < rows[0]["loss"]
    assert set(rows[0]["kd"]) == {"mean", "natural"} and rows[0]["kd"]["mean"] < 0
    assert not of(weights(trunk / "best.pt"), "controllers.")


def test_only_the_controllers_move(distilled: Path, trunk: Path, teacher: Path) -> None:
    """Trunk as the aggregator left it, batch norms included; prompt generator and decoder as the teacher has them."""
    last = weights(distilled / "last.pt")["network"]  # type: ignore[index]
    assert same(of(last, "image_encoder."), weights(trunk / "best.pt"))
    assert any("running_mean" in key for key in of(last, "image_encoder."))
    assert same(of(last, "prompt_generator.", "mask_decoder."), weights(teacher))
    assert not any(key.startswith("adapters") for key in last)
    proof = json.loads((distilled / "frozen.json").read_text())
    assert proof["started"] == proof["now"]
    assert losses(distilled)[1] < losses(distilled)[0]


def test_a_cache_filled_in_advance_changes_no_loss_also_after_a_resume(
    repository: Path, folder: Path, distilled: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cached = {**options, "output_dir": str(folder / "cached"), "cache_dir": str(folder / "cache")}
    with caplog.at_level(logging.INFO):
        run_training(repository, "distill.yaml", run_id="caching", **cached)
        # Four pictures in training: dermoscopy has seven views, xray six.
        assert len(list((folder / "cache").rglob("*.npy"))) == 2 * 7 + 2 * 6
        assert not list(folder.glob("cached/*.pt"))
        run_training(repository, "distill.yaml", max_epochs=1, **cached)
        run_training(repository, "distill.yaml", max_epochs=2, resume="true", **cached)
    assert "28 teacher embeddings" in caplog.text
    assert caplog.text.count("0 computed") == 2
    assert losses(folder / "cached") == pytest.approx(losses(distilled), abs=1e-6)


def test_no_teacher_is_told_before_the_first_step(
    repository: Path, folder: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run_training(
            repository, "distill.yaml", **{**options, "teacher_ckpt": None, "output_dir": str(folder / "without")}
        )
    causes: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert any("--teacher_ckpt FILE" in cause for cause in causes)
    assert not list(folder.glob("without/*.pt"))


def test_what_the_two_overlays_share_is_the_same(repository: Path) -> None:
    """Each is used alone, so what they share is written twice and must not drift apart."""
    configs = repository / "bundles" / "esp_medsam" / "configs"
    texts = [(configs / name).read_text(encoding="utf-8") for name in ("aggregator.yaml", "distill.yaml")]
    parts = [text.split(SHARED)[1].split("\n", 1)[1] for text in texts]
    assert parts[0] == parts[1] and "val_kd" in parts[0]


def test_the_teacher_is_that_of_the_teacher_stage(repository: Path) -> None:
    configs = repository / "bundles" / "esp_medsam" / "configs"
    distill, stage = (
        yaml.safe_load((configs / name).read_text(encoding="utf-8")) for name in ("distill.yaml", "teacher.yaml")
    )
    assert stage["network_def"].pop("use_checkpoint") == "@use_checkpoint"  # for its training alone
    assert distill["teacher_def"] == stage["network_def"]
    assert distill["sam_model"] == stage["sam_model"]
