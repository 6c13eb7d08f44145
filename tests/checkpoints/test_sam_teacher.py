"""A teacher out of a checkpoint of SAM, and a checkpoint of SAM out of a network trained here."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from esp_medsam_monai.checkpoints import load_sam, save_sam_layout
from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher

MODALITIES = {"xray": ["lung"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}
LIKE_SAM = {"use_adapters": False, "shared_query": True, "shared_hyper_mlp": True}


def _randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Nothing may be zero, as position tables are in a fresh SAM."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module.eval()


def _small_sam(side: int = 1024) -> Sam:
    """SAM as ``segment_anything`` builds it, with a small encoder."""
    grid = (side // 16, side // 16)
    encoder = ImageEncoderViT(
        img_size=side, embed_dim=32, depth=2, num_heads=2, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True, window_size=14, global_attn_indexes=(1,),
    )  # fmt: skip
    decoder = MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 2048))
    return _randomise(Sam(encoder, PromptEncoder(256, grid, (side, side), 16), decoder))


@pytest.fixture(scope="module")
def sam() -> Sam:
    return _small_sam()


def _switch_off(net: SAMTeacher) -> SAMTeacher:
    with torch.no_grad():
        for adapter in net.adapters:
            adapter.attention_bias.fill_(-torch.inf)
    return net.eval()


@torch.no_grad()
def test_teacher_at_1024_is_sam(sam):
    """The embedding of a loaded file against segment-anything's own, at SAM's own size."""
    net = SAMTeacher(MODALITIES, 1024, SMALL)
    result = load_sam(net, sam.state_dict())
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    found = _switch_off(net)(image, "mr", embed_only=True)["image_embedding"]
    torch.testing.assert_close(found, sam.image_encoder(image), rtol=0, atol=1e-5)
    state = net.state_dict()
    encoder = {key: value for key, value in sam.state_dict().items() if key.startswith("image_encoder.")}
    assert all(torch.equal(state[key], value) for key, value in encoder.items())
    assert set(encoder) <= set(result.taken)
    assert {key.split(".")[0] for key in result.fresh} == {"adapters", "prompt_generator", "mask_decoder"}
    assert [key for key in result.fresh if key.startswith("mask_decoder.")] == ["mask_decoder.extra_queries"]


@torch.no_grad()
def test_tables_are_interpolated_to_the_side(sam):
    """As a teacher at 1024 interpolates them in its forward pass; only the global block's offsets change."""
    large, small = SAMTeacher(MODALITIES, 1024, SMALL), SAMTeacher(MODALITIES, 160, SMALL)
    for net in (large, small):
        load_sam(net, sam.state_dict())
    assert small.image_encoder.pos_embed.shape == (1, 10, 10, 32)
    assert small.image_encoder.blocks[1].attn.rel_pos_h.shape == (19, 16)
    assert torch.equal(small.image_encoder.blocks[0].attn.rel_pos_h, sam.image_encoder.blocks[0].attn.rel_pos_h)
    image = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    found, expected = (_switch_off(net)(image, "mr", embed_only=True)["image_embedding"] for net in (small, large))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_parts_of_sam(sam):
    net = SAMTeacher(MODALITIES, 64, SMALL)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    load_sam(net, sam.state_dict(), parts=["image_encoder"])
    state = net.state_dict()
    assert torch.equal(state["image_encoder.neck.0.weight"], sam.image_encoder.neck[0].weight)
    assert all(torch.equal(state[key], value) for key, value in before.items() if key.startswith("mask_decoder."))


def test_misfits_are_named_and_change_nothing(sam):
    net = SAMTeacher(MODALITIES, 64, SMALL)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    good = sam.state_dict()
    key = "image_encoder.blocks.1.attn.rel_pos_h"
    large = {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1024)}
    large.update({f"image_encoder.blocks.{i}.norm1.bias": torch.zeros(1024) for i in range(24)})
    for state, words in (
        ({**good, key: torch.zeros(126, 16)}, r"1 misshapen \(.*rel_pos_h \(126, 16\) instead of \(7, 16\)"),
        ({k: v for k, v in good.items() if k != key}, r"1 missing \(image_encoder\.blocks\.1\.attn\.rel_pos_h\)"),
        ({**good, "image_encoder.novel": torch.zeros(1)}, r"1 unknown \(image_encoder\.novel\)"),
        ({k: v for k, v in good.items() if k != "image_encoder.pos_embed"}, r"no image_encoder\.pos_embed"),
        (large, "1024 channels and 24 blocks, the teacher has 32 and 2; build the teacher with encoder vit_l"),
    ):
        with pytest.raises(ValueError, match=words):
            load_sam(net, state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_written_file_is_one_of_sam(tmp_path):
    """segment-anything takes it strictly, and a teacher and a student start from it."""
    net = _randomise(SAMTeacher(MODALITIES, 64, SMALL, freeze=False, **LIKE_SAM))
    save_sam_layout(net, tmp_path / "sam.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["sam.pt"]
    loaded = _small_sam(64)
    loaded.load_state_dict(torch.load(tmp_path / "sam.pt", weights_only=True))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = net.forward_features(image, "mr")
        assert torch.equal(loaded.image_encoder(image), features["image_embedding"])
    again = SAMTeacher(MODALITIES, 64, SMALL, **LIKE_SAM)
    load_sam(again, tmp_path / "sam.pt")
    kept = ("prompt_generator.", "mask_decoder.extra_queries")
    for key, value in again.state_dict().items():
        assert key.startswith(kept) or torch.equal(value, net.state_dict()[key]), key
    student = ESPMedSAM(MODALITIES, img_size=64)
    load_sam(student, tmp_path / "sam.pt")
    assert torch.equal(student.mask_decoder.queries["xray_lung"], net.mask_decoder.queries["shared"])


@pytest.mark.parametrize("option", LIKE_SAM)
def test_what_sam_cannot_hold_is_not_written(tmp_path, option):
    net = SAMTeacher(MODALITIES, 64, SMALL, **{**LIKE_SAM, option: not LIKE_SAM[option]})
    with pytest.raises(ValueError, match="shared_hyper_mlp=True"):
        save_sam_layout(net, tmp_path / "sam.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@torch.no_grad()
def test_full_size_vit_b(tmp_path):
    """A file as large and as named as ``sam_vit_b_01ec64.pth``, with random weights."""
    sam = sam_model_registry["vit_b"]()
    torch.nn.init.normal_(sam.image_encoder.pos_embed, std=0.02)
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b.pth")
    assert (tmp_path / "sam_vit_b.pth").stat().st_size > 370e6
    net = SAMTeacher(MODALITIES, 64, "vit_b")
    result = load_sam(net, tmp_path / "sam_vit_b.pth")
    encoder = [key for key in sam.state_dict() if key.startswith("image_encoder.")]
    assert len(encoder) == 177 and set(encoder) <= set(result.taken)
    assert not [key for key in result.left if not key.startswith(("prompt_encoder.", "mask_decoder."))]
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = _switch_off(net)(image, "mr", embed_only=True)["image_embedding"]
    sam.image_encoder.pos_embed = net.image_encoder.pos_embed  # the one table that SAM does not interpolate itself
    torch.testing.assert_close(found, sam.image_encoder(image), rtol=0, atol=1e-4)
