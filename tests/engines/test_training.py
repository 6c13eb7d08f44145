"""Training step, schedule, validation metric, checkpoints and history, with a network of one layer."""

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
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.transforms import Compose, Lambdad, RandLambdad

from esp_medsam_monai.engines import (
    BalancedModalitySampler,
    LastEpochValidationHandler,
    ModalityDice,
    SegmentationDataset,
    TrainingCheckpoints,
    TrainingHistory,
    TrainingSchedule,
    TrainingStep,
    cached_loader,
    prepare_batch,
    step_loss,
)

MODALITIES = {"xray": ["lung"], "mr": ["front", "back"]}


class OneLayer(torch.nn.Module):
    """Logits of a 1x1 convolution, two channels; notes the modalities it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 2, 1)
        self.seen: list[Any] = []

    def forward(self, x: torch.Tensor, modality: Any = None, return_features: bool = False) -> Any:
        self.seen.append(modality)
        logits = self.conv(x)
        return {"logits": logits} if return_features else logits


class Items(torch.utils.data.Dataset):
    """Bright left halves; value 1 (xray) or 2 and 3 (mr)."""

    modalities = ("xray", "mr", "xray", "mr")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = torch.zeros(1, 8, 8, dtype=torch.uint8)
        label[:, :, :4] = 1 if index % 2 == 0 else 2
        return {"image": (label > 0).float().expand(3, -1, -1), "label": label, "modality": self.modalities[index]}


def loss(features: dict[str, torch.Tensor], label: torch.Tensor, modality: list[str]) -> torch.Tensor:
    assert len(modality) == len(label)
    return torch.nn.functional.binary_cross_entropy_with_logits(features["logits"][:, :1], (label > 0).float())


def make(folder: Path | None, epochs: int = 2, resume: bool = False, interval: int = 1, **options: Any) -> Any:
    """A trainer with a validator; with checkpoints and history when there is a folder."""
    network, sampler = OneLayer(), BalancedModalitySampler(Items(), 8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.5)
    schedule = TrainingSchedule(optimizer, warmup_iterations=2, max_minutes=options.pop("max_minutes", None))
    validator = SupervisedEvaluator(
        torch.device("cpu"),
        cached_loader(Items(), 2),
        network,
        prepare_batch=prepare_batch,
        key_val_metric={"val_dice": ModalityDice(MODALITIES)},
        decollate=False,
    )
    handlers: list[Any] = [schedule, LastEpochValidationHandler(interval, validator)]
    if folder is not None:
        handlers += [
            TrainingCheckpoints(folder, network, optimizer, validator, resume, options.pop("ckpt", None)),
            TrainingHistory(folder, validator, resume=resume),
        ]
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        cached_loader(Items(), 4, sampler),
        network,
        optimizer,
        options.pop("loss", loss),
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(**options),
        train_handlers=handlers,
        decollate=False,
    )
    trainer.validator = validator
    return trainer


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
    inside = trainer.state.output["pred"]["logits"].dtype
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


def test_best_is_a_bare_state_dict_and_last_goes_on(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", epochs=4)
    whole.run()
    first = make(tmp_path / "parts", epochs=4)
    first.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.terminate() if engine.state.epoch == 2 else None
    )
    first.run()
    best = torch.load(tmp_path / "parts" / "best.pt", weights_only=True)
    assert {key: type(value) for key, value in best.items()} == {
        "conv.weight": torch.Tensor,
        "conv.bias": torch.Tensor,
    }
    before = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["minutes"]
    second = make(tmp_path / "parts", epochs=4, resume=True)
    second.run()
    assert second.state.minutes > before > 0
    assert second.state.epoch == 4 and second.state.iteration == whole.state.iteration == 8
    # Same optimizer state, same learning rates, same order of images: the same weights.
    torch.testing.assert_close(second.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0)
    rows = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    assert [[row["epoch"] for row in part] for part in rows] == [[1, 2, 3, 4]] * 2
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert (tmp_path / "parts" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.rglob("*.part*")) and not list(tmp_path.rglob(".partial*"))


def test_best_keeps_the_best_and_not_the_last(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=3)
    scores, kept = iter([0.2, 0.9, 0.5]), []
    trainer.validator.add_event_handler(
        Events.COMPLETED, lambda engine: engine.state.metrics.update(val_dice=next(scores))
    )
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: kept.append(engine.network.conv.bias.detach().clone())
    )
    trainer.run()
    assert torch.equal(torch.load(tmp_path / "best.pt", weights_only=True)["conv.bias"], kept[1])
    assert torch.equal(torch.load(tmp_path / "last.pt", weights_only=True)["network"]["conv.bias"], kept[2])


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    weights = {key: torch.full_like(value, 0.25) for key, value in OneLayer().state_dict().items()}
    torch.save(weights, tmp_path / "start.pt")
    trainer = make(tmp_path / "run", epochs=1, ckpt=tmp_path / "start.pt")
    seen = []
    trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda engine: seen.append(engine.network.conv.bias.detach().clone())
    )
    trainer.run()
    assert torch.equal(seen[0], weights["conv.bias"])


def test_shipped_weights_and_former_runs_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="holds the weights of a bundle"):
        make(tmp_path / "bundle" / "models").run()
    with pytest.raises(FileNotFoundError, match="nothing to resume from"):
        make(tmp_path / "run", resume=True).run()
    make(tmp_path / "run", epochs=1).run()
    with pytest.raises(FileExistsError, match="holds a training already"):
        make(tmp_path / "run").run()


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


def test_a_datalist_without_training_images_is_an_error(tmp_path: Path) -> None:
    assert len(SegmentationDataset([])) == 0
    (tmp_path / "list.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match="has nothing in 'training'"):
        SegmentationDataset([], tmp_path / "list.json")
    assert len(SegmentationDataset([], tmp_path / "list.json", "validation", required=False)) == 0
