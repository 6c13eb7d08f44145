"""Learning rate and end of a training, by iterations or by the clock."""

from __future__ import annotations

import math
from typing import Any, Literal

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from esp_medsam_monai.engines.clock import TrainingClock

__all__ = ["TrainingSchedule"]


class TrainingSchedule:
    """Handler: sets the learning rate before every iteration, and ends the training when its time is over.

    ``cosine``: linear warm-up, then a cosine down to the end of the training, which is what comes first of the last
    epoch and ``max_minutes``, so that a training of an hour cools down on any machine; MONAI's
    ``WarmupCosineSchedule`` needs the number of iterations beforehand. ``published``: as ESP-MedSAM was trained
    (``train.py`` of the official repository: ``ExponentialLR`` stepped once per epoch), constant within an epoch and
    without warm-up.

    The rate depends on epoch, iteration and clock alone, which checkpoints keep, so that a resume repeats it. The time
    limit stops after the epoch in which it passes, with validation and checkpoints as in any other.

    Args:
        optimizer: each of its groups keeps its own highest learning rate.
        warmup_iterations: iterations from 0 to the highest learning rate; for ``cosine``.
        end_factor: last learning rate relative to the highest; for ``cosine``.
        max_minutes: minutes of training, those before a resume included; None: no limit.
        schedule: ``"cosine"`` or ``"published"``.
        gamma: what each epoch multiplies the rate with; for ``published``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_iterations: int = 100,
        end_factor: float = 0.01,
        max_minutes: float | None = None,
        schedule: Literal["cosine", "published"] = "cosine",
        gamma: float = 0.98,
    ) -> None:
        if schedule not in ("cosine", "published"):
            raise ValueError(f"schedule should be 'cosine' or 'published', got {schedule!r}.")
        self.clock = TrainingClock(max_minutes)
        self.optimizer = optimizer
        self.warmup_iterations = warmup_iterations
        self.end_factor = end_factor
        self.schedule = schedule
        self.gamma = gamma
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_rate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_in_time)

    def factor(self, iteration: int, progress: float) -> float:
        """Learning rate of ``cosine`` relative to the highest.

        Args:
            iteration: iterations done before this one.
            progress: share of the training that is over, 0 to 1.
        """
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return min(1.0, (iteration + 1) / max(self.warmup_iterations, 1)) * (
            self.end_factor + (1 - self.end_factor) * cosine
        )

    def _started(self, engine: Engine) -> None:
        self.clock.start(engine.state)

    def _set_rate(self, engine: Engine) -> None:
        state: Any = engine.state
        minutes = self.clock.tick(state)
        if self.schedule == "published":
            factor = self.gamma ** (state.epoch - 1)
        else:
            done = state.iteration - 1
            progress = max(done / (state.max_epochs * state.epoch_length), minutes / self.clock.limit)
            factor = self.factor(done, progress)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor

    def _stop_in_time(self, engine: Engine) -> None:
        if self.clock.tick(engine.state) >= self.clock.limit:
            engine.terminate()
