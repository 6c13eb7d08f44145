"""A progress bar over the iterations of an epoch, with the running loss."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.utils import CommonKeys
from tqdm import tqdm

__all__ = ["EpochProgress"]


class EpochProgress:
    """Handler: a bar for every epoch; with the loss when the engine is a trainer. Silent where stderr is a file.

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
        loss = engine.state.output.get(CommonKeys.LOSS) if isinstance(engine.state.output, dict) else None
        if loss is not None and not self._bar.disable:
            value = float(loss)
            self._loss = value if self._loss is None else self._loss + self.smoothing * (value - self._loss)
            self._bar.set_postfix(loss=f"{self._loss:.3f}", refresh=False)
        self._bar.update()

    def _stop(self, _: Engine) -> None:
        self._bar.close()

    def _fail(self, _: Engine, error: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
        raise error
