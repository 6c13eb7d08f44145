"""Validation of the weights that a training starts from, so that one knows whether it made them better."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from esp_medsam_monai.engines.ranks import is_main_rank
from esp_medsam_monai.io import atomic_path

__all__ = ["StartValidation"]

_LOGGER = logging.getLogger(__name__)


class StartValidation:
    """Handler: validates before the first step, and writes the key metric to ``start.json``, ``{"<metric>": value}``.

    The key is the key metric's name without ``val_``, as in ``history.json``. Nothing happens without validation
    images, or when a training is resumed. Attach it after what loads the weights.

    Args:
        validator: evaluator of the network that is trained.
        output_dir: folder of the run.
    """

    def __init__(self, validator: Evaluator, output_dir: str | os.PathLike[str]) -> None:
        self.validator = validator
        self.path = Path(output_dir) / "start.json"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._validate)

    def _validate(self, engine: Engine) -> None:
        loader: Any = self.validator.data_loader
        if not loader or engine.state.epoch:
            return
        self.validator.run()
        state: Any = self.validator.state
        name, value = state.key_metric_name, float(state.metrics[state.key_metric_name])
        if is_main_rank():
            short = name.removeprefix("val_")
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps({short: value}) + "\n", encoding="utf-8")
            _LOGGER.info("before the training: %s %.3f", short, value)
