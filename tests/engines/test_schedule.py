"""Learning rates of a schedule, the clock and what it says is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch.optim.lr_scheduler import ExponentialLR

from esp_medsam_monai.engines import TrainingSchedule
from esp_medsam_monai.engines import clock as clock_module
from esp_medsam_monai.engines.clock import TrainingClock, human_time
from tests.engines.small_training import make


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than a training here."""
    monkeypatch.setattr("esp_medsam_monai.engines.history.draw_history", lambda *_: None)


def rates(trainer: Any) -> list[float]:
    found: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: found.append(engine.optimizer.param_groups[0]["lr"])
    )
    trainer.run()
    return found


def test_published_is_torchs_exponential_schedule_once_an_epoch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    reference = ExponentialLR(optimizer, gamma=0.98)
    expected = []
    for _ in range(4):
        expected += reference.get_last_lr() * 2  # two iterations an epoch
        optimizer.step()
        reference.step()
    assert rates(make(None, epochs=4, schedule="published")) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "published"])
def test_a_resume_repeats_the_rates(tmp_path: Path, schedule: str) -> None:
    whole = rates(make(None, epochs=4, schedule=schedule))
    first = make(tmp_path, epochs=4, schedule=schedule)
    first.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.terminate() if engine.state.epoch == 2 else None
    )
    assert rates(first) + rates(make(tmp_path, epochs=4, schedule=schedule, resume=True)) == whole
    assert len(set(whole)) > 2


def test_the_clock_ends_the_published_schedule_too() -> None:
    trainer = make(None, epochs=50, schedule="published", max_minutes=1e-6)
    trainer.run()
    assert trainer.state.epoch == 1


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="'cosine' or 'published'"):
        TrainingSchedule(torch.optim.SGD([torch.zeros(1)], lr=1.0), schedule="linear")  # type: ignore[arg-type]


class Watch:
    """In place of the ``time`` module: minutes that only pass when told."""

    def __init__(self) -> None:
        self.minutes = 1000.0

    def monotonic(self) -> float:
        return self.minutes * 60


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(clock_module, "time", watch)
    return watch


def run(clock: TrainingClock, watch: Watch, state: SimpleNamespace, iterations: int, pace: float) -> None:
    """Iterations that take ``pace`` minutes each."""
    for _ in range(iterations):
        state.iteration += 1
        clock.tick(state)
        watch.minutes += pace
    clock.tick(state)


def test_time_left_by_epochs_includes_the_validation(watch: Watch) -> None:
    clock, state = TrainingClock(), SimpleNamespace(iteration=0, epoch_length=10, max_epochs=5)
    clock.start(state)
    assert clock.minutes_left(state) is None
    run(clock, watch, state, 10, 2.0)
    watch.minutes += 10  # of validation; the epoch took 30 minutes
    assert state.minutes == pytest.approx(20)
    assert clock.minutes_left(state) == pytest.approx(4 * 30)


@pytest.mark.parametrize(("limit", "expected"), [(50, 40), (60, 40), (61, 60), (1000, 80), (20, 0), (5, 0)])
def test_time_left_by_the_clock_ends_with_an_epoch(watch: Watch, limit: float, expected: float) -> None:
    """An epoch takes 20 minutes, one of five is done."""
    clock, state = TrainingClock(limit), SimpleNamespace(iteration=0, epoch_length=10, max_epochs=5)
    clock.start(state)
    run(clock, watch, state, 10, 2.0)
    assert clock.minutes_left(state) == pytest.approx(expected, abs=1e-6)


def test_time_left_after_a_resume_goes_by_the_speed_of_the_new_machine(watch: Watch) -> None:
    """20 iterations at 2 minutes before; now they take half a minute each."""
    clock, state = TrainingClock(), SimpleNamespace(iteration=0, epoch_length=10, max_epochs=5)
    clock.start(state)
    state.iteration, state.minutes = 20, 40.0  # as a checkpoint says it, after the start
    run(clock, watch, state, 1, 0.5)
    assert clock.minutes_left(state) == pytest.approx(29 * 40.5 / 21)
    run(clock, watch, state, 9, 0.5)
    assert state.minutes == pytest.approx(45)
    assert clock.minutes_left(state) == pytest.approx(20 * 0.5)


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (0, "0 s"),
        (0.66, "40 s"),
        (0.999, "1 min"),
        (12.2, "12 min"),
        (59.7, "1 h 00 min"),
        (185, "3 h 05 min"),
        (1439.9, "1 d 00 h"),
        (52 * 60, "2 d 04 h"),
    ],
)
def test_times_are_for_people(minutes: float, text: str) -> None:
    assert human_time(minutes) == text
