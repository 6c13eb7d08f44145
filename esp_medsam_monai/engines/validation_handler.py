"""Validation every N epochs, and always after the last one."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler

from esp_medsam_monai.engines.ranks import share_running_statistics

__all__ = ["LastEpochValidationHandler"]


class LastEpochValidationHandler(ValidationHandler):
    """MONAI's ``ValidationHandler``, which also validates the epoch that a training ends with.

    The last weights of a schedule that cools down are often the best, and an interval, or a time limit, may miss them.
    Attach it after what stops the training. Arguments as for ``ValidationHandler``, by epochs.

    In a distributed run all ranks validate the network that the main one keeps.
    """

    def __call__(self, engine: Engine) -> None:
        """Validate.

        Args:
            engine: the trainer.
        """
        share_running_statistics(engine.network)  # type: ignore[attr-defined]
        super().__call__(engine)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate_last)

    def _validate_last(self, engine: Engine) -> None:
        is_last = bool(engine.should_terminate) or engine.state.epoch == engine.state.max_epochs
        if is_last and engine.state.epoch % self.interval:
            self(engine)
