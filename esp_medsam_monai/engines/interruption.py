"""Ctrl-C and SIGTERM end a run between two results, never inside one."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["INTERRUPTED", "Interruption"]

INTERRUPTED = 130
"""Exit status of an interrupted run, as shells have it."""


class Interruption:
    """Within this context SIGINT and SIGTERM, which schedulers send, raise ``KeyboardInterrupt`` in the main thread.

    Between :meth:`hold` and :meth:`release`, while a result is being written, the exception waits for the release; a
    second signal does not wait. In other threads, which Python gives no signals, nothing happens.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False
        self._pending = False

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            # None: the handler was not installed from Python and cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()
        self._held = self._pending = False

    def hold(self) -> None:
        """Let an interruption wait."""
        self._held = True

    def release(self) -> None:
        """End the waiting.

        Raises:
            KeyboardInterrupt: when a signal came meanwhile.
        """
        self._held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _interrupt(self, *_: Any) -> None:
        if self._held and not self._pending:
            self._pending = True
            return
        raise KeyboardInterrupt
