"""The report of a run over a folder: what was done, with what, and why not."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import monai
import torch

from esp_medsam_monai import __version__

from .atomic import atomic_path

__all__ = ["RunReport", "sha256_of"]

Status = Literal["done", "skipped", "failed"]


class RunReport:
    """``report.json``: one block on the run and one row for each case, saved whole after every case.

    Args:
        path: the file.
        configuration: what the results depend on besides weights and inputs; stored with its hash, so that two runs
            can be compared.
        ignored: files that were found and are no cases.
        command: the command line.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        configuration: Mapping[str, Any] | None = None,
        ignored: Sequence[Any] = (),
        command: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        settings = dict(configuration or {})
        text = json.dumps(settings, sort_keys=True, default=str)
        self.run: dict[str, Any] = {
            "versions": {
                "esp_medsam_monai": __version__,
                "monai": monai.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "command": list(command),
            "configuration": settings,
            "configuration_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "weights": None,
            "weights_sha256": None,
            "started": _now(),
            "finished": None,
            "exit_status": None,
            "ignored": list(ignored),
        }
        self.cases: list[dict[str, Any]] = []

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
    ) -> None:
        """Add the row of a case and save.

        Args:
            case: name of the case with its relative folder.
            input: path as given.
            status: ``"done"``, ``"skipped"`` (done before, still valid) or ``"failed"``.
            reason: why it failed, beginning with a code in capitals.
            modality: our name of the modality.
            modality_source: ``user``, ``datalist``, ``dicom`` or ``sidecar``.
            slices: number of slices segmented.
            seconds: time to read, segment and save the case, its preview included.
            output: the mask, relative to the report.
            warnings: sentences for the reader of the mask.
        """
        self.cases.append(
            {
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
            }
        )
        self.save()

    def note_weights(self, path: str | os.PathLike[str]) -> None:
        """Note which file of weights the run uses, and its hash."""
        self.run.update(weights=str(path), weights_sha256=sha256_of(path))

    def count(self, status: Status) -> int:
        """Number of cases with a status."""
        return sum(row["status"] == status for row in self.cases)

    def finish(self, exit_status: int) -> None:
        """Note the end of the run and save."""
        self.run.update(finished=_now(), exit_status=exit_status)
        self.save()

    def save(self) -> None:
        """Write the file; a reader never sees half of it."""
        with atomic_path(self.path) as temporary:
            text = json.dumps({"run": self.run, "cases": self.cases}, indent=2, ensure_ascii=False, default=str)
            temporary.write_text(text + "\n", encoding="utf-8")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
