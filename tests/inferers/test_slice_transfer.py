"""Slices that travel to a GPU beside its work: which, when, and that none is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from esp_medsam_monai.transforms import NormalizeSlices
from monai.data import MetaTensor
from torch import Tensor

from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.inferers import SliceBatchInferer, slice_batch
from esp_medsam_monai.inferers.copy_stream import CopyStream
from esp_medsam_monai.inferers.slice_transfer import SliceFeed, SliceStack, varying_slices
from tests.inferers.bright import Bright, batch, boxes

CPU = torch.device("cpu")
UPSIDE_DOWN = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))


class Recorder:
    """In the place of a :class:`CopyStream`; tells in which order it and a network are asked, ``room`` sends long."""

    def __init__(self, room: int = 99) -> None:
        self.told: list[str] = []
        self.room = room

    def send(self, x: Tensor) -> Tensor:
        if self.room == 0:
            raise torch.OutOfMemoryError("no memory for a batch ahead")
        self.room -= 1
        self.told.append(f"send {len(x)}")
        return x.clone()

    def receive(self, x: Tensor) -> Tensor:
        self.told.append(f"receive {len(x)}")
        return x

    def room_for(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def pace(self) -> None:
        self.told.append("pace")

    def wait(self) -> None:
        self.told.append("wait")


class Told(Bright):
    """The network of these tests; its calls are in the recorder's list."""

    def __init__(self, told: list[str], room: int = 99) -> None:
        super().__init__()
        self.told, self.room = told, room

    def forward(self, x: Tensor, modality: Any = None, **kwargs: Any) -> Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("a batch is too large")
        self.told.append(f"network {len(x)}")
        return super().forward(x, modality, **kwargs)


