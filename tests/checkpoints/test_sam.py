"""Starting from MobileSAM and SAM: every entry has a place, and nothing is taken from a file that does not fit."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.checkpoints import load_mobile_sam, load_sam
from esp_medsam_monai.networks import ESPMedSAM

MODALITIES = {"xray": ["lung"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]}


@pytest.fixture
def net():
    return ESPMedSAM(MODALITIES, img_size=64)


@pytest.fixture(scope="module")
def sam(mobile_sam):
    """A checkpoint in SAM's layout as far as it matters: a ViT where MobileSAM has its trunk."""
    state = {key: value for key, value in mobile_sam.items() if not key.startswith("image_encoder.")}
    return {**state, "image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}


def test_layout_is_mobile_sams(mobile_sam):
    """The numbers measured on the real file."""
    starts = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
    assert [sum(key.startswith(start) for key in mobile_sam) for start in starts] == [302, 17, 120]


def test_mobile_sam_maps_without_remainder(net, mobile_sam):
    result = load_mobile_sam(net, mobile_sam)
    assert {*result.taken} | {*result.left} == {*mobile_sam}
    trunk = [key for key in result.taken if key.startswith("image_encoder.")]
    left = [key for key in result.left if key.startswith("image_encoder.")]
    assert (len(trunk), sorted(left)) == (
        298,
        [f"image_encoder.{key}" for key in ("head.bias", "head.weight", "norm_head.bias", "norm_head.weight")],
    )
    state = net.state_dict()
    assert {key for key in state if key.startswith("image_encoder.")} == {*trunk}
    assert all(torch.equal(state[key], mobile_sam[key]) for key in trunk)
    assert len([key for key in result.taken if key.startswith("mask_decoder.")]) == 94 + 1  # with the mask tokens
    assert all(key.startswith(("controllers.", "prompt_generator.", "mask_decoder.extra")) for key in result.fresh)


def test_decoder_values(net, mobile_sam):
    load_mobile_sam(net, mobile_sam)
    decoder = net.mask_decoder
    key = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    assert torch.equal(decoder.pe_layer.positional_encoding_gaussian_matrix, mobile_sam[key])
    for mlp in decoder.hyper_mlps.values():
        source = mobile_sam["mask_decoder.output_hypernetworks_mlps.0.layers.2.weight"]
        assert torch.equal(mlp.layers[2].weight, source)
    for query in decoder.queries.values():
        assert torch.equal(query, mobile_sam["mask_decoder.mask_tokens.weight"][0])


def test_queries_can_stay(net, mobile_sam):
    before = {name: query.clone() for name, query in net.mask_decoder.queries.items()}
    result = load_mobile_sam(net, mobile_sam, start_queries=False)
    assert all(torch.equal(query, before[name]) for name, query in net.mask_decoder.queries.items())
    assert "mask_decoder.mask_tokens.weight" in result.left


def test_sam_gives_the_decoder_alone(net, sam, tmp_path):
    trunk = {key: value.clone() for key, value in net.image_encoder.state_dict().items()}
    torch.save(sam, tmp_path / "vit_b.pth")
    result = load_sam(net, tmp_path / "vit_b.pth")
    assert "image_encoder.pos_embed" in result.left
    assert all(torch.equal(value, trunk[key]) for key, value in net.image_encoder.state_dict().items())
    source = sam["mask_decoder.transformer.layers.1.mlp.lin1.weight"]
    assert torch.equal(net.mask_decoder.transformer.layers[1].mlp.lin1.weight, source)


def test_trunk_of_a_vit_is_refused(net, sam):
    with pytest.raises(ValueError, match=r"layout of MobileSAM: 298 missing.*1 unknown \(image_encoder\.pos_embed\)"):
        load_mobile_sam(net, sam)


@pytest.mark.parametrize("load", [load_mobile_sam, load_sam])
def test_bad_entries_are_named_and_change_nothing(net, mobile_sam, load):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    key = "mask_decoder.output_upscaling.3.bias"
    for state, words in (
        ({**mobile_sam, key: torch.zeros(31)}, r"output_upscaling\.3\.bias \(31,\) instead of \(32,\)"),
        ({**mobile_sam, "mask_decoder.novel": torch.zeros(1)}, r"1 unknown \(mask_decoder\.novel\)"),
        ({k: v for k, v in mobile_sam.items() if k != key}, r"1 missing \(mask_decoder\.output_upscaling\.3\.bias\)"),
    ):
        with pytest.raises(ValueError, match=words):
            load(net, state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
