"""RandAugmentSliced: image and mask go together, values stay in range, randomness is MONAI's."""

from __future__ import annotations

import pytest
import torch
from esp_medsam_monai.transforms import RandAugmentSliced, grey_augmentation, photograph_augmentation
from torchvision.transforms import v2

KEYS = ("image", "label")


def sample(channels: int) -> dict:
    """A bright square off the centre on black, and its mask with the value 5."""
    label = torch.zeros(1, 64, 64, dtype=torch.uint8)
    label[:, 12:34, 20:50] = 5
    return {"image": (label > 0).float().expand(channels, -1, -1) * 200, "label": label, "modality": "mr"}


@pytest.mark.parametrize(("make", "channels"), [(photograph_augmentation, 3), (grey_augmentation, 1)])
def test_the_mask_follows_the_image(make, channels):
    augment = RandAugmentSliced(KEYS, {"mr": make()}).set_random_state(0)
    moved = 0
    for _ in range(30):
        before = sample(channels)
        after = augment(before)
        image, label = after["image"], after["label"]
        assert image.shape == before["image"].shape
        assert label.dtype == torch.uint8
        assert set(label.unique().tolist()) <= {0, 5}
        assert 0.0 <= float(image.min()) <= float(image.max()) <= 255.0
        bright = image.mean(0) > (float(image.max()) + float(image.min())) / 2
        here = label[0] > 0
        assert float((bright & here).sum()) > 0.85 * float((bright | here).sum()), "image and mask fell apart"
        moved += not torch.equal(label, before["label"])
    assert moved > 15


def test_the_same_state_gives_the_same_result_and_leaves_torchs_generator_alone():
    augment = RandAugmentSliced(KEYS, {"mr": grey_augmentation()})
    before = torch.get_rng_state()
    first, second = (augment.set_random_state(3)(sample(1))["image"] for _ in "ab")
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(sample(1))["image"])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_modality_chooses():
    augment = RandAugmentSliced(KEYS, {"fundus": v2.RandomHorizontalFlip(1.0)}, default=None)
    data = sample(3)
    assert augment(data)["label"] is data["label"]
    flipped = augment({**data, "modality": "fundus"})
    assert torch.equal(flipped["label"], data["label"].flip(-1))
    assert torch.allclose(flipped["image"], data["image"].flip(-1))
