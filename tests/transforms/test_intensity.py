"""ScaleIntensityByModality: each rule of the table, on values worked out by hand or by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import ScaleIntensityByModality, ScaleIntensityByModalityd
from monai.data import MetaTensor

from esp_medsam_monai.errors import InputRefused

SCALE = ScaleIntensityByModality()


def test_photographs_in_8_bits_keep_their_values():
    x = torch.randint(0, 200, (3, 9, 7), dtype=torch.uint8)
    result = SCALE(x, "fundus")
    assert result.dtype == torch.float32
    assert torch.equal(result, x.float())


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([0, 32768, 65535], dtype=np.int32), [0.0, 127.5019, 255.0]),  # uint16, as MONAI widens it
        (np.array([0, 1, 1], dtype=np.int16), [0.0, 1.0, 1.0]),  # a dark picture, and no share of 1
        (np.array([0, 7, 200], dtype=np.int16), [0.0, 7.0, 200.0]),  # 8 bits stored in a wider type
        (np.array([0.0, 0.5, 1.0], dtype=np.float32), [0.0, 127.5, 255.0]),
        (np.array([0.0, 0.5, 200.0], dtype=np.float64), [0.0, 0.5, 200.0]),
        (np.array([-3.0, 0.0, 0.2], dtype=np.float32), [0.0, 0.0, 51.0]),
    ],
)
def test_photographs_in_wider_types(stored, expected):
    result = SCALE(torch.from_numpy(stored).view(1, 3, 1), "ultrasound")
    np.testing.assert_allclose(result.flatten().numpy(), expected, atol=1e-3)


def test_ct_goes_by_its_window_in_hounsfield_units():
    x = torch.tensor([-1000.0, -160.0, 40.0, 240.0, 3000.0]).view(1, 5, 1, 1)
    np.testing.assert_allclose(SCALE(x, "ct").flatten().numpy(), [0, 0, 127.5, 255, 255], atol=1e-4)


@pytest.mark.parametrize("modality", ["mr", "xray", "my_own"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_percentiles_are_of_the_whole_volume(modality, dtype):
    values = np.random.default_rng(0).integers(0, 250, size=(1, 11, 12, 13)).astype(dtype)
    lower, upper = np.percentile(values, (0.5, 99.5))
    expected = np.clip((values.astype(float) - lower) / (upper - lower), 0, 1) * 255
    np.testing.assert_allclose(SCALE(torch.from_numpy(values), modality).numpy(), expected, atol=1e-3)


def test_colour_in_8_bits_keeps_its_values_but_grey_in_three_channels_does_not():
    colour = torch.randint(50, 100, (3, 20, 20), dtype=torch.uint8)
    assert torch.equal(SCALE(colour, "xray"), colour.float())
    grey = colour[:1].expand(3, -1, -1)
    assert torch.equal(SCALE(grey, "xray")[:1], SCALE(colour[:1], "xray"))
    assert float(SCALE(grey, "xray").max()) == 255.0


def test_values_that_are_not_finite_neither_count_nor_survive():
    x = torch.linspace(0, 100, 400).view(1, 20, 20)
    clean = SCALE(x, "mr")
    dirty = torch.cat([x, torch.tensor([float("nan"), float("inf"), -float("inf")]).view(1, 1, 3).expand(1, 20, 3)], 2)
    result = SCALE(dirty, "mr")
    assert torch.equal(result[:, :, :20], clean)
    assert result[0, 0, 20:].tolist() == [0.0, 255.0, 0.0]
    with pytest.raises(InputRefused, match="NON_FINITE"):
        SCALE(torch.full((1, 4, 4), float("nan")), "mr")


def test_constant_and_nearly_constant_images():
    assert float(SCALE(torch.full((1, 8, 8), 7.0), "mr").abs().max()) == 0.0
    spot = torch.zeros(1, 50, 50)
    spot[0, 3, 3] = 9.0
    assert float(SCALE(spot, "mr")[0, 3, 3]) == 255.0


def test_dictionary_form_reads_the_modality_and_keeps_the_metadata():
    image = MetaTensor(torch.tensor([[[-160.0, 240.0]]]), affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    image.meta["modality"] = "ct"
    result = ScaleIntensityByModalityd("image")({"image": image})["image"]
    assert result.flatten().tolist() == [0.0, 255.0]
    assert result.meta["modality"] == "ct"
    assert torch.equal(result.affine, image.affine)
    assert image.flatten().tolist() == [-160.0, 240.0], "the input was changed in place"
