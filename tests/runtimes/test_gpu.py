"""What only a GPU can show: graphs that repeat, mixed batches that wait for nothing."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.networks import ESPMedSAM
from esp_medsam_monai.runtimes import TorchRuntime
from tests.networks.conftest import MODALITIES, randomise

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NAMES = ["mr", "xray", "fundus", "mr"]


@pytest.fixture(scope="module")
def network():
    return randomise(ESPMedSAM(MODALITIES, img_size=96)).cuda()


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-3), ("fp16", 0.05), ("bf16", 0.2)])
def test_equals_the_network(network, precision, atol, graphs):
    run = TorchRuntime(network, precision, graphs=graphs)
    for seed in range(3):  # a graph is recorded, then repeated with other images
        x = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(seed)).cuda()
        with torch.no_grad():
            torch.testing.assert_close(run(x, NAMES), network(x, NAMES), atol=atol, rtol=0.05)
            torch.testing.assert_close(run(x, "mr"), network(x, "mr"), atol=atol, rtol=0.05)


def test_a_result_survives_the_next_batch(network):
    run = TorchRuntime(network, "fp32")
    x = torch.randn(2, 3, 96, 96).cuda()
    first = run(x, "mr")
    kept = first.clone()
    run(x + 1, "mr")
    assert torch.equal(first, kept)


def test_recordings_of_any_batch_and_modality_share_memory(network):
    """In any order, with results kept: a recording that wrote into another's would show."""
    run = TorchRuntime(network, "fp32")
    x = torch.randn(15, 3, 96, 96, generator=torch.Generator().manual_seed(0)).cuda()
    sizes = [(size, name) for size in (15, 2, 8, 5, 1) for name in ("mr", "xray")]
    with torch.no_grad():
        for turn in (sizes, sizes[::-1], sizes):
            found = [run(x[:size], name) for size, name in turn]
            for (size, name), logits in zip(turn, found, strict=True):
                torch.testing.assert_close(logits, network(x[:size], name), atol=1e-3, rtol=0.05)


def test_a_mixed_batch_waits_for_nothing(network):
    run = TorchRuntime(network, "fp16")
    x = torch.randn(4, 3, 96, 96).cuda()
    index = torch.tensor([network.modality_index(name) for name in NAMES]).cuda()
    run(x, index), run(x, NAMES)  # recording may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(x, index)
        run(x, NAMES)
    finally:
        torch.cuda.set_sync_debug_mode("default")
