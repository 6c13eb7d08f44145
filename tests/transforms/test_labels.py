"""EncodeLabels(d): file values to the network's one table, and no value that nobody explained."""

from __future__ import annotations

import pytest
import torch
from esp_medsam_monai.transforms import EncodeLabels, EncodeLabelsd
from monai.data import MetaTensor

from esp_medsam_monai.errors import InputRefused

# The network's table: xray_lung 1, mr_front 2, mr_back 3.
NETWORK = {"xray": ["lung"], "mr": ["front", "back"]}
LABELS = {"mr": {"back": 10, "front": 20}, "ct": {"liver": 1}}


def label(*values, dtype=torch.uint8, name="case_label.png") -> MetaTensor:
    return MetaTensor(torch.tensor(values, dtype=dtype).view(1, 1, -1), meta={"filename_or_obj": name})


@pytest.mark.parametrize("values", [(0, 1, 1), (0, 255, 255), (0, 3, 200)])
def test_one_target_without_an_entry_takes_every_non_zero_value(values):
    result = EncodeLabels(NETWORK)(label(*values), "xray")
    assert result.flatten().tolist() == [0, 1, 1]
    assert result.dtype == torch.uint8
    assert result.meta["filename_or_obj"] == "case_label.png"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float64])
def test_several_targets_go_by_the_datalist(dtype):
    result = EncodeLabels(NETWORK, LABELS)(label(0, 10, 20, 10, dtype=dtype), "mr")
    assert result.flatten().tolist() == [0, 3, 2, 3]


def test_several_targets_without_an_entry_are_refused_with_what_to_write():
    with pytest.raises(InputRefused) as refusal:
        EncodeLabels(NETWORK)(label(0, 1, 2), "mr")
    assert refusal.value.code == "UNKNOWN_LABELS"
    assert '"labels": {"mr": {"front": 1, "back": 2}}' in refusal.value.message


@pytest.mark.parametrize(("values", "told"), [((0, 10, 11, 12), "11, 12"), ((0, 10, 19.5, 20), "19.5")])
def test_other_values_are_refused_by_name(values, told):
    with pytest.raises(InputRefused) as refusal:
        EncodeLabels(NETWORK, LABELS)(label(*values, dtype=torch.float32), "mr")
    assert refusal.value.code == "UNKNOWN_LABELS"
    assert "case_label.png" in refusal.value.message
    assert f"values {told}," in refusal.value.message


def test_one_target_with_an_entry_is_held_to_it():
    encoder = EncodeLabels(NETWORK, {"xray": {"lung": 255}})
    assert encoder(label(0, 255), "xray").flatten().tolist() == [0, 1]
    with pytest.raises(InputRefused, match="UNKNOWN_LABELS"):
        encoder(label(0, 1, 255), "xray")


def test_a_mask_stored_in_three_equal_channels_counts_and_a_colour_picture_does_not():
    grey = label(0, 255).expand(3, 1, 2)
    assert EncodeLabels(NETWORK)(grey, "xray").tolist() == [[[0, 1]]]
    colour = torch.stack([torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2)])
    with pytest.raises(InputRefused, match="colour"):
        EncodeLabels(NETWORK)(colour, "xray")


@pytest.mark.parametrize(
    "values",
    [{}, {"front": 1, "back": 2, "tail": 3}, {"front": 1, "back": 1}, {"front": 0, "back": 1}, {"front": True}],
)
def test_entries_that_cannot_be_right_are_told_at_once(values):
    with pytest.raises(ValueError, match="mr"):
        EncodeLabels(NETWORK, {"mr": values})


def test_a_table_may_leave_out_targets_that_the_files_do_not_speak_of():
    encoder = EncodeLabels(NETWORK, {"mr": {"back": 5}})
    assert encoder(label(0, 5), "mr").flatten().tolist() == [0, 3]
    assert encoder.labelled("mr") == ("back",)
    assert encoder.labelled("xray") is None
    with pytest.raises(InputRefused, match="UNKNOWN_LABELS"):
        encoder(label(0, 5, 6), "mr")


def test_an_entrys_own_table_goes_first():
    image = MetaTensor(torch.zeros(3, 1, 2), meta={"filename_or_obj": "case.png", "modality": "mr"})
    encode = EncodeLabelsd("label", "image", NETWORK, LABELS)
    own = encode({"image": image, "label": label(0, 7), "labels": {"front": 7}})
    assert own["label"].flatten().tolist() == [0, 2] and own["labelled"] == "front"
    whole = encode({"image": image, "label": label(20, 10)})
    assert whole["label"].flatten().tolist() == [2, 3] and whole["labelled"] == ""
    with pytest.raises(ValueError, match="mr"):
        encode({"image": image, "label": label(0, 7), "labels": {"tail": 7}})


def test_dictionary_form_takes_the_images_modality_and_compares_shapes():
    image = MetaTensor(torch.zeros(3, 1, 2), meta={"filename_or_obj": "case.png", "modality": "xray"})
    encode = EncodeLabelsd("label", "image", NETWORK)
    assert encode({"image": image, "label": label(0, 9)})["label"].flatten().tolist() == [0, 1]
    with pytest.raises(InputRefused) as refusal:
        encode({"image": image, "label": label(0, 9, 9)})
    assert refusal.value.code == "LABEL_SHAPE"
    assert all(text in refusal.value.message for text in ("case_label.png", "case.png", "(1, 3)", "(1, 2)"))
