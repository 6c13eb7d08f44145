"""A handler that a config needs in two places."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine

__all__ = ["Attached"]


class Attached:
    """Entry of a list of handlers for one that has an id of its own, because something else of the config needs it too.

    MONAI and MONAI Label look for a ``_target_`` in every entry of ``train#handlers``, so that a mere ``@id`` cannot
    stand there.

    Args:
        handler: has ``attach(engine)``.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        """Register the handler with a trainer or evaluator."""
        self.handler.attach(engine)
