"""Ctrl-C, SIGTERM and a terminal that closes end a run between two results, never inside one."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["INTERRUPTED", "Interruption"]

INTERRUPTED = 130
"""Exit status of an interrupted run, as shells have it."""


_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruption:
    """Within this context SIGINT, SIGTERM (schedulers) and SIGHUP (a terminal that closes) raise ``KeyboardInterrupt``.

    Between :meth:`hold` and :meth:`release`, while a result is being written, the exception waits for the release; a
    second Ctrl-C does not wait. A signal that the process was told to ignore (``nohup``) stays ignored. In other
    threads than the main one, which Python gives no signals, nothing happens.

    Attributes:
        once: only the first signal counts. ``torchrun`` passes on a Ctrl-C that its processes have already had, and
            ends without mercy, half a minute later, what has not ended by itself.
    """

    def __init__(self) -> None:
        self.once = False
        self._before: dict[int, Any] = {}
        self._held = False
        self._pending = False
        self._raised = False

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            # None: the handler was not installed from Python and cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()
        self._held = self._pending = self._raised = False

    def leave_workers_to_loader(self) -> None:
        """Silence torch's handler of SIGCHLD until the context ends.

        When a worker of a data loader dies, it raises in whatever runs at that moment, and that case would be blamed.
        The loader itself notices too, a few seconds later.
        """
        number = getattr(signal, "SIGCHLD", None)
        if number is not None and self._before:
            handler = signal.signal(number, signal.SIG_DFL)
            self._before.setdefault(number, handler)

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
            self._raised = True
            raise KeyboardInterrupt

    def _interrupt(self, number: int, _: Any) -> None:
        if self.once and (self._pending or self._raised):
            return
        # Terminals and shells both send SIGHUP: its repetition shows no impatience.
        if self._held and not (self._pending and number == signal.SIGINT):
            self._pending = True
            return
        self._raised = True
        raise KeyboardInterrupt
