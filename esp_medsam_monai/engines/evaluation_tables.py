"""What an evaluation leaves: tables of every case and of their means, box plots, pictures of the worst cases."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from esp_medsam_monai.engines.box_plots import write_box_plots
from esp_medsam_monai.engines.case_metrics import CaseRow, case_rows
from esp_medsam_monai.engines.metric_table import summarize_by_domain, summarize_cases, write_summary
from esp_medsam_monai.engines.ranks import gather_objects, on_main_rank
from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.engines.surface_metrics import SurfaceTolerance
from esp_medsam_monai.engines.worst_cases import WorstCases
from esp_medsam_monai.io import atomic_path
from esp_medsam_monai.io.csv_file import write_csv
from esp_medsam_monai.io.nifti import NIFTI_SUFFIXES
from esp_medsam_monai.io.reader import PICTURE_SUFFIXES
from esp_medsam_monai.io.sidecar import file_stem
from esp_medsam_monai.modalities import label_values

__all__ = ["EvaluationTables"]

SOME_FAILED = 8

_COLUMNS = (
    *("case", "modality", "domain", "target", "dice", "iou", "hd95", "hd95_penalized", "nsd", "unit", "tolerance"),
    *("reference", "predicted", "input", "reason"),
)
_LOGGER = logging.getLogger(__name__)
_SUFFIXES = (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES, ".dcm")


class EvaluationTables:
    """Handler of an evaluator over whole cases, one at a time: compares labels and writes files at the end.

    - ``metrics.json``: ``{modality: {target: {"dice", "n", ...}}}``, see
      :func:`~esp_medsam_monai.engines.metric_summary`;
    - ``metrics_by_domain.json``: the same per set, ``{domain: {modality: {target: ...}}}``, of cases whose entry names
      one;
    - ``summary.md``: the first as a table, with the rules for empty masks;
    - ``cases.csv``: a row per case and target, see :class:`~esp_medsam_monai.engines.CaseRow`; a case that failed has
      one row, with the ``reason`` and no target, and does not count elsewhere;
    - ``plots/``: box plots, see :func:`~esp_medsam_monai.engines.write_box_plots`;
    - ``worst/``: pictures, see :class:`~esp_medsam_monai.engines.WorstCases`.

    Targets that a reference does not speak of (the key ``labelled``, see
    :class:`~esp_medsam_monai.transforms.EncodeLabelsd`) are left out and count nowhere.
    Rows are sorted by modality, domain and case. In a distributed run every process compares its cases and the main one
    writes.

    Args:
        output_dir: folder for them, made when missing.
        modalities: ``{modality: [targets]}`` of the network.
        surface_tolerance_mm: see :class:`~esp_medsam_monai.engines.SurfaceTolerance`.
        surface_tolerance_px: see there.
        worst_cases: how many pictures, 0 for none.
        seed: of the confidence intervals.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        modalities: Mapping[str, Sequence[str]],
        surface_tolerance_mm: float = SurfaceTolerance.mm,
        surface_tolerance_px: float = SurfaceTolerance.px,
        worst_cases: int = 10,
        seed: int = 0,
    ) -> None:
        self.folder = Path(output_dir)
        self.values = label_values(modalities)
        self.tolerance = SurfaceTolerance(surface_tolerance_mm, surface_tolerance_px)
        self.worst = WorstCases(worst_cases)
        self.seed = seed
        self.rows: list[CaseRow] = []
        self.failures: list[dict[str, str]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._compare)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def finish(self) -> None:
        """The last step of a workflow.

        Raises:
            SystemExit: with 8 when a case failed.
        """
        if self.failures:
            raise SystemExit(SOME_FAILED)

    def _started(self, _: Engine) -> None:
        self.rows, self.failures, self.worst = [], [], WorstCases(self.worst.count)

    def _compare(self, engine: Engine) -> None:
        state: Any = engine.state
        output, batch = state.output, state.batch
        if "failure" in output:
            self._fail(batch, output["failure"])
            return
        try:
            self._measure(batch, output)
        except Exception as error:  # one case never costs the others
            _LOGGER.exception("a case could not be compared")
            self._fail(batch, reason_of(error))

    def _measure(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        image = batch[CommonKeys.IMAGE][0]
        modality = image.meta["modality"]
        labelled = batch.get("labelled", [""])[0].split(",")
        values = {
            target: value for target, value in self.values[modality].items() if labelled == [""] or target in labelled
        }
        predicted = output[CommonKeys.PRED][0].as_tensor().cpu()
        reference = output[CommonKeys.LABEL][0].as_tensor().cpu()
        case = _case(str(image.meta["filename_or_obj"]))
        names = {"case": case, "modality": modality, "domain": batch.get("domain", [""])[0]}
        rows = case_rows(image, predicted, reference, values, self.tolerance, **names)
        for row in rows:
            self.worst.add(row, image, predicted == values[row.target], reference == values[row.target])
        self.rows += rows

    def _fail(self, batch: Mapping[str, Any], reason: str) -> None:
        if "failure" in batch:
            path, modality = batch["input"][0], batch["modality"][0]
        else:
            meta = batch[CommonKeys.IMAGE][0].meta
            path, modality = str(meta["filename_or_obj"]), meta["modality"]
        names = {"case": _case(path), "modality": modality, "domain": batch.get("domain", [""])[0]}
        self.failures.append({**names, "input": path, "reason": reason})
        _LOGGER.error("%s: %s", _case(path), reason)

    def _completed(self, _: Engine) -> None:
        parts = gather_objects((self.rows, self.failures, self.worst.cases))
        self.rows = [row for rows, _, _ in parts for row in rows]
        # Whoever measured a case: its place in the tables is the same. Targets keep their order.
        self.rows.sort(key=lambda row: (row.modality, row.domain, row.case, row.input))
        self.failures = [failure for _, failures, _ in parts for failure in failures]
        self.worst = WorstCases(self.worst.count)
        for _, _, cases in parts:
            self.worst.merge(cases)
        on_main_rank(self._write)

    def _write(self) -> None:
        table = summarize_cases(self.rows, self.seed)
        self._json("metrics.json", table)
        self._json("metrics_by_domain.json", summarize_by_domain(self.rows, self.seed))
        write_summary(self.folder / "summary.md", table, len(self.failures))
        write_csv(self.folder / "cases.csv", _COLUMNS, [*map(dataclasses.asdict, self.rows), *self.failures])
        write_box_plots(self.folder / "plots", self.rows)
        self.worst.write(self.folder / "worst")
        for modality, targets in table.items():
            for target, entry in targets.items():
                dice = "none" if entry["dice"] is None else f"{entry['dice']:.3f}"
                _LOGGER.info("%-12s %-24s Dice %s  n %d", modality, target, dice, entry["n"])
        if self.failures:
            cases = len({(row.input, row.case, row.modality, row.domain) for row in self.rows}) + len(self.failures)
            _LOGGER.error("%d of %d cases failed; cases.csv says why", len(self.failures), cases)
        _LOGGER.info("tables and pictures: %s", self.folder)

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_path(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _case(path: str) -> str:
    """Name of a case: its file without suffix. What follows a dot may also be a DICOM file's number, or a folder's."""
    return file_stem(path) if path.lower().endswith(_SUFFIXES) else Path(path).name
