"""Dice of every case of a datalist, in its own grid, as tables; a case that fails is listed and stops no other."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys

from esp_medsam_monai.engines.dice_table import DiceRow, dice_rows, summarize
from esp_medsam_monai.engines.pair_check import PairCheck
from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.io import atomic_path
from esp_medsam_monai.io.csv_file import write_csv
from esp_medsam_monai.io.nifti import NIFTI_SUFFIXES
from esp_medsam_monai.io.reader import PICTURE_SUFFIXES
from esp_medsam_monai.io.sidecar import file_stem
from esp_medsam_monai.modalities import label_values

__all__ = ["EvaluationDataset", "EvaluationStep", "EvaluationTables", "prepare_case"]

SOME_FAILED = 8

_LOGGER = logging.getLogger(__name__)
_SUFFIXES = (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES, ".dcm")


def prepare_case(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
    """``prepare_batch`` of an evaluator over whole cases: they stay on the CPU, the inferer sends slices to the device.

    Returns:
        image ``(1, C, *spatial)``, label ``(1, 1, *spatial)``, no further arguments (the image carries its modality).
    """
    return batch[CommonKeys.IMAGE], batch[CommonKeys.LABEL], (), {}


class EvaluationDataset(Dataset):
    """Entries of a datalist; one that cannot be used gives ``{"failure", "input", "modality", "domain"}``, all text.

    Args:
        data: entries with ``image`` and ``label``, optionally ``modality`` and ``domain``.
        transform: see :func:`~esp_medsam_monai.transforms.evaluation_transforms`.
        pair_check: what else is asked of an entry, for instance that image and label lie in the same place.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any] | None = None,
        pair_check: PairCheck | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.pair_check = pair_check

    def _transform(self, index: int) -> dict[str, Any]:
        entry = self.data[index]
        modality = str(entry.get("modality") or "")
        try:
            if self.pair_check is not None:
                facts = self.pair_check(entry)
                modality = facts.modality or modality
                if facts.errors:
                    return _failure(entry, modality, "; ".join(f"{e.code}: {e.message}" for e in facts.errors))
            return super()._transform(index)
        except Exception as error:  # whatever a foreign file provokes
            return _failure(entry, modality, reason_of(error))


def _failure(entry: Mapping[str, Any], modality: str, reason: str) -> dict[str, Any]:
    return {
        "failure": reason,
        "input": str(entry[CommonKeys.IMAGE]),
        "modality": modality,
        "domain": str(entry.get("domain", "")),
    }


class EvaluationStep:
    """``iteration_update`` of a ``SupervisedEvaluator``: as MONAI's own, but an exception becomes ``failure``."""

    def __call__(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        """Segment one case.

        Returns:
            MONAI's output, or ``{"failure": reason}``.
        """
        if "failure" in batchdata:
            return {"failure": batchdata["failure"][0]}
        try:
            return engine._iteration(engine, batchdata)
        except Exception as error:  # one case never costs the others
            _LOGGER.exception("a case failed")
            return {"failure": reason_of(error)}


class EvaluationTables:
    """Handler of an evaluator over whole cases, one at a time: compares labels and writes three files at the end.

    - ``metrics.json``: ``{modality: {target: {"dice", "n", ...}}}``, see :func:`summarize`;
    - ``metrics_by_domain.json``: the same per set, ``{domain: {target: ...}}``, of cases whose entry names one;
    - ``cases.csv``: a row per case and target; a case that failed has one row, with the ``reason`` and no target, and
      does not count in the other two.

    Args:
        output_dir: folder for them, made when missing.
        modalities: ``{modality: [targets]}`` of the network.
    """

    def __init__(self, output_dir: str | os.PathLike[str], modalities: Mapping[str, Sequence[str]]) -> None:
        self.folder = Path(output_dir)
        self.values = label_values(modalities)
        self.rows: list[DiceRow] = []
        self.failures: list[dict[str, str]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._compare)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def finish(self) -> None:
        """The last step of a workflow.

        Raises:
            SystemExit: with 8 when a case failed.
        """
        if self.failures:
            raise SystemExit(SOME_FAILED)

    def _started(self, _: Engine) -> None:
        self.rows, self.failures = [], []

    def _compare(self, engine: Engine) -> None:
        state: Any = engine.state
        output, batch = state.output, state.batch
        domain = batch.get("domain", [""])[0]
        if "failure" in output:
            self._fail(batch, domain, output["failure"])
            return
        image = batch[CommonKeys.IMAGE][0]
        modality = image.meta["modality"]
        self.rows += dice_rows(
            output[CommonKeys.PRED][0].as_tensor().cpu(),
            output[CommonKeys.LABEL][0].as_tensor().cpu(),
            self.values[modality],
            case=_case(str(image.meta["filename_or_obj"])),
            modality=modality,
            domain=domain,
        )

    def _fail(self, batch: Mapping[str, Any], domain: str, reason: str) -> None:
        if "failure" in batch:
            path, modality = batch["input"][0], batch["modality"][0]
        else:
            meta = batch[CommonKeys.IMAGE][0].meta
            path, modality = str(meta["filename_or_obj"]), meta["modality"]
        self.failures.append({"case": _case(path), "modality": modality, "domain": domain, "reason": reason})
        _LOGGER.error("%s: %s", _case(path), reason)

    def _write(self, _: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        table = summarize(self.rows)
        self._json("metrics.json", table)
        self._json("metrics_by_domain.json", summarize([row for row in self.rows if row.domain], by="domain"))
        columns = [*(field.name for field in dataclasses.fields(DiceRow)), "reason"]
        write_csv(self.folder / "cases.csv", columns, [*map(dataclasses.asdict, self.rows), *self.failures])
        for modality, targets in table.items():
            for target, entry in targets.items():
                dice = "none" if entry["dice"] is None else f"{entry['dice']:.3f}"
                _LOGGER.info("%-12s %-24s Dice %s  n %d", modality, target, dice, entry["n"])
        if self.failures:
            cases = len({(row.case, row.modality, row.domain) for row in self.rows}) + len(self.failures)
            _LOGGER.error("%d of %d cases failed; cases.csv says why", len(self.failures), cases)
        _LOGGER.info("tables: %s", self.folder)

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_path(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _case(path: str) -> str:
    """Name of a case: its file without suffix. What follows a dot may also be a DICOM file's number, or a folder's."""
    return file_stem(path) if path.lower().endswith(_SUFFIXES) else Path(path).name
