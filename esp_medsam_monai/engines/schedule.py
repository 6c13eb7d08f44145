"""Learning rate and end of a training, by iterations or by the clock."""

from __future__ import annotations

import math
import time
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

__all__ = ["TrainingSchedule"]


class TrainingSchedule:
    """Handler: linear warm-up, then a cosine down to the end of the training, set before every iteration.

    The end is what comes first of the last epoch and ``max_minutes``, so that a training of an hour cools down on any
    machine; MONAI's ``WarmupCosineSchedule`` needs the number of iterations beforehand. The time limit stops after the
    epoch in which it passes, with validation and checkpoints as in any other. The clock is ``engine.state.minutes``,
    which checkpoints keep beside epoch and iteration.

    Args:
        optimizer: each of its groups keeps its own highest learning rate.
        warmup_iterations: iterations from 0 to the highest learning rate.
        end_factor: last learning rate relative to the highest.
        max_minutes: minutes of training, those before a resume included; None: no limit.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_iterations: int = 100,
        end_factor: float = 0.01,
        max_minutes: float | None = None,
    ) -> None:
        if max_minutes is not None and max_minutes <= 0:
            raise ValueError(f"max_minutes should be above 0, got {max_minutes}.")
        self.optimizer = optimizer
        self.warmup_iterations = warmup_iterations
        self.end_factor = end_factor
        self.max_minutes = max_minutes
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]
        self._last = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_rate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_in_time)

    def factor(self, iteration: int, progress: float) -> float:
        """Learning rate relative to the highest.

        Args:
            iteration: iterations done before this one.
            progress: share of the training that is over, 0 to 1.
        """
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return min(1.0, (iteration + 1) / max(self.warmup_iterations, 1)) * (
            self.end_factor + (1 - self.end_factor) * cosine
        )

    def _started(self, engine: Engine) -> None:
        self._last = time.monotonic()
        state: Any = engine.state
        state.minutes = getattr(state, "minutes", 0.0)

    def _minutes(self, state: Any) -> float:
        now = time.monotonic()
        state.minutes += (now - self._last) / 60
        self._last = now
        return state.minutes

    def _set_rate(self, engine: Engine) -> None:
        state: Any = engine.state
        done = state.iteration - 1
        progress = done / (state.max_epochs * state.epoch_length)
        minutes = self._minutes(state)
        if self.max_minutes is not None:
            progress = max(progress, minutes / self.max_minutes)
        factor = self.factor(done, progress)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor

    def _stop_in_time(self, engine: Engine) -> None:
        if self._minutes(engine.state) >= (self.max_minutes or math.inf):
            engine.terminate()
