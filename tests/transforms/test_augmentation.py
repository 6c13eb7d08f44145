"""RandAugmentSliced: image and mask go together, values stay in range, randomness is MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import (
    RandAugmentSliced,
    augmentation_by_modality,
    grey_augmentation,
    photograph_augmentation,
)
from torchvision.transforms import v2

from esp_medsam_monai.modalities import shipped_modalities

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


PHOTOGRAPHS = {"dermoscopy", "fundus", "microscopy", "colonoscopy"}
NAMES = [*shipped_modalities(), "ct"]


def asymmetric() -> dict:
    """Three discs of different sizes that no flip or turn maps onto each other; the mask is where it is bright."""
    rows, columns = np.mgrid[:64, :64]
    discs = [(16, 20, 9), (44, 30, 7), (24, 48, 6)]
    mask = sum((rows - row) ** 2 + (columns - column) ** 2 < radius**2 for row, column, radius in discs)
    label = torch.from_numpy(mask.astype(np.uint8))[None]
    return {"image": label.float().repeat(3, 1, 1) * 200, "label": label}


@pytest.mark.parametrize("modality", NAMES)
def test_the_mask_stays_the_same_function_of_the_image(modality):
    """By the factory's own transforms: whatever they do to both, bright is where the mask is."""
    augment = RandAugmentSliced(KEYS, augmentation_by_modality(NAMES)).set_random_state(1)
    moved = 0
    for _ in range(20):
        before = asymmetric()
        after = augment({**before, "modality": modality})
        grey, mask = after["image"].mean(0), after["label"][0] > 0
        bright = grey > (float(grey.max()) + float(grey.min())) / 2
        assert float((bright & mask).sum()) > 0.8 * float((bright | mask).sum()), "image and mask fell apart"
        moved += not torch.equal(after["label"], before["label"])
    assert moved > 10


@pytest.mark.parametrize("modality", NAMES)
def test_photographs_alone_change_their_colours(modality):
    """Two colours of the same three values: what treats all channels alike leaves them with the same three values."""
    augment = RandAugmentSliced(("image",), augmentation_by_modality(NAMES)).set_random_state(0)
    red, blue = (torch.tensor(color)[:, None, None].expand(3, 32, 16) for color in ((220, 40, 40), (40, 40, 220)))
    differences = []
    for _ in range(30):
        image = augment({"image": torch.cat((red, blue), dim=2), "modality": modality})["image"]
        values, strongest = image.sort(dim=0).values, image.argmax(dim=0)
        medians = [values[:, (strongest == channel) & (values[1] > 5)].median(dim=1).values for channel in (0, 2)]
        differences.append(float((medians[0] - medians[1]).abs().max()))
    assert (max(differences) > 8) is (modality in PHOTOGRAPHS), differences