def with_recorder(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    """The inferer copies by the recorder, as if the network were on a GPU."""

    class Streams:
        @staticmethod
        def between(memory: torch.device, device: torch.device) -> Recorder:
            return recorder

    monkeypatch.setattr(slice_batch, "CopyStream", Streams)


@pytest.mark.parametrize("affine", [torch.eye(4), UPSIDE_DOWN])
def test_values_of_slices_that_vary(affine: Tensor) -> None:
    """Counted in the order of the stack, whichever way the volume is stored."""
    image = MetaTensor(torch.zeros(1, 6, 5, 7), affine=affine)
    image[0, 2, 3, 0] = 1
    image[0, :, :, 3] = 9  # constant, though not zero
    image[0, 0, 0, 4] = -1
    plan = slice_plan(affine, image.shape[1:], axis=2)
    assert varying_slices(image, plan) == ([0, 4] if affine[2, 2] > 0 else [2, 6])


def test_values_of_pictures_that_vary() -> None:
    plan = slice_plan(torch.eye(4), (6, 5))
    flat = torch.stack([torch.full((6, 5), level) for level in (1.0, 2.0, 3.0)])
    assert varying_slices(flat, plan) == []  # one colour
    flat[1, 0, 0] = 7
    assert varying_slices(flat, plan) == [0]


def test_values_of_a_feed_with_gaps() -> None:
    image = boxes(shape=(12, 10, 8))
    plan = slice_plan(torch.eye(4), image.shape[1:], axis=2)
    chosen = [0, 1, 4, 6, 7]
    wanted = plan.to_slices(image)[chosen]
    for stream in (None, Recorder()):
        feed = SliceFeed(image, plan, chosen, CPU, stream)  # type: ignore[arg-type]
        taken = []
        for begin in (0, 2, 4):
            taken.append(feed.take(begin, 2))
            feed.look_ahead(begin + 2, 2)
        assert torch.equal(torch.cat(taken), wanted)


def test_values_of_a_stack_with_gaps() -> None:
    stack = SliceStack([1, 2, 5], (6, 1, 2, 2), 7, torch.uint8)
    stack.put(0, torch.full((2, 1, 2, 2), 1, dtype=torch.uint8))
    stack.put(2, torch.full((1, 1, 2, 2), 2, dtype=torch.uint8))
    assert stack.finished()[:, 0, 0, 0].tolist() == [7, 1, 1, 7, 7, 2]


def test_values_next_batch_is_sent_while_the_network_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent after the network was started, before anything waits for it; each batch once."""
    image = batch(boxes(shape=(32, 32, 8), modality="mr"))
    expected = SliceBatchInferer(image_size=32, batch_size=3)(image, Bright())
    recorder = Recorder()
    with_recorder(monkeypatch, recorder)
    found = SliceBatchInferer(image_size=32, batch_size=3)(image, Told(recorder.told))
    assert torch.equal(found, expected)
    turns = ["send 3", "receive 3", "network 3", "send 3", "pace", "receive 3", "network 3", "send 2", "pace"]
    assert recorder.told == [*turns, "receive 2", "network 2", "pace", "wait"]


def test_values_a_batch_that_was_sent_too_large_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    image = batch(boxes(shape=(32, 32, 8), modality="mr"))
    expected = SliceBatchInferer(image_size=32)(image, Bright())
    recorder = Recorder()
    with_recorder(monkeypatch, recorder)
    network = Told(recorder.told, room=4)
    inferer = SliceBatchInferer(image_size=32, batch_size=4)
    original = network.forward

    def smaller_after_the_first(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits = original(x, *args, **kwargs)
        network.room = 2
        return logits

    network.forward = smaller_after_the_first  # type: ignore[method-assign]
    assert torch.equal(inferer(image, network), expected)
    assert [each for each in recorder.told if each.startswith("network")] == ["network 4", "network 2", "network 2"]
    assert inferer.batch_size == 2


def test_values_without_memory_for_a_batch_ahead_it_waits_for_its_turn() -> None:
    image = boxes(shape=(12, 10, 8))
    plan = slice_plan(torch.eye(4), image.shape[1:], axis=2)
    recorder = Recorder(room=1)
    feed = SliceFeed(image, plan, range(8), CPU, recorder)  # type: ignore[arg-type]
    feed.take(0, 4)
    feed.look_ahead(4, 4)
    recorder.room = 1
    assert torch.equal(feed.take(4, 4), plan.to_slices(image, 4, 8))
    with pytest.raises(torch.OutOfMemoryError):  # in its own turn it is told
        feed.take(0, 4)


def test_values_nothing_travels_on_a_cpu() -> None:
    assert CopyStream.between(CPU, CPU) is None
    assert CopyStream.between(torch.device("cuda"), torch.device("cuda")) is None
    image = boxes(shape=(12, 10, 8))
    plan = slice_plan(torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])), image.shape[1:], axis=2)
    slices = SliceFeed(image, plan, range(8), CPU).take(0, 4)
    assert slices.data_ptr() == image.data_ptr()  # a view: no copy of the volume


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("logits", [False, True])
def test_values_on_a_gpu_are_those_of_the_cpu(logits: bool) -> None:
    """Many small batches behind a slow network: a copy that came too early or too late would show."""

    class Slow(Bright):
        def forward(self, x: Tensor, modality: Any = None, **kwargs: Any) -> Tensor:
            torch.cuda._sleep(5_000_000)
            return super().forward(x, modality, **kwargs)

    image = batch(boxes(shape=(64, 48, 40), modality="mr"))
    image[..., 11:17] = 3
    expected = SliceBatchInferer(image_size=32, batch_size=3, return_logits=logits)(image, Bright())
    inferer = SliceBatchInferer(image_size=32, batch_size=3, return_logits=logits)
    network = Slow().cuda()
    for _ in range(3):  # page-locked memory is used again
        torch.testing.assert_close(inferer(image, network), expected, atol=1e-2, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_on_a_gpu_nothing_waits_between_batches() -> None:
    image = batch(boxes(shape=(64, 48, 40), modality="mr"))
    network = Bright(thresholds=(0.0, 1.0)).cuda()
    inferer = SliceBatchInferer(image_size=32, batch_size=8, slice_transform=NormalizeSlices())
    inferer(image, network)
    torch.cuda.set_sync_debug_mode("error")
    try:
        inferer(image, network)
    finally:
        torch.cuda.set_sync_debug_mode("default")
