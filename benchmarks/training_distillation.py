"""What the cache of a teacher's embeddings gains: steps of a distillation with the teacher running and without."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import interleave, median_ratio
from monai.engines import SupervisedTrainer
from small_sam import network_def
from training_pictures import MODALITIES

from esp_medsam_monai.engines import DistillationTargets, FrozenTeacher, TrainableParts, TrainingStep
from esp_medsam_monai.losses import EmbeddingLoss
from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher

SMALL_TEACHER = network_def(192, 6, 3)["encoder"]
"""The size of teacher that ``small_sam.py`` trains."""


class RandomWeights:
    """Stands in for a teacher's checkpoint: the network keeps the weights that it has."""

    sources: Sequence[Mapping[str, Any]] = ({"file": "random"},)

    def load(self) -> None:
        """Nothing is loaded."""


def distillation_speed(args: argparse.Namespace, encoder: str | dict[str, Any], cache_dir: Path) -> dict[str, Any]:
    """Seconds of a distillation's epoch, with the teacher running and with the cache filled."""
    device = torch.device(args.device)
    modalities = {name: ["target"] for name in MODALITIES}
    torch.manual_seed(0)
    teacher = FrozenTeacher(SAMTeacher(modalities, args.side, encoder), RandomWeights(), device)
    network = ESPMedSAM(modalities, args.side).to(device)
    parts = TrainableParts(network, ["controllers"])
    optimizer = torch.optim.AdamW(parts.parameters(), fused=True)
    names = [MODALITIES[number % len(MODALITIES)] for number in range(args.batch)]
    batches = [
        {
            "image": torch.randn(args.batch, 3, args.side, args.side),
            "modality": names,
            "key": [f"{number:02d}{row:02d}" for row in range(args.batch)],
        }
        for number in range(args.batches)
    ]

    def epoch(targets: DistillationTargets) -> None:
        step: Any = TrainingStep(precision=args.precision, parts=parts)
        SupervisedTrainer(
            device,
            1,
            batches,
            network,
            optimizer,
            EmbeddingLoss(),
            prepare_batch=targets,
            iteration_update=step,
            decollate=False,
        ).run()

    both = {"teacher": DistillationTargets(teacher), "cache": DistillationTargets(teacher, cache_dir)}
    actions = {name: partial(epoch, targets) for name, targets in both.items()}  # the warm-up fills the cache
    times = interleave(actions, args.runs, device)
    images = args.batch * args.batches
    rows = {n: {**runs.as_json(), "images_per_s": round(images / runs.median, 3)} for n, runs in times.items()}
    return {"encoder": encoder, **rows, "cache_gain": median_ratio(times["teacher"], times["cache"])}
