"""Two ranks learn what one process learns from the same images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import launch, trainings

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ALONE = (
    trainings.balanced,
    trainings.accumulated,
    trainings.disjoint,
    trainings.without_patch_loss,
    trainings.learning_batch_norm,
)
TOGETHER = (
    *ALONE,
    trainings.one_validation_image,
    trainings.by_the_clock,
    trainings.undisturbed,
    trainings.first_half,
    trainings.second_half,
)


@pytest.fixture(scope="module")
def results(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trainings")
    for ranks, scenarios in ((1, (*ALONE, trainings.one_validation_image)), (2, TOGETHER)):
        statuses = launch.start(repository, out, ranks, *scenarios)
        assert {name: set(each) for name, each in statuses.items()} == {each.__name__: {0} for each in scenarios}, (
            out / "log.txt"
        ).read_text()
    return out


def load(results: Path, name: str, ranks: int) -> list[dict[str, Any]]:
    return [torch.load(results / f"{name}_{ranks}_{rank}.pt", weights_only=False) for rank in range(ranks)]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


@pytest.mark.parametrize("name", ["balanced", "accumulated", "disjoint", "without_patch_loss"])
def test_two_ranks_equal_one_process_with_the_same_global_batch(results: Path, name: str) -> None:
    (alone,) = load(results, name, 1)
    first, second = load(results, name, 2)
    assert len(alone["losses"]) >= 3
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert difference(first["network"], alone["network"]) < 1e-5
    assert difference(first["network"], second["network"]) == 0


def test_disjoint_modalities_train_all_controllers(results: Path) -> None:
    """Each rank has seen one modality, and holds the controllers and queries of both as they were trained."""
    before = trainings.esp_medsam().state_dict()
    for result in load(results, "disjoint", 2):
        moved = {key for key, value in result["network"].items() if not torch.equal(value, before[key])}
        for part in ("controllers.xray.", "controllers.mr.", "mask_decoder.queries.xray_lung", "image_encoder."):
            assert any(key.startswith(part) for key in moved), part


def test_learning_batch_norms_reach_the_same_dice(results: Path) -> None:
    """On the CPU each rank normalises by its own images, so that weights differ: 0.05 is what is asked."""
    (alone,) = load(results, "learning_batch_norm", 1)
    ranks = load(results, "learning_batch_norm", 2)
    assert alone["metrics"]["val_dice"] > 0.8
    assert ranks[0]["metrics"]["val_dice"] == pytest.approx(alone["metrics"]["val_dice"], abs=0.05)
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert difference(ranks[0]["network"], ranks[1]["network"]) == 0, "running means differ"


def test_fewer_validation_images_than_ranks_are_counted_once(results: Path) -> None:
    first, second = load(results, "one_validation_image", 2)
    assert set(first["metrics"]) == {"val_dice", "val_dice_xray"}
    assert first["metrics"] == second["metrics"]
    best = torch.load(results / "one_validation_image_2" / "best.pt", weights_only=True)
    assert difference(best, second["network"]) == 0


def test_the_main_rank_has_the_clock_and_all_average_alike(results: Path) -> None:
    first, second = load(results, "by_the_clock", 2)
    assert (first["epoch"], second["epoch"]) == (2, 2)
    assert difference(first["average"], second["average"]) == 0, "running means differ"


def test_ranks_resume_from_one_checkpoint(results: Path) -> None:
    whole, resumed = load(results, "undisturbed", 2), load(results, "second_half", 2)
    half = len(whole[0]["losses"]) // 2
    assert resumed[0]["losses"] == pytest.approx(whole[0]["losses"][half:], abs=1e-6)
    for one, other in zip(whole, resumed, strict=True):
        assert difference(one["network"], other["network"]) < 1e-6
