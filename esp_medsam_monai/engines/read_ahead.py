"""The next case is read while the network works on this one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from itertools import zip_longest
from typing import Any

from monai.data import DataLoader, decollate_batch

__all__ = ["WORKER_ENDED", "ReadAhead"]

WORKER_ENDED = (
    "a process that reads ahead was ended from outside, as a rule for want of memory; the remaining cases were read one"
    " by one. Use fewer --num_workers."
)

PATIENCE = 5.0
"""Seconds that an interrupted run waits for a reading in progress; a share that hangs must not hold it up."""


class ReadAhead:
    """Items of a loader's dataset, in its order, one by one and not as batches.

    While an item is worked on, one thread reads the one after it, if that is allowed. One thread, one item ahead: what
    is in memory stays bounded. Without a batch there is no copy of a volume either. MONAI's ``ThreadBuffer`` has two
    items ahead, whatever their size, and its batches are copies.

    A loader with processes of its own (``num_workers``) reads ahead already; then its items come from there.

    Args:
        loader: gives dataset and order; batches of one.
        allowed: whether the item of an index may be read while another one is worked on.
    """

    def __init__(self, loader: DataLoader, allowed: Callable[[int], bool]) -> None:
        self.loader = loader
        self.allowed = allowed
        self._ahead: deque[Future[Any]] = deque()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self.loader.num_workers > 0:
            yield from self._from_workers()
            return
        self._ahead.clear()
        order = list(self.loader.sampler)
        for index, following in zip_longest(order, order[1:]):
            if not self._ahead:
                self._ahead.append(_done(self.loader.dataset[index]))
            wait(self._ahead)
            if following is not None and self.allowed(following):
                self._ahead.append(self._start(following))
            # No name is kept for it: an item must be gone when its work is done.
            yield self._ahead.popleft().result()

    def close(self) -> None:
        """Drop what was read in vain, and let a reading in progress end."""
        wait(self._ahead, PATIENCE)
        self._ahead.clear()

    def _start(self, index: int) -> Future[Any]:
        future: Future[Any] = Future()

        def read() -> None:
            try:
                future.set_result(self.loader.dataset[index])
            except BaseException as error:  # raised again where the item is asked for
                future.set_exception(error)

        # A daemon: a file system that does not answer must not keep the process alive.
        threading.Thread(target=read, name="read-ahead", daemon=True).start()
        return future

    def _from_workers(self) -> Iterator[Any]:
        for batch in self.loader:
            items = decollate_batch(batch)
            del batch
            yield items.pop()


def _done(item: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(item)
    return future
