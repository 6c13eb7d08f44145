"""The medical teacher: SAM's encoder where it should be SAM's, tokens and branch where they should matter."""

from __future__ import annotations

import copy

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import nn

from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher, sam_encoder
from esp_medsam_monai.networks.sam_encoder import resize_grid, resize_offsets

MODALITIES = {"xray": ["lung"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}


@pytest.fixture
def make(randomised):
    """Factory of small teachers in which everything matters, adapters too."""
    return lambda side=64, **options: randomised(SAMTeacher(MODALITIES, side, SMALL, **options))


def _switch_off(net: SAMTeacher) -> SAMTeacher:
    """Adapters that must not be noticed: no weight for the tokens, nothing out of the branch."""
    with torch.no_grad():
        for adapter in net.adapters:
            adapter.attention_bias.fill_(-torch.inf)
            adapter.mlp.lin2.weight.zero_()
            adapter.mlp.lin2.bias.zero_()
    return net


@torch.no_grad()
@pytest.mark.parametrize("side", [64, 224, 256])
def test_adapters_switched_off_are_sam(make, images, side):
    """Windows with and without border, and a global block, against segment-anything's own forward pass."""
    net = _switch_off(make(side, num_tokens=2))
    expected = net.image_encoder(images(2, side))
    found = net(images(2, side), "xray", embed_only=True)["image_embedding"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_without_adapters_is_sam_to_the_bit(make, images):
    net = make(use_adapters=False)
    assert not [key for key in net.state_dict() if key.startswith("adapters")]
    found = net(images(), "mr", embed_only=True)["image_embedding"]
    assert torch.equal(found, net.image_encoder(images()))


@torch.no_grad()
def test_without_tokens_and_branch_at_zero_is_sam(images, randomised):
    """A fresh branch says nothing, whatever the encoder holds."""
    net = SAMTeacher(MODALITIES, 64, SMALL, num_tokens=0)
    randomised(net.image_encoder)
    found = net(images(), "mr", embed_only=True)["image_embedding"]
    torch.testing.assert_close(found, net.image_encoder(images()), rtol=0, atol=1e-5)


@torch.no_grad()
def test_token_bias_makes_a_fresh_teacher_nearly_sam(images, randomised):
    distances = []
    for bias in (0.0, -10.0):
        net = SAMTeacher(MODALITIES, 64, SMALL, token_bias=bias)
        randomised(net.image_encoder)
        found = net(images(), "mr", embed_only=True)["image_embedding"]
        distances.append((found - net.image_encoder(images())).abs().max().item())
    assert 0 < distances[1] < 1e-4 < distances[0]


@torch.no_grad()
def test_tokens_are_further_keys_and_values(make, images, monkeypatch):
    """Against SAM's own attention with the logits and the values of two tokens written out."""
    net = make(num_tokens=2)
    for adapter in net.adapters:
        adapter.attention_bias.fill_(0.7)
    found = net(images(), "mr", embed_only=True)["image_embedding"]

    plain = copy.deepcopy(net.image_encoder)
    for block, adapter in zip(plain.blocks, net.adapters, strict=True):
        monkeypatch.setattr(block, "attn", _WrittenOut(block.attn, adapter))
        monkeypatch.setattr(block, "mlp", _Both(block.mlp, adapter.mlp))
    torch.testing.assert_close(found, plain(images()), rtol=0, atol=1e-5)


class _WrittenOut(nn.Module):
    """Attention as the papers have it: a table of logits, a column for each token."""

    def __init__(self, attn: Attention, adapter: nn.Module) -> None:
        super().__init__()
        self.attn, self.adapter = attn, adapter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attn, (batch, height, width, dim) = self.attn, x.shape
        heads = attn.num_heads
        qkv = attn.qkv(x).view(batch, height * width, 3, heads, dim // heads)
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        q_scaled = q * (dim // heads) ** -0.5
        rows = torch.arange(height).repeat_interleave(width)
        columns = torch.arange(width).repeat(height)
        offsets = get_rel_pos(height, height, attn.rel_pos_h)[rows][:, rows]
        offsets = offsets + get_rel_pos(width, width, attn.rel_pos_w)[columns][:, columns]
        logits = q_scaled @ k.transpose(2, 3) + torch.einsum("bnqc,qkc->bnqk", q, offsets)
        extra = q_scaled @ self.adapter.key_tokens.transpose(1, 2) + self.adapter.attention_bias
        share = torch.cat((logits, extra), 3).softmax(3)
        out = share[..., : height * width] @ v + share[..., height * width :] @ self.adapter.value_tokens
        return attn.proj(out.transpose(1, 2).reshape(batch, height, width, dim))


class _Both(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x)


def test_names_are_sams_and_the_students(make):
    """Encoder as in segment-anything, decoder side as in the student, the rest under one word."""
    net = make()
    keys = set(net.state_dict())
    encoder = {f"image_encoder.{key}" for key in sam_encoder(SMALL, 64).state_dict()}
    student = {key for key in ESPMedSAM(MODALITIES).state_dict() if key.startswith(("prompt_gen", "mask_dec"))}
    assert {key for key in keys if not key.startswith("adapters.")} == encoder | student


def test_fresh_training_reaches_adapters_and_decoder_alone(make, images):
    net = make()
    net.train()(images(2), ["mr", "xray"], return_features=True)["logits"][:, 0].mean().backward()
    got = {name.split(".")[0] for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert got == {"adapters", "prompt_generator", "mask_decoder"}
    assert all(p.grad is not None and p.grad.any() for p in net.adapters.parameters())
    assert not any(p.requires_grad for p in net.image_encoder.parameters())
    thawed = make(freeze=False)
    assert all(p.requires_grad for p in thawed.parameters())


@torch.no_grad()
@pytest.mark.parametrize("side", [64, 96, 160])
def test_other_sides_than_the_tables(make, images, side):
    net = make(128)
    found = net(images(2, side), ["mr", "xray"], return_features=True)
    assert found["logits"].shape == (2, 2, side, side)
    assert found["image_embedding"].shape == (2, 256, side // 16, side // 16)
    assert torch.isfinite(found["logits"]).all()


@torch.no_grad()
def test_tables_interpolated_once_are_tables_interpolated_always(make, images):
    """What loading does at another side, and what the forward pass does, are the same."""
    large = make(256)
    small = SAMTeacher(MODALITIES, 96, SMALL).eval()
    state = large.state_dict()
    for key, value in small.state_dict().items():
        if key.endswith("pos_embed"):
            state[key] = resize_grid(state[key], 6)
        elif ".rel_pos_" in key and value.shape != state[key].shape:
            state[key] = resize_offsets(state[key], 6)
    small.load_state_dict(state)
    for key, value in large(images(1, 96), "mr", return_features=True).items():
        torch.testing.assert_close(small(images(1, 96), "mr", return_features=True)[key], value, rtol=0, atol=1e-5)


def test_offsets_are_those_of_sam():
    table = torch.randn(127, 8, generator=torch.Generator().manual_seed(0))
    found, expected = resize_offsets(table, 14), get_rel_pos(14, 14, table)
    for query, key in ((0, 0), (13, 0), (0, 13), (5, 9)):
        torch.testing.assert_close(found[query - key + 13], expected[query, key])


def test_grid_keeps_what_is_smooth():
    """A ramp stays a ramp: no shift by half a position, no change of scale."""
    ramp = ((torch.arange(64) + 0.5) / 64).view(1, 64, 1, 1).expand(1, 64, 64, 1)
    found = resize_grid(ramp, 16)[0, :, 3, 0]
    torch.testing.assert_close(found[2:-2], ((torch.arange(16) + 0.5) / 16)[2:-2], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "count"), [("vit_b", 89_670_912), ("vit_l", 308_278_272), ("vit_h", 637_026_048)])
def test_sizes_are_sams(name, count):
    """Parameters of the published encoders; built without memory."""
    with torch.device("meta"):
        assert sum(p.numel() for p in sam_encoder(name, 1024).parameters()) == count


@torch.no_grad()
def test_bfloat16(make, images):
    net = make()
    expected = net(images(), "mr", embed_only=True)["image_embedding"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(images(), "mr", embed_only=True)["image_embedding"].float()
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("vit_x", "'vit_x' is unknown; there are vit_b, vit_l, vit_h"),
        ({key: value for key, value in SMALL.items() if key != "depth"}, "depth is missing or unknown"),
        ({**SMALL, "dim": 3}, "dim is missing or unknown"),
        ({**SMALL, "num_heads": 5}, "32 is no multiple of num_heads 5"),
        ({**SMALL, "global_attn_indexes": [2]}, "names block 2 of 2"),
    ],
)
def test_bad_encoders(encoder, words):
    with pytest.raises(ValueError, match=words):
        SAMTeacher(MODALITIES, 64, encoder)


@pytest.mark.parametrize("options", [{"num_tokens": -1}, {"adapter_dim": 0}])
def test_bad_adapters(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SAMTeacher(MODALITIES, 64, SMALL, **options)
