"""Trainings for one process or several ranks; each leaves ``<name>_<ranks>_<rank>.pt``."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from esp_medsam_monai.engines import (
    BalancedModalitySampler,
    EMAWeights,
    LastEpochValidationHandler,
    ModalityDice,
    ProcessGroup,
    TrainingCheckpoints,
    TrainingSchedule,
    TrainingStep,
    cached_loader,
    distributed,
    prepare_batch,
    step_loss,
)
from esp_medsam_monai.engines.ranks import gather_objects, rank, world_size
from esp_medsam_monai.losses import ESPMedSAMLoss
from esp_medsam_monai.networks import ESPMedSAM

MODALITIES = {"xray": ["lung"], "mr": ["front", "back"]}
GLOBAL_BATCH = 4
SIDE = 64


class Squares(torch.utils.data.Dataset):
    """Bright squares of the target's value under noise, xray and mr in turn; mr has a second, smaller one."""

    def __init__(self, length: int = 16, side: int = SIDE) -> None:
        self.modalities = tuple("xray" if i % 2 == 0 else "mr" for i in range(length))
        self.side = side

    def __len__(self) -> int:
        return len(self.modalities)

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(int(index))
        label = torch.zeros(1, self.side, self.side, dtype=torch.uint8)
        low, step = int(torch.randint(self.side // 4, (1,), generator=generator)), self.side // 2
        label[:, low : low + step, low : low + step] = 1 if index % 2 == 0 else 2
        if index % 2:
            label[:, low : low + step // 2, low : low + step] = 3
        noise = torch.randn(3, self.side, self.side, generator=generator) / 4
        return {"image": label.float() + noise, "label": label, "modality": self.modalities[index]}


class Halves(torch.utils.data.Sampler):
    """All xray images in the first half of every global batch: with two ranks, each sees one modality."""

    def __init__(self, dataset: Squares) -> None:
        xray, mr = (range(start, len(dataset), 2) for start in (0, 1))
        half, own = GLOBAL_BATCH // 2, GLOBAL_BATCH // world_size()
        self.order: list[int] = []
        for start in range(0, len(xray), half):
            batch = [*xray[start : start + half], *mr[start : start + half]]
            self.order += batch[rank() * own : (rank() + 1) * own]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class SmallNet(nn.Module):
    """Two convolutions with a batch norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)
        )

    def forward(self, x: torch.Tensor, modality: Any = None, return_features: bool = False) -> Any:
        logits = self.layers(x)
        return {"logits": logits} if return_features else logits


class Clocks:
    """Handler: the second rank's clock passes the limit in the first epoch, the main rank's in the second."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED(once=2 - rank()), self._advance)

    @staticmethod
    def _advance(engine: Engine) -> None:
        engine.state.minutes += 100


def freeze_batch_norms(network: nn.Module) -> None:
    """Keep batch norms in eval mode, whoever calls ``train()``."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]


def train(
    out: Path,
    name: str,
    network: nn.Module,
    sampler: Any = None,
    side: int = SIDE,
    epochs: int = 2,
    validation: int = 0,
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    lr: float = 0.05,
    accumulation: int = 1,
    resume: str = "",
    patch_weight: float = 0.5,
    ema_decay: float | None = None,
    max_minutes: float | None = None,
) -> None:
    """Train, then save losses (of all ranks together), weights and metrics."""
    group = ProcessGroup()
    dataset = Squares(side=side)
    own = GLOBAL_BATCH // world_size()
    sampler = BalancedModalitySampler(dataset, 10, batch_size=own) if sampler is None else sampler(dataset)
    step = optimizer(network.parameters(), lr=lr)  # type: ignore[call-arg]
    validator = SupervisedEvaluator(
        torch.device("cpu"),
        cached_loader(Squares(validation, side), 2),
        network,
        prepare_batch=prepare_batch,
        key_val_metric={"val_dice": ModalityDice(MODALITIES)},
        decollate=False,
    )
    ema = EMAWeights(network, step, ema_decay, validator)
    handlers: list[Any] = [] if max_minutes is None else [Clocks(), TrainingSchedule(step, max_minutes=max_minutes)]
    handlers += [ema, LastEpochValidationHandler(1, validator)] if validation else []
    if validation:
        folder = out / f"{resume or name}_{world_size()}"
        handlers.append(TrainingCheckpoints(folder, network, step, validator, bool(resume)))
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        cached_loader(dataset, own, sampler),
        distributed(network, "cpu"),
        step,
        ESPMedSAMLoss(MODALITIES, patch_weight=patch_weight),
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(accumulation=accumulation),
        train_handlers=handlers,
        decollate=False,
    )
    losses: list[float] = []

    def note(engine: Engine) -> None:
        losses.append(statistics.fmean(gather_objects(step_loss(engine.state.output))))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    result = {"losses": losses, "network": network.state_dict(), "metrics": dict(validator.state.metrics)}
    result |= {"average": ema.weights(), "epoch": trainer.state.epoch}
    torch.save(result, out / f"{name}_{world_size()}_{rank()}.pt")
    group.end()


def esp_medsam() -> nn.Module:
    """The network with batch norms that stay as they are."""
    torch.manual_seed(0)
    network = ESPMedSAM(MODALITIES, img_size=SIDE)
    freeze_batch_norms(network)
    return network


def balanced(out: Path) -> None:
    """The last global batch of an epoch is a small one: 10 images in batches of 4."""
    train(out, "balanced", esp_medsam())


def accumulated(out: Path) -> None:
    train(out, "accumulated", esp_medsam(), epochs=1, accumulation=2)


def without_patch_loss(out: Path) -> None:
    """The network gives features of which the loss makes no use."""
    train(out, "without_patch_loss", esp_medsam(), epochs=1, patch_weight=0)


def disjoint(out: Path) -> None:
    train(out, "disjoint", esp_medsam(), Halves, epochs=1)


def learning_batch_norm(out: Path) -> None:
    torch.manual_seed(0)
    train(
        out, "learning_batch_norm", SmallNet(), side=16, epochs=20, validation=5, optimizer=torch.optim.AdamW, lr=0.02
    )


def one_validation_image(out: Path) -> None:
    """Fewer than ranks."""
    torch.manual_seed(0)
    train(out, "one_validation_image", SmallNet(), side=16, epochs=1, validation=1)


def by_the_clock(out: Path) -> None:
    """Ends with the epoch in which the main rank's clock passes the limit; validates an average of the weights."""
    torch.manual_seed(0)
    train(out, "by_the_clock", SmallNet(), side=16, epochs=4, validation=1, ema_decay=0.9, max_minutes=50)


def undisturbed(out: Path) -> None:
    torch.manual_seed(0)
    train(out, "undisturbed", SmallNet(), side=16, epochs=4, validation=5)


def first_half(out: Path) -> None:
    torch.manual_seed(0)
    train(out, "first_half", SmallNet(), side=16, validation=5)


def second_half(out: Path) -> None:
    """Goes on after ``first_half``."""
    torch.manual_seed(1)
    train(out, "second_half", SmallNet(), side=16, epochs=4, validation=5, resume="first_half")
