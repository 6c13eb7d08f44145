"""The average of the weights: its formula, what it leaves alone, and how checkpoints keep it."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from esp_medsam_monai.engines import EMAWeights
from tests.engines.small_training import OneLayer, make


class Normed(OneLayer):
    """One layer behind a batch norm that learns, with a layer that is frozen and a batch norm that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.frozen = torch.nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.still = torch.nn.BatchNorm2d(3).requires_grad_(False)
        self.still.running_mean.copy_(torch.randn(3))  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor, modality: Any = None, return_features: bool = False) -> Any:
        self.still.eval()
        return super().forward(self.norm(self.still(self.frozen(x))), modality, return_features)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than a training here."""
    monkeypatch.setattr("esp_medsam_monai.engines.history.draw_history", lambda *_: None)


def step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, x: float) -> None:
    optimizer.zero_grad()
    (network(torch.full((1, 3, 2, 2), x)) ** 2).mean().backward()
    optimizer.step()


def test_the_average_follows_the_formula_with_its_warm_up() -> None:
    network = OneLayer()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ema = EMAWeights(network, optimizer, decay=0.3)
    ema.attach(make(None))
    seen, expected = [], torch.zeros(2, dtype=torch.float64)
    for n in range(40):
        step(network, optimizer, 0.1 * n)
        bias = network.conv.bias.detach().double()
        decay = min(0.3, (1 + n) / (10 + n))
        expected = bias.clone() if n == 0 else decay * expected + (1 - decay) * bias
        seen.append(decay)
        assert ema.weights() is not None
        torch.testing.assert_close(ema.weights()["conv.bias"].double(), expected, rtol=1e-5, atol=1e-7)  # type: ignore[index]
    assert seen[1] < 0.2 and seen[-1] == 0.3, "both the warm-up and the final decay should have been tried"


def test_what_does_not_move_is_the_same_to_the_bit_and_running_means_are_averaged() -> None:
    trainer = make(None, epochs=10, network=Normed(), ema_decay=0.9)
    before = copy.deepcopy(trainer.network.state_dict())
    trainer.run()
    after, average = trainer.network.state_dict(), trainer.ema.weights()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"conv.weight", "conv.bias", "norm.weight", "norm.bias"} | {
        f"norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    for key in before.keys() - moved:
        assert torch.equal(average[key], before[key]), key
    assert not torch.equal(average["norm.running_var"], after["norm.running_var"])
    assert torch.equal(average["norm.num_batches_tracked"], after["norm.num_batches_tracked"])


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 6), (2, 3)])
def test_it_moves_once_with_each_step_of_the_optimizer(accumulation: int, steps: int) -> None:
    trainer = make(None, epochs=3, ema_decay=0.9, accumulation=accumulation)
    trainer.run()
    assert trainer.state.iteration == 6
    assert trainer.ema.state_dict()["steps"] == steps


def test_the_average_is_what_is_validated_and_kept_as_the_best(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=1, ema_decay=0.9)
    validated: list[torch.Tensor] = []
    trainer.validator.add_event_handler(
        Events.COMPLETED, lambda engine: validated.append(engine.network.conv.bias.detach().clone())
    )
    trainer.run()
    best, last = (torch.load(tmp_path / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert torch.equal(best["conv.bias"], validated[0])
    assert torch.equal(last["ema"]["network"]["conv.bias"], validated[0])
    assert torch.equal(last["network"]["conv.bias"], trainer.network.conv.bias)
    assert not torch.equal(validated[0], trainer.network.conv.bias)
    assert type(best["conv.bias"]) is torch.Tensor and set(best) == set(OneLayer().state_dict())


def stop_after(trainer: Any, epoch: int) -> None:
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.terminate() if engine.state.epoch == epoch else None
    )
    trainer.run()


def test_a_resume_goes_on_with_the_same_average(tmp_path: Path) -> None:
    make(tmp_path / "whole", epochs=4, network=Normed(), ema_decay=0.9).run()
    stop_after(make(tmp_path / "parts", epochs=4, network=Normed(), ema_decay=0.9), 2)
    make(tmp_path / "parts", epochs=4, network=Normed(), ema_decay=0.9, resume=True).run()
    for name in ("last.pt", "best.pt"):
        found, expected = (torch.load(tmp_path / run / name, weights_only=True) for run in ("parts", "whole"))
        found.pop("minutes", None), expected.pop("minutes", None)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_best_is_written_anew_with_the_average(tmp_path: Path) -> None:
    """``last.pt`` of the epoch is there, ``best.pt`` is not: a resume that has nothing left to do writes it."""
    make(tmp_path, epochs=1, ema_decay=0.9).run()
    before = torch.load(tmp_path / "best.pt", weights_only=True)
    (tmp_path / "best.pt").unlink()
    make(tmp_path, epochs=1, ema_decay=0.9, resume=True).run()
    torch.testing.assert_close(torch.load(tmp_path / "best.pt", weights_only=True), before, rtol=0, atol=0)


def test_a_checkpoint_without_an_average_still_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop_after(make(tmp_path, epochs=3), 2)
    assert "ema" not in torch.load(tmp_path / "last.pt", weights_only=True)
    trainer = make(tmp_path, epochs=3, resume=True, ema_decay=0.9)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    assert "holds nothing of ema, which begins anew" in caplog.text
    assert trainer.ema.state_dict()["steps"] == 2


def test_without_a_decay_nothing_changes(tmp_path: Path) -> None:
    trainer = make(tmp_path, epochs=1)
    trainer.run()
    assert trainer.validator.network is trainer.network
    assert set(torch.load(tmp_path / "last.pt", weights_only=True)) == {
        *("network", "optimizer", "best", "best_epoch", "epoch", "iteration", "minutes")
    }


@pytest.mark.parametrize("decay", [0, 1, 1.5])
def test_a_decay_that_makes_no_sense_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        make(None, ema_decay=decay)
