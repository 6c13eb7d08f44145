"""Which graphs are recorded, and when they are dropped; what a graph computes only a GPU can show (test_gpu.py)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esp_medsam_monai.runtimes import cuda_graph
from esp_medsam_monai.runtimes.cuda_graph import GraphedModule, GraphStore, powers_of_two


class Recorder:
    """In the place of a recording: notes what is recorded and in which pool, and computes what it stands for."""

    made: list[tuple[int, int]] = []
    pools = 0
    error: Exception | None = None

    def __init__(self, module, inputs, pool):
        if Recorder.error is not None:
            raise Recorder.error
        self.module = module
        Recorder.made.append((len(inputs[0]), pool))

    @staticmethod
    def new_pool():
        Recorder.pools += 1
        return Recorder.pools

    def replay(self, inputs):
        return self.module(*inputs)


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    monkeypatch.setattr(cuda_graph, "Recording", Recorder)
    for name, value in {"made": [], "pools": 0, "error": None}.items():
        monkeypatch.setattr(Recorder, name, value)
    return Recorder


@pytest.mark.parametrize(("number", "expected"), [(1, [1]), (2, [2]), (7, [4, 2, 1]), (20, [16, 4]), (64, [64])])
def test_values_of_parts(number, expected):
    assert list(powers_of_two(number)) == expected


def test_values_of_a_batch_in_parts_are_those_of_the_module(recorder):
    module = nn.Bilinear(3, 3, 2)
    graphed = GraphedModule(module, GraphStore())
    for size in range(1, 17):
        x, y = torch.randn(2, size, 3)
        torch.testing.assert_close(graphed(x, y), module(x, y))
    # Sixteen sizes of batches, five recordings; all in one pool.
    assert recorder.made == [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1)]


def test_values_modules_share_the_pool_and_nothing_else(recorder):
    store = GraphStore()
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    x = torch.randn(4, 3)
    for module in (one, other, one):
        torch.testing.assert_close(GraphedModule(module, store)(x), module(x))
    assert recorder.made == [(4, 1), (4, 1)]


def test_values_without_memory_for_a_recording_all_make_room(recorder):
    store, module = GraphStore(), nn.Linear(3, 2)
    graphed = GraphedModule(module, store)
    graphed(torch.randn(4, 3))
    recorder.error = torch.OutOfMemoryError("out")
    with pytest.raises(torch.OutOfMemoryError):
        graphed(torch.randn(8, 3))
    recorder.error = None
    graphed(torch.randn(4, 3))  # recorded again, in a new pool
    assert recorder.made == [(4, 1), (4, 2)]


def test_values_what_cannot_be_recorded_runs_as_it_is(recorder, monkeypatch):
    tries = []
    monkeypatch.setattr(recorder, "new_pool", staticmethod(lambda: tries.append("a recording")))
    module = nn.Linear(3, 2)
    graphed = GraphedModule(module, GraphStore())
    recorder.error = RuntimeError("operation not permitted when stream is capturing")
    x = torch.randn(2, 3)
    for _ in range(2):
        torch.testing.assert_close(graphed(x), module(x))
    assert tries == ["a recording"]


def test_values_the_recording_not_used_for_longest_goes_first(recorder, monkeypatch):
    monkeypatch.setattr(cuda_graph, "_KEPT", 2)
    graphed = GraphedModule(nn.Linear(3, 2), GraphStore())
    for size in (1, 2, 1, 4, 1, 2):
        graphed(torch.randn(size, 3))
    assert [size for size, _ in recorder.made] == [1, 2, 4, 2]
