"""Curves and results for MLflow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.engines import Trainer
from monai.handlers import MLFlowHandler
from monai.utils import path_to_sqlite_uri

from esp_medsam_monai.engines.ranks import is_main_rank
from esp_medsam_monai.engines.training_scalars import training_scalars

__all__ = ["MLFlowTracking"]

_ARTIFACTS = ("history.json", "curve.png", "metrics.json")


class MLFlowTracking(MLFlowHandler):
    """MONAI's ``MLFlowHandler`` for our engines, as ``tracking_mlflow.yaml`` adds it to their handlers.

    Of a trainer it writes the loss with its parts and the learning rate of each step; of a validator its metrics, with
    the trainer's epoch, into the same run; of an evaluation what stands in ``metrics.json``, as
    ``<modality>.<target>.<key>``. A resumed training goes on with its run. Of several ranks only the main one writes.

    Args:
        output_dir: folder of the run; without ``tracking_uri`` everything goes to ``mlruns.db`` and ``mlruns`` there.
        tracking_uri: an MLflow server, or a database; the variable ``MLFLOW_TRACKING_URI`` goes before it.
        experiment_name: experiment that the run belongs to.
        run_name: name of the run; None: its date and time.
        ends_run: whether the run is over when the engine is: of a trainer and an evaluation, not of a validator.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        tracking_uri: str | None = None,
        experiment_name: str = "esp_medsam",
        run_name: str | None = None,
        ends_run: bool = False,
    ) -> None:
        self.folder = Path(output_dir).resolve()
        self._writes = is_main_rank()
        self._trains = False
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            super().__init__(
                tracking_uri=tracking_uri or path_to_sqlite_uri(str(self.folder / "mlruns.db")),
                experiment_name=experiment_name,
                run_name=run_name,
                iteration_logger=self._log_step,
                artifacts=[self.folder / name for name in _ARTIFACTS] if ends_run else None,
                close_on_complete=ends_run,
            )

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, a validator or an evaluator."""
        if not self._writes:
            return
        self.iteration_log = self._trains = isinstance(engine, Trainer)
        super().attach(engine)

    def complete(self) -> None:
        """Write the results of an evaluation, and the files of the run."""
        results = self.folder / "metrics.json"
        if self.close_on_complete and not self._trains and results.is_file():
            self._log_metrics(_flat(json.loads(results.read_text(encoding="utf-8"))))
        super().complete()

    def _log_step(self, engine: Engine) -> None:
        self._log_metrics(training_scalars(engine), step=engine.state.iteration)


def _flat(metrics: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    return {
        f"{modality}.{target}.{key}": float(value)
        for modality, targets in metrics.items()
        for target, entry in targets.items()
        for key, value in entry.items()
        if isinstance(value, (int, float))
    }
