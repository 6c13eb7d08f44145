"""Loss and validation Dice over the epochs: a JSON file, a picture and a line in the log."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.engines import Evaluator
from monai.utils import CommonKeys
from monai.utils.misc import str2bool

from esp_medsam_monai.io import atomic_path

__all__ = ["TrainingHistory", "draw_history"]

_LOGGER = logging.getLogger(__name__)


class TrainingHistory:
    """Handler: ``history.json`` and ``curve.png``, rewritten after every epoch, and one log line an epoch.

    Args:
        output_dir: folder of the run.
        validator: evaluator whose metrics are recorded.
        metric: name of its key metric; ``<metric>_<modality>`` are recorded with it.
        resume: keep the epochs that training goes on from, and drop those that it does again.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        validator: Evaluator | None = None,
        metric: str = "val_dice",
        resume: bool | str = False,
    ) -> None:
        self.folder = Path(output_dir)
        self.validator = validator
        self.metric = metric
        self.resume = str2bool(resume)
        self.epochs: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._scores: dict[str, float] = {}

    @property
    def path(self) -> Path:
        """``history.json`` of the run."""
        return self.folder / "history.json"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the handlers that validate and load."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._validation)

    def _started(self, engine: Engine) -> None:
        if self.resume:
            self.epochs = [row for row in _read(self.path) if row["epoch"] <= engine.state.epoch]
            self._write()

    def _iteration(self, engine: Engine) -> None:
        state: Any = engine.state
        self._losses.append(float(state.output[CommonKeys.LOSS]))

    def _validation(self, engine: Engine) -> None:
        self._scores = {
            name.removeprefix(self.metric).removeprefix("_") or "mean": float(value)
            for name, value in engine.state.metrics.items()
            if name.startswith(self.metric)
        }

    def _epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        row: dict[str, Any] = {
            "epoch": state.epoch,
            "loss": sum(self._losses) / max(len(self._losses), 1),
            "seconds": round(state.times[Events.EPOCH_COMPLETED.name], 1),
        }
        if self._scores:
            row["dice"] = self._scores
        self._losses, self._scores = [], {}
        self.epochs.append(row)
        self._write()
        scores = row.get("dice", {})
        text = f"  Dice {scores['mean']:.3f} (" if scores else ""
        text += ", ".join(f"{name} {value:.3f}" for name, value in sorted(scores.items()) if name != "mean")
        _LOGGER.info(
            "epoch %d/%d  loss %.4f  %.0f s%s",
            row["epoch"],
            state.max_epochs,
            row["loss"],
            row["seconds"],
            f"{text})" if scores else "",
        )

    def _write(self) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.epochs, indent=1) + "\n", encoding="utf-8")
        draw_history(self.epochs, self.folder / "curve.png")


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows of a history; none, with a warning, when somebody broke or removed the file, which costs no training."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [dict(row) for row in rows if row["epoch"] > 0]
    except (OSError, ValueError, TypeError, KeyError) as error:
        _LOGGER.warning("%s cannot be read (%s); the history begins anew.", path, type(error).__name__)
        return []


def draw_history(epochs: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss, and beside it the validation Dice of every modality with their mean, over the epochs.

    Args:
        epochs: rows ``{"epoch", "loss", "dice": {"mean", modality: value} (where validated)}``.
        path: PNG to write; it is replaced at once, so that a viewer never sees half a picture.
    """
    # Not by pyplot: no window system, no global state.
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    marker = "o" if len(epochs) < 30 else ""
    left.plot(
        [row["epoch"] for row in epochs], [row["loss"] for row in epochs], color="#333333", marker=marker, markersize=3
    )
    left.set(title="Training loss", xlabel="epoch", ylabel="mean of the epoch")
    validated = [row for row in epochs if "dice" in row]
    names = sorted({name for row in validated for name in row["dice"]} - {"mean"})
    for name in [*names, "mean"]:
        points = [(row["epoch"], row["dice"][name]) for row in validated if name in row["dice"]]
        if points:
            style: dict[str, Any] = {"color": "black", "linewidth": 2.4} if name == "mean" else {"linewidth": 1.3}
            x, y = zip(*points, strict=True)
            right.plot(x, y, label=f"{name}  {y[-1]:.3f}", marker=marker, markersize=3, **style)
    right.set(title="Validation Dice", xlabel="epoch", ylim=(0, 1))
    if validated:
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="last value", fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
