"""Labels that speak of some targets alone: the others neither gain nor lose by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from esp_medsam_monai.engines import ModalityDice, prepare_batch
from esp_medsam_monai.losses import ESPMedSAMLoss

MODALITIES = {"skin": ["lesion", "hair"], "xray": ["lung"]}  # 1, 2, 3


def batch(labelled: list[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str]]:
    """A skin image with hair (2) and an X-ray; what a loss gets of them."""
    label = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    label[0, 0, :10], label[1, 0, :, :20] = 2, 3
    generator = torch.Generator().manual_seed(0)
    features = {
        "logits": torch.randn(2, 2, 64, 64, generator=generator).requires_grad_(),
        "patch_logits": torch.randn(2, 1, 2, 2, generator=generator).requires_grad_(),
    }
    data = {"image": torch.zeros(2, 3, 64, 64), "label": label, "modality": ["skin", "xray"], "labelled": labelled}
    _, label, (names,), _ = prepare_batch(data)
    return features, label, names


def test_a_target_that_the_label_does_not_speak_of_gets_no_gradient() -> None:
    features, label, names = batch(["hair", ""])
    ESPMedSAMLoss(MODALITIES)(features, label, names).backward()
    gradient: Any = features["logits"].grad
    assert gradient[0, 0].count_nonzero() == 0
    assert gradient[0, 1].count_nonzero() == 64 * 64
    assert gradient[1, 0].count_nonzero() == 64 * 64


def test_the_others_count_as_in_a_network_without_it() -> None:
    features, label, names = batch(["hair", ""])
    found = ESPMedSAMLoss(MODALITIES).components(features, label, names)["mask"]
    alone = ESPMedSAMLoss({"skin": ["hair"], "xray": ["lung"]})
    logits = torch.stack([features["logits"][0, 1:], features["logits"][1, :1]])
    renumbered = (label.as_subclass(torch.Tensor).float() - 1).clamp(min=0)  # 2, 3 are 1, 2 there
    expected = alone.components({"logits": logits}, renumbered, names)["mask"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_patch_map_learns_from_labels_that_speak_of_all() -> None:
    features, label, names = batch(["hair", ""])
    loss = ESPMedSAMLoss(MODALITIES)
    parts = loss.components(features, label, names)
    parts["patch"].backward()
    gradient: Any = features["patch_logits"].grad
    assert gradient[0].count_nonzero() == 0 and gradient[1].count_nonzero() == 4
    one = loss.components(
        {key: value[1:] for key, value in features.items()}, label[1:].as_subclass(torch.Tensor), ["xray"]
    )
    assert parts["patch"].item() == pytest.approx(one["patch"].item() / 2, rel=1e-6)  # the mean over two images


def test_labels_that_speak_of_all_are_plain_and_count_as_ever() -> None:
    features, label, names = batch(["", ""])
    assert type(label) is torch.Tensor
    loss = ESPMedSAMLoss(MODALITIES)
    said = batch(["lesion,hair", ""])[1]
    assert loss.components(features, said, names)["mask"] == loss.components(features, label, names)["mask"]


def test_validation_leaves_it_out() -> None:
    features, label, names = batch(["hair", ""])
    metric = ModalityDice(MODALITIES)
    state = type("State", (), {"batch": {"modality": names}, "output": {"pred": features["logits"], "label": label}})
    metric.iteration_completed(type("Engine", (), {"state": state}))  # type: ignore[arg-type]
    assert [(row.modality, row.target) for row in metric.rows] == [("skin", "hair"), ("xray", "lung")]
