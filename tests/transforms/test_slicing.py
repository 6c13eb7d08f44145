"""RandSliced and LargestSliced: upright slices, image and mask together, whatever the storage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import LargestSliced, RandSliced
from monai.data import MetaTensor


def sample(volume, **meta) -> dict:
    """A volume and its mask: one where the value is above 195, so that mask and image can be compared anywhere."""
    x = torch.from_numpy(volume.array.astype(np.float32))[None]
    image = MetaTensor(x, affine=torch.from_numpy(volume.affine), meta=dict(meta))
    return {"image": image, "label": MetaTensor((x > 195).to(torch.uint8), affine=image.affine), "modality": "mr"}


def test_image_and_mask_stay_together_for_all_storages(awkward_volume):
    slicer = RandSliced().set_random_state(0)
    for _ in range(5):
        result = slicer(sample(awkward_volume))
        assert type(result["image"]) is torch.Tensor
        assert result["image"].ndim == 3
        assert torch.equal(result["image"] > 195, result["label"] > 0)


def test_the_48_storages_of_a_volume_give_the_same_slice(volume):
    stored = volume(spacing=(1.0, 1.2, 3.0), angles=(9.0, -14.0, 20.0))
    pictures = [LargestSliced()(sample(v)) for v in stored.orientations()]
    most = max((stored.array[:, :, k] > 195).sum() for k in range(stored.array.shape[2]))
    assert int(pictures[0]["label"].sum()) == most
    assert all(torch.equal(p["image"], pictures[0]["image"]) for p in pictures)


def test_a_picture_comes_out_upright():
    """PNG and JPEG are loaded as (C, W, H) with affine diag(-1, -1, 1, 1)."""
    upright = torch.arange(12.0).view(1, 3, 4)
    image = MetaTensor(upright.transpose(1, 2), affine=torch.diag(torch.tensor([-1.0, -1, 1, 1])))
    for slicer in (RandSliced(), LargestSliced()):
        result = slicer({"image": image, "label": image})
        assert torch.equal(result["image"], upright)
        assert result["image"].is_contiguous()


def test_the_axis_that_the_acquisition_stacked_is_used(volume):
    thick_z = volume(shape=(5, 6, 7), spacing=(1.0, 1.0, 9.0))
    assert LargestSliced()(sample(thick_z))["image"].shape == (1, 6, 5)
    assert LargestSliced()(sample(thick_z, slice_axis=0))["image"].shape == (1, 7, 6)


@pytest.mark.parametrize(("foreground", "expected"), [(1.0, {3}), (0.0, {0, 1, 2, 3, 4, 5})])
def test_foreground_slices_are_chosen_as_often_as_asked(foreground, expected):
    x = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 4, 4, 6)
    data = {"image": MetaTensor(x, affine=torch.diag(torch.tensor([-1.0, -1, 5, 1]))), "label": (x == 3).byte()}
    slicer = RandSliced(foreground=foreground, num_samples=200).set_random_state(0)
    assert {int(s["image"][0, 0, 0]) for s in slicer(data)} == expected


def test_an_empty_mask_gives_the_middle_slice():
    x = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 4, 4, 5)
    data = {"image": MetaTensor(x, affine=torch.diag(torch.tensor([-1.0, -1, 5, 1]))), "label": torch.zeros(1, 4, 4, 5)}
    assert float(LargestSliced()(data)["image"].max()) == 2.0


def test_the_same_seed_gives_the_same_slices(volume):
    data = sample(volume())
    first, second = ([float(RandSliced().set_random_state(s)(data)["image"].sum()) for s in range(6)] for _ in "ab")
    assert first == second
    assert len(set(first)) > 1
