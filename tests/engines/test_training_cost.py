"""What a training step does not do twice, and what it does not wait for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from esp_medsam_monai.engines import TrainingStep, prepare_batch
from esp_medsam_monai.engines.host_numbers import HostNumbers
from esp_medsam_monai.losses import EmbeddingLoss, ESPMedSAMLoss
from esp_medsam_monai.networks import ESPMedSAM
from tests.engines.small_training import MODALITIES, make


def test_the_loss_is_computed_once_a_step() -> None:
    """Also where it tells its parts."""
    calls: Counter[str] = Counter()

    class Counted(torch.nn.BCEWithLogitsLoss):
        def forward(self, *args: Any) -> torch.Tensor:
            calls["image"] += 1
            return super().forward(*args)

    trainer = make(None, epochs=1, batch_size=4, loss=ESPMedSAMLoss(MODALITIES, Counted()))
    trainer.run()
    assert trainer.state.iteration == 2 and calls["image"] == 8
    output = trainer.state.output[0]
    assert set(output["loss_parts"]) == {"mask"} and output["loss"] == output["loss_parts"]["mask"]


@pytest.mark.parametrize("loss", [ESPMedSAMLoss(MODALITIES), EmbeddingLoss()])
def test_a_loss_tells_its_parts_on_the_way(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    features = {
        "logits": torch.randn(3, 2, 64, 64, generator=generator),
        "patch_logits": torch.randn(3, 1, 2, 2, generator=generator),
        "image_embedding": torch.randn(3, 4, 2, 2, generator=generator),
    }
    label = torch.randint(0, 4, (3, 1, 64, 64), generator=generator).to(torch.uint8)
    if isinstance(loss, EmbeddingLoss):
        label = torch.randn(3, 4, 2, 2, generator=generator)
    names = ["mr", "xray", "mr"]
    value, parts = loss(features, label, names, return_components=True)
    assert torch.equal(value, loss(features, label, names))
    assert parts == loss.components(features, label, names)


def test_numbers_come_to_the_host_as_they_are() -> None:
    x = torch.tensor(0.1, requires_grad=True)
    first, second = HostNumbers([x * 3, torch.tensor([float("nan")])]).get()
    assert first == x.detach() * 3 and second.isnan() and second.shape == () and not first.requires_grad


def test_images_lie_channels_last_and_the_result_does_not_depend_on_it() -> None:
    seen: list[torch.Tensor] = []
    trainer = make(None, epochs=1)
    trainer.network.register_forward_pre_hook(lambda net, args: seen.append(args[0]) if net.training else None)
    batches: list[Any] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: batches.append(engine.state.batch))
    trainer.run()
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    assert all(torch.equal(x, batch["image"]) for x, batch in zip(seen, batches, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_waits_for_nothing_but_its_own_numbers() -> None:
    """Modalities are mixed, and one has two targets."""
    modalities = {"xray": ["lung"], "mr": ["front", "back"]}
    network = ESPMedSAM(modalities, img_size=64).cuda()
    batch = {
        "image": torch.rand(2, 3, 64, 64).pin_memory(),
        "label": torch.ones(2, 1, 64, 64, dtype=torch.uint8).pin_memory(),
        "modality": ["mr", "xray"],
    }
    trainer = SupervisedTrainer(
        torch.device("cuda"),
        1,
        [batch] * 3,
        network,
        torch.optim.AdamW(network.parameters(), fused=True),
        ESPMedSAMLoss(modalities),
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(seed=0),
        non_blocking=True,
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda _: torch.cuda.set_sync_debug_mode("error"))
    try:
        trainer.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.state.iteration == 3
