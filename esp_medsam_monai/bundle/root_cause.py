"""What is wrong stands in the last line, below the traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType

__all__ = ["tell_cause_last"]

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], None]


def tell_cause_last() -> None:
    """Let an exception that ends the process be followed by the sentence of its first cause, on stderr.

    MONAI wraps what a step of a run raises in "Failed to evaluate ConfigExpression", so that the last line of the
    traceback says nothing, and the line that does is far above it.
    """
    if not hasattr(sys.excepthook, "tells_cause"):
        sys.excepthook = _telling(sys.excepthook)


def _telling(hook: Hook) -> Hook:
    @functools.wraps(hook)
    def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        hook(kind, error, traceback)
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if cause is not error:
            sys.stderr.write(f"\nWhat stopped the run: {type(cause).__name__}: {cause}\n")

    tell.tells_cause = True  # type: ignore[attr-defined]
    return tell
