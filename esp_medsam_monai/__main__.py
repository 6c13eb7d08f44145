"""Command line: ``esp-medsam COMMAND``, also as a module of Python.

The commands are in :mod:`esp_medsam_monai.commands`; here they are gathered, and what goes wrong is told in a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import datalist, export, import_weights, info, label, label_rollback, quantize, segment

__all__ = ["main"]

BROKEN, USAGE_ERROR, INTERRUPTED = 1, 2, 130
_STATUS = {"import-weights": USAGE_ERROR, "datalist": USAGE_ERROR}
"""Exit status of a command that cannot do its work: 1, or 2 where only arguments and their files can be to blame."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; None takes them from the command line.

    Returns:
        Exit status: 0 when the command did its work, 1 when it could not, 2 for a wrong command line (and for files
        that ``import-weights`` and ``datalist`` cannot use), 130 when it was interrupted. What is wrong goes to the
        standard error in one sentence; ``segment --debug`` gives the traceback.

    Raises:
        SystemExit: from argparse, and from ``segment``, whose run ends with a status of its own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = argparse.ArgumentParser(
            prog="esp-medsam", description="Promptless medical image segmentation with ESP-MedSAM."
        )
        parser.add_argument("--version", action="version", version=__version__)
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        words = segment.add(commands, words)
        for command in (info, import_weights, datalist, quantize, export, label, label_rollback):
            command.add(commands)
        args = parser.parse_args(words)
        text = args.handler(args)
        if text:
            print(text)
    except KeyboardInterrupt:
        print(f"{words[0]}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if "--debug" in words:
            raise
        if words[0] in _STATUS and not isinstance(error, ValueError | OSError | RuntimeError):
            raise
        print(f"{words[0]}: {_sentence(error)}", file=sys.stderr)
        return _STATUS.get(words[0], BROKEN)
    return 0


def _sentence(error: BaseException) -> str:
    """What an exception says, without what MONAI wrapped around it."""
    while error.__cause__ is not None and str(error).startswith("Failed to "):
        error = error.__cause__
    if isinstance(error, ValueError | OSError | RuntimeError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


if __name__ == "__main__":
    sys.exit(main())
