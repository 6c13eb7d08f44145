"""The accounts of a run: a row in the report, a line in the log and, for what failed, an error file."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import CommonKeys, MetaKeys
from tqdm import tqdm

from esp_medsam_monai.hashing import sha256_of_files, stamp_of_files
from esp_medsam_monai.io import Case, RunReport, atomic_path
from esp_medsam_monai.io.backups import drop_equal_backups, keep_backup
from esp_medsam_monai.io.stage_times import STAGES

from .case_outcome import CaseOutcome
from .case_results import CaseResults
from .ranks import world_size
from .reasons import one_line, reason_of
from .resume import files_of_row, is_as_left, is_still_valid, read_labels

__all__ = ["CaseRecords"]

_LOGGER = logging.getLogger(__name__)


class CaseRecords:
    """Keeps account of the cases of a run.

    Args:
        report: report of the run.
        results: writes what belongs to a mask.
        total: number of cases.
        overwrite: nothing counts as done before.
    """

    def __init__(self, report: RunReport, results: CaseResults, total: int, overwrite: bool = False) -> None:
        self.report = report
        self.results = results
        self.folder: Path = results.output_dir
        self.total = total
        self.overwrite = overwrite
        self._mask: Path | None = None
        self._kept: Path | None = None
        # A bar on a terminal, a line a case in a log, or where several ranks would draw over each other's bars.
        silent = True if world_size() > 1 or not total else None
        self.bar = tqdm(total=total, desc="cases", unit="case", file=sys.stderr, disable=silent)

    def is_finished(self, case: Case) -> bool:
        """Whether the case was done before, by an earlier run or by one beside this, and is still valid."""
        row = None if self.overwrite else self.report.known(case.name)
        hashes = self.report.run["weights_sha256"], self.report.run["configuration_sha256"]
        return is_still_valid(
            row, case.files, self.folder, *hashes, self.results.wanted(row, is_dicom=case.kind == "dicom")
        )

    def take_over(self, case: Case) -> bool:
        """Take over the row of a case that a run beside this one, or another rank of it, has come to since we began.

        Returns:
            Whether there was one; otherwise the case is to be done.
        """
        row, run = self.report.known(case.name), self.report.run
        if (
            world_size() > 1
            and row is not None
            and (row["finished"] or "") >= run["started"]
            and all(row[key] == run[key] for key in ("weights_sha256", "configuration_sha256"))
        ):
            # Also one that another rank has tried in vain, or done although it was done before (`overwrite`).
            self.report.merge([row])
        elif self.is_finished(case):
            self.skipped(case)
        else:
            return False
        return True

    def show(self, case: Case) -> None:
        """Show that the network works on a case."""
        self.bar.set_postfix_str(one_line(case.name))

    def write(self, outcome: CaseOutcome, postprocessing: Transform | None) -> None:
        """Write all that a case leaves, whatever became of it; one case never costs the others.

        May be called in another thread than the other methods, for one case at a time.

        Args:
            outcome: what became of it.
            postprocessing: saves the mask under ``pred`` and notes ``saved_to`` in its metadata.
        """
        self._mask = self._kept = None
        if outcome.reason is not None:
            self._failed(outcome, outcome.reason, outcome.trace)
            return
        try:
            started = time.perf_counter()
            self._keep_other_mask(outcome.case)
            data = outcome.data if postprocessing is None else postprocessing(outcome.data)
            self._done(outcome, data, started)
        except Exception as error:
            self._failed(outcome, reason_of(error), traceback.format_exc())

    def _keep_other_mask(self, case: Case) -> None:
        """Keep the file that the mask at hand would replace, unless it is one that a run left there just so.

        It may be a mask that somebody corrected, or drew.
        """
        name = f"{case.name}_seg{'.png' if case.kind == 'picture' else '.nii.gz'}"
        self._mask = self.folder / name
        row = self.report.known(case.name) or {}
        if row.get("output") == name and is_as_left(row, self._mask):
            return
        if read_labels(self._mask) is not None:  # half a mask is of no use to anybody
            self._kept = keep_backup(self._mask)

    def skipped(self, case: Case) -> None:
        """Take over the row of a case that is finished."""
        row = self.report.known(case.name)
        assert row is not None
        self.report.skip(row)
        self.bar.update()

    def _done(self, outcome: CaseOutcome, data: Mapping[str, Any], started: float) -> None:
        """Write what belongs to a mask that has been saved, and the row.

        Args:
            outcome: what became of the case.
            data: ``image`` and ``pred`` after postprocessing.
            started: when writing began, ``time.perf_counter()``.
        """
        case, facts = outcome.case, outcome.facts
        mask: MetaTensor = data[CommonKeys.PRED]
        provenance = {"input": case.input, **facts}
        provenance |= {key: self.report.run[key] for key in ("weights_sha256", "configuration_sha256")}
        sources = case.paths if case.kind == "dicom" else ()
        saved = Path(str(mask.meta[MetaKeys.SAVED_TO]))
        drop_equal_backups(saved)  # a run that was killed left this very mask, or the report was lost
        notes = [*outcome.notes, *self._kept_sentences()]
        image = data[CommonKeys.IMAGE]
        row = self.results.write(case.name, image, mask, sources, outcome.targets, provenance, notes)
        # Of files that have changed since they were read, the hash would be that of another image.
        unchanged = outcome.stamp == stamp_of_files(case.files)
        row |= {"error": None, "input_sha256": sha256_of_files(case.files) if unchanged else None}
        row |= {"input_stamp": outcome.stamp, "output_stamp": stamp_of_files([saved])}
        with suppress(OSError):
            self._error_file(case).unlink(missing_ok=True)
        stages = {**outcome.seconds, "write": time.perf_counter() - started}
        row["seconds_by_stage"] = {stage: round(stages[stage], 3) for stage in STAGES}
        seconds = sum(stages.values())
        self._add(case, "done", seconds=seconds, **facts, **row)
        if self.bar.disable:
            _LOGGER.info("%s: done in %.1f s (%d of %d)", one_line(case.name), seconds, self.report.size, self.total)

    def _failed(self, outcome: CaseOutcome, reason: str, trace: str) -> None:
        """Write the error file and the row.

        An older mask would pass for the result of this run, so it gets another name; what belongs to it goes.
        """
        case = outcome.case
        _LOGGER.error("%s: %s", one_line(case.name), reason)
        for entry, path in files_of_row(self.report.known(case.name) or {}, self.folder):
            with suppress(OSError):  # the folder may be closed, the file somebody else's
                if entry == "output":
                    self._kept = keep_backup(path) or self._kept
                else:
                    path.unlink(missing_ok=True)
        if self._mask is not None:  # written, but not what belongs to it
            with suppress(OSError):
                self._mask.unlink(missing_ok=True)
        file = self._error_file(case)
        error: str | None = file.relative_to(self.folder).as_posix()
        try:
            with atomic_path(file) as temporary:
                temporary.write_text(f"{case.input}\n{reason}\n\n{trace}", encoding="utf-8", errors="backslashreplace")
        except OSError:  # the reason may be that nothing can be written
            error = None
        self._add(case, "failed", reason=reason, error=error, warnings=self._kept_sentences(), **outcome.facts)

    def note(self, sentence: str | None) -> None:
        """Note something about the whole run, in report and log."""
        if sentence:
            self.report.note(sentence)
            _LOGGER.warning(sentence)

    def _add(self, case: Case, status: Any, **facts: Any) -> None:
        try:
            self.report.add(case.name, case.input, status, **facts)
        except OSError as error:  # at the end it is tried again
            _LOGGER.error("%s: %s", self.report.path, reason_of(error))
        self.bar.update()

    def _kept_sentences(self) -> list[str]:
        if self._kept is None or not self._kept.exists():
            return []
        return [f"an older mask, by an earlier run or another hand, is kept as {one_line(self._kept.name)}."]

    def _error_file(self, case: Case) -> Path:
        return self.folder / f"{case.name}.error.txt"
