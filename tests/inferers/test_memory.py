"""What counts as "out of memory", and what the inferer does about it."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.inferers.copy_stream import CopyStream
from esp_medsam_monai.inferers.memory import is_out_of_memory, release_memory
from tests.inferers.bright import Bright, batch, boxes


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_values_of_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(("device", "calls"), [("cuda:0", 1), ("cpu", 0)])
def test_values_what_torch_keeps_is_given_back(device: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: made.append(device))
    release_memory(torch.device(device))
    assert len(made) == calls


class Small(Bright):
    """A network on a device that holds ``room`` slices; ``device`` is where ``to`` last moved it."""

    def __init__(self, room: int, error: BaseException) -> None:
        super().__init__()
        self.room, self.error, self.moves = room, error, []

    def forward(self, x, modality=None, **kwargs):
        if len(x) > self.room:
            raise self.error
        return super().forward(x, modality, **kwargs)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_values_out_of_memory_halves_the_batch(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[torch.device] = []
    monkeypatch.setattr("esp_medsam_monai.inferers.slice_batch.release_memory", released.append)
    image = boxes(shape=(32, 32, 8), modality="mr")
    expected = SliceBatchInferer(image_size=32, batch_size=8)(batch(image), Bright())
    inferer, network = SliceBatchInferer(image_size=32, batch_size=8), Small(2, error)
    assert torch.equal(inferer(batch(image), network), expected)
    assert [note.split(":")[0] for note in inferer.notes] == ["OUT_OF_MEMORY"] * 2
    assert "8 slices at a time were too many" in inferer.notes[0]
    assert inferer.batch_size == 2
    assert released == [torch.device("cpu")] * 2  # before each new try
    assert torch.equal(inferer(batch(image), network), expected)
    assert inferer.notes == []  # the batch stays small, and it has been said


def test_bad_input_out_of_memory_is_refused_by_name() -> None:
    image = boxes(shape=(32, 32, 8), modality="mr", filename_or_obj="in/large.nii.gz")
    inferer = SliceBatchInferer(image_size=32, cpu_fallback=True)  # the network is on the CPU already
    with pytest.raises(InputRefused, match=r"OUT_OF_MEMORY: one slice of in/large\.nii\.gz") as refused:
        inferer(batch(image), Small(0, torch.OutOfMemoryError("out")))
    assert refused.value.code == "OUT_OF_MEMORY"


def test_bad_input_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        SliceBatchInferer(image_size=32)(batch(boxes(modality="mr")), Small(0, RuntimeError("no such luck")))


@pytest.mark.parametrize("allowed", [True, "true", False, "false"])  # MONAI's command line hands over texts
def test_values_cpu_fallback(allowed: bool | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second device: what the inferer asks about the network's device is answered by the stand-in."""
    network = Small(0, torch.OutOfMemoryError("out"))
    place = [torch.device("cuda:0")]

    def move(device) -> Small:
        place[0] = torch.device(device)
        network.room = 8 if place[0].type == "cpu" else 0
        network.moves.append(place[0].type)
        return network

    monkeypatch.setattr(network, "to", move)
    monkeypatch.setattr("esp_medsam_monai.inferers.slice_batch.device_of", lambda *_: place[0])
    monkeypatch.setattr(CopyStream, "between", lambda *_: None)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *args, **kwargs: x.float())
    image = boxes(shape=(32, 32, 8), modality="mr")
    inferer = SliceBatchInferer(image_size=32, batch_size=1, cpu_fallback=allowed)
    if allowed in (False, "false"):
        with pytest.raises(InputRefused, match="OUT_OF_MEMORY"):
            inferer(batch(image), network)
        return
    found = inferer(batch(image), network)
    assert network.moves == ["cpu", "cuda"]  # for this image, and back for the next
    assert "segmented on the CPU" in inferer.notes[0]
    monkeypatch.undo()
    assert torch.equal(found, SliceBatchInferer(image_size=32)(batch(image), Bright()))
