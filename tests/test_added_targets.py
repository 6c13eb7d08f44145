"""Targets that are added to a network keep the label values of all others, wherever they stand."""

from __future__ import annotations

import copy
import pickle

import pytest

from esp_medsam_monai.modalities import (
    AddedTarget,
    added_targets,
    check_modalities,
    extended_modalities,
    label_names,
    label_values,
    shipped_modalities,
)
from esp_medsam_monai.networks import ESPMedSAM

NEW = {"dermoscopy": ["hair"], "oct": ["fluid", "layer"], "mr": ["tumour"]}
# The contract's eight, then the added ones in the order in which they were named.
VALUES = {
    "dermoscopy": {"lesion": 1, "hair": 9},
    "xray": {"lung": 2},
    "ultrasound": {"lesion": 3},
    "fundus": {"vessel": 4},
    "microscopy": {"nucleus": 5},
    "colonoscopy": {"polyp": 6},
    "mr": {"hippocampus_anterior": 7, "hippocampus_posterior": 8, "tumour": 12},
    "oct": {"fluid": 10, "layer": 11},
}


def test_nothing_new_is_the_shipped_table() -> None:
    assert extended_modalities() == shipped_modalities()
    assert extended_modalities({"mr": ["a"]}, {}) == {"mr": ["a"]}


@pytest.mark.parametrize(
    "through",
    [
        lambda table: table,
        copy.deepcopy,
        lambda table: pickle.loads(pickle.dumps(table)),
        lambda table: {name: tuple(targets) for name, targets in table.items()},
        check_modalities,
        lambda table: ESPMedSAM(table, img_size=64).modalities,
    ],
    ids=["itself", "deepcopy", "pickle", "tuples", "check", "network"],
)
def test_old_targets_keep_their_values_and_new_ones_follow(through) -> None:
    table = through(extended_modalities(new=NEW))
    assert label_values(table) == VALUES
    assert added_targets(table) == {name: tuple(targets) for name, targets in NEW.items()}


def test_names_come_in_the_order_of_the_values() -> None:
    names = label_names(extended_modalities(new=NEW))
    assert list(names) == list(range(13))
    assert (names[8], names[9], names[12]) == ("mr_hippocampus_posterior", "dermoscopy_hair", "mr_tumour")


def test_who_adds_again_leaves_what_was_added_before() -> None:
    first = label_values(extended_modalities(new={"xray": ["heart"]}))
    again = label_values(extended_modalities(new={"xray": ["heart"], "dermoscopy": ["hair"]}))
    other = label_values(extended_modalities(extended_modalities(new={"xray": ["heart"]}), {"dermoscopy": ["hair"]}))
    assert again == other
    assert first["xray"] == again["xray"] == {"lung": 2, "heart": 9}
    assert again["dermoscopy"] == {"lesion": 1, "hair": 10}


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"xray": ["lung"]}, "twice"),
        ({"xray": "heart"}, "list"),
        ({"xray": []}, "no target"),
        ("hair", "modality"),
        ({"x": [f"t{i}" for i in range(248)]}, "at most 255"),
    ],
)
def test_bad_input(new, message) -> None:
    with pytest.raises(ValueError, match=message):
        extended_modalities(new=new)


def test_two_targets_cannot_have_one_value() -> None:
    with pytest.raises(ValueError, match="different"):
        label_values({"mr": ["a", AddedTarget("b", 1)]})
