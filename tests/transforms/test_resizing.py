"""Compactd and ResizeSliced: small in the cache, square for the network, still where they were."""

from __future__ import annotations

import pytest
import torch
from esp_medsam_monai.transforms import Compactd, ResizeSliced
from monai.data import MetaTensor

from esp_medsam_monai.geometry import slice_plan

PICTURE_AFFINE = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(80, 40), (80, 40, 1)])
def test_pictures_shrink_to_the_square_and_volumes_do_not(shape):
    image = MetaTensor(torch.rand(1, *shape) * 255, affine=PICTURE_AFFINE, meta={"modality": "xray"})
    label = MetaTensor((torch.rand(1, *shape) > 0.5).to(torch.uint8) * 2, affine=PICTURE_AFFINE)
    result = Compactd(("image", "label"), 50)({"image": image, "label": label})
    assert result["image"].shape == (1, 50, 40, *shape[2:])
    assert result["image"].dtype == result["label"].dtype == torch.uint8
    assert set(result["label"].unique().tolist()) == {0, 2}
    assert result["image"].meta["modality"] == "xray"
    before, after = (slice_plan(x.affine, x.shape[1:]) for x in (image, result["image"]))
    assert before == after
    # The far corner of the field of view stays where it was (edges of voxels lie half a voxel outside their centres).
    far = [torch.tensor([x.shape[1] - 0.5, x.shape[2] - 0.5, 0.0, 1.0]).double() for x in (image, result["image"])]
    assert torch.allclose(image.affine @ far[0], result["image"].affine @ far[1])
    volume = MetaTensor(torch.rand(1, 80, 40, 3), affine=PICTURE_AFFINE)
    assert Compactd("image", 50, "bilinear")({"image": volume})["image"].shape == volume.shape


def test_values_lose_less_than_half_a_grey_level():
    image = MetaTensor(torch.linspace(0, 255, 999).view(1, 27, 37), affine=PICTURE_AFFINE)
    result = Compactd("image", 64, "bilinear")({"image": image})["image"]
    assert float((result.float() - image).abs().max()) <= 0.5


def test_slices_become_squares_and_masks_keep_their_values():
    rows = torch.arange(40.0).view(1, 40, 1).expand(1, 40, 20)
    data = {"image": rows, "label": (rows >= 20).to(torch.uint8) * 8}
    result = ResizeSliced(("image", "label"), 16)(data)
    assert result["image"].shape == result["label"].shape == (1, 16, 16)
    assert result["label"][0, :, 0].tolist() == [0] * 8 + [8] * 8
    assert torch.allclose(result["image"][0, 4:12, 3], (torch.arange(4, 12) + 0.5) * 2.5 - 0.5, atol=0.05)


def test_a_modality_with_a_side_of_its_own_is_larger_and_no_other():
    data = {"image": torch.rand(1, 90, 70), "label": torch.zeros(1, 90, 70, dtype=torch.uint8)}
    resize = ResizeSliced(("image", "label"), 32, sizes={"fundus": 96, "xray": 16})
    assert resize({**data, "modality": "fundus"})["image"].shape == (1, 96, 96)
    assert resize({**data, "modality": "mr"})["label"].shape == (1, 32, 32)
    assert resize({**data, "modality": "xray"})["label"].shape == (1, 32, 32)  # never below the common side
    compact = Compactd(("image", "label"), 32, sizes={"fundus": 80})
    pictures = {key: MetaTensor(value, affine=PICTURE_AFFINE) for key, value in data.items()}
    assert compact({**pictures, "modality": "fundus"})["image"].shape == (1, 80, 70)
    assert compact({**pictures, "modality": "mr"})["image"].shape == (1, 32, 32)
