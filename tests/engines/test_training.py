"""Training step, schedule, validation metric and dataset, with a network of one layer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, RandGaussianNoised, RandLambdad

from esp_medsam_monai.engines import (
    BalancedModalitySampler,
    ModalityDice,
    SegmentationDataset,
    TrainingSchedule,
    cached_loader,
    step_loss,
)
from tests.engines.small_training import MODALITIES, loss, make


def test_modalities_reach_the_network_and_weights_learn() -> None:
    trainer = make(None, epochs=10)
    trainer.run()
    assert trainer.network.seen[0] == list(trainer.network.seen[0]) and set(trainer.network.seen[0]) == {"xray", "mr"}
    assert step_loss(trainer.state.output) < 0.2
    assert trainer.validator.state.metrics["val_dice_xray"] == pytest.approx(1.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_concerns_the_network_and_not_the_loss(precision: str) -> None:
    dtypes = []

    def probe(features: dict[str, torch.Tensor], label: torch.Tensor, modality: list[str]) -> torch.Tensor:
        dtypes.append(features["logits"].dtype)
        assert not torch.is_autocast_enabled("cpu")
        return loss(features, label, modality)

    trainer = make(None, epochs=1, precision=precision, loss=probe)
    trainer.run()
    inside = trainer.state.output[0]["pred"]["logits"].dtype
    assert inside == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert set(dtypes) == {torch.float32}


def test_the_gradient_is_cut() -> None:
    trainer = make(None, epochs=1, max_grad_norm=1e-3, loss=lambda *args: 1e6 * loss(*args))
    trainer.run()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.network.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    trainer = make(None, loss=lambda *args: loss(*args) * math.nan)
    before = trainer.network.conv.weight.clone()
    with pytest.raises(FloatingPointError, match="the loss is nan in iteration 1"):
        trainer.run()
    assert torch.equal(trainer.network.conv.weight, before)


def test_the_rate_warms_up_and_falls_to_its_end() -> None:
    schedule = TrainingSchedule(torch.optim.SGD([torch.zeros(1)], lr=1.0), warmup_iterations=10, end_factor=0.1)
    assert schedule.factor(0, 0.0) == pytest.approx(0.1)
    assert schedule.factor(9, 0.0) == pytest.approx(1.0)
    assert schedule.factor(500, 0.5) == pytest.approx(0.55)
    assert schedule.factor(1000, 1.0) == pytest.approx(0.1)


def test_the_clock_ends_a_training_after_a_whole_epoch_with_its_validation(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=50, interval=7, max_minutes=1e-6)
    trainer.run()
    assert trainer.state.epoch == 1 and trainer.state.iteration == 2
    assert "dice" in json.loads((tmp_path / "history.json").read_text())[-1]
    assert trainer.optimizer.param_groups[0]["lr"] < 0.5 * 0.011


def test_validation_is_the_mean_over_modalities_of_targets_of_images() -> None:
    """Hand-made logits: xray right and half right, mr front wrong, back absent in both."""
    metric = ModalityDice(MODALITIES)
    label = torch.zeros(3, 1, 2, 4, dtype=torch.uint8)
    label[0, :, :, :2], label[1, :, :, :2], label[2, :, :, :2] = 1, 1, 2
    logits = torch.full((3, 2, 2, 4), -1.0)
    logits[0, 0, :, :2] = 1.0
    logits[1, 0, :, 1:3] = 1.0
    logits[1, 1] = 9.0  # a channel that xray does not have
    logits[2, 0, :, 2:] = 1.0

    state = SimpleNamespace(
        batch={"modality": ["xray", "xray", "mr"]}, output={"pred": logits, "label": label}, metrics={}
    )
    engine: Any = SimpleNamespace(state=state)
    metric.iteration_completed(engine)
    metric.completed(engine, "val_dice")
    # Images: xray 1 and 2*2/(4+4) = 0.5; mr front 0; mr back is nowhere and does not count.
    assert state.metrics == pytest.approx({"val_dice": 0.375, "val_dice_xray": 0.75, "val_dice_mr": 0.0})


@pytest.mark.parametrize(("pooled", "dice"), [(False, 0.5), ("true", 0.8)])
def test_what_is_found_where_nothing_is_counts_by_its_size_when_pixels_are_pooled(
    pooled: bool | str, dice: float
) -> None:
    """Four pixels found and there in one slice; in the other, two found where there is nothing."""
    metric = ModalityDice({"xray": ["lung"]}, pooled)
    label = torch.zeros(2, 1, 2, 4, dtype=torch.uint8)
    label[0, :, :, :2] = 1
    logits = torch.full((2, 1, 2, 4), -1.0)
    logits[0, 0, :, :2] = logits[1, 0, :, 3] = 1.0
    state = SimpleNamespace(batch={"modality": ["xray"] * 2}, output={"pred": logits, "label": label}, metrics={})
    engine: Any = SimpleNamespace(state=state)
    metric.iteration_completed(engine)
    metric.completed(engine, "val_dice")
    # One by one 1 and 0; all together 2 * 4 / (4 + 6).
    assert state.metrics == pytest.approx({"val_dice": dice, "val_dice_xray": dice})


def test_what_is_random_in_the_network_depends_on_seed_and_iteration_alone() -> None:
    biases, kept = [], []

    def drop(module: torch.nn.Module, x: tuple[torch.Tensor]) -> torch.Tensor:
        kept.append(torch.nn.functional.dropout(torch.ones(100)) > 0)
        return torch.nn.functional.dropout(x[0], 0.5)

    for start, seed in ((1, 5), (2, 5), (1, 6)):
        trainer = make(None, epochs=1, seed=seed)
        trainer.network.conv.register_forward_pre_hook(drop)
        torch.manual_seed(start)
        trainer.run()
        biases.append(trainer.network.conv.bias.detach().clone())
    assert torch.equal(biases[0], biases[1]) and not torch.equal(biases[0], biases[2])
    assert not torch.equal(kept[0], kept[1])  # of the first two iterations


def test_every_step_begins_in_training_mode_and_without_gradients() -> None:
    """Whatever state a handler left the network in."""
    modes, gradients = [], []

    def probe(*args: Any) -> torch.Tensor:
        modes.append(trainer.network.training)
        gradients.extend(parameter.grad for parameter in trainer.network.parameters())
        return loss(*args)

    trainer = make(None, epochs=2, loss=probe)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: engine.network.eval())
    trainer.run()
    assert modes == [True] * 4
    assert gradients == [None] * 8


def test_the_history_holds_the_mean_loss_of_each_epoch(tmp_path: Path) -> None:
    trainer, losses = make(tmp_path, epochs=2), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(step_loss(engine.state.output)))
    trainer.run()
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [row["loss"] for row in rows] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    assert len(set(losses)) == 4


def test_dataset_computes_the_fixed_part_once_and_the_random_part_always(tmp_path: Path) -> None:
    for name in ("image", "label"):
        nib.save(nib.Nifti1Image(np.zeros((2, 2), np.uint8), np.eye(4)), tmp_path / f"{name}.nii")
    fixed, random = [], []

    def load(path: str) -> MetaTensor:
        fixed.append(path)
        return MetaTensor(torch.zeros(1, 2, 2), meta={"modality": "mr"})

    def change(x: torch.Tensor) -> torch.Tensor:
        random.append(1)
        return x

    transform = Compose([Lambdad(("image", "label"), load), RandLambdad(("image",), change, prob=1.0)])
    entry = {"image": str(tmp_path / "image.nii"), "label": str(tmp_path / "label.nii")}
    dataset = SegmentationDataset([entry], transform=transform, modality="xray")
    assert fixed == [], "the cache should fill when it is asked for, so that training starts at once"
    items = [dataset[0], dataset[0]]
    assert len(fixed) == 2 and len(random) == 2
    assert dataset.modalities == ("xray",) and items[1]["modality"] == "mr"
    assert type(items[1]["image"]) is torch.Tensor and items[1]["domain"] == ""


@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_changes_depend_on_seed_and_epoch_and_not_on_the_worker(tmp_path: Path, num_workers: int) -> None:
    """Two epochs in a row in one loader, and the second alone in a new one, as after a resume."""
    for i in range(4):
        nib.save(nib.Nifti1Image(np.zeros((2, 2), np.uint8), np.eye(4)), tmp_path / f"{i}.nii")
    entries = [{"image": str(tmp_path / f"{i}.nii"), "label": str(tmp_path / f"{i}.nii")} for i in range(4)]

    def values(epoch: int, epochs: int, workers: int) -> list[torch.Tensor]:
        load = Lambdad(("image", "label"), lambda path: torch.zeros(1, 2, 2))
        dataset = SegmentationDataset(entries, transform=Compose([load, RandGaussianNoised("image", prob=1.0)]))
        sampler = BalancedModalitySampler(dataset, 4)
        sampler.set_epoch(epoch)
        loader = cached_loader(dataset, 2, sampler, workers)
        return [torch.cat([batch["image"] for batch in loader]) for _ in range(epochs)]

    first, second = values(0, 2, num_workers)
    assert not torch.equal(first, second)
    assert torch.equal(values(1, 1, num_workers)[0], second)
    assert torch.equal(values(1, 1, 0)[0], second)


def test_a_datalist_without_training_images_is_an_error(tmp_path: Path) -> None:
    assert len(SegmentationDataset([])) == 0
    (tmp_path / "list.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match="has nothing in 'training'"):
        SegmentationDataset([], tmp_path / "list.json")
    assert len(SegmentationDataset([], tmp_path / "list.json", "validation", required=False)) == 0
