"""The end of a training that gets no better: when it comes, and that a resume neither forgets nor repeats it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from tests.engines.small_training import make


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than a training here."""
    monkeypatch.setattr("esp_medsam_monai.engines.history.draw_history", lambda *_: None)


def score(trainer: Any, values: dict[int, float]) -> None:
    """Let validation find these values, by epoch."""
    trainer.validator.add_event_handler(
        Events.COMPLETED, lambda engine: engine.state.metrics.update(val_dice=values[trainer.state.epoch])
    )


@pytest.mark.parametrize(
    ("interval", "patience", "values", "expected"),
    [
        (1, 2, {1: 0.5, 2: 0.6, 3: 0.6, 4: 0.1}, 4),  # an equal value is no better one
        (1, 1, {1: -3.0, 2: -2.0, 3: -2.5}, 3),  # errors with their sign turned
        (2, 2, {2: 0.5, 4: 0.4}, 4),
        (2, 3, {2: 0.5, 4: 0.4, 6: 0.4}, 6),  # three epochs, and then the next validation
        (3, 2, {3: 0.5, 6: 0.6, 9: 0.5}, 9),
        (1, None, dict.fromkeys(range(1, 13), 0.5), 12),
    ],
)
def test_it_counts_epochs_whatever_the_interval(
    tmp_path: Path, interval: int, patience: int | None, values: dict[int, float], expected: int
) -> None:
    trainer = make(tmp_path, epochs=12, interval=interval, early_stop=patience)
    score(trainer, values)
    trainer.run()
    assert trainer.state.epoch == expected
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == expected


def test_the_log_says_why_and_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(tmp_path, epochs=12, early_stop=2)
    score(trainer, {1: 0.25, 2: 0.75, 3: 0.5, 4: 0.5})
    with caplog.at_level(logging.INFO):
        trainer.run()
    assert "stopping after epoch 4: val_dice has not got better than 0.7500 of epoch 2." in caplog.text
    assert "--early_stop" in caplog.text


def stopped_in_between(folder: Path, patience: int | None) -> None:
    """A training that a kill ended after its second epoch, without a better value since the first."""
    trainer = make(folder, epochs=12, early_stop=patience)
    score(trainer, {1: 0.5, 2: 0.4})
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.terminate() if engine.state.epoch == 2 else None
    )
    trainer.run()


@pytest.mark.parametrize(("before", "expected"), [(3, 4), (None, 6)])
def test_a_resume_goes_on_counting(tmp_path: Path, before: int | None, expected: int) -> None:
    """Where the checkpoint knows of no counting, it begins with the first validation after the resume."""
    stopped_in_between(tmp_path, before)
    again = make(tmp_path, epochs=12, early_stop=3, resume=True)
    score(again, dict.fromkeys(range(3, 13), 0.4))
    again.run()
    assert again.state.epoch == expected


def test_a_training_that_it_ended_is_not_trained_further(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=12, early_stop=1)
    score(trainer, {1: 0.5, 2: 0.4})
    trainer.run()
    again = make(tmp_path, epochs=12, early_stop=1, resume=True)
    again.run()
    assert again.state.iteration == trainer.state.iteration
    longer = make(tmp_path, epochs=12, early_stop=2, resume=True)
    score(longer, {3: 0.4})
    longer.run()
    assert longer.state.epoch == 3


def test_patience_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="1 epoch or more"):
        make(None, early_stop=0)
