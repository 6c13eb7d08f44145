"""The training loss against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss

from esp_medsam_monai.losses import ESPMedSAMLoss, patch_target

MODALITIES = {"dermoscopy": ["lesion"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]}


def _label() -> torch.Tensor:
    """One dermoscopy lesion (1), one MR slice with both hippocampus parts (2 and 3)."""
    label = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    label[0, 0, :40, :40] = 1
    label[1, 0, 5:20, 5:20] = 2
    label[1, 0, 30:60, 10:50] = 3
    return label


def _features(sharpness: float) -> dict[str, torch.Tensor]:
    label = _label()
    logits = torch.full((2, 2, 64, 64), -1e4)
    logits[0, 0] = torch.where(label[0, 0] == 1, sharpness, -sharpness)
    logits[1, 0] = torch.where(label[1, 0] == 2, sharpness, -sharpness)
    logits[1, 1] = torch.where(label[1, 0] == 3, sharpness, -sharpness)
    # Patches of 32 x 32: the lesion reaches into all four, the hippocampus too.
    return {"logits": logits, "patch_logits": torch.full((2, 1, 2, 2), sharpness)}


def test_a_right_answer_costs_nothing_and_a_wrong_one_does() -> None:
    loss = ESPMedSAMLoss(MODALITIES)
    names = ["dermoscopy", "mr"]
    assert loss(_features(30.0), _label(), names) < 1e-3
    assert loss(_features(-30.0), _label(), names) > 1.0


def test_each_channel_is_compared_with_its_own_target() -> None:
    loss = ESPMedSAMLoss(MODALITIES, mask_loss=DiceLoss(sigmoid=True))
    swapped = _features(30.0)
    swapped["logits"][1] = swapped["logits"][1].flip(0)
    # The dermoscopy image is right (Dice loss 0), both MR channels show the other part (Dice loss 1).
    assert loss.components(swapped, _label(), ["dermoscopy", "mr"])["mask"] == pytest.approx(0.5, abs=1e-2)


def test_channels_that_a_modality_lacks_do_not_count() -> None:
    loss = ESPMedSAMLoss(MODALITIES)
    features = _features(1.0)
    features["logits"].requires_grad_(True)
    value = loss(features, _label(), ["dermoscopy", "mr"])
    value.backward()
    assert features["logits"].grad is not None
    assert features["logits"].grad[0, 1].count_nonzero() == 0
    assert features["logits"].grad[1, 1].count_nonzero() > 0


def test_images_weigh_the_same_however_many_targets_they_have() -> None:
    loss = ESPMedSAMLoss(MODALITIES, patch_weight=0.0)
    features, label, names = _features(0.7), _label(), ["dermoscopy", "mr"]
    alone = [loss({"logits": features["logits"][i : i + 1]}, label[i : i + 1], names[i : i + 1]).item() for i in (0, 1)]
    assert loss(features, label, names).item() == pytest.approx(sum(alone) / 2, rel=1e-6)


def test_patch_target_is_foreground_where_any_pixel_is() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(2, 1, 128, 96, generator=generator) > 0.999).float()
    expected = torch.zeros(2, 1, 4, 3)
    for b, _, y, x in mask.nonzero().tolist():
        expected[b, 0, y // 32, x // 32] = 1
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(patch_target(mask), expected)


def test_patch_loss_is_binary_cross_entropy_of_the_pooled_mask() -> None:
    label = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    label[0, 0, 0, 0] = 1  # one pixel makes the first of four patches foreground
    logits = torch.tensor([[[[2.0, -1.0], [0.5, 0.0]]]])
    p = [1 / (1 + math.exp(-v)) for v in (2.0, -1.0, 0.5, 0.0)]
    expected = -(math.log(p[0]) + sum(math.log(1 - q) for q in p[1:])) / 4
    features = {"logits": torch.zeros(1, 1, 64, 64), "patch_logits": logits}
    loss = ESPMedSAMLoss(MODALITIES, patch_weight=2.0)
    parts = loss.components(features, label, ["dermoscopy"])
    assert parts["patch"].item() == pytest.approx(expected, rel=1e-5)
    total = loss(features, label, ["dermoscopy"]).item()
    assert total == pytest.approx(parts["mask"].item() + 2 * expected, rel=1e-5)


def test_a_network_without_patch_prompt_has_no_patch_loss() -> None:
    parts = ESPMedSAMLoss(MODALITIES).components({"logits": torch.zeros(1, 1, 64, 64)}, _label()[:1], ["dermoscopy"])
    assert set(parts) == {"mask"}


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"'xray'.*dermoscopy, mr"):
        ESPMedSAMLoss(MODALITIES)(_features(1.0), _label(), ["dermoscopy", "xray"])
    with pytest.raises(ValueError, match="patch_weight"):
        ESPMedSAMLoss(MODALITIES, patch_weight=-1.0)
