"""The thread that writes what the network has made of one case while the network works on the next."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from monai.transforms import Transform
from monai.utils import CommonKeys

from .case_outcome import CaseOutcome
from .case_records import CaseRecords
from .case_size import OVERLAP_BYTES
from .interruption import Interruption

__all__ = ["CaseWriter"]

_LOGGER = logging.getLogger(__name__)


class CaseWriter:
    """Writes one case at a time, in a thread and without a queue.

    Who gives it the next case waits until the last one is written, so that one case at most waits in memory, and all
    are written in their order. Cases larger than :data:`~esp_medsam_monai.engines.case_size.OVERLAP_BYTES` are waited
    for at once. A process that ends, ends its case.

    Args:
        interruption: a signal waits while a case changes hands.
        postprocessing: saves the mask, see :meth:`CaseRecords.write`.
    """

    def __init__(self, interruption: Interruption, postprocessing: Transform | None) -> None:
        self.interruption = interruption
        self.postprocessing = postprocessing
        self._thread: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None

    def start(self, records: CaseRecords, outcome: CaseOutcome, held: ExitStack) -> None:
        """Begin to write a case, after the last one.

        Args:
            records: accounts of the run.
            outcome: what became of the case.
            held: what is held for the case (its claim), given back when it is written.

        Raises:
            Exception: what went wrong beyond the last case; this one is not written then.
            KeyboardInterrupt: after a signal; a case that has changed hands is written all the same.
        """
        is_large = bool(outcome.data) and outcome.data[CommonKeys.IMAGE].nbytes > OVERLAP_BYTES
        self.wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="case-writer")
        # Between two of these lines a signal would lose the claim, or the case.
        self.interruption.hold()
        try:
            self._work = self._thread.submit(self._write, records, outcome, held.pop_all())
        finally:
            self.interruption.release()
        if is_large:
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is left to write. A signal ends the waiting, not the writing.

        Raises:
            Exception: what went wrong beyond the case itself.
        """
        if self._work is not None:
            wait([self._work])
            work, self._work = self._work, None
            work.result()

    def close(self) -> None:
        """Let the case at hand be written, and end the thread; what goes wrong is logged."""
        try:
            self.wait()
        except Exception as error:
            _LOGGER.error("%s: %s", type(error).__name__, error)
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _write(self, records: CaseRecords, outcome: CaseOutcome, held: ExitStack) -> None:
        with held:
            records.write(outcome, self.postprocessing)
