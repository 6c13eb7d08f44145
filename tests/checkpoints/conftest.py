"""Published files with known weights: the rule of the golden outputs (tests/data/golden/README.md)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def _value(key: str, shape: list[int], seed: int) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if key == "patch_decoder.3.bias":
        return torch.full(shape, -0.45)
    random = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    a = random.standard_normal(shape)
    if key.endswith("running_var"):
        a = 1 + 0.5 * np.tanh(a)
    elif key == "mask_query.weight":
        pass
    elif len(shape) >= 2:
        a = a / np.sqrt(np.prod(shape[1:]))
    else:
        a = 1 + 0.1 * a if key.endswith("weight") else 0.1 * a
    return torch.from_numpy(np.asarray(a, dtype=np.float32))


@pytest.fixture(scope="session")
def golden_keys() -> dict[str, list[int]]:
    """Names and shapes of the 504 entries of a published file."""
    return json.loads((GOLDEN / "official_esp_medsam_keys.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden_outputs() -> dict[str, torch.Tensor]:
    """What the public code computes for the golden weights and the golden input."""
    with np.load(GOLDEN / "official_esp_medsam_seed7.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="session")
def official(golden_keys) -> Callable[..., dict[str, torch.Tensor]]:
    """Factory of published files: ``official()`` has the golden weights, ``official(3)`` another controller."""
    trunk = {key: _value(key, shape, 7) for key, shape in golden_keys.items()}
    made: dict[int, dict[str, torch.Tensor]] = {7: trunk}

    def make(controller: int = 7) -> dict[str, torch.Tensor]:
        if controller not in made:
            own = {key: _value(key, golden_keys[key], controller) for key in trunk if "med" in key}
            made[controller] = {**trunk, **own}
        return dict(made[controller])

    return make


@pytest.fixture(scope="session")
def mobile_sam(golden_keys) -> dict[str, torch.Tensor]:
    """A checkpoint in MobileSAM's layout: 302 trunk, 17 prompt and 120 decoder entries."""
    shapes: dict[str, list[int]] = {}
    for key, shape in golden_keys.items():
        if key.startswith("SemiTViT.") and "med" not in key:
            shapes[key.replace("SemiTViT.", "image_encoder.")] = shape
        elif key.startswith(("prompt_encoder.", "mask_decoder.")):
            shapes[key] = shape
    for i in (1, 2, 3):
        for key, shape in golden_keys.items():
            if key.startswith("mask_decoder.output_hypernetworks_mlps.0."):
                shapes[key.replace("mlps.0.", f"mlps.{i}.")] = shape
    shapes["mask_decoder.iou_token.weight"] = [1, 256]
    shapes["mask_decoder.mask_tokens.weight"] = [4, 256]
    for layer, (out, into) in enumerate(((256, 256), (256, 256), (4, 256))):
        shapes[f"mask_decoder.iou_prediction_head.layers.{layer}.weight"] = [out, into]
        shapes[f"mask_decoder.iou_prediction_head.layers.{layer}.bias"] = [out]
    return {key: _value(key, shape, 1) for key, shape in shapes.items()}
