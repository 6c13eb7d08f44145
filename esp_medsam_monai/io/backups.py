"""A file that a run would replace, and that no run wrote, is kept under another name."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from .atomic import LONGEST_NAME

__all__ = ["drop_equal_backups", "keep_backup"]


def keep_backup(path: Path) -> Path | None:
    """Rename a file, as ``cp --backup=numbered`` does: ``a_seg.nii.gz`` -> ``a_seg.nii.gz.~1~``.

    Nothing that looks for images or masks takes such a file for one.

    Args:
        path: the file, or whatever else has that name.

    Returns:
        The new name; None when there is nothing.

    Raises:
        OSError: when it cannot be renamed.
    """
    if not path.exists() and not path.is_symlink():
        return None
    return path.rename(next(name for name in _names(path) if not name.exists()))


def drop_equal_backups(path: Path) -> None:
    """Remove the backups of a file that hold the very same bytes."""
    for backup in _names(path):
        if not backup.is_file():
            return
        if filecmp.cmp(backup, path, shallow=False):
            backup.unlink()


def _names(path: Path) -> Iterator[Path]:
    raw = os.fsencode(path.name)
    for number in count(1):
        mark = f".~{number}~"
        room = LONGEST_NAME - len(mark)
        # Of a name that is as long as a name can be the end is kept, which says what kind of file it is.
        name = path.name if len(raw) <= room else raw[-room:].decode("utf-8", errors="ignore")
        yield path.with_name(name + mark)
