"""Inference over the cases of a folder: every case stands alone, and everything is accounted for."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform
from monai.utils import CommonKeys, MetaKeys
from tqdm import tqdm

from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.io import RunReport, outside_training, write_preview

from .case_dataset import CaseDataset, reason_of

__all__ = ["FolderEvaluator"]

ALL_DONE, NOTHING_FOUND, SOME_FAILED, INTERRUPTED = 0, 2, 8, 130
BROKEN = 1

_LOGGER = logging.getLogger(__name__)


class FolderEvaluator(SupervisedEvaluator):
    """Segment every case of a folder, with a preview each and a report of the run.

    An exception in one case is written to ``<case>.error.txt`` and into the report, and the next case follows. Images
    stay on the CPU; the inferer sends its batches of slices to the network.

    Args:
        device: device of the network.
        val_data_loader: loader over a :class:`CaseDataset`, one case at a time.
        network: see :class:`SliceBatchInferer`.
        inferer: gives the label values; its ``axis`` counts for previews too.
        output_dir: folder for masks, previews and ``report.json``; made when missing.
        postprocessing: saves the mask under ``pred`` and notes ``saved_to`` in its metadata.
        val_handlers: handlers, for instance :class:`WeightsLoader`.
        preview: write ``<case>_preview.png`` beside each mask.
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
            postprocessing=postprocessing,
            val_handlers=val_handlers,
            prepare_batch=_image_on_cpu,
            **kwargs,
        )
        self.cases: CaseDataset = val_data_loader.dataset  # type: ignore[assignment]
        self.slices: SliceBatchInferer = inferer
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.preview = preview
        self.configuration = dict(configuration or {})
        self.report: RunReport | None = None
        self.exit_status = ALL_DONE
        self._bar: Any = None
        # After the handlers, one of which loads the weights.
        self.add_event_handler(Events.STARTED, self._note_weights)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Process all cases. What went wrong with them is in the report; :meth:`finish` turns it into an exit status.

        Raises:
            Exception: what no case is to blame for, for instance weights that do not fit.
        """
        problem = self.cases.problem
        if self.output_dir is None:
            problem = "no folder for the results was given; add --output_dir FOLDER."
        if problem is not None:
            self.exit_status = NOTHING_FOUND
            _LOGGER.error(problem)
        if self.output_dir is None:
            return
        self.report = RunReport(
            self.output_dir / "report.json", self.configuration, ignored=self.cases.ignored, command=sys.argv
        )
        if problem is None:
            self._run_cases(self.report, global_epoch)
        self.report.finish(self.exit_status)

    def finish(self) -> None:
        """Say how the run ended; the last step of a workflow.

        Raises:
            SystemExit: with 8 when a case failed, 2 when nothing was found, 130 when the run was interrupted.
        """
        if self.report is not None and self.report.cases:
            done, failed = self.report.count("done"), self.report.count("failed")
            _LOGGER.info("%d cases done, %d failed; report: %s", done, failed, self.report.path)
        if self.exit_status != ALL_DONE:
            raise SystemExit(self.exit_status)

    def _run_cases(self, report: RunReport, global_epoch: int) -> None:
        self._bar = tqdm(total=len(self.cases), desc="cases", unit="case", file=sys.stderr, dynamic_ncols=True)
        try:
            with _terminate_as_interrupt():
                super().run(global_epoch)
        except KeyboardInterrupt:
            self.exit_status = INTERRUPTED
            _LOGGER.error("interrupted after %d of %d cases", len(report.cases), len(self.cases))
        except Exception as error:
            report.finish(BROKEN)
            _LOGGER.error(reason_of(error))
            raise
        else:
            self.exit_status = SOME_FAILED if report.count("failed") else ALL_DONE
        finally:
            self._bar.close()

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict:
        case, path = batchdata["case"][0], batchdata["input"][0]
        self._bar.set_postfix_str(case)
        if "failure" in batchdata:
            facts = {key: batchdata[key][0] or None for key in ("modality", "modality_source")}
            self._fail(case, path, batchdata["failure"][0], batchdata["traceback"][0], facts)
        else:
            meta = batchdata[CommonKeys.IMAGE][0].meta
            facts = {key: meta.get(key) for key in ("modality", "modality_source")}
            started = time.perf_counter() - float(batchdata["seconds"][0])
            try:
                super()._iteration(engine, batchdata)
                self._done(case, path, facts, engine.state.batch[0][CommonKeys.IMAGE], engine.state.output[0], started)
            except Exception as error:  # one case never costs the others
                self._fail(case, path, reason_of(error), traceback.format_exc(), facts)
        self._bar.update()
        # Nothing of a case outlives it.
        engine.state.batch = engine.state.output = None
        return {}

    def _done(
        self, case: str, path: str, facts: dict[str, Any], image: MetaTensor, output: dict[str, Any], started: float
    ) -> None:
        mask = output[CommonKeys.PRED]
        targets = self.slices.targets(self.network, facts["modality"])
        plan = slice_plan(image.affine, image.shape[1:], self.slices.axis, image.meta.get("slice_axis"))
        # Pixels of a picture have no size.
        is_volume = image.ndim == 4
        sides = [float(image.pixdim[i]) * image.shape[1 + i] for i in plan.order[-2:]] if is_volume else None
        warnings = outside_training(facts["modality"], targets, sides, image.meta.get("body_part"))
        if self.preview:
            try:
                write_preview(
                    self._beside(case, "_preview.png"),
                    image,
                    mask,
                    targets,
                    facts["modality"],
                    case,
                    warnings,
                    self.slices.axis,
                )
            except Exception as error:  # the mask is there, and it is what was asked for
                warnings.append(f"no preview: {reason_of(error)}")
                _LOGGER.warning("%s: no preview", case, exc_info=True)
        self._beside(case, ".error.txt").unlink(missing_ok=True)
        self._row(
            case,
            path,
            "done",
            slices=image.shape[1 + plan.axis] if is_volume else 1,
            seconds=time.perf_counter() - started,
            output=os.path.relpath(mask.meta[MetaKeys.SAVED_TO], self.output_dir),
            warnings=warnings,
            **facts,
        )

    def _fail(self, case: str, path: str, reason: str, trace: str, facts: dict[str, Any]) -> None:
        _LOGGER.error("%s: %s", case, reason)
        file = self._beside(case, ".error.txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{path}\n{reason}\n\n{trace}", encoding="utf-8")
        self._row(case, path, "failed", reason=reason, **facts)

    def _note_weights(self) -> None:
        path = getattr(self.state, "weights", None)
        if self.report is not None and path is not None:
            self.report.note_weights(path)

    def _row(self, *args: Any, **kwargs: Any) -> None:
        assert self.report is not None
        self.report.add(*args, **kwargs)

    def _beside(self, case: str, ending: str) -> Path:
        assert self.output_dir is not None
        return self.output_dir / f"{case}{ending}"


def _image_on_cpu(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """MONAI's ``prepare_batch``, without sending the whole volume to the device."""
    return batch[CommonKeys.IMAGE], None


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send, like Ctrl-C. Signals can be caught in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
