"""The trunk: window attention against loops written from the specification, and a silent controller."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from esp_medsam_monai.networks import TinyViT
from esp_medsam_monai.networks.modality_controller import BlockController, RoutedBlockController
from esp_medsam_monai.networks.routing import Route
from esp_medsam_monai.networks.tiny_vit import WindowAttention


def _offset_numbers(window: int) -> dict[tuple[int, int], int]:
    """Numbers of the absolute offsets as they are first seen, row-major, as the public checkpoints count them."""
    points = [(y, x) for y in range(window) for x in range(window)]
    numbers: dict[tuple[int, int], int] = {}
    for first in points:
        for second in points:
            numbers.setdefault((abs(first[0] - second[0]), abs(first[1] - second[1])), len(numbers))
    return numbers


def _reference(layer: WindowAttention, x: torch.Tensor, token: SimpleNamespace | None = None) -> torch.Tensor:
    """One image ``(H, W, C)``: zeros as padding before the norm, one window, head and query at a time."""
    height, width, dim = x.shape
    w, heads = layer.window, layer.num_heads
    numbers = _offset_numbers(w)
    padded = x.new_zeros(math.ceil(height / w) * w, math.ceil(width / w) * w, dim)
    padded[:height, :width] = x
    out = torch.zeros_like(padded)
    for top in range(0, padded.shape[0], w):
        for left in range(0, padded.shape[1], w):
            tokens = padded[top : top + w, left : left + w].reshape(w * w, dim)
            tokens = nn.functional.layer_norm(tokens, (dim,), layer.norm.weight, layer.norm.bias)
            qkv = (tokens @ layer.qkv.weight.T + layer.qkv.bias).reshape(w * w, heads, 3 * dim // heads)
            for head in range(heads):
                q, k, v = qkv[:, head].split(dim // heads, dim=1)
                for i in range(w * w):
                    logits = [q[i] @ k[j] / math.sqrt(dim // heads) for j in range(w * w)]
                    for j in range(w * w):
                        offset = (abs(i // w - j // w), abs(i % w - j % w))
                        logits[j] = logits[j] + layer.attention_biases[head, numbers[offset]]
                    values = [*v]
                    if token is not None:
                        for key, value in zip(token.keys[head], token.values[head], strict=True):
                            logits.append(q[i] @ key / math.sqrt(dim // heads) + token.bias)
                            values.append(value)
                    share = torch.softmax(torch.stack(logits), 0)
                    row, column = top + i // w, left + i % w
                    out[row, column, head * dim // heads : (head + 1) * dim // heads] = share @ torch.stack(values)
    return out[:height, :width] @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize("size", [(6, 6), (5, 4), (2, 7)])
@pytest.mark.parametrize("tokens", [0, 1, 2])
@torch.no_grad()
def test_window_attention(randomised, size, tokens):
    """Also where the map is no multiple of the window: padded positions are keys and values."""
    layer = randomised(WindowAttention(8, 2, 3)).double()
    x = torch.randn(2, *size, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    controller, spec = None, [None, None]
    if tokens:
        experts = [randomised(BlockController(8, 2, num_tokens=tokens), seed).double() for seed in (2, 3)]
        controller = RoutedBlockController(experts, Route(host=(1, 0)))
        spec = [
            SimpleNamespace(keys=expert.key_tokens, values=expert.value_tokens, bias=expert.attention_bias[0])
            for expert in reversed(experts)
        ]
    expected = torch.stack([_reference(layer, image, token) for image, token in zip(x, spec, strict=True)])
    torch.testing.assert_close(layer(x, controller), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_shared_token_is_key_and_value(randomised):
    layer = randomised(WindowAttention(8, 2, 3)).double()
    expert = randomised(BlockController(8, 2, shared_token=True), 2).double()
    x = torch.randn(1, 4, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    token = SimpleNamespace(keys=expert.key_tokens, values=expert.key_tokens, bias=expert.attention_bias[0])
    found = layer(x, RoutedBlockController([expert], Route(host=(0,))))
    torch.testing.assert_close(found[0], _reference(layer, x[0], token), rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [7, 14])
def test_order_of_the_bias_table(window):
    """The order of published tables: a permuted one would load without a word."""
    numbers = _offset_numbers(window)
    index = WindowAttention(32, 1, window).position_index
    assert len(numbers) == window * window
    for i in range(0, window * window, 5):
        for j in range(window * window):
            assert index[i, j] == numbers[abs(i // window - j // window), abs(i % window - j % window)]


@torch.no_grad()
def test_silent_controller_is_no_controller(net, images):
    """A token that nobody attends to and an MLP of zeros leave MobileSAM's trunk."""
    trunk = net.image_encoder
    experts = [BlockController(dim, heads) for dim, heads in zip(trunk.block_dims, trunk.block_heads, strict=True)]
    for expert in experts:
        expert.attention_bias.fill_(-torch.inf)
        for parameter in expert.mlp.fc2.parameters():
            parameter.zero_()
    x = images(2)
    silent = trunk(x, [RoutedBlockController([expert], Route(host=(0, 0))) for expert in experts])
    torch.testing.assert_close(silent, trunk(x), rtol=0, atol=1e-5)
    for expert in experts:
        expert.attention_bias.zero_()
    heard = trunk(x, [RoutedBlockController([expert], Route(host=(0, 0))) for expert in experts])
    assert (heard - trunk(x)).abs().max() > 1e-3


def test_blocks_are_those_of_the_specification():
    trunk = TinyViT()
    assert trunk.block_dims == [128] * 2 + [160] * 6 + [320] * 2
    assert trunk.block_heads == [4] * 2 + [5] * 6 + [10] * 2
    windows = [module.window for module in trunk.modules() if isinstance(module, WindowAttention)]
    assert windows == [7] * 2 + [14] * 6 + [7] * 2


def test_shape_of_an_oblong_image():
    with torch.no_grad():
        assert TinyViT().eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 256, 4, 6)
