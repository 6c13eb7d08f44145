"""The end of a training that no longer gets better."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

__all__ = ["EarlyStop"]

_LOGGER = logging.getLogger(__name__)


class EarlyStop:
    """Handler: ends a training after ``patience`` epochs without a better key metric.

    Epochs are counted and not validations, so that the option means the same with any interval of validation; the end
    comes with a validation. MONAI's ``EarlyStopHandler`` counts calls, wants the trainer before there is one and keeps
    no state. Attach it after the handlers that load and validate, and give it to ``TrainingCheckpoints`` (``also``).

    Args:
        validator: evaluator whose key metric counts (larger is better).
        patience: epochs to wait for a better value; None: for ever.

    Raises:
        ValueError: when ``patience`` is below 1.
    """

    def __init__(self, validator: Evaluator, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"early_stop should be 1 epoch or more, or null; got {patience}.")
        self.validator = validator
        self.patience = patience
        self.best: float | None = None
        self.epoch = 0
        self._is_validated = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.patience is None:
            return
        self.validator.add_event_handler(Events.COMPLETED, self._validated)
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)

    def state_dict(self) -> dict[str, Any]:
        """Best value and its epoch; empty without patience."""
        return {} if self.patience is None else {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting.

        Args:
            state: from :meth:`state_dict`.
        """
        self.best, self.epoch = state["best"], state["epoch"]

    def _validated(self, _: Engine) -> None:
        self._is_validated = True

    def _started(self, engine: Engine) -> None:
        """A training that this has ended needs no further epoch when it is resumed."""
        if self.best is not None and self._waited(engine):
            self._stop(engine)

    def _epoch(self, engine: Engine) -> None:
        if not self._is_validated:
            return
        self._is_validated = False
        state: Any = self.validator.state
        score = float(state.metrics[state.key_metric_name])
        if self.best is None or score > self.best:
            self.best, self.epoch = score, engine.state.epoch
        elif self._waited(engine):
            self._stop(engine)

    def _waited(self, engine: Engine) -> bool:
        return self.patience is not None and engine.state.epoch - self.epoch >= self.patience

    def _stop(self, engine: Engine) -> None:
        state: Any = self.validator.state
        _LOGGER.info(
            "stopping after epoch %d: %s has not got better than %.4f of epoch %d. A larger --early_stop goes on, with "
            "--resume true.",
            engine.state.epoch,
            state.key_metric_name,
            self.best,
            self.epoch,
        )
        engine.terminate()
