"""A distillation between networks of a few layers on made-up pictures, for tests of what happens around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from esp_medsam_monai.transforms import distillation_transforms
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from PIL import Image

from esp_medsam_monai.engines import (
    BalancedModalitySampler,
    DistillationDataset,
    DistillationTargets,
    EmbeddingError,
    FrozenTeacher,
    LastEpochValidationHandler,
    TrainableParts,
    TrainingCheckpoints,
    TrainingStep,
    cached_loader,
)
from esp_medsam_monai.losses import EmbeddingLoss

MODALITIES = {"dermoscopy": ["lesion"], "xray": ["lung"]}
SIDE = 32
CHANNELS = 4


class SmallNetwork(torch.nn.Module):
    """A trunk with a batch norm, and a controller for each modality; embeds cells of 16 x 16 pixels."""

    def __init__(self, seed: int, modalities: Any = MODALITIES) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.image_encoder = torch.nn.Sequential(
            torch.nn.AvgPool2d(16), torch.nn.Conv2d(3, CHANNELS, 1), torch.nn.BatchNorm2d(CHANNELS)
        )
        self.controllers = torch.nn.ModuleDict(
            {name: torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Conv2d(3, CHANNELS, 1)) for name in modalities}
        )
        self.img_size = SIDE
        self.images = 0

    def forward(self, x: torch.Tensor, modality: Any, return_features: bool = False, embed_only: bool = False) -> Any:
        assert embed_only
        self.images += len(x)
        added = [self.controllers[name](x[i : i + 1]) for i, name in enumerate(modality)]
        return {"image_embedding": self.image_encoder(x) + torch.cat(added)}


class Weights:
    """Stands in for ``StartingWeights``: the network keeps what it has."""

    def __init__(self, file: str | None = "some.pt") -> None:
        self.sources = [{"file": file}]
        self.loads = 0

    def load(self) -> None:
        self.loads += 1


def make_teacher(seed: int = 100, **options: Any) -> FrozenTeacher:
    """A teacher with random weights."""
    return FrozenTeacher(SmallNetwork(seed), Weights(), "cpu", **options)


def save_pictures(folder: Path, number: int = 4) -> Path:
    """A datalist without labels: noisy pictures, every other one a radiograph."""
    entries = []
    for i in range(number):
        modality = list(MODALITIES)[i % 2]
        shape = (40, 48, 3) if modality == "dermoscopy" else (40, 48)
        pixels = np.random.default_rng(i).integers(0, 255, size=(5, 6, *shape[2:])).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        entries.append({"image": f"{i}.png", "modality": modality})
    path = folder / "list.json"
    path.write_text(json.dumps({"training": entries, "validation": entries[:2]}))
    return path


def make_dataset(datalist: Path, section: str = "training", **options: Any) -> DistillationDataset:
    """The pictures in their views."""
    return DistillationDataset(
        datalist=datalist, section=section, transform=distillation_transforms(MODALITIES, SIDE), **options
    )


def make_trainer(
    datalist: Path,
    targets: DistillationTargets,
    folder: Path | None = None,
    epochs: int = 2,
    resume: bool = False,
    parts: Any = ("controllers",),
) -> Any:
    """A trainer with a validator; it notes the loss of every step in ``trainer.losses``."""
    network = SmallNetwork(0)
    trainable = TrainableParts(network, parts)
    optimizer = torch.optim.Adam(trainable.parameters(), lr=0.02)
    losses: list[float] = []

    class Noted(EmbeddingLoss):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            result = super().forward(*args, **kwargs)
            losses.append(float(result[0].detach()))
            return result

    validator = SupervisedEvaluator(
        torch.device("cpu"),
        cached_loader(make_dataset(datalist, "validation"), 2),
        network,
        prepare_batch=targets,
        key_val_metric={"val_kd": EmbeddingError()},
        decollate=False,
    )
    handlers: list[Any] = [LastEpochValidationHandler(1, validator), targets]
    if folder is not None:
        handlers.append(TrainingCheckpoints(folder, network, optimizer, validator, resume))
    dataset = make_dataset(datalist)
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        cached_loader(dataset, 4, BalancedModalitySampler(dataset, 8)),
        network,
        optimizer,
        Noted(),
        prepare_batch=targets,
        iteration_update=TrainingStep(max_grad_norm=None, parts=trainable),
        train_handlers=handlers,
        decollate=False,
    )
    trainer.validator, trainer.losses = validator, losses
    return trainer
