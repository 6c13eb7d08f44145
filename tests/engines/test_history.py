"""What a training tells of itself: history, curves, log line, bar and TensorBoard."""

from __future__ import annotations

import io
import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from matplotlib.figure import Figure
from monai.engines import SupervisedEvaluator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from esp_medsam_monai.engines import EpochProgress, TensorBoardCurves, TrainingHistory
from esp_medsam_monai.engines.history_curves import draw_history
from tests.engines.small_training import Items, loss, make


class TwoParts(torch.nn.Module):
    """A loss that tells its parts."""

    def components(self, *args: Any) -> dict[str, torch.Tensor]:
        return {"mask": loss(*args), "patch": 2 * loss(*args)}

    def forward(self, *args: Any, return_components: bool = False) -> Any:
        return (loss(*args) * 2, self.components(*args)) if return_components else loss(*args) * 2


def test_history_and_tensorboard_hold_the_parts_of_the_loss_and_the_rate(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=2, loss=TwoParts())
    for engine in (trainer, trainer.validator):
        TensorBoardCurves(tmp_path / "events").attach(engine)
    rates: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"])
    )
    trainer.run()
    rows = json.loads((tmp_path / "history.json").read_text())
    for row in rows:
        assert row["loss_parts"] == pytest.approx({"mask": row["loss"] / 2, "patch": row["loss"]})
    assert [row["learning_rate"] for row in rows] == [rates[1], rates[3]]
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in (tmp_path / "events").iterdir():
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            curves[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    assert set(curves) == {
        *("train_loss", "train_loss_mask", "train_loss_patch", "learning_rate"),
        *("val_dice", "val_dice_xray", "val_dice_mr"),
    }
    assert curves["learning_rate"] == [(i + 1, pytest.approx(rate)) for i, rate in enumerate(rates)]
    assert sum(value for _, value in curves["train_loss"][:2]) / 2 == pytest.approx(rows[0]["loss"])
    assert [step for step, _ in curves["val_dice"]] == [1, 2]


def test_the_history_takes_the_metric_that_its_validator_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of distillation: an error with its sign turned, per modality."""
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr("esp_medsam_monai.engines.history.draw_history", lambda *args: drawn.append(args))
    validator = SupervisedEvaluator(torch.device("cpu"), [], torch.nn.Identity())
    validator.state.key_metric_name = "val_kd"
    history = TrainingHistory(tmp_path, validator)
    trainer = make(None, epochs=1)
    history.attach(trainer)
    validator.state.metrics = {"val_kd": -0.0125, "val_kd_mr": -0.02, "val_kd_xray": -0.005, "val_kdx": 1.0}
    validator.fire_event(Events.COMPLETED)
    with caplog.at_level(logging.INFO):
        trainer.run()
    (row,) = json.loads((tmp_path / "history.json").read_text())
    assert row["kd"] == {"mean": -0.0125, "mr": -0.02, "xray": -0.005} and "dice" not in row
    assert "distillation error -0.0125 (mr -0.02, xray -0.005)" in caplog.text
    assert drawn[-1][2] == "kd"


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (saved.append(self), save(self, *args, **kw))[1])
    return saved


def test_errors_are_drawn_as_errors_on_a_logarithmic_axis(tmp_path: Path, figure: list[Figure]) -> None:
    rows = [{"epoch": i, "loss": 10.0**-i, "kd": {"mean": -(10.0**-i), "mr": -(10.0**-i)}} for i in (1, 2, 3)]
    draw_history(rows, tmp_path / "curve.png", "kd")
    left, right = figure[0].axes
    assert (left.get_yscale(), right.get_yscale()) == ("log", "log")
    assert right.get_title() == "Validation distillation error"
    assert [list(line.get_ydata()) for line in right.lines] == [pytest.approx([0.1, 0.01, 0.001])] * 2


def test_dice_is_drawn_from_0_to_1(tmp_path: Path, figure: list[Figure]) -> None:
    """Also where it is 0; rows that an older version wrote have neither parts nor rate."""
    rows: list[dict[str, Any]] = [{"epoch": 1, "loss": 1.0, "dice": {"mean": 0.0, "mr": 0.0}}]
    rows += [{"epoch": 2, "loss": 0.5, "loss_parts": {"mask": 0.4}}]
    draw_history(rows, tmp_path / "curve.png")
    left, right = figure[0].axes
    assert (left.get_yscale(), right.get_yscale(), right.get_ylim()) == ("linear", "linear", (0.0, 1.0))
    assert right.get_title() == "Validation Dice"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["loss", "mask"]


def test_bar_and_log_say_how_much_time_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("esp_medsam_monai.engines.progress.tqdm", partial(tqdm, mininterval=0, miniters=1))
    monkeypatch.setattr("esp_medsam_monai.engines.clock.TrainingClock.minutes_left", lambda *_: 65.0)
    trainer = make(tmp_path, epochs=1)
    EpochProgress().attach(trainer)
    EpochProgress("validation").attach(trainer.validator)
    with caplog.at_level(logging.INFO):
        trainer.run()
    assert "left=1 h 05 min" in screen.getvalue() and "loss=" in screen.getvalue()
    assert "validation" in screen.getvalue()
    (line,) = (text for text in caplog.messages if text.startswith("epoch 1/1  loss "))
    assert line.endswith("1 h 05 min left")


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("history", "tensorboard_handler", "checkpoint_handler", "progress"):
        monkeypatch.setattr(f"esp_medsam_monai.engines.{name}.is_main_rank", lambda: False)
    trainer = make(tmp_path, epochs=1)
    TensorBoardCurves(tmp_path).attach(trainer)
    trainer.run()
    assert list(tmp_path.iterdir()) == [] and trainer.state.iteration == len(Items()) // 2
