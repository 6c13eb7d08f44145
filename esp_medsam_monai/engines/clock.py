"""The clock of a training: minutes spent, those before a resume included, and minutes left."""

from __future__ import annotations

import math
import time
from typing import Any

from esp_medsam_monai.engines.ranks import from_main_rank

__all__ = ["TrainingClock", "human_time"]


class TrainingClock:
    """Minutes of a training; while it runs, ``engine.state.clock`` is its clock and ``engine.state.minutes`` its time.

    Checkpoints keep ``state.minutes``. Speed is measured over this run, as a resume may come to another machine; until
    it has done an epoch, over the whole training. With a time limit all ranks go by the main rank's clock: they have to
    stop after the same epoch, and to learn at the same rate.

    Args:
        max_minutes: minutes after which the training ends with the epoch that runs; None: no limit.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        if max_minutes is not None and max_minutes <= 0:
            raise ValueError(f"max_minutes should be above 0, got {max_minutes}.")
        self.max_minutes = max_minutes
        self._last = time.monotonic()
        self._begun: tuple[int, float] | None = None

    @property
    def limit(self) -> float:
        """Minutes after which the training ends, infinity without a limit."""
        return math.inf if self.max_minutes is None else self.max_minutes

    def start(self, state: Any) -> None:
        """Begin to count, from the time that ``state`` knows or from nothing.

        Args:
            state: the trainer's.
        """
        self._last = time.monotonic()
        self._begun = None
        state.minutes = getattr(state, "minutes", 0.0)
        state.clock = self

    def tick(self, state: Any) -> float:
        """Bring ``state.minutes`` up to date, and return it; for each start of an iteration and end of an epoch."""
        if self._begun is None:
            self._begun = state.iteration - 1, state.minutes
        now = time.monotonic()
        state.minutes += (now - self._last) / 60
        self._last = now
        if self.max_minutes is not None:
            state.minutes = from_main_rank(state.minutes)
        return state.minutes

    def minutes_left(self, state: Any) -> float | None:
        """Minutes until the last epoch or the time limit ends the training, whichever comes first.

        Args:
            state: the trainer's, after an iteration or an epoch.

        Returns:
            an estimate that knows nothing of early stopping; None while there is nothing to go by.
        """
        if self._begun is None:
            return None
        now = state.minutes + (time.monotonic() - self._last) / 60
        begun, before = self._begun
        if state.iteration - begun < state.epoch_length:
            begun, before = 0, 0.0
        pace = (now - before) / max(state.iteration - begun, 1)
        end = state.max_epochs * state.epoch_length
        if self.max_minutes is not None and pace > 0:
            in_time = state.iteration + max(self.max_minutes - now, 0.0) / pace
            end = min(end, math.ceil(in_time / state.epoch_length) * state.epoch_length)
        return max(end - state.iteration, 0) * pace


def human_time(minutes: float) -> str:
    """A time for people: ``40 s``, ``12 min``, ``3 h 05 min``, ``2 d 04 h``.

    Args:
        minutes: 0 or more.
    """
    seconds = round(minutes * 60)
    if seconds < 60:
        return f"{seconds} s"
    whole = round(seconds / 60)
    if whole < 60:
        return f"{whole} min"
    if whole < 24 * 60:
        return f"{whole // 60} h {whole % 60:02d} min"
    hours = round(whole / 60)
    return f"{hours // 24} d {hours % 24:02d} h"
