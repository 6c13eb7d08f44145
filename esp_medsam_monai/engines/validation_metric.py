"""Mean Dice per modality of 2D validation images, for MONAI's ``SupervisedEvaluator``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils import CommonKeys

from esp_medsam_monai.engines.dice_table import DiceRow, dice_rows, summarize
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
    """

    def __init__(self, modalities: Mapping[str, Sequence[str]]) -> None:
        self.values = label_values(modalities)
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
        table = summarize(self.rows)
        means = {
            modality: [entry["dice"] for entry in targets.values() if entry["dice"] is not None]
            for modality, targets in table.items()
        }
        return {modality: statistics.fmean(dice) for modality, dice in means.items() if dice}

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
