"""A new target or modality on a trained network: only its own parts learn, and old results stay to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import IterationEvents, SupervisedTrainer

from esp_medsam_monai.checkpoints import StartingWeights
from esp_medsam_monai.engines import FrozenCheck, TrainableParts, TrainingStep, prepare_batch, step_loss
from esp_medsam_monai.losses import ESPMedSAMLoss
from esp_medsam_monai.modalities import extended_modalities
from esp_medsam_monai.networks import ESPMedSAM

OLD = {"dermoscopy": ["lesion"], "mr": ["front", "back"]}  # 1, 2, 3
NEW = {"dermoscopy": ["hair"], "oct": ["fluid"]}  # 4, 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ESPMedSAM, Path]:
    """A network in evaluation mode, batch norms that have seen images, and the file of its weights."""
    torch.manual_seed(0)
    network = ESPMedSAM(OLD, img_size=64).train()
    network(torch.randn(4, 3, 64, 64), "mr")
    path = tmp_path_factory.mktemp("old") / "model.pt"
    torch.save(network.state_dict(), path)
    return network.eval(), path


@pytest.fixture(scope="module")
def finetuned(trained: tuple[ESPMedSAM, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[float]]:
    """The network with two more targets after six steps on images whose labels speak of the new ones alone."""
    torch.manual_seed(1)
    modalities = extended_modalities(OLD, NEW)
    network = ESPMedSAM(modalities, img_size=64)
    StartingWeights(network, [{"file": str(trained[1]), "new": "keep"}]).load()
    parts = TrainableParts(network, "new")
    label = torch.zeros(4, 1, 64, 64, dtype=torch.uint8)
    label[:2, :, 10:40], label[2:, :, :, 30:] = 4, 5
    batch = {
        "image": torch.randn(4, 3, 64, 64),
        "label": label,
        "modality": ["dermoscopy", "dermoscopy", "oct", "oct"],
        "labelled": ["hair", "hair", "", ""],
    }
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        3,
        [batch, batch],
        network,
        torch.optim.AdamW(parts.parameters(), lr=0.003, weight_decay=0.1),
        ESPMedSAMLoss(modalities),
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(parts=parts),
        train_handlers=[FrozenCheck(parts, tmp_path_factory.mktemp("run"))],
        decollate=False,
    )
    losses: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(step_loss(engine.state.output)))
    trainer.run()
    return network.eval(), losses


@torch.no_grad()
def assert_same(old: ESPMedSAM, new: ESPMedSAM, names: list[str], side: int = 64) -> None:
    """Every old target's logits, and all that leads to them, of the images of one batch."""
    x = torch.randn(len(names), 3, side, side, generator=torch.Generator().manual_seed(7))
    before, after = old(x, names, return_features=True), new(x, names, return_features=True)
    assert torch.equal(before["image_embedding"], after["image_embedding"])
    assert torch.equal(before["patch_logits"], after["patch_logits"])
    for i, name in enumerate(names):
        channels = len(OLD[name])
        assert torch.equal(before["logits"][i, :channels], after["logits"][i, :channels]), name


@pytest.mark.parametrize("names", [["dermoscopy"], ["mr"], ["mr", "dermoscopy", "mr"], ["dermoscopy"] * 3])
@pytest.mark.parametrize("side", [64, 96])
def test_old_targets_keep_their_results_to_the_bit(
    trained: tuple[ESPMedSAM, Path], finetuned: tuple[ESPMedSAM, Any], names: list[str], side: int
) -> None:
    """Against the network that never had the new targets."""
    assert_same(trained[0], finetuned[0], names, side)


def test_new_targets_learn(finetuned: tuple[ESPMedSAM, list[float]]) -> None:
    network, losses = finetuned
    assert losses[-1] < losses[0]
    logits = network(torch.zeros(2, 3, 64, 64), ["dermoscopy", "oct"])
    assert logits.shape == (2, 2, 64, 64)
    assert (logits[1, 1] == -1e4).all()


def test_only_new_parts_have_changed(trained: tuple[ESPMedSAM, Path], finetuned: tuple[ESPMedSAM, Any]) -> None:
    old, new = trained[0].state_dict(), finetuned[0].state_dict()
    assert all(torch.equal(value, new[key]) for key, value in old.items())
    words = {".".join(key.split(".")[: 3 if "decoder" in key else 2]) for key in new.keys() - old.keys()}
    assert words == {
        "controllers.oct",
        *(
            f"mask_decoder.{kind}.{name}"
            for kind in ("queries", "hyper_mlps")
            for name in ("dermoscopy_hair", "oct_fluid")
        ),
    }


def test_the_comparison_notices_what_moves(trained: tuple[ESPMedSAM, Path], finetuned: tuple[ESPMedSAM, Any]) -> None:
    """The tests above can fail: a batch norm that had been left in training mode would show."""
    network = finetuned[0]
    buffer = dict(network.named_buffers())["image_encoder.patch_embed.seq.0.bn.running_mean"]
    buffer += 1e-3
    with pytest.raises(AssertionError):
        assert_same(trained[0], network, ["mr"])
    buffer.copy_(trained[0].state_dict()["image_encoder.patch_embed.seq.0.bn.running_mean"])


def test_a_batch_without_a_part_in_what_learns_changes_nothing() -> None:
    """Images of dermoscopy alone, while the controller of mr learns."""
    network = ESPMedSAM(OLD, img_size=64)
    parts = TrainableParts(network, "controllers.mr")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    batch = {
        "image": torch.randn(2, 3, 64, 64),
        "label": torch.ones(2, 1, 64, 64, dtype=torch.uint8),
        "modality": ["dermoscopy", "dermoscopy"],
    }
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        1,
        [batch],
        network,
        torch.optim.AdamW(parts.parameters(), lr=0.1),
        ESPMedSAMLoss(OLD),
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(parts=parts),
        decollate=False,
    )
    changed: list[int] = []
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda: changed.append(1))
    trainer.run()
    assert changed == []
    assert step_loss(trainer.state.output) > 0
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
