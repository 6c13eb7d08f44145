"""Inference over the cases of a folder: every case stands alone, and everything is accounted for."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform
from monai.utils import CommonKeys, str2bool

from esp_medsam_monai import __version__
from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.io import Case, RunReport, claim, remove_partials

from .case_dataset import CaseDataset
from .case_outcome import outcome_of
from .case_records import CaseRecords
from .case_results import CaseResults
from .case_size import is_small
from .case_writer import CaseWriter
from .exit_status import ALL_DONE, BROKEN, NOTHING_FOUND, end_of_ranks, status_of
from .interruption import INTERRUPTED, Interruption
from .ranks import barrier, from_main_rank, is_main_rank, world_size
from .read_ahead import WORKER_ENDED, ReadAhead
from .reasons import one_line, reason_of
from .run_reports import summary, write_reports

__all__ = ["FolderEvaluator"]

_LOGGER = logging.getLogger(__name__)


class FolderEvaluator(SupervisedEvaluator):
    """Segment every case of a folder, with a preview each and a report of the run.

    An exception in one case is written to ``<case>.error.txt`` and into the report, and the next case follows. What an
    earlier run has done with the same weights, settings and input is left as it is. Runs that share a folder divide
    the cases between them. Images stay on the CPU; the inferer sends its batches of slices to the network.

    While the network works on a case, one thread reads the next one and another writes the last one, all in their
    order. Cases of more than ``OVERLAP_BYTES`` (:mod:`~esp_medsam_monai.engines.case_size`) are not read ahead and are
    written before the next is looked at, so that at most one large volume is in memory. Handlers see a case without its
    postprocessing, which belongs to writing.

    So do the ranks of a distributed run: each begins with its own share, then takes what nobody has begun. The main one
    writes the report of all, and all end with the same status. Where one dies, the report has what was done.

    Args:
        device: device of the network.
        val_data_loader: loader over a :class:`CaseDataset`, one case at a time.
        network: see :class:`SliceBatchInferer`.
        inferer: gives the label values; its ``axis`` counts for previews too.
        output_dir: folder for masks, previews and ``report.json``; made when missing.
        postprocessing: saves the mask under ``pred`` and notes ``saved_to``; called in the thread that writes.
        val_handlers: handlers, for instance :class:`WeightsLoader`.
        preview: write ``<case>_preview.png`` beside each mask.
        dicom_seg: write a DICOM SEG for DICOM input, if the packages for it are installed.
        overwrite: do again what is done.
        configuration: what the masks depend on besides weights and images, for the report.
        kwargs: further arguments of ``SupervisedEvaluator``.

    Raises:
        ValueError: when the loader makes batches of several cases.
    """

    def __init__(
        self,
        device: torch.device,
        val_data_loader: DataLoader,
        network: nn.Module,
        inferer: SliceBatchInferer,
        output_dir: str | os.PathLike[str] | None,
        postprocessing: Transform | None = None,
        val_handlers: Sequence[Any] | None = None,
        preview: bool = True,
        dicom_seg: bool = True,
        overwrite: bool = False,
        configuration: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if val_data_loader.batch_size != 1:
            raise ValueError(f"batch_size of the data loader should be 1 case, got {val_data_loader.batch_size}.")
        super().__init__(
            device,
            val_data_loader,
            network,
            inferer=inferer,
            val_handlers=val_handlers,
            prepare_batch=_image_on_cpu,
            decollate=False,
            **kwargs,
        )
        self.data_loader = self._reader = ReadAhead(val_data_loader, self._may_wait)
        self.cases: CaseDataset = val_data_loader.dataset  # type: ignore[assignment]
        self.slices: SliceBatchInferer = inferer
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.preview = str2bool(preview)
        self.dicom_seg = str2bool(dicom_seg)
        self.overwrite = str2bool(overwrite)
        # Another version of this package may draw another mask, and one name can stand for two values (AddedTarget).
        own = {"label_values": inferer.values(network), "esp_medsam_monai": __version__}
        self.configuration = {**(configuration or {}), **own}
        self.report: RunReport | None = None
        self.exit_status = ALL_DONE
        self._interruption = Interruption()
        self._writer = CaseWriter(self._interruption, postprocessing)
        self._began = 0.0
        self._has_begun = False
        self._have_met = False
        self._reads_ahead = val_data_loader.num_workers > 0
        # After the handlers, one of which loads the weights.
        self.add_event_handler(Events.STARTED, self._begin)
        self.add_event_handler(Events.GET_BATCH_STARTED, self._interruption.leave_workers_to_loader)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Process all cases. What went wrong is in the report and in the log; :meth:`finish` gives the exit status."""
        problem = self.cases.problem
        if self.output_dir is None:
            problem = "no folder for the results was given; give OUT (--output_dir FOLDER)."
        if problem is not None:
            self.exit_status = NOTHING_FOUND
            _LOGGER.error(problem)
        if self.output_dir is None or self.cases.is_output:
            return
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._run(self.output_dir, problem is None, global_epoch)
        except OSError as error:
            self.exit_status = BROKEN
            _LOGGER.error(reason_of(error))

    def finish(self) -> None:
        """Say how the run ended; the last step of a workflow.

        Raises:
            SystemExit: with 8 when a case failed, 2 when nothing was found, 130 when the run was interrupted, 1 when
                the run could not be carried out.
        """
        if is_main_rank() and self.report is not None and self.report.cases:
            _LOGGER.info(summary(self.report))
        if self._have_met:
            # The first rank to end with a status other than 0 makes torchrun end the others.
            with self._interruption:
                self._interruption.hold()
                barrier()
        if self.exit_status != ALL_DONE:
            raise SystemExit(self.exit_status)

    def _run(self, folder: Path, anything: bool, global_epoch: int) -> None:
        """One run with its report, from the first line to the last."""
        remove_partials(folder)
        cases = self.cases.cases
        report = RunReport(
            folder / "report.json", self.configuration, self.cases.ignored, sys.argv, [case.name for case in cases]
        )
        results = CaseResults(folder, self.slices.axis, self.preview, self.dicom_seg)
        self.report, self.records = report, CaseRecords(report, results, len(cases), self.overwrite)
        if any(case.kind == "dicom" for case in cases):
            self.records.note(results.note())
        report.save()  # what cannot be written should be known before the work, not after it
        report.run["started"] = from_main_rank(report.run["started"])
        self._interruption.once = world_size() > 1
        with self._interruption:
            try:
                if anything:
                    self._run_cases(global_epoch)
                self._interruption.hold()
                self._meet(report)
            finally:
                self._interruption.hold()
                self.records.bar.close()
                if is_main_rank():
                    write_reports(report, self.exit_status)

    def _run_cases(self, global_epoch: int) -> None:
        report = self.records.report
        try:
            self._go_through(global_epoch)
        except KeyboardInterrupt:
            self.exit_status = INTERRUPTED
            _LOGGER.error("interrupted after %d of %d cases", report.size, len(self.cases))
        except Exception as error:  # no case is to blame; as a rule weights that are missing or do not fit
            self.exit_status = BROKEN
            report.note(one_line(str(error)))
            if not isinstance(error, (OSError, ValueError)):
                raise
            _LOGGER.error(one_line(str(error)))
        else:
            self.exit_status = status_of(report)

    def _go_through(self, global_epoch: int) -> None:
        """All cases, until the last one is written; after an interruption, until the one at hand is."""
        self._has_begun = False
        try:
            try:
                super().run(global_epoch)
            except (RuntimeError, OSError, EOFError) as error:
                if not (self._has_begun and self._reads_ahead):
                    raise
                self.records.note(f"{WORKER_ENDED} ({one_line(str(error))})")
            # A case that is being written has no row yet, and would look as if nobody had begun it.
            self._writer.wait()
            if world_size() > 1:
                # From the end, for the others work towards it.
                for index in reversed(range(len(self.cases))):
                    self._take_turn(index, wait=0.0)
                self._writer.wait()
            for index in range(len(self.cases)):
                self._take_turn(index)
            self._writer.wait()
        finally:
            self._interruption.hold()
            self._writer.close()
            self._reader.close()
            if self._has_begun:
                took = round(time.perf_counter() - self._began, 3)
                self.records.report.run |= {"seconds": took, "runtime": self.slices.runtime}

    def _meet(self, report: RunReport) -> None:
        """Let all ranks know what each has done, and how it went."""
        if world_size() == 1:
            return
        if not is_main_rank():
            report.save()  # in case that the main rank has died
        try:
            self.exit_status = end_of_ranks(report, self.exit_status)
        except RuntimeError as error:
            self.exit_status = self.exit_status or BROKEN
            self.records.note(f"another process of this run has died, or hangs. ({one_line(str(error))})")
        else:
            self._have_met = True

    def _begin(self) -> None:
        """Note the weights, leave out what is done, and choose the runtime."""
        if path := getattr(self.state, "weights", None):
            self.records.report.note_weights(path, getattr(self.state, "weights_sha256", None))
        self.cases.finished = {case.name for case in self.cases.cases if self.records.is_finished(case)}
        if self.cases.finished:
            _LOGGER.info("%d of %d cases are done already", len(self.cases.finished), len(self.cases))
        if len(self.cases.finished) < len(self.cases):
            self.slices.prepare(self.network)
        self._has_begun = True
        self._began = time.perf_counter()

    def _may_wait(self, index: int) -> bool:
        """Whether a case may be read before its turn."""
        return (case := self.cases.cases[index]).name in self.cases.finished or is_small(case)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict:
        case = self.cases.cases[self.cases.index[batchdata["case"]]]
        if "finished" in batchdata:
            self.records.skipped(case)
            return {}
        self._if_ours(engine, case, lambda: batchdata)  # if not, its turn comes when the other run is done with it
        return {}

    def _take_turn(self, index: int, wait: float = -1) -> None:
        """A case that was passed over: take over the result of the run that was busy with it, or do it."""
        case = self.cases.cases[index]
        if not self.records.report.has(case.name):
            self.cases.finished.discard(case.name)
            self._if_ours(self, case, lambda: self.cases[index], wait)

    def _if_ours(self, engine: Any, case: Case, item: Callable[[], dict[str, Any]], wait: float = 0.0) -> None:
        """Do a case that no other run has claimed, or done since we began."""
        with ExitStack() as held:
            if held.enter_context(claim(self.records.folder, case.name, wait)) and not self.records.take_over(case):
                self._process(engine, case, item(), held)

    def _process(self, engine: Any, case: Case, item: dict[str, Any], held: ExitStack) -> None:
        """Segment a case and have it written; what is held for it goes to the writer."""
        self.records.show(case)
        outcome = outcome_of(case, item, lambda: self._segment(engine, item), self.slices)
        self._writer.start(self.records, outcome, held)

    def _segment(self, engine: Any, item: dict[str, Any]) -> tuple[MetaTensor, dict[str, int]]:
        """Mask and targets of a case; nothing of it stays in the engine."""
        engine.state.batch = item  # ignite does that for its own loop alone
        try:
            super()._iteration(engine, item)
            targets = self.slices.targets(self.network, item[CommonKeys.IMAGE].meta.get("modality"))
            return engine.state.output[CommonKeys.PRED][0], targets
        finally:
            engine.state.batch = engine.state.output = None


def _image_on_cpu(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """MONAI's ``prepare_batch``: one case as a batch, without sending the whole volume to the device."""
    return batch[CommonKeys.IMAGE][None], None
