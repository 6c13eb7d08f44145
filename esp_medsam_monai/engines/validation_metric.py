"""Dice per modality of 2D validation images, for MONAI's ``SupervisedEvaluator``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils import CommonKeys
from monai.utils.misc import str2bool

from esp_medsam_monai.engines.dice_table import DiceRow, by_target, dice_rows, dice_summary
from esp_medsam_monai.engines.ranks import gather_objects
from esp_medsam_monai.inferers.decision import decide
from esp_medsam_monai.losses import labelled_targets
from esp_medsam_monai.modalities import label_values

__all__ = ["ModalityDice"]


class ModalityDice(Metric):
    """Mean over modalities of the mean over targets of the mean Dice over images.

    Attached as ``name``, it writes ``name`` (the mean of all, which chooses the best weights: a modality with many
    images counts as much as one with few) and ``name_<modality>`` into the evaluator's metrics. In a distributed run
    these are of the images of all ranks, and the same on each.

    Args:
        modalities: ``{modality: [targets]}`` of the network.
        pooled: of a target, take the Dice of the pixels of all images together instead of the mean over images. Where
            the images are slices of volumes it is near that of the volumes: what is found in a slice without the target
            counts by its size. A word will do.
    """

    def __init__(self, modalities: Mapping[str, Sequence[str]], pooled: bool | str = False) -> None:
        self.values = label_values(modalities)
        self.pooled = str2bool(pooled)
        self.rows: list[DiceRow] = []
        super().__init__()

    def reset(self) -> None:
        """Forget all images."""
        self.rows = []

    def iteration_completed(self, engine: Engine) -> None:
        """Add the batch that the evaluator has just segmented."""
        state: Any = engine.state
        names: Sequence[str] = state.batch["modality"]
        logits, labels = state.output[CommonKeys.PRED], state.output[CommonKeys.LABEL]
        spoken = labelled_targets(labels)
        for i, name in enumerate(names):
            values = self.values[name]
            found = decide(logits[i : i + 1, : len(values)].float(), list(values.values()))
            said = spoken[i]
            wanted = {target: value for target, value in values.items() if said is None or target in said}
            self.rows += dice_rows(found[0], labels[i], wanted, case=str(len(self.rows)), modality=name)

    def update(self, output: object) -> None:
        """Not used: a batch has the modality beside its tensors, see :meth:`iteration_completed`."""
        raise NotImplementedError

    def per_modality(self) -> dict[str, float]:
        """Mean over its targets for every modality that was seen."""
        means = {
            modality: [dice for rows in targets.values() if (dice := self._dice(rows)) is not None]
            for modality, targets in by_target(self.rows).items()
        }
        return {modality: statistics.fmean(dice) for modality, dice in means.items() if dice}

    def _dice(self, rows: Sequence[DiceRow]) -> float | None:
        """Dice of one target."""
        if not self.pooled:
            return dice_summary(rows)["dice"]
        sizes = [row.reference + row.predicted for row in rows]
        overlaps = [(row.dice or 0.0) * size for row, size in zip(rows, sizes, strict=True)]
        return sum(overlaps) / sum(sizes) if any(sizes) else None

    def compute(self) -> float:
        """Mean over modalities, 0 when there was nothing to compare."""
        means = self.per_modality()
        return statistics.fmean(means.values()) if means else 0.0

    def completed(self, engine: Engine, name: str) -> None:
        """Write the results into the evaluator's metrics."""
        self.rows = [row for rows in gather_objects(self.rows) for row in rows]
        engine.state.metrics[name] = self.compute()
        for modality, value in self.per_modality().items():
            engine.state.metrics[f"{name}_{modality}"] = value
