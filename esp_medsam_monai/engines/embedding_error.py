"""How far a student's embeddings are from its teacher's on validation images, for MONAI's ``SupervisedEvaluator``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils import CommonKeys

from esp_medsam_monai.engines.ranks import gather_objects
from esp_medsam_monai.losses import embedding_errors

__all__ = ["EmbeddingError"]


class EmbeddingError(Metric):
    """Minus the mean over modalities of the mean-squared error of embeddings: larger is better, as for any key metric.

    Attached as ``name``, it writes ``name`` (a modality with many images counts as much as one with few) and
    ``name_<modality>`` into the evaluator's metrics; with several ranks over the images of all.
    """

    def __init__(self) -> None:
        self.errors: list[tuple[str, float]] = []
        super().__init__()

    def reset(self) -> None:
        """Forget all images."""
        self.errors = []

    def iteration_completed(self, engine: Engine) -> None:
        """Add the batch that the evaluator has just embedded."""
        state: Any = engine.state
        names: Sequence[str] = state.batch["modality"]
        errors = embedding_errors(state.output[CommonKeys.PRED], state.output[CommonKeys.LABEL]).tolist()
        self.errors += zip(names, errors, strict=True)

    def update(self, output: object) -> None:
        """Not used: a batch has the modality beside its tensors, see :meth:`iteration_completed`."""
        raise NotImplementedError

    def per_modality(self) -> dict[str, float]:
        """Minus the mean error of every modality that was seen, by this rank or another."""
        by_name: dict[str, list[float]] = {}
        for errors in gather_objects(self.errors):
            for name, error in errors:
                by_name.setdefault(name, []).append(error)
        return {name: -statistics.fmean(errors) for name, errors in by_name.items()}

    def compute(self) -> float:
        """Mean over modalities; minus infinity when there was nothing to compare."""
        means = self.per_modality()
        return statistics.fmean(means.values()) if means else float("-inf")

    def completed(self, engine: Engine, name: str) -> None:
        """Write the results into the evaluator's metrics."""
        means = self.per_modality()
        engine.state.metrics[name] = statistics.fmean(means.values()) if means else float("-inf")
        for modality, value in means.items():
            engine.state.metrics[f"{name}_{modality}"] = value
