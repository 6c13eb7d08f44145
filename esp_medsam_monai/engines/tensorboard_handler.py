"""Curves for TensorBoard."""

from __future__ import annotations

import os
from typing import Any

from ignite.engine import Engine
from monai.engines import Trainer
from monai.handlers import TensorBoardStatsHandler

from esp_medsam_monai.engines.ranks import is_main_rank
from esp_medsam_monai.engines.training_scalars import training_scalars

__all__ = ["TensorBoardCurves"]


class TensorBoardCurves(TensorBoardStatsHandler):
    """MONAI's ``TensorBoardStatsHandler``, which writes the loss with its parts and the learning rate of each step.

    Of an evaluator it writes the metrics, with the trainer's epoch. Of several ranks only the main one writes.

    Args:
        log_dir: folder for the event files.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self._writes = is_main_rank()
        if self._writes:
            super().__init__(log_dir=str(log_dir), iteration_event_writer=_write_step)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        if not self._writes:
            return
        self.iteration_log = isinstance(engine, Trainer)
        super().attach(engine)


def _write_step(engine: Engine, writer: Any) -> None:
    for name, value in training_scalars(engine).items():
        writer.add_scalar(name, value, engine.state.iteration)
