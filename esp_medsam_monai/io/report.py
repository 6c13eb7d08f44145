"""The report of a run over a folder: what was done, with what, and why not."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import monai
import torch

from esp_medsam_monai import __version__
from esp_medsam_monai.hashing import sha256_of, sha256_of_settings

from .atomic import atomic_path
from .backups import keep_backup
from .claims import lock_in
from .stage_times import total_seconds

__all__ = ["RunReport", "read_rows"]

Status = Literal["done", "skipped", "failed"]

SHARE = 0.05
"""Largest share of a run's time that saving the report may take; one of ten thousand cases takes a while to write."""
CHEAP = 0.25
"""Seconds; a report that is saved within them is saved after every case."""

_TEXTS = (
    *("reason", "modality", "modality_source", "output", "sidecar", "preview", "dicom_seg", "error", "finished"),
    *("input_sha256", "input_stamp", "output_stamp", "weights_sha256", "configuration_sha256"),
)
_LISTS = {"warnings": str, "targets": dict, "shape": int}


class RunReport:
    """``report.json``: one block on the run and one row for each case, saved as the run goes on.

    Rows of an earlier run stay until their case comes up again, so that a run that is killed loses nothing; those of
    cases that this run does not know go at its end, unless it found no cases at all. Two runs on one folder keep each
    other's rows. A ``report.json`` that is none of ours, or damaged, is kept under another name. One thread may add
    rows while another asks for known ones.

    Args:
        path: the file.
        configuration: what the results depend on besides weights and inputs; stored with its hash, so that two runs
            can be compared.
        ignored: files that were found and are no cases.
        command: the command line.
        cases: names of all cases of the run.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        configuration: Mapping[str, Any] | None = None,
        ignored: Sequence[Any] = (),
        command: Sequence[str] = (),
        cases: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        settings = dict(configuration or {})
        self.run: dict[str, Any] = {
            "versions": {
                "esp_medsam_monai": __version__,
                "monai": monai.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "command": list(command),
            "working_directory": _working_directory(),
            "configuration": settings,
            "configuration_sha256": sha256_of_settings(settings),
            "weights": None,
            "weights_sha256": None,
            "started": _now(),
            "finished": None,
            "exit_status": None,
            "seconds": None,
            "seconds_by_stage": None,
            "cases_found": len(cases),
            "notes": [],
            "ignored": list(ignored),
        }
        self._names = set(cases)
        self._rows: dict[str, dict[str, Any]] = {}
        self._others: dict[str, dict[str, Any]] = {}
        self._foreign = False
        self._seen: tuple[int, int, int] | None = None
        self._saved, self._cost = 0.0, 0.0
        # A file that is locked must not be replaced, so the lock is a file of its own.
        self._lock = lock_in(self.path.parent, "report")

    @property
    def cases(self) -> list[dict[str, Any]]:
        """Rows of this run so far, by the name of their case."""
        return [self._rows[name] for name in sorted(self._rows)]

    def add(
        self,
        case: str,
        input: str,
        status: Status,
        reason: str | None = None,
        modality: str | None = None,
        modality_source: str | None = None,
        slices: int | None = None,
        seconds: float | None = None,
        output: str | None = None,
        warnings: Sequence[str] = (),
        **facts: Any,
    ) -> None:
        """Add the row of a case and save, if that does not cost too much time.

        Args:
            case: name of the case with its relative folder.
            input: path as given.
            status: ``"done"``, ``"skipped"`` (done before, still valid) or ``"failed"``.
            reason: why it failed, beginning with a code in capitals.
            modality: our name of the modality.
            modality_source: ``user``, ``datalist``, ``dicom`` or ``sidecar``.
            slices: number of slices segmented.
            seconds: time to read, segment and save the case, its preview included, without waiting for other cases.
            output: the mask, relative to the report.
            warnings: sentences for the reader of the mask.
            facts: further entries of the row, see ``docs/design.md``.
        """
        self._rows[case] = {
            "case": case,
            "input": input,
            "status": status,
            "reason": reason,
            "modality": modality,
            "modality_source": modality_source,
            "slices": slices,
            "seconds": None if seconds is None else round(seconds, 3),
            "output": output,
            "warnings": list(warnings),
            **facts,
            "weights_sha256": self.run["weights_sha256"],
            "configuration_sha256": self.run["configuration_sha256"],
            "finished": _now(),
        }
        if self._cost < CHEAP or time.monotonic() - self._saved >= self._cost / SHARE:
            self.save()

    def skip(self, row: Mapping[str, Any]) -> None:
        """Take over the row of a case that was done before and is still valid."""
        self._rows[row["case"]] = dict(row) | {"status": "skipped"}

    def merge(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows that other processes of this run have made; of one case the newest, if it was not just skipped.

        Args:
            rows: as in :attr:`cases`.
        """
        for row in rows:
            mine = self._rows.get(row["case"])
            if mine is None or _is_newer(row, mine):
                self._rows[row["case"]] = dict(row)

    def known(self, case: str) -> dict[str, Any] | None:
        """The newest row of a case that the file holds, of an earlier run or of one beside this; None without one."""
        if self._stamp() != self._seen:
            with self._lock:
                self._refresh()
        return self._rows.get(case) or self._others.get(case)

    @property
    def size(self) -> int:
        """Number of rows of this run so far."""
        return len(self._rows)

    def has(self, case: str) -> bool:
        """Whether this run has a row of the case."""
        return case in self._rows

    def note_weights(self, path: str | os.PathLike[str], sha256: str | None = None) -> None:
        """Note which file of weights the run uses, and its hash."""
        self.run.update(weights=str(path), weights_sha256=sha256 or sha256_of(path))

    def note(self, sentence: str) -> None:
        """Note something about the whole run."""
        if sentence not in self.run["notes"]:
            self.run["notes"].append(sentence)

    def count(self, status: Status) -> int:
        """Number of cases of this run with a status."""
        return sum(row["status"] == status for row in self._rows.values())

    def finish(self, exit_status: int) -> dict[str, Any]:
        """Note the end of the run and save.

        An interrupted run keeps the rows of cases that it did not come to.

        Returns:
            What ``report.json`` holds now.
        """
        times = total_seconds(self._rows.values())
        self.run.update(finished=_now(), exit_status=exit_status, seconds_by_stage=times)
        return self.save(final=True)

    def save(self, final: bool = False) -> dict[str, Any]:
        """Write the file; a reader never sees half of it. ``final`` drops the rows of unknown cases."""
        started = time.monotonic()
        with self._lock:
            self._refresh()
            if self._foreign and (kept := keep_backup(self.path)) is not None:
                self.note(f"{self.path.name} was damaged, or no report of this program; it is kept as {kept.name}.")
            others = self._others
            if final and self._names:
                # A run beside this one, perhaps over other images, has written since we began.
                others = {
                    name: row
                    for name, row in others.items()
                    if name in self._names or str(row.get("finished") or "") >= self.run["started"]
                }
            rows = others | self._rows
            content = {"run": self.run, "cases": [rows[name] for name in sorted(rows)]}
            with atomic_path(self.path) as temporary:
                text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
                temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            self._seen, self._foreign = self._stamp(), False
        self._saved = time.monotonic()
        self._cost = self._saved - started
        return content

    def _refresh(self) -> None:
        """Read what others have written since we last looked."""
        stamp = self._stamp()
        if stamp != self._seen:
            rows = read_rows(self.path)
            self._others = {row["case"]: row for row in rows or ()}
            self._foreign = rows is None
            self._seen = stamp

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]] | None:
    """Rows of a report of ours, without those that an editor has spoilt; None for any other file."""
    path = Path(path)
    try:
        # Only files: a pipe would keep us waiting. With the mark that Windows' editors put in front.
        content = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("run"), dict):
        return None
    rows = content.get("cases")
    return [row for row in rows if _is_row(row)] if isinstance(rows, list) else None


def _is_row(row: Any) -> bool:
    """Whether a row has what the program relies on; a newer version may have added to it."""
    return (
        isinstance(row, dict)
        and isinstance(row.get("case"), str)
        and row.get("status") in get_args(Status)
        and all(isinstance(row.get(key), str | None) for key in _TEXTS)
        and all(isinstance(row.get(key), int | float | None) for key in ("slices", "seconds"))
        and all(
            isinstance(row.get(key) or [], list) and all(isinstance(each, kind) for each in row.get(key) or ())
            for key, kind in _LISTS.items()
        )
    )


def _is_newer(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    ages = [(each["status"] != "skipped", each.get("finished") or "") for each in (row, other)]
    return ages[0] > ages[1]


def _working_directory() -> str | None:
    """What relative paths in the report are relative to."""
    try:
        return str(Path.cwd())
    except OSError:  # removed meanwhile
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
