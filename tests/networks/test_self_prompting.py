"""What holds for every network of ours, whatever its encoder."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.modalities import extended_modalities
from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher, SelfPromptingNetwork

MODALITIES = {"xray": ["lung"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}


@pytest.fixture(params=["student", "teacher"])
def net(request, randomised):
    if request.param == "student":
        return randomised(ESPMedSAM(MODALITIES, img_size=64))
    return randomised(SAMTeacher(MODALITIES, 64, SMALL))


@torch.no_grad()
def test_embed_only_is_the_embedding_of_the_features(net, images):
    for modality in ("mr", ["mr", "xray"], torch.tensor([1, 0])):
        found = net(images(2), modality, embed_only=True)
        assert list(found) == ["image_embedding"] and found["image_embedding"].shape == (2, 256, 4, 4)
        expected = net(images(2), modality, return_features=True)["image_embedding"]
        assert torch.equal(found["image_embedding"], expected)


@torch.no_grad()
def test_embed_only_leaves_prompt_and_decoder_out(net, images, monkeypatch):
    for module in (net.prompt_generator, net.mask_decoder):
        monkeypatch.setattr(module, "forward", lambda *args: pytest.fail("called"))
    net(images(), "mr", embed_only=True)


def test_embed_only_trains_the_encoders_side_alone(net, images):
    net.requires_grad_(True)
    net(images(), "mr", embed_only=True)["image_embedding"].square().mean().backward()
    got = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert "image_encoder" in got and not got & {"prompt_generator", "mask_decoder"}


@pytest.mark.parametrize("options", [{"embed_only": True}, {}])
def test_embed_only_refuses_what_forward_refuses(net, images, options):
    with pytest.raises(ValueError, match="unknown modality 'ct'; this network knows: xray, mr"):
        net(images(), "ct", **options)
    with pytest.raises(ValueError, match="needs a modality for every image"):
        net(images(), **options)
    with pytest.raises(ValueError, match="multiple of 32"):
        net(torch.zeros(1, 3, 72, 72), "mr", **options)


@torch.no_grad()
def test_mixed_batch_is_one_by_one(net, images):
    names = ["mr", "xray", "mr"]
    mixed = net(images(3), names, return_features=True)
    assert mixed["patch_logits"].abs().min() > 1e-3  # no cell that rounding could flip
    for i, name in enumerate(names):
        for key, value in net(images(3)[i : i + 1], name, return_features=True).items():
            torch.testing.assert_close(mixed[key][i : i + 1, : value.shape[1]], value, rtol=0, atol=1e-5)


@torch.no_grad()
def test_mixed_batch_of_one_target_each_some_of_them_added(randomised, images):
    """Added targets go through the decoder by themselves; here neither part of the batch is all of it."""
    net = randomised(ESPMedSAM(extended_modalities({"xray": ["lung"], "us": ["lesion"]}, {"oct": ["fluid"]}), 64))
    names = ["oct", "xray", "us", "oct"]
    mixed = net(images(4), names)
    assert mixed.shape == (4, 1, 64, 64)
    for i, name in enumerate(names):
        torch.testing.assert_close(mixed[i : i + 1], net(images(4)[i : i + 1], name), rtol=0, atol=1e-5)


def test_names_that_others_rely_on(net):
    assert isinstance(net, SelfPromptingNetwork)
    assert {"image_encoder", "prompt_generator", "mask_decoder"} <= {name for name, _ in net.named_children()}
    assert (list(net.modalities), net.img_size, net.default_modality) == (["xray", "mr"], 64, None)
    assert [net.modality_index(name) for name in net.modalities] == [0, 1]


def test_an_encoder_is_asked_for():
    with pytest.raises(TypeError, match="abstract"):
        SelfPromptingNetwork(MODALITIES)
