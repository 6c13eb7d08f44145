"""RandPasteIntoFieldOfViewd: the mask follows the crop, and only the modalities asked for change."""

from __future__ import annotations

import pytest
import torch
from esp_medsam_monai.transforms import RandPasteIntoFieldOfViewd


def crop(modality="mr") -> dict:
    """Grey noise below 100 with a disc of 200 in the middle, and the disc's mask."""
    rows, columns = torch.meshgrid(torch.arange(36), torch.arange(50), indexing="ij")
    disc = ((rows - 18) ** 2 + (columns - 25) ** 2 < 80)[None]
    image = torch.rand((1, 36, 50), generator=torch.Generator().manual_seed(0)) * 100
    return {"image": torch.where(disc, 200.0, image), "label": disc.to(torch.uint8) * 7, "modality": modality}


def test_the_crop_keeps_its_size_and_its_mask():
    paste = RandPasteIntoFieldOfViewd(prob=1.0).set_random_state(0)
    before = crop()
    larger = 0
    for _ in range(20):
        after = paste(before)
        assert after["image"].shape == after["label"].shape
        larger += after["image"].numel() > 1.5 * before["image"].numel()
        assert int((after["label"] == 7).sum()) == int((before["label"] == 7).sum())
        assert (after["image"][after["label"] == 7] == 200.0).all()
        assert 0.0 <= float(after["image"].min()) <= float(after["image"].max()) <= 255.0
    assert larger > 10


@pytest.mark.parametrize(("modality", "prob"), [("xray", 1.0), ("mr", 0.0)])
def test_others_pass_unchanged(modality, prob):
    before = crop(modality)
    after = RandPasteIntoFieldOfViewd(prob=prob, modalities=("mr",))(before)
    assert after["image"] is before["image"]
    assert after["label"] is before["label"]


def test_a_fraction_above_one_is_told():
    with pytest.raises(ValueError, match="fraction"):
        RandPasteIntoFieldOfViewd(fraction=(0.5, 1.5))
