"""A progress bar over the iterations of an epoch, with the running loss and the time left of the training."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Trainer
from tqdm import tqdm

from esp_medsam_monai.engines.clock import human_time
from esp_medsam_monai.engines.ranks import is_main_rank
from esp_medsam_monai.engines.training import step_loss

__all__ = ["EpochProgress"]


class EpochProgress:
    """Handler: a bar for every epoch; of a trainer with the loss, and with the time left where a schedule runs a clock.

    Silent where stderr is a file, and on all ranks but the main one.

    ignite's ``ProgressBar`` cannot be given its output in a literal list of handlers, as MONAI attaches them without
    arguments.

    Args:
        description: text before the bar.
        smoothing: weight of the newest loss in the running mean, 0 to 1.
    """

    def __init__(self, description: str = "epoch", smoothing: float = 0.1) -> None:
        self.description = description
        self.smoothing = smoothing
        self._bar: Any = None
        self._loss: float | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        if not is_main_rank():
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: Engine) -> None:
        name = self.description
        if isinstance(engine, Trainer):
            name += f" {engine.state.epoch}/{engine.state.max_epochs}"
        self._bar = tqdm(total=engine.state.epoch_length, desc=name, unit="batch", leave=False, disable=None)

    def _step(self, engine: Engine) -> None:
        if not self._bar.disable:
            self._bar.set_postfix(self._postfix(engine), refresh=False)
        self._bar.update()

    def _postfix(self, engine: Engine) -> dict[str, str]:
        state: Any = engine.state
        texts: dict[str, str] = {}
        if isinstance(engine, Trainer):
            value = step_loss(state.output)
            self._loss = value if self._loss is None else self._loss + self.smoothing * (value - self._loss)
            texts["loss"] = f"{self._loss:.3f}"
        clock = getattr(state, "clock", None)
        if clock is not None and (left := clock.minutes_left(state)) is not None:
            texts["left"] = human_time(left)
        return texts

    def _stop(self, _: Engine) -> None:
        self._bar.close()

    def _fail(self, _: Engine, error: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
        raise error
