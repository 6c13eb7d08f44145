"""Files that are whole or absent: written under another name in the same folder, then renamed."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_path", "remove_partials"]

LONGEST_NAME = 255
"""Bytes that the usual file systems allow for one name."""

STALE_SECONDS = 24 * 60 * 60
"""Age at which a temporary file counts as left behind when its process cannot be asked for."""

_PARTIAL = re.compile(r"\.partial-(?P<host>[^-]+)-(?P<pid>\d+)-.+", re.DOTALL)
_BEING_WRITTEN: set[Path] = set()


@contextmanager
def atomic_path(path: str | os.PathLike[str], sync: bool = True) -> Iterator[Path]:
    """Give a temporary name to write to, which takes the place of ``path`` when the block ends well.

    The temporary name ``.partial-<host>-<pid>-<name>`` keeps the suffix, because writers choose the format by it, and
    lies in the same folder, because a rename is atomic within one file system only. Missing folders are made. The
    contents are on the disk before the name changes. Permissions are those of any new file (umask). When the block
    raises or is interrupted, the temporary file goes and a former ``path`` stays as it was. What a killed process
    leaves behind, :func:`remove_partials` removes.

    Args:
        path: the file to write.
        sync: False does not wait for the disk, for many files that are checked when they are read: the file survives
            the end of the process, and may be damaged by that of the machine.

    Raises:
        OSError: when the folder cannot be made or written to; of the kind (``PermissionError``, ...) that the system
            raised.
    """
    target = Path(path)
    temporary = target.with_name(_temporary_name(target.name))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A trial, not the file: a block that writes nothing should fail and not leave an empty file.
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        text = f"cannot write {target.name} to its folder ({error.strerror}); choose another output folder"
        raise OSError(error.errno, text, str(target.parent)) from error
    _BEING_WRITTEN.add(temporary.absolute())
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.replace(target)
        if sync:
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        _BEING_WRITTEN.discard(temporary.absolute())


def remove_partials(folder: str | os.PathLike[str]) -> int:
    """Remove the temporary files that dead runs left in a folder and below.

    A run is dead when this host has no process of its number, or, for files of other hosts, when the file has not
    changed for a day. Files of a living process stay.

    Args:
        folder: the folder of the results; it need not exist.

    Returns:
        Number of files removed.
    """
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            match = _PARTIAL.fullmatch(name)
            path = Path(parent, name)
            # What vanishes meanwhile, or belongs to somebody else, is not ours to worry about.
            with suppress(OSError):
                if match and _is_dead(path, match["host"], int(match["pid"])):
                    path.unlink()
                    removed += 1
    return removed


def _temporary_name(name: str) -> str:
    prefix = f".partial-{_host()}-{os.getpid()}-"
    room = LONGEST_NAME - len(os.fsencode(prefix))
    raw = os.fsencode(name)
    if len(raw) > room:
        # The end holds the suffix; the hash tells long names with the same end apart.
        digest = hashlib.sha256(raw).hexdigest()[:8]
        name = digest + raw[len(raw) - room + len(digest) :].decode("utf-8", errors="ignore")
    return prefix + name


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", platform.node())[:64] or "unknown"


def _is_dead(path: Path, host: str, pid: int) -> bool:
    # Windows has no harmless question whether a process lives.
    if host != _host() or os.name == "nt":
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    if pid == os.getpid():
        # In a container every run may have the same number; what this one is writing, it knows.
        return path.absolute() not in _BEING_WRITTEN
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk, where the system can do that for a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
