"""The accounts of a run: a row in the report, a line in the log and, for what failed, an error file."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from tqdm import tqdm

from esp_medsam_monai.hashing import sha256_of_files, stamp_of_files
from esp_medsam_monai.io import Case, RunReport, atomic_path

from .case_results import CaseResults
from .reasons import reason_of
from .resume import files_of_row, is_still_valid

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
        # A bar on a terminal, a line a case in a log.
        self.bar = tqdm(total=total, desc="cases", unit="case", file=sys.stderr, disable=None if total else True)

    def is_finished(self, case: Case) -> bool:
        """Whether the case was done before, by an earlier run or by one beside this, and is still valid."""
        row = None if self.overwrite else self.report.known(case.name)
        hashes = self.report.run["weights_sha256"], self.report.run["configuration_sha256"]
        return is_still_valid(
            row, case.files, self.folder, *hashes, self.results.wanted(row, is_dicom=case.kind == "dicom")
        )

    def skipped(self, case: Case) -> None:
        """Take over the row of a case that is finished."""
        row = self.report.known(case.name)
        assert row is not None
        self.report.skip(row)
        self.bar.update()

    def done(
        self,
        case: Case,
        image: MetaTensor,
        mask: MetaTensor,
        targets: dict[str, int],
        facts: dict[str, Any],
        started: float,
        notes: list[str],
    ) -> None:
        """Write what belongs to a mask that has been saved, and the row.

        Args:
            case: the case.
            image: see :meth:`CaseResults.write`.
            mask: see :meth:`CaseResults.write`.
            targets: see :meth:`CaseResults.write`.
            facts: ``modality`` and ``modality_source``.
            started: when the case began, ``time.perf_counter()``.
            notes: further warnings.
        """
        provenance = {"input": case.input, **facts}
        provenance |= {key: self.report.run[key] for key in ("weights_sha256", "configuration_sha256")}
        sources = case.paths if case.kind == "dicom" else ()
        row = self.results.write(case.name, image, mask, sources, targets, provenance, notes)
        row |= {"error": None, "input_sha256": sha256_of_files(case.files), "input_stamp": stamp_of_files(case.files)}
        self._error_file(case).unlink(missing_ok=True)
        seconds = time.perf_counter() - started
        self._add(case, "done", seconds=seconds, **facts, **row)
        if self.bar.disable:
            _LOGGER.info("%s: done in %.1f s (%d of %d)", case.name, seconds, len(self.report.cases), self.total)

    def failed(self, case: Case, reason: str, trace: str, facts: dict[str, Any]) -> None:
        """Write the error file and the row; an older mask goes, for it would pass for the result of this run."""
        _LOGGER.error("%s: %s", case.name, reason)
        for _, path in files_of_row(self.report.known(case.name) or {}, self.folder):
            path.unlink(missing_ok=True)
        file = self._error_file(case)
        error: str | None = file.relative_to(self.folder).as_posix()
        try:
            with atomic_path(file) as temporary:
                temporary.write_text(f"{case.input}\n{reason}\n\n{trace}", encoding="utf-8", errors="backslashreplace")
        except OSError:  # the reason may be that nothing can be written
            error = None
        self._add(case, "failed", reason=reason, error=error, **facts)

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

    def _error_file(self, case: Case) -> Path:
        return self.folder / f"{case.name}.error.txt"
