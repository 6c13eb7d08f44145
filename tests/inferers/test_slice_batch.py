"""SliceBatchInferer: labels where the object is, whatever the storage, size, batch size and modality."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor, list_data_collate

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.inferers.slice_batch import decide


class Bright(nn.Module):
    """Analytic stand-in: target k is where the first channel exceeds its threshold; remembers what it was given."""

    def __init__(self, modalities=None, thresholds=(100.0, 200.0), img_size=32):
        super().__init__()
        self.modalities = modalities or {"xray": ("lung",), "mr": ("grey", "white")}
        self.thresholds = thresholds
        self.img_size = img_size
        self.calls: list[tuple[tuple[int, ...], object, dict]] = []
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, modality=None, **kwargs):
        self.calls.append((tuple(x.shape), modality, kwargs))
        count = len(self.modalities[modality or "xray"])
        # The second target's logit rises faster, so that it wins where both are positive.
        logits = [10**k * (x[:, :1] - self.thresholds[k]) for k in range(count)]
        return torch.cat(logits, dim=1) * self.scale


def boxes(shape=(12, 10, 8), affine=None, **meta) -> MetaTensor:
    """Noise below 50 with a box at 150 that holds a smaller one at 255."""
    x = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1)) * 50
    x[:, 2:10, 2:9, 1:7] = 150
    x[:, 4:7, 4:6, 3:5] = 255
    return MetaTensor(x, affine=torch.eye(4) if affine is None else affine, meta=dict(meta))


def batch(*images: MetaTensor) -> MetaTensor:
    return list_data_collate([{"image": image} for image in images])["image"]


def test_values_bright_object_is_found_where_it_is() -> None:
    image = boxes(shape=(32, 32, 8), modality="mr")
    found = SliceBatchInferer(image_size=32)(batch(image), Bright())
    assert found.shape == (1, 1, 32, 32, 8)
    assert found.dtype == torch.uint8
    expected = torch.zeros(32, 32, 8, dtype=torch.uint8)
    expected[2:10, 2:9, 1:7] = 2  # mr's targets come after xray's one in the table
    expected[4:7, 4:6, 3:5] = 3
    assert torch.equal(found.as_tensor()[0, 0], expected)


def test_values_resized_slices_keep_the_object_in_place() -> None:
    image = boxes(shape=(30, 41, 8), modality="xray")
    found = SliceBatchInferer(image_size=64)(batch(image), Bright()).as_tensor()[0, 0].bool()
    truth = image.as_tensor()[0] > 100
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.97


def test_values_48_storage_orders_give_the_same_labels(volume) -> None:
    stored = volume(shape=(9, 11, 5), spacing=(1.0, 1.1, 2.5), dtype="float32")
    inferer, network = SliceBatchInferer(image_size=32, batch_size=2), Bright(thresholds=(90.0, 120.0))
    reference = None
    for turned in stored.orientations():
        image = MetaTensor(torch.tensor(turned.array.copy())[None], affine=turned.affine)
        labels = inferer(batch(image), network, "mr").as_tensor()[0, 0].numpy()
        back = nib.as_closest_canonical(nib.Nifti1Image(labels, turned.affine)).get_fdata()
        reference = back if reference is None else reference
        np.testing.assert_array_equal(back, reference)
    assert set(np.unique(reference)) == {0, 2, 3}


def test_values_do_not_depend_on_the_slice_batch() -> None:
    image = batch(boxes(modality="mr"))
    one, many = (SliceBatchInferer(image_size=32, batch_size=n)(image, Bright()) for n in (1, 16))
    assert torch.equal(one, many)


def test_shape_memory_is_one_batch_of_slices() -> None:
    network = Bright()
    SliceBatchInferer(batch_size=3)(batch(boxes(modality="mr")), network)
    assert [shape for shape, _, _ in network.calls] == [(3, 3, 32, 32), (3, 3, 32, 32), (2, 3, 32, 32)]


def test_values_modality_comes_from_argument_then_meta_then_network() -> None:
    inferer = SliceBatchInferer(image_size=32)
    for meta, argument, expected in (({"modality": "mr"}, "xray", "xray"), ({"modality": "mr"}, None, "mr")):
        network = Bright()
        inferer(batch(boxes(**meta)), network, argument)
        assert {modality for _, modality, _ in network.calls} == {expected}
    network = Bright(modalities={"xray": ("lung",)})
    assert set(inferer(batch(boxes()), network).unique().tolist()) == {0, 1}
    assert {modality for _, modality, _ in network.calls} == {None}


def test_values_batch_may_mix_modalities() -> None:
    mixed = batch(boxes(modality="mr"), boxes(modality="xray"))
    found = SliceBatchInferer(image_size=32)(mixed, Bright())
    assert [set(labels.unique().tolist()) for labels in found] == [{0, 2, 3}, {0, 1}]


def test_values_extra_arguments_reach_the_network() -> None:
    network = Bright()
    SliceBatchInferer()(batch(boxes()), network, "mr", temperature=2)
    assert all(kwargs == {"temperature": 2} for _, _, kwargs in network.calls)


def test_values_logits_of_absent_targets_are_far_below_zero() -> None:
    mixed = batch(boxes(modality="mr"), boxes(modality="xray"))
    logits = SliceBatchInferer(image_size=32, return_logits=True)(mixed, Bright())
    assert logits.shape == (2, 2, 12, 10, 8)
    assert torch.all(logits[1, 1] == -1e4)
    assert torch.all(logits[0].as_tensor() > -5e3)


def test_values_metadata_is_the_input_s() -> None:
    affine = nib.affines.from_matvec([[0.9, 0.1, 0], [-0.1, 0.9, 0.2], [0, -0.2, 3.0]], [1, 2, 3])
    image = boxes(affine=torch.tensor(affine), modality="mr", case="sub/one")
    found = SliceBatchInferer(image_size=32)(batch(image), Bright())[0]
    np.testing.assert_allclose(found.affine, affine)
    assert found.meta["case"] == "sub/one"


def test_values_stacking_axis_of_the_acquisition_is_used() -> None:
    network = Bright()
    SliceBatchInferer(batch_size=1)(batch(boxes(modality="mr", slice_axis=1)), network)
    assert len(network.calls) == 10  # shape (12, 10, 8) cut along axis 1


def test_shape_picture_and_single_slice() -> None:
    inferer, network = SliceBatchInferer(image_size=32), Bright()
    picture = MetaTensor(torch.full((3, 40, 20), 150.0), affine=torch.diag(torch.tensor([-1.0, -1, 1, 1])))
    assert inferer(batch(picture), network, "xray").shape == (1, 1, 40, 20)
    assert inferer(batch(boxes((12, 10, 8))[..., 3:4]), network, "xray").shape == (1, 1, 12, 10, 1)


def test_values_slice_transform_sees_squares_on_the_way_to_the_network() -> None:
    seen = []

    def halve(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x.expand(-1, 3, -1, -1) / 2

    found = SliceBatchInferer(image_size=32, slice_transform=halve)(batch(boxes(modality="mr")), Bright())
    assert seen == [(8, 1, 32, 32)]
    assert set(found.unique().tolist()) == {0, 2}  # 255 / 2 exceeds 100 and not 200


def test_values_decision() -> None:
    logits = torch.tensor([[-1.0, -2.0], [0.0, -3.0], [1.0, 2.0], [3.0, 2.0]]).T.reshape(1, 2, 1, 4)
    assert decide(logits, [4, 7]).flatten().tolist() == [0, 4, 7, 4]


@pytest.mark.parametrize(
    ("inputs", "modality", "message"),
    [
        (torch.zeros(1, 2, 8, 8), "mr", "should be"),
        (torch.zeros(1, 8, 8), "mr", "should be"),
        (torch.zeros(2, 1, 8, 8), ["mr"], "1 modalities"),
        (torch.zeros(1, 1, 8, 8), "ct", "known: xray, mr"),
        (torch.zeros(1, 1, 8, 8), None, "known: xray, mr"),
    ],
)
def test_bad_input(inputs: torch.Tensor, modality: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SliceBatchInferer()(inputs, Bright(), modality)


def test_bad_input_constructor() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        SliceBatchInferer(batch_size=0)
    with pytest.raises(ValueError, match="should lie in 1"):
        SliceBatchInferer(label_values={"mr": {"grey": 300}})


def test_values_constant_slices_are_background_and_not_run() -> None:
    image = boxes(shape=(32, 32, 8), modality="mr")
    image[..., 3] = 255.0  # bright, but constant: the network would call all of it white matter
    image[..., 7] = 0.0
    network = Bright()
    found = SliceBatchInferer(image_size=32, batch_size=4)(batch(image), network).as_tensor()[0, 0]
    assert sum(shape[0] for shape, _, _ in network.calls) == 6
    assert not found[..., 3].any()
    assert (found[2:10, 2:9, 2] > 0).all()


def test_values_constant_colour_is_constant() -> None:
    image = MetaTensor(torch.tensor([10.0, 200.0, 30.0]).reshape(3, 1, 1).expand(3, 9, 7), meta={"modality": "xray"})
    network = Bright(thresholds=(5.0, 5.0))
    inferer = SliceBatchInferer(image_size=32)
    assert not inferer(batch(image), network).any()
    assert network.calls == []
    inferer.return_logits = True
    logits = inferer(batch(image), network)
    assert logits.shape == (1, 1, 9, 7)
    assert (logits == -1e4).all()


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
    ],
)
def test_values_out_of_memory_halves_the_batch(error: BaseException) -> None:
    image = boxes(shape=(32, 32, 8), modality="mr")
    expected = SliceBatchInferer(image_size=32, batch_size=8)(batch(image), Bright())
    inferer, network = SliceBatchInferer(image_size=32, batch_size=8), Small(2, error)
    assert torch.equal(inferer(batch(image), network), expected)
    assert [note.split(":")[0] for note in inferer.notes] == ["OUT_OF_MEMORY"] * 2
    assert "8 slices at a time were too many" in inferer.notes[0]
    assert inferer.batch_size == 2
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


@pytest.mark.parametrize("allowed", [True, False])
def test_values_cpu_fallback(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second device: what the inferer asks about the network's device is answered by the stand-in."""
    network = Small(0, torch.OutOfMemoryError("out"))
    place = [torch.device("cuda:0")]

    def move(device) -> Small:
        place[0] = torch.device(device)
        network.room = 8 if place[0].type == "cpu" else 0
        network.moves.append(place[0].type)
        return network

    monkeypatch.setattr(network, "to", move)
    monkeypatch.setattr("esp_medsam_monai.inferers.slice_batch._device", lambda *_: place[0])
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *args, **kwargs: x.float())
    image = boxes(shape=(32, 32, 8), modality="mr")
    inferer = SliceBatchInferer(image_size=32, batch_size=1, cpu_fallback=allowed)
    if not allowed:
        with pytest.raises(InputRefused, match="OUT_OF_MEMORY"):
            inferer(batch(image), network)
        return
    found = inferer(batch(image), network)
    assert network.moves == ["cpu", "cuda"]  # for this image, and back for the next
    assert "segmented on the CPU" in inferer.notes[0]
    monkeypatch.undo()
    assert torch.equal(found, SliceBatchInferer(image_size=32)(batch(image), Bright()))


@pytest.mark.parametrize("axis", ["diagonal", 3, -1])
def test_bad_input_axis(axis: int | str) -> None:
    with pytest.raises(ValueError, match="unknown slicing axis"):
        SliceBatchInferer(axis=axis)
