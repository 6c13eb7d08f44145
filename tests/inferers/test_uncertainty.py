"""The uncertainty of slices, images and volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.stats import entropy as scipy_entropy
from torch import nn
from torch.nn import functional as F

from esp_medsam_monai.inferers import ImageUncertainty, SliceBatchInferer, Uncertainty
from esp_medsam_monai.inferers.uncertainty import slice_sums
from esp_medsam_monai.networks import ESPMedSAM
from tests.conftest import Volume
from tests.networks.conftest import MODALITIES, randomise

SURE, EMPTY = 12.0, -12.0


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def blob(level: float, size: int = 16, start: int = 4, stop: int = 10) -> torch.Tensor:
    """A square of one logit in certain background, ``(1, 1, size, size)``."""
    x = torch.full((1, 1, size, size), EMPTY)
    x[..., start:stop, start:stop] = level
    return x


class Grey(nn.Module):
    """Logit of the one target and of the patches: brightness over ten, below and above 128."""

    modalities = {"mr": ("bright",)}
    img_size = 32
    default_modality = "mr"

    def forward(self, x, modality=None, return_features=False):
        logits = (x[:, :1] - 128) / 10
        low = F.avg_pool2d(logits, 4)
        return {"logits": logits, "low_res_logits": low, "patch_logits": F.max_pool2d(low, 8)}


def stack(levels: list[float]) -> MetaTensor:
    """A volume with a slice a level: a square of it on black."""
    x = torch.zeros(1, 32, 32, len(levels))
    for i, level in enumerate(levels):
        x[:, 8:24, 8:24, i] = level
    return MetaTensor(x)


def mask_entropy(logits: torch.Tensor) -> float:
    return Uncertainty.of_sums(slice_sums(logits)).entropy


def prompt_disagreement(logits: torch.Tensor, patch_logits: torch.Tensor) -> float:
    found = Uncertainty.of_sums(slice_sums(logits, patch_logits)).disagreement
    assert found is not None
    return found


@pytest.mark.parametrize("probability", [0.5, 0.25, 0.9])
def test_entropy_of_even_doubt_is_that_of_a_coin(probability):
    found = mask_entropy(torch.full((1, 2, 16, 16), logit(probability)))
    assert found == pytest.approx(scipy_entropy([probability, 1 - probability], base=2), abs=1e-5)


def test_values_certain_masks_have_no_entropy():
    assert mask_entropy(blob(SURE)) < 0.001
    assert mask_entropy(blob(EMPTY)) < 0.001
    assert mask_entropy(torch.full((1, 1, 8, 8), -1e4)) == 0


@pytest.mark.parametrize("probability", [0.4, 0.6])
def test_values_empty_surroundings_do_not_hide_a_doubtful_target(probability):
    """Missed or found: what counts is the doubt, not the size of the image around it."""
    small, large = (mask_entropy(blob(logit(probability), size)) for size in (16, 64))
    assert small > 0.9
    assert large == pytest.approx(small, abs=0.01)


def test_a_soft_border_makes_a_sure_target_less_certain():
    soft = blob(SURE)
    soft[..., 3:11, 3:11] = torch.maximum(soft[..., 3:11, 3:11], torch.zeros(()))
    assert mask_entropy(soft) > mask_entropy(blob(SURE)) + 0.1


@pytest.mark.parametrize("level", [EMPTY, SURE])
def test_equal_maps_agree(level):
    mask, patches = torch.full((1, 1, 56, 56), level), torch.full((1, 1, 7, 7), level)
    assert prompt_disagreement(mask, patches) == pytest.approx(0, abs=0.01)


def test_values_one_patch_against_nothing():
    """Dice with one half a patch for "there is nothing": 1 - 0.5 / (1 + 0.5)."""
    nothing, patches = torch.full((1, 1, 56, 56), EMPTY), torch.full((1, 1, 7, 7), EMPTY)
    patches[..., 3, 3] = SURE
    assert prompt_disagreement(nothing, patches) == pytest.approx(2 / 3, abs=1e-3)


def test_any_target_makes_a_patch_foreground():
    logits = torch.full((1, 2, 16, 16), EMPTY)
    logits[:, 0, 0, 0] = logits[:, 1, 15, 15] = SURE
    patches = torch.tensor([[SURE, EMPTY], [EMPTY, SURE]])[None, None]
    assert prompt_disagreement(logits, patches) == pytest.approx(0, abs=1e-3)


def test_doubt_orders_images():
    score = ImageUncertainty(SliceBatchInferer())
    sure, doubtful = (score(stack([level])[..., 0], Grey()) for level in (255.0, 130.0))
    assert sure.score < 0.01 < 0.5 < doubtful.score
    assert doubtful.score == pytest.approx((doubtful.entropy + doubtful.disagreement) / 2)


def test_the_slices_of_a_volume_count_as_far_as_they_show_a_target():
    """A slice of nothing weighs nothing; a sure one and a doubtful one of the same size, by their probabilities."""
    score = ImageUncertainty(SliceBatchInferer())
    alone = score(stack([130.0]), Grey()).entropy
    assert score(stack([130.0, 1.0, 1.0, 1.0]), Grey()).entropy == pytest.approx(alone, abs=1e-3)
    doubtful, sure = 1 / (1 + np.exp(-0.2)), 1.0
    both = score(stack([130.0, 255.0]), Grey()).entropy
    assert both == pytest.approx(alone * doubtful / (doubtful + sure), abs=1e-3)


def test_slices_of_air_count_nowhere():
    found = ImageUncertainty(SliceBatchInferer())(stack([0.0, 130.0, 0.0]), Grey())
    assert found.slices == 1
    assert found.score == ImageUncertainty(SliceBatchInferer())(stack([130.0]), Grey()).score
    air = ImageUncertainty(SliceBatchInferer())(stack([0.0]), Grey())
    assert (air.score, air.slices) == (0, 0)


@pytest.mark.parametrize("most_slices", [None, 3])
def test_every_storage_order_has_the_same_score(most_slices):
    array = np.random.default_rng(0).integers(0, 255, (9, 10, 8)).astype(np.float32)
    scores = set()
    for stored in Volume(array, np.diag([1.0, 1, 3, 1])).orientations():
        image = MetaTensor(torch.from_numpy(stored.array)[None], affine=torch.from_numpy(stored.affine))
        found = ImageUncertainty(SliceBatchInferer(), most_slices=most_slices)(image, Grey())
        assert found.slices == (most_slices or 8)
        scores.add(round(found.score, 5))
    assert len(scores) == 1


def test_a_runtime_of_the_inferer_does_not_matter():
    network = randomise(ESPMedSAM(MODALITIES, img_size=64))
    image = MetaTensor(torch.rand(1, 20, 24, 3, generator=torch.Generator().manual_seed(0)) * 255)
    plain = ImageUncertainty(SliceBatchInferer())(image, network, "mr")
    assert ImageUncertainty(SliceBatchInferer(runtime="torch"))(image, network, "mr") == plain
    assert 0 <= plain.score <= 1
    assert plain.slices == 3


def test_without_a_patch_prompt_the_entropy_is_the_score():
    network = randomise(ESPMedSAM(MODALITIES, img_size=64, use_patch_prompt=False))
    found = ImageUncertainty(SliceBatchInferer())(torch.rand(3, 40, 40) * 255, network, "xray")
    assert found.disagreement is None
    assert found.score == found.entropy > 0


def test_values_no_slice_is_no_score():
    with pytest.raises(ValueError, match="most_slices should be at least 1"):
        ImageUncertainty(SliceBatchInferer(), most_slices=0)
