"""Checkpoints and history: what a resume goes on from, whatever has happened to the files."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from esp_medsam_monai.engines import TrainingCheckpoints
from esp_medsam_monai.io import atomic_path
from tests.engines.small_training import OneLayer, make


def test_best_is_a_bare_state_dict_and_last_goes_on(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", epochs=4)
    whole.run()
    first = make(tmp_path / "parts", epochs=4)
    first.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.terminate() if engine.state.epoch == 2 else None
    )
    first.run()
    best = torch.load(tmp_path / "parts" / "best.pt", weights_only=True)
    assert {key: type(value) for key, value in best.items()} == {
        "conv.weight": torch.Tensor,
        "conv.bias": torch.Tensor,
    }
    before = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["minutes"]
    second = make(tmp_path / "parts", epochs=4, resume=True)
    second.run()
    assert second.state.minutes > before > 0
    assert second.state.epoch == 4 and second.state.iteration == whole.state.iteration == 8
    # Same optimizer state, same learning rates, same order of images: the same weights.
    torch.testing.assert_close(second.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0)
    rows = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    assert [[row["epoch"] for row in part] for part in rows] == [[1, 2, 3, 4]] * 2
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert (tmp_path / "parts" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.rglob("*.part*")) and not list(tmp_path.rglob(".partial*"))


def test_best_keeps_the_best_and_not_the_last(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=3)
    scores, kept = iter([0.2, 0.9, 0.5]), []
    trainer.validator.add_event_handler(
        Events.COMPLETED, lambda engine: engine.state.metrics.update(val_dice=next(scores))
    )
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: kept.append(engine.network.conv.bias.detach().clone())
    )
    trainer.run()
    assert torch.equal(torch.load(tmp_path / "best.pt", weights_only=True)["conv.bias"], kept[1])
    assert torch.equal(torch.load(tmp_path / "last.pt", weights_only=True)["network"]["conv.bias"], kept[2])


def test_an_equal_score_does_not_replace_the_best(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=2)
    kept = []
    trainer.validator.add_event_handler(Events.COMPLETED, lambda engine: engine.state.metrics.update(val_dice=0.5))
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: kept.append(engine.network.conv.bias.detach().clone())
    )
    trainer.run()
    assert torch.equal(torch.load(tmp_path / "best.pt", weights_only=True)["conv.bias"], kept[0])


def test_best_waits_for_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``last.pt`` says what ``best.pt`` should be; where it cannot be written, both stay those of the epoch before."""
    trainer = make(tmp_path, epochs=3)
    scores = iter([0.2, 0.9])
    trainer.validator.add_event_handler(
        Events.COMPLETED, lambda engine: engine.state.metrics.update(val_dice=next(scores))
    )
    save = torch.save

    def full_disk(content: Any, path: Path) -> None:
        if content.get("epoch") == 2:
            raise OSError("no space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        trainer.run()
    best, last = (torch.load(tmp_path / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert last["epoch"] == 1
    assert torch.equal(best["conv.bias"], last["network"]["conv.bias"])


def stop_after(trainer: Any, epoch: int) -> None:
    """Run until an epoch is done."""
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.terminate() if engine.state.epoch == epoch else None
    )
    trainer.run()


def epoch_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["epoch"]


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    make(tmp_path, epochs=3).run()
    assert (epoch_of(tmp_path / "last.pt"), epoch_of(tmp_path / "previous.pt")) == (3, 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an undisturbed training of four epochs."""
    folder = tmp_path_factory.mktemp("whole")
    make(folder, epochs=4).run()
    return folder


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "foreign", "missing"])
def test_a_resume_takes_the_newest_state_that_loads(
    whole: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    stop_after(make(tmp_path / "run", epochs=4), 3)
    last = tmp_path / "run" / "last.pt"
    content = {"truncated": last.read_bytes()[:-100], "garbage": bytes(range(256)) * 9, "empty": b""}
    if damage == "foreign":
        torch.save({"weights": torch.zeros(1)}, last)
    elif damage == "missing":
        last.unlink()
    else:
        last.write_bytes(content[damage])
    again = make(tmp_path / "run", epochs=4, resume=True)
    epochs: list[int] = []
    again.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    # The damaged file never takes the place of the good one, not even for a moment.
    again.add_event_handler(
        Events.EPOCH_COMPLETED, lambda _: epochs.append(100 + epoch_of(tmp_path / "run" / "previous.pt"))
    )
    with caplog.at_level(logging.WARNING):
        again.run()
    assert epochs == [3, 102, 4, 102]
    assert (damage == "missing") != (f"{last} cannot be used" in caplog.text)
    for name in ("last.pt", "best.pt"):
        found, expected = (torch.load(run / name, weights_only=True) for run in (tmp_path / "run", whole))
        found.pop("minutes", None), expected.pop("minutes", None)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    rows = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_two_damaged_states_are_both_named(tmp_path: Path) -> None:
    stop_after(make(tmp_path, epochs=4), 2)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"last\.pt and .*previous\.pt cannot be used"):
        make(tmp_path, resume=True).run()
    with pytest.raises(FileExistsError):
        make(tmp_path).run()


class Payload:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_a_state_that_carries_code_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    stop_after(make(tmp_path, epochs=4), 2)
    state = torch.load(tmp_path / name, weights_only=True)
    torch.save({**state, "best": Payload(tmp_path / "owned")}, tmp_path / name)
    if name == "previous.pt":
        (tmp_path / "last.pt").unlink()
    with pytest.raises(ValueError, match=rf"{name} would run code"):
        make(tmp_path, epochs=4, resume=True).run()
    assert not (tmp_path / "owned").exists()


def test_best_is_written_anew_when_a_kill_came_before_it(tmp_path: Path) -> None:
    """``last.pt`` of the epoch is there, ``best.pt`` is still that of an epoch before."""
    trainer = make(tmp_path, epochs=4)
    scores = iter([0.2, 0.9])
    trainer.validator.add_event_handler(
        Events.COMPLETED, lambda engine: engine.state.metrics.update(val_dice=next(scores))
    )
    stop_after(trainer, 2)
    torch.save({"old": torch.zeros(1)}, tmp_path / "best.pt")
    make(tmp_path, epochs=2, resume=True).run()
    best, last = (torch.load(tmp_path / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert torch.equal(best["conv.bias"], last["network"]["conv.bias"])


def test_a_resume_with_another_network_is_told(tmp_path: Path) -> None:
    stop_after(make(tmp_path, epochs=4), 1)
    trainer = make(tmp_path, epochs=4, resume=True)
    checkpoints = TrainingCheckpoints(tmp_path, torch.nn.Linear(1, 1), trainer.optimizer, resume=True)
    with pytest.raises(ValueError, match=r"last\.pt does not fit"):
        checkpoints._load(trainer)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_a_resume_with_another_batch_size_goes_on_after_the_same_epoch(
    tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or with another number of ranks; twice as large batches make half as many an epoch, and end no training."""
    monkeypatch.setattr("esp_medsam_monai.engines.history.draw_history", lambda *_: None)  # slow
    stop_after(make(tmp_path, epochs=4), 2)
    again = make(tmp_path, epochs=4, resume=True, batch_size=batch_size)
    seen: list[tuple[int, int]] = []
    rates: list[float] = []
    state = again.state
    again.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append((state.epoch, state.iteration)))
    again.add_event_handler(Events.ITERATION_STARTED, lambda: rates.append(again.optimizer.param_groups[0]["lr"]))
    again.run()
    length = 8 // batch_size
    assert seen == [(i // length + 1, i + 1) for i in range(2 * length, 4 * length)]
    assert rates[0] == pytest.approx((0.5 + 0.005) / 2)  # half of the cosine is over


def test_a_broken_history_costs_no_training(tmp_path: Path) -> None:
    stop_after(make(tmp_path, epochs=3), 2)
    (tmp_path / "history.json").write_text("[{")
    make(tmp_path, epochs=3, resume=True).run()
    assert [row["epoch"] for row in json.loads((tmp_path / "history.json").read_text())] == [3]


def test_remains_of_dead_runs_go(tmp_path: Path) -> None:
    stop_after(make(tmp_path, epochs=3), 1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with atomic_path(tmp_path / "table.csv") as temporary:
        temporary.touch()
    remains = temporary.with_name(temporary.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    remains.write_bytes(b"half")
    make(tmp_path, epochs=2, resume=True).run()
    assert not remains.exists()


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    weights = {key: torch.full_like(value, 0.25) for key, value in OneLayer().state_dict().items()}
    torch.save(weights, tmp_path / "start.pt")
    trainer = make(tmp_path / "run", epochs=1, ckpt=tmp_path / "start.pt")
    seen = []
    trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda engine: seen.append(engine.network.conv.bias.detach().clone())
    )
    trainer.run()
    assert torch.equal(seen[0], weights["conv.bias"])


class Part:
    """Something with a state; as ``start`` it fills the network with 0.5."""

    def __init__(self, network: torch.nn.Module, state: dict[str, Any]) -> None:
        self.network, self.state, self.loaded = network, state, 0

    def load(self) -> None:
        self.loaded += 1
        for parameter in self.network.parameters():
            parameter.data.fill_(0.5)

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_a_start_is_loaded_at_the_start_and_not_on_a_resume(tmp_path: Path) -> None:
    network, seen = OneLayer(), []
    start = Part(network, {})
    trainer = make(tmp_path, epochs=2, network=network, start=start)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: seen.append(engine.network.conv.bias.tolist()))
    stop_after(trainer, 1)
    assert seen == [[0.5, 0.5]] and start.loaded == 1
    make(tmp_path, epochs=2, network=network, start=start, resume=True).run()
    assert start.loaded == 1


def test_states_of_other_parts_are_kept_and_given_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = {"scale": Part(OneLayer(), {"scale": 8.0}), "off": Part(OneLayer(), {})}
    stop_after(make(tmp_path, epochs=3, also=parts), 1)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["scale"] == {"scale": 8.0} and "off" not in state
    again = {name: Part(OneLayer(), {"scale": 1.0}) for name in ("scale", "new")}
    with caplog.at_level(logging.WARNING):
        make(tmp_path, epochs=2, resume=True, also=again).run()
    assert again["scale"].state == {"scale": 8.0} and again["new"].state == {"scale": 1.0}
    assert "last.pt holds nothing of new, which begins anew" in caplog.text
    with pytest.raises(ValueError, match="uses the name 'network' itself"):
        make(tmp_path, also={"network": Part(OneLayer(), {})})
