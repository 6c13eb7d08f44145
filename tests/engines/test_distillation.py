"""Distillation: what learns, what stays as it is, and what a cache must not change."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from esp_medsam_monai.engines import DistillationTargets, EmbeddingError, FrozenTeacher
from tests.engines.small_distillation import (
    SmallNetwork,
    Weights,
    make_dataset,
    make_teacher,
    make_trainer,
    save_pictures,
)


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("pictures"))


def batch_of(datalist: Path) -> dict[str, Any]:
    items = [make_dataset(datalist)[i] for i in range(4)]
    return {
        "image": torch.stack([item["image"] for item in items]),
        "modality": [item["modality"] for item in items],
        "key": [item["key"] for item in items],
    }


def test_the_controllers_learn_what_the_teacher_says_and_nothing_else_moves(datalist: Path) -> None:
    trainer = make_trainer(datalist, DistillationTargets(make_teacher()), epochs=100)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run()
    assert sum(trainer.losses[-4:]) * 10 < sum(trainer.losses[:4])
    after = trainer.network.state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"controllers"}


def test_the_whole_student_learns_where_nothing_is_frozen(datalist: Path) -> None:
    """And the batch norms with it: the same check as above fails when there is something to find."""
    trainer = make_trainer(datalist, DistillationTargets(make_teacher()), epochs=1, parts=None)
    before = trainer.network.image_encoder[2].running_mean.clone()
    trainer.run()
    assert not torch.equal(trainer.network.image_encoder[2].running_mean, before)


def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoints(datalist: Path, tmp_path: Path) -> None:
    teacher = make_teacher()
    teacher.network.train()
    teacher = FrozenTeacher(teacher.network, Weights(), "cpu")
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    trainer = make_trainer(datalist, DistillationTargets(teacher), tmp_path / "run", epochs=1)
    trainer.run()
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.network.parameters())
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["network"]
    assert set(saved) == set(trainer.network.state_dict())


def test_targets_are_the_teachers_embeddings_in_half_precision(datalist: Path) -> None:
    teacher, batch = make_teacher(), batch_of(datalist)
    image, target, names, options = DistillationTargets(teacher)(batch, "cpu")
    with torch.no_grad():
        exact = teacher.network(batch["image"], batch["modality"], embed_only=True)["image_embedding"]
    assert torch.equal(target, exact.half().float()) and not torch.equal(target, exact)
    assert torch.equal(image, batch["image"]) and names == (batch["modality"],) and options == {"embed_only": True}


def test_mixed_precision_of_the_student_is_not_the_teachers(datalist: Path) -> None:
    teacher, batch = make_teacher(), batch_of(datalist)
    expected = teacher(batch["image"], batch["modality"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher(batch["image"], batch["modality"]), expected)


def test_chunks_give_the_same(datalist: Path) -> None:
    batch = batch_of(datalist)
    whole, parts = (DistillationTargets(make_teacher(chunk_size=size))(batch, "cpu")[1] for size in (None, 3))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)


def test_a_cache_gives_the_losses_of_no_cache(datalist: Path, tmp_path: Path) -> None:
    plain = make_trainer(datalist, DistillationTargets(make_teacher()), epochs=3)
    plain.run()
    for expected in ("fills", "is full"):
        targets = DistillationTargets(make_teacher(), tmp_path / "cache")
        trainer = make_trainer(datalist, targets, epochs=3)
        trainer.run()
        assert trainer.losses == pytest.approx(plain.losses, abs=1e-6), expected
    assert trainer.validator.state.metrics == pytest.approx(plain.validator.state.metrics, abs=1e-6)
    assert targets.teacher.network.images == 0, "the second time everything should come from the cache"


@pytest.mark.parametrize("cached", [False, True])
def test_a_resumed_distillation_is_an_undisturbed_one(datalist: Path, tmp_path: Path, cached: bool) -> None:
    def trainer(folder: str, **options: Any) -> Any:
        cache = tmp_path / "cache" if cached and folder == "halves" else None
        return make_trainer(datalist, DistillationTargets(make_teacher(), cache), tmp_path / folder, **options)

    whole = trainer("whole", epochs=4)
    whole.run()
    first = trainer("halves", epochs=2)
    first.run()
    second = trainer("halves", epochs=4, resume=True)
    second.run()
    assert first.losses + second.losses == pytest.approx(whole.losses, abs=1e-6)
    assert second.validator.state.metrics == pytest.approx(whole.validator.state.metrics, abs=1e-6)


def test_hits_and_misses_are_told(datalist: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    targets = DistillationTargets(make_teacher(), tmp_path / "cache")
    targets(batch_of(datalist), "cpu")
    assert (targets.hits, targets.misses) == (0, 4)
    targets(batch_of(datalist), "cpu")
    assert (targets.hits, targets.misses) == (4, 4)
    with caplog.at_level(logging.INFO):
        make_trainer(datalist, targets, epochs=1).run()
    assert "from the cache" in caplog.text and (targets.hits, targets.misses) == (0, 0)


def test_a_teacher_without_weights_is_refused(datalist: Path) -> None:
    teacher = FrozenTeacher(SmallNetwork(1), Weights(None), "cpu")
    with pytest.raises(ValueError, match="--teacher_ckpt FILE"):
        make_trainer(datalist, DistillationTargets(teacher), epochs=1).run()


def test_a_teacher_that_half_precision_cannot_hold_is_refused(datalist: Path) -> None:
    teacher = make_teacher()
    teacher.network.controllers["xray"][1].bias.data += 1e5
    with pytest.raises(FloatingPointError, match="not finite"):
        DistillationTargets(teacher)(batch_of(datalist), "cpu")


def test_the_key_metric_is_minus_the_mean_over_modalities() -> None:
    """Hand-made errors: xray 1 and 9, dermoscopy 2; a mean over images would be 4."""
    target = torch.zeros(3, 2, 2, 2)
    found = torch.stack([torch.full((2, 2, 2), value) for value in (1.0, 3.0, 2.0**0.5)])
    state = SimpleNamespace(
        batch={"modality": ["xray", "xray", "dermoscopy"]},
        output={"pred": {"image_embedding": found}, "label": target},
        metrics={},
    )
    engine: Any = SimpleNamespace(state=state)
    metric = EmbeddingError()
    metric.iteration_completed(engine)
    metric.completed(engine, "val_kd")
    assert state.metrics == pytest.approx({"val_kd": -3.5, "val_kd_xray": -5.0, "val_kd_dermoscopy": -2.0})
