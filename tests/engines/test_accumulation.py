"""Several batches a step: the weights of one large batch, whole groups in every epoch, nothing lost by a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import IterationEvents, SupervisedTrainer

from esp_medsam_monai.engines import TrainingStep, prepare_batch
from tests.engines.small_training import Items, OneLayer, loss, make

ITEMS = [Items()[i] for i in range(4)]


def batch(*numbers: int) -> dict[str, Any]:
    chosen = [ITEMS[i] for i in numbers]
    return {
        "image": torch.stack([item["image"] for item in chosen]),
        "label": torch.stack([item["label"] for item in chosen]),
        "modality": [item["modality"] for item in chosen],
    }


def train(batches: list[dict[str, Any]], epochs: int = 1, **options: Any) -> tuple[OneLayer, list[int]]:
    """Network after SGD with momentum, and the iterations after which it had changed."""
    network, changed = OneLayer(), []
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        batches,
        network,
        torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9),
        loss,
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(**options),
        decollate=False,
    )
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda engine: changed.append(engine.state.iteration))
    trainer.run()
    return network, changed


def assert_close(one: OneLayer, other: OneLayer) -> None:
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("max_grad_norm", [None, 0.01])
def test_images_weigh_the_same_whatever_the_sizes_of_the_batches(max_grad_norm: float | None) -> None:
    """Three images and one, against four; the mean of the two batches' means would be another."""
    small, changed = train([batch(0, 1, 2), batch(3)], 2, accumulation=2, max_grad_norm=max_grad_norm)
    large, _ = train([batch(0, 1, 2, 3)], 2, max_grad_norm=max_grad_norm)
    assert changed == [2, 4]
    assert_close(small, large)


def test_the_last_batches_of_an_epoch_make_a_step_of_their_own() -> None:
    small, changed = train([batch(0, 1), batch(2, 3), batch(0, 2)], 2, accumulation=2)
    large, _ = train([batch(0, 1, 2, 3), batch(0, 2)], 2)
    assert changed == [2, 3, 5, 6]
    assert_close(small, large)


def test_a_group_longer_than_an_epoch_is_the_epoch() -> None:
    assert train([batch(0), batch(1)], 2, accumulation=99)[1] == [2, 4]


def test_one_batch_a_step_is_what_it_was() -> None:
    """To the bit, against torch alone; the step gives images to the network with their channels last."""
    network, changed = train([batch(0, 1), batch(2, 3)], accumulation=1, max_grad_norm=None)
    reference = OneLayer()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5, momentum=0.9)
    for each in (batch(0, 1), batch(2, 3)):
        optimizer.zero_grad()
        image = each["image"].contiguous(memory_format=torch.channels_last)
        loss({"logits": reference.conv(image)}, each["label"], each["modality"]).backward()
        optimizer.step()
    assert changed == [1, 2]
    assert all(torch.equal(value, reference.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("accumulation", [2, 3])
def test_a_resume_in_the_middle_is_the_undisturbed_training(tmp_path: Path, accumulation: int) -> None:
    """Two batches an epoch: whole groups, and groups that the epoch cuts."""
    whole = make(tmp_path / "whole", epochs=4, accumulation=accumulation)
    whole.run()
    first = make(tmp_path / "parts", epochs=4, accumulation=accumulation)
    first.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    first.run()
    second = make(tmp_path / "parts", epochs=4, accumulation=accumulation, resume=True)
    second.run()
    assert (first.state.epoch, second.state.epoch) == (2, 4)
    expected = whole.network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in second.network.state_dict().items())


def test_ranks_exchange_gradients_once_a_group() -> None:
    """``no_sync`` of DistributedDataParallel, around all batches but the last of a group."""
    entered: list[int] = []

    class Wrapped(OneLayer):
        def no_sync(self) -> Any:
            entered.append(trainer.state.iteration)
            return torch.enable_grad()

    network = Wrapped()
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        1,
        [batch(0), batch(1), batch(2), batch(3)],
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        loss,
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(accumulation=3),
        decollate=False,
    )
    trainer.run()
    assert entered == [1, 2]


def test_fp16_is_refused_without_cuda() -> None:
    with pytest.raises(ValueError, match=r"fp16 needs a CUDA device.*cpu"):
        train([batch(0)], precision="fp16")
    step = TrainingStep("bf16")
    assert step.state_dict() == {}
    step.load_state_dict({"scale": 2.0})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_trains_on_cuda_and_keeps_its_scale() -> None:
    network, step = OneLayer().cuda(), TrainingStep("fp16")
    before = network.conv.weight.clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    trainer = SupervisedTrainer(
        torch.device("cuda"),
        2,
        [batch(0, 1, 2, 3)],
        network,
        optimizer,
        loss,
        prepare_batch=prepare_batch,
        iteration_update=step,
        decollate=False,
    )
    trainer.run()
    assert trainer.state.output["pred"]["logits"].dtype == torch.float16
    assert not torch.equal(network.conv.weight, before)
    state = {**step.state_dict(), "scale": 123.0}
    again = TrainingStep("fp16")
    again.load_state_dict(state)
    assert again.state_dict()["scale"] == 123.0


@pytest.mark.parametrize("options", [{"accumulation": 0}, {"precision": "fp8"}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TrainingStep(**options)


def test_the_network_gets_the_options_asked_for() -> None:
    given = []

    class Noting(OneLayer):
        def forward(self, x: torch.Tensor, modality: Any = None, **options: Any) -> Any:
            given.append(options)
            return super().forward(x, modality, return_features=True)

    for options in (None, {"embed_only": True}):
        network = Noting()
        SupervisedTrainer(
            torch.device("cpu"),
            1,
            [batch(0)],
            network,
            torch.optim.SGD(network.parameters(), lr=0.1),
            loss,
            prepare_batch=prepare_batch,
            iteration_update=TrainingStep(forward_options=options),
            decollate=False,
        ).run()
    assert given == [{"return_features": True}, {"embed_only": True}]
