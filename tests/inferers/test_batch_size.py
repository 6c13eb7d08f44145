"""Batches that suit a device, and how long the network alone took."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from esp_medsam_monai.inferers import SliceBatchInferer, batch_size, network_clock
from esp_medsam_monai.inferers.batch_size import slices_at_a_time
from tests.inferers.bright import Bright, batch, boxes


def test_values_a_batch_on_the_cpu_has_the_pixels_of_one_large_square() -> None:
    cpu = torch.device("cpu")
    assert [slices_at_a_time(cpu, side) for side in (1024, 2048, 512, 224, 16)] == [1, 1, 4, 20, 64]


@pytest.mark.parametrize(("free_gb", "expected"), [(0.5, 1), (8, 8), (15.9, 8), (500, 64)])
def test_values_a_batch_on_a_gpu_goes_by_its_free_memory(
    free_gb: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At side 1024 a slice takes half a GB, and half of the memory is used; what torch keeps for later counts."""
    free = {"mem_get_info": (int(free_gb * 2**30) - 1000, 0), "memory_reserved": 3000, "memory_allocated": 2000}
    for name, value in free.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert slices_at_a_time(torch.device("cuda"), 1024) == expected


def test_values_without_a_batch_size_it_suits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "CPU_PIXELS", 3 * 32 * 32)
    network = Bright()
    SliceBatchInferer(image_size=32)(batch(boxes(modality="mr")), network)
    assert [shape[0] for shape, *_ in network.calls] == [3, 3, 2]
    # A modality that is seen larger has smaller batches.
    network.calls.clear()
    SliceBatchInferer(image_size=32, image_sizes={"mr": 64})(batch(boxes(modality="mr")), network)
    assert [shape[0] for shape, *_ in network.calls] == [1] * 8


def test_values_time_of_the_network_is_that_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the network and the transform move."""
    now = [0.0]
    monkeypatch.setattr(network_clock.time, "perf_counter", lambda: now[0])

    class Slow(Bright):
        def forward(self, x: torch.Tensor, modality: Any = None, **kwargs: Any) -> torch.Tensor:
            now[0] += 2.0
            return super().forward(x, modality, **kwargs)

    def prepare(x: torch.Tensor) -> torch.Tensor:
        now[0] += 100.0
        return x.expand(-1, 3, -1, -1)

    inferer, image = SliceBatchInferer(image_size=32, batch_size=4, slice_transform=prepare), batch(boxes())
    assert inferer.network_seconds == 0
    for _ in range(2):  # of the last call alone
        inferer(image, Slow(), "mr")
        assert inferer.network_seconds == 4.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_time_on_a_gpu_counts_what_runs_behind_the_call() -> None:
    """A call returns before its work is done; the time is that of the work."""
    device = torch.device("cuda")
    clock = network_clock.NetworkClock()
    torch.cuda.synchronize()
    with clock.running(device):
        torch.cuda._sleep(200_000_000)
    assert clock.seconds > 0.05
