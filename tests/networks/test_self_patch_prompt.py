"""SPPG: a map cut in two, as a prompt that the mask loss cannot push."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from esp_medsam_monai.networks import SelfPatchPromptGenerator


@pytest.fixture
def generator(randomised):
    return randomised(SelfPatchPromptGenerator())


def _embedding(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 256, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_shapes(generator):
    patch_logits, prompt = generator(_embedding())
    assert (patch_logits.shape, prompt.shape) == ((3, 1, 4, 4), (3, 256, 8, 8))


@torch.no_grad()
def test_two_prompts_follow_the_map(generator):
    """One vector where the map is positive, one elsewhere, each over its four positions."""
    patch_logits, prompt = generator(_embedding())
    positive = F.interpolate((patch_logits >= 0).float(), scale_factor=2.0)[:, 0].bool()
    assert 0 < positive.sum() < positive.numel()
    columns = prompt.permute(0, 2, 3, 1)
    vectors = [columns[positive], columns[~positive]]
    for same in vectors:
        torch.testing.assert_close(same, same[:1].expand_as(same))
    assert not torch.allclose(vectors[0][0], vectors[1][0])


def test_no_gradient_from_the_prompt_into_the_patch_decoder(generator):
    patch_logits, prompt = generator(_embedding().requires_grad_())
    prompt.square().sum().backward()
    assert all(parameter.grad is None for parameter in generator.patch_decoder.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.dense_prompter.parameters())
    patch_logits.sum().backward()
    assert generator.patch_decoder[0].weight.grad.abs().sum() > 0
