"""The published path computes what the public code computed, and what our network computes with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.published_path import PublishedESPMedSAM
from esp_medsam_monai.checkpoints import export_official, load_official


@pytest.fixture(scope="module")
def golden(official, golden_outputs):
    """What the path computes for the golden weights and input, encoded once, decoded for all six channels.

    One golden patch logit lies 8e-6 from the cut; the prompt is made from the golden map, so that rounding cannot flip
    the cell.
    """
    path = PublishedESPMedSAM(official())
    x = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, 1024, 1024)).astype(np.float32))
    _, patch_logits, embedding = path(x)
    path.SemiTViT.forward = lambda *_: embedding
    path.patch_decoder.forward = lambda *_: golden_outputs["patch_logits"]
    logits = torch.cat([path(x, index)[0] for index in range(6)], dim=1)
    return {
        "image_embedding": embedding[:, ::8, ::4, ::4],
        "patch_logits": patch_logits,
        "mask_logits": logits[..., ::16, ::16],
    }


@pytest.mark.parametrize("name", ["image_embedding", "patch_logits", "mask_logits"])
def test_golden(golden, golden_outputs, name):
    torch.testing.assert_close(golden[name], golden_outputs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("modality", "index"), [("xray", 1), ("colonoscopy", 5)])
def test_same_as_our_network(official, modality, index):
    """Padded windows in every stage, a batch of two, each modality's own controller and channel."""
    ours = load_official({"xray": official(1), "colonoscopy": official(2)}, img_size=160)
    path = PublishedESPMedSAM(export_official(ours, modality), img_size=160)
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = ours(x, modality, return_features=True)
    logits, patch_logits, embedding = path(x, index)
    torch.testing.assert_close(embedding, expected["image_embedding"], rtol=0, atol=1e-4)
    torch.testing.assert_close(patch_logits, expected["patch_logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-4)


def test_only_complete_files_load(official, golden_keys):
    """The path holds all 504 entries of a published file under their own names."""
    path = PublishedESPMedSAM(official())
    assert {key: list(value.shape) for key, value in path.state_dict().items()} == golden_keys
