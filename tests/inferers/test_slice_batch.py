"""SliceBatchInferer: labels where the object is, whatever the storage, size, batch size and modality."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.inferers.decision import decide
from tests.inferers.bright import Bright, batch, boxes


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


class Wide(Bright):
    """Answers with a channel for every target that any modality has, as networks do when they are given indices."""

    def forward(self, x, modality=None, **kwargs):
        logits = super().forward(x, modality, **kwargs)
        return torch.cat([logits, logits.new_full((len(x), 2 - logits.shape[1], *x.shape[-2:]), 9.0)], dim=1)


@pytest.mark.parametrize("return_logits", [False, True])
def test_values_channels_that_a_modality_does_not_have_do_not_count(return_logits: bool) -> None:
    image = batch(boxes(modality="xray"))
    inferer = SliceBatchInferer(image_size=32, return_logits=return_logits)
    assert torch.equal(inferer(image, Wide()), inferer(image, Bright()))


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


def test_values_one_varying_channel_is_enough() -> None:
    """A stain in one colour on a plain background is no empty picture."""
    picture = torch.full((3, 9, 7), 200.0)
    picture[1, 2:5, 3:6] = 10.0
    network = Bright()
    SliceBatchInferer(image_size=32)(batch(MetaTensor(picture, meta={"modality": "xray"})), network)
    assert len(network.calls) == 1


@pytest.mark.parametrize("axis", ["diagonal", 3, -1])
def test_bad_input_axis(axis: int | str) -> None:
    with pytest.raises(ValueError, match="unknown slicing axis"):
        SliceBatchInferer(axis=axis)


def test_a_modality_with_a_side_of_its_own_is_seen_larger() -> None:
    network = Bright()
    inferer = SliceBatchInferer(image_size=32, image_sizes={"mr": 64})
    for modality in ("mr", "xray"):
        inferer(batch(boxes(modality=modality)), network)
    sides = {modality: shape[-2:] for shape, modality, _ in network.calls}
    assert sides == {"mr": (64, 64), "xray": (32, 32)}
