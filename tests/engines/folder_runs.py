"""An analytic network, and the evaluator of a folder around it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from esp_medsam_monai.transforms import postprocessing, preprocessing
from monai.data import DataLoader

from esp_medsam_monai.engines import CaseDataset, FolderEvaluator
from esp_medsam_monai.inferers import SliceBatchInferer

MODALITIES = {"xray": ("lung",), "mr": ("hippocampus_anterior",)}


class Bright(nn.Module):
    """Analytic stand-in: the target is what is bright; ``before`` runs at every call."""

    def __init__(self, before: Callable[[int], None] = lambda call: None) -> None:
        super().__init__()
        self.modalities = MODALITIES
        self.img_size = 32
        self.before = before
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, modality: str | None = None) -> torch.Tensor:
        self.calls += 1
        self.before(self.calls)
        return (x[:, :1] - 128) * self.scale


def make_evaluator(
    folder: Path | None, out: Path | None, network: nn.Module | None = None, num_workers: int = 0, **kwargs: Any
) -> FolderEvaluator:
    """An evaluator as a bundle's config makes it."""
    dataset = CaseDataset(folder, preprocessing(modalities=MODALITIES), out)
    network = network or Bright()
    inferer = SliceBatchInferer(image_size=32, batch_size=64)
    chain = postprocessing(output_dir=out, modalities=MODALITIES)
    kwargs = {"postprocessing": chain, "preview": False} | kwargs
    loader = DataLoader(dataset, batch_size=1, num_workers=num_workers)
    return FolderEvaluator(torch.device("cpu"), loader, network, inferer, out, **kwargs)


def exit_status(made: FolderEvaluator) -> int:
    """Run to the end."""
    made.run()
    try:
        made.finish()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def report_rows(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of ``report.json`` by case."""
    return {row["case"]: row for row in json.loads((out / "report.json").read_text(encoding="utf-8"))["cases"]}
