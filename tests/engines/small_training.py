"""A training of a network with one layer on made-up items, for tests of what happens around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from esp_medsam_monai.engines import (
    BalancedModalitySampler,
    EarlyStop,
    EMAWeights,
    LastEpochValidationHandler,
    ModalityDice,
    TrainingCheckpoints,
    TrainingHistory,
    TrainingSchedule,
    TrainingStep,
    cached_loader,
    prepare_batch,
)

MODALITIES = {"xray": ["lung"], "mr": ["front", "back"]}
STEP_OPTIONS = ("precision", "max_grad_norm", "seed", "accumulation", "parts", "forward_options")


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
    """Bright left halves under noise, so that no two are alike; value 1 (xray) or 2 (mr)."""

    modalities = ("xray", "mr", "xray", "mr")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = torch.zeros(1, 8, 8, dtype=torch.uint8)
        label[:, :, :4] = 1 if index % 2 == 0 else 2
        noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index)) / 10
        return {"image": (label > 0) + noise, "label": label, "modality": self.modalities[index]}


def loss(features: dict[str, torch.Tensor], label: torch.Tensor, modality: list[str]) -> torch.Tensor:
    assert len(modality) == len(label)
    return torch.nn.functional.binary_cross_entropy_with_logits(features["logits"][:, :1], (label > 0).float())


def make(folder: Path | None, epochs: int = 2, resume: bool = False, interval: int = 1, **options: Any) -> Any:
    """A trainer with a validator; with checkpoints and history when there is a folder."""
    network, sampler = options.pop("network", None) or OneLayer(), BalancedModalitySampler(Items(), 8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.5)
    schedule = TrainingSchedule(
        optimizer,
        warmup_iterations=2,
        max_minutes=options.pop("max_minutes", None),
        schedule=options.pop("schedule", "cosine"),
    )
    validator = SupervisedEvaluator(
        torch.device("cpu"),
        cached_loader(Items(), 2),
        network,
        prepare_batch=prepare_batch,
        key_val_metric={"val_dice": ModalityDice(MODALITIES)},
        decollate=False,
    )
    ema = EMAWeights(network, optimizer, options.pop("ema_decay", None), validator)
    early_stop = EarlyStop(validator, options.pop("early_stop", None))
    step = TrainingStep(**{name: options.pop(name) for name in STEP_OPTIONS if name in options})
    handlers: list[Any] = [schedule, ema, LastEpochValidationHandler(interval, validator)]
    if folder is not None:
        also = {"early_stop": early_stop, "scaler": step, **options.pop("also", {})}
        start = {name: options.pop(name, None) for name in ("ckpt", "start")}
        handlers += [
            TrainingCheckpoints(folder, network, optimizer, validator, resume, **start, ema=ema, also=also),
            early_stop,
            TrainingHistory(folder, validator, resume=resume),
        ]
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        cached_loader(Items(), options.pop("batch_size", 4), sampler),
        network,
        optimizer,
        options.pop("loss", loss),
        prepare_batch=prepare_batch,
        iteration_update=step,
        train_handlers=handlers,
        decollate=False,
    )
    assert not options, f"not used: {options}"
    trainer.validator, trainer.ema = validator, ema
    return trainer
