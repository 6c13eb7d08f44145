"""The folded network is the network: same logits, whatever its options, sides and modalities."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.networks import ABSENT_LOGIT, ESPMedSAM, fuse, fused_blocks
from tests.networks.conftest import MODALITIES

OPTIONS = {
    "default": {},
    "published": {"coupled_queries": True, "shared_hyper_mlp": True, "shared_token": True, "extra_queries": 3},
    "ablations": {"use_controllers": False, "use_patch_prompt": False, "shared_query": True},
    "more_tokens": {"controller_tokens": 2, "extra_queries": 0},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def network(request, randomised):
    return randomised(ESPMedSAM(MODALITIES, img_size=64, **request.param))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("side", [96, 224])  # with and without border windows
def test_one_modality_equals_the_network(network, modality, side):
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(x, modality)
        torch.testing.assert_close(fuse(network, modality)(x), expected, atol=1e-4, rtol=1e-4)


def test_routed_by_index_equals_the_network(network):
    x = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    index = torch.tensor([1, 0, 2, 1])
    with torch.no_grad():
        found = fuse(network)(x, index)
        torch.testing.assert_close(found, network(x, index), atol=1e-4, rtol=1e-4)
    assert (found[1, 1] == ABSENT_LOGIT).all()  # xray has one target


def test_the_network_stays_as_it_was(randomised):
    network = randomised(ESPMedSAM(MODALITIES, img_size=64)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = fuse(network, "mr")
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    for parameter in fused.parameters():
        parameter.zero_()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("values", [2**12, 2**14])
def test_rows_at_a_time_change_nothing(randomised, monkeypatch, values):
    """On a CPU large layers go strip by strip; a strip's border is no border of the image."""
    network = randomised(ESPMedSAM(MODALITIES, img_size=64))
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        monkeypatch.setattr(fused_blocks, "CACHED_VALUES", values)
        assert fused_blocks.rows_at_a_time(x, 24, 24 * 256) is not None
        torch.testing.assert_close(fuse(network, "mr")(x), network(x, "mr"), atol=1e-4, rtol=1e-4)


def test_unknown_modality_is_refused(randomised):
    with pytest.raises(ValueError, match="unknown modality 'ct'"):
        fuse(randomised(ESPMedSAM(MODALITIES, img_size=64)), "ct")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_stays_near(randomised, dtype):
    """Every constant follows the network to another number format; logits come back as float32."""
    network = randomised(ESPMedSAM(MODALITIES, img_size=64))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = network(x, torch.tensor([0, 1]))
        for found in (
            fuse(network).to(dtype)(x, torch.tensor([0, 1]))[:1, :1],
            fuse(network, "xray").to(dtype)(x)[:1],
        ):
            assert found.dtype == torch.float32
            error = (found - expected[:1, :1]).square().mean().sqrt() / expected[:1, :1].square().mean().sqrt()
            assert error < 0.1
