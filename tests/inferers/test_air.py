"""Slices of air: the network is not asked where a CT shows nothing, and nothing else is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import ScaleIntensityByModality
from monai.data import MetaTensor

from esp_medsam_monai.inferers import SliceBatchInferer
from tests.inferers.bright import Bright

AIR, SLICES = -1000, 6


def body(level: float, noise: float) -> MetaTensor:
    """Noise at a level; a disc of tissue in the slices 2 to 4."""
    array = np.random.default_rng(0).normal(level, noise, size=(1, 20, 20, SLICES))
    array[:, 6:14, 6:14, 2:5] += 1040
    return MetaTensor(torch.from_numpy(array.astype(np.int16)))


def slices_seen(image: MetaTensor, modality: str) -> tuple[int, torch.Tensor]:
    network = Bright({modality: ("target",)})
    scaled = ScaleIntensityByModality()(image, modality)
    mask = SliceBatchInferer(image_size=32, batch_size=4)(scaled[None], network, modality)
    return sum(shape[0] for shape, *_ in network.calls), mask


def test_values_air_in_ct_is_not_run() -> None:
    """Air and its noise lie below the window of -160 HU, where all is one value."""
    seen, mask = slices_seen(body(AIR, noise=30.0), "ct")
    assert seen == 3
    assert mask[0, 0, :, :, 2:5].any()
    assert not mask[0, 0, :, :, [0, 1, 5]].any()


@pytest.mark.parametrize("modality", ["mr", "xray"])
def test_values_noise_is_run(modality: str) -> None:
    """Where no unit says what is air, a slice that varies may show something."""
    assert slices_seen(body(100, noise=30.0), modality)[0] == SLICES


def test_values_a_single_pixel_of_tissue_is_run() -> None:
    image = body(AIR, noise=30.0)
    image[0, 3, 3, 0] = 40
    assert slices_seen(image, "ct")[0] == 4
