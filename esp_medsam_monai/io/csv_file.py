"""Tables as CSV files, for people who open them in a spreadsheet."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .atomic import atomic_path

__all__ = ["write_csv"]

FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_csv(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a table (UTF-8, commas); the file appears whole or not at all.

    Text that a spreadsheet would take for a formula (OWASP, CSV injection: it begins with ``=``, ``+``, ``-``, ``@``,
    tab or a line break) gets an apostrophe in front, for names of files come from anywhere.

    Args:
        path: the CSV file.
        columns: names of the columns, in order.
        rows: ``{column: value}``; what is missing or None stays empty.

    Returns:
        The path.

    Raises:
        ValueError: when a row has a column that is not named.
    """
    with (
        atomic_path(path) as temporary,
        # Names of files need not be UTF-8; then escapes stand for what cannot be written.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return Path(path)


def _cell(value: Any) -> Any:
    """Numbers as they are: a negative one is no formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_MARKS) else value
