"""Loss and key metric over the epochs: a JSON file, a picture and a line in the log."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.utils.misc import str2bool

from esp_medsam_monai.engines.clock import human_time
from esp_medsam_monai.engines.history_curves import draw_history
from esp_medsam_monai.engines.ranks import is_main_rank
from esp_medsam_monai.engines.training import step_loss
from esp_medsam_monai.engines.training_scalars import learning_rate, loss_parts
from esp_medsam_monai.io import atomic_path

__all__ = ["TrainingHistory"]

_LOGGER = logging.getLogger(__name__)
_WORDS = {"dice": "Dice", "kd": "minus the distillation error"}


class TrainingHistory:
    """Handler: ``history.json`` and ``curve.png``, rewritten after every epoch, and one log line an epoch.

    A row is ``{"epoch", "loss", "loss_parts" (where the loss has some), "learning_rate", "seconds", "<metric>"}``. The
    metric's entry, of epochs with a validation, is ``{"mean": value, "<modality>": value}`` under the key metric's name
    without ``val_`` (``dice``). The log line says how much time is left where a schedule runs a clock.

    Of several ranks the main one writes; its loss is that of its own images.

    Args:
        output_dir: folder of the run.
        validator: evaluator whose metrics are recorded.
        metric: name of the metric; ``<metric>_<modality>`` are recorded with it; None: the validator's key metric.
        resume: keep the epochs that training goes on from, and drop those that it does again.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        validator: Evaluator | None = None,
        metric: str | None = None,
        resume: bool | str = False,
    ) -> None:
        self.folder = Path(output_dir)
        self.validator = validator
        key_metric: Any = getattr(getattr(validator, "state", None), "key_metric_name", None)
        self.metric: str = metric or key_metric or "val_dice"
        self.resume = str2bool(resume)
        self.epochs: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._parts: dict[str, list[float]] = defaultdict(list)
        self._scores: dict[str, float] = {}

    @property
    def path(self) -> Path:
        """``history.json`` of the run."""
        return self.folder / "history.json"

    @property
    def name(self) -> str:
        """The metric's key in a row."""
        return self.metric.removeprefix("val_")

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the handlers that validate and load."""
        if not is_main_rank():
            return
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._validation)

    def _started(self, engine: Engine) -> None:
        if self.resume:
            self.epochs = [row for row in _read(self.path) if row["epoch"] <= engine.state.epoch]
            self._write()

    def _iteration(self, engine: Engine) -> None:
        state: Any = engine.state
        self._losses.append(step_loss(state.output))
        for name, value in loss_parts(state.output).items():
            self._parts[name].append(value)

    def _validation(self, engine: Engine) -> None:
        self._scores = {
            name.removeprefix(self.metric).removeprefix("_") or "mean": float(value)
            for name, value in engine.state.metrics.items()
            if name == self.metric or name.startswith(f"{self.metric}_")
        }

    def _epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        row: dict[str, Any] = {"epoch": state.epoch, "loss": _mean(self._losses)}
        if self._parts:
            row["loss_parts"] = {name: _mean(values) for name, values in self._parts.items()}
        row["learning_rate"] = learning_rate(engine)
        row["seconds"] = round(state.times[Events.EPOCH_COMPLETED.name], 1)
        if self._scores:
            row[self.name] = self._scores
        self._losses, self._scores = [], {}
        self._parts.clear()
        self.epochs.append(row)
        self._write()
        _LOGGER.info("%s", self._line(engine, row))

    def _line(self, engine: Engine, row: dict[str, Any]) -> str:
        state: Any = engine.state
        words = [f"epoch {row['epoch']}/{state.max_epochs}", f"loss {row['loss']:.4f}", f"{row['seconds']:.0f} s"]
        if scores := row.get(self.name):
            each = ", ".join(f"{name} {_number(scores[name])}" for name in sorted(scores) if name != "mean")
            name = _WORDS.get(self.name, self.name)
            words.append(f"{name} {_number(scores['mean'])}" + (f" ({each})" if each else ""))
        clock = getattr(state, "clock", None)
        left = None if clock is None or engine.should_terminate else clock.minutes_left(state)
        if left:
            words.append(f"{human_time(left)} left")
        return "  ".join(words)

    def _write(self) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.epochs, indent=1) + "\n", encoding="utf-8")
        draw_history(self.epochs, self.folder / "curve.png", self.name)


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def _number(value: float) -> str:
    """Three digits after the point for shares, three that count for the tiny numbers of errors."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows of a history; none, with a warning, when somebody broke or removed the file, which costs no training."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [dict(row) for row in rows if row["epoch"] > 0]
    except (OSError, ValueError, TypeError, KeyError) as error:
        _LOGGER.warning("%s cannot be read (%s); the history begins anew.", path, type(error).__name__)
        return []
