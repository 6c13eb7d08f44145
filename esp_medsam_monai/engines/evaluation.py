"""Dice of every case of a datalist, in its own grid, as tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from esp_medsam_monai.engines.dice_table import DiceRow, dice_rows, summarize
from esp_medsam_monai.io import atomic_path
from esp_medsam_monai.modalities import label_values

__all__ = ["EvaluationTables", "prepare_case"]

_LOGGER = logging.getLogger(__name__)
_SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".dcm")


def prepare_case(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
    """``prepare_batch`` of an evaluator over whole cases: they stay on the CPU, the inferer sends slices to the device.

    Returns:
        image ``(1, C, *spatial)``, label ``(1, 1, *spatial)``, no further arguments (the image carries its modality).
    """
    return batch[CommonKeys.IMAGE], batch[CommonKeys.LABEL], (), {}


class EvaluationTables:
    """Handler of an evaluator over whole cases, one at a time: compares labels and writes three files at the end.

    - ``metrics.json``: ``{modality: {target: {"dice", "n", ...}}}``, see :func:`summarize`;
    - ``metrics_by_domain.json``: the same per set, ``{domain: {target: ...}}``, of cases whose entry names one;
    - ``cases.csv``: a row per case and target.

    Args:
        output_dir: folder for them, made when missing.
        modalities: ``{modality: [targets]}`` of the network.
    """

    def __init__(self, output_dir: str | os.PathLike[str], modalities: Mapping[str, Sequence[str]]) -> None:
        self.folder = Path(output_dir)
        self.values = label_values(modalities)
        self.rows: list[DiceRow] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._compare)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _started(self, _: Engine) -> None:
        self.rows = []

    def _compare(self, engine: Engine) -> None:
        state: Any = engine.state
        output, batch = state.output, state.batch
        image = batch[CommonKeys.IMAGE][0]
        modality = image.meta["modality"]
        path = str(image.meta["filename_or_obj"])
        case = next((path[: -len(end)] for end in _SUFFIXES if path.lower().endswith(end)), path)
        self.rows += dice_rows(
            output[CommonKeys.PRED][0].as_tensor().cpu(),
            output[CommonKeys.LABEL][0].as_tensor().cpu(),
            self.values[modality],
            case=Path(case).name,
            modality=modality,
            domain=batch.get("domain", [""])[0],
        )

    def _write(self, _: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        table = summarize(self.rows)
        self._json("metrics.json", table)
        self._json("metrics_by_domain.json", summarize([row for row in self.rows if row.domain], by="domain"))
        with (
            atomic_path(self.folder / "cases.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(DiceRow)])
            writer.writeheader()
            writer.writerows(dataclasses.asdict(row) for row in self.rows)
        for modality, targets in table.items():
            for target, entry in targets.items():
                dice = "none" if entry["dice"] is None else f"{entry['dice']:.3f}"
                _LOGGER.info("%-12s %-24s Dice %s  n %d", modality, target, dice, entry["n"])
        _LOGGER.info("tables: %s", self.folder)

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_path(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
