"""Two runs that share a folder never work on one case at the same time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["claim", "lock_in"]

LOCKS = ".locks"


def lock_in(folder: str | os.PathLike[str], name: str, thread_local: bool = True) -> FileLock:
    """A lock that all runs on a folder share, in a hidden folder of it. A process that dies gives its locks back.

    Args:
        folder: folder of the results.
        name: what is locked.
        thread_local: the threads of a process exclude each other too; False: the thread that gives the lock back may
            be another one than that which took it.
    """
    path = Path(folder) / LOCKS / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, thread_local=thread_local)


@contextmanager
def claim(folder: str | os.PathLike[str], case: str, wait: float = 0.0) -> Iterator[bool]:
    """Claim a case for as long as the block lasts, which may end in another thread than it began in.

    Args:
        folder: folder of the results, made when missing.
        case: name of the case.
        wait: seconds to wait for another run to end its claim; -1 waits for ever.

    Yields:
        Whether the case is ours.
    """
    lock = lock_in(folder, hashlib.sha256(os.fsencode(case)).hexdigest()[:32], thread_local=False)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        # Gone before the lock is: who waits for the old file then holds a claim that nobody else sees, and at worst
        # does a case once more.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
