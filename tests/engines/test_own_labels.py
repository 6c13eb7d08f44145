"""Tables of label values that an entry of a datalist brings itself, and tables that leave targets out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from esp_medsam_monai.transforms import training_transforms

from esp_medsam_monai.engines import DatalistCheck, PairCheck, SegmentationDataset

MODALITIES = {"mr": ["front", "back"]}


def test_an_entrys_own_table_goes_before_the_datalists(pair: Any) -> None:
    """The label holds 1 and 2."""
    check = PairCheck(MODALITIES, label_values={"mr": {"front": 5, "back": 6}})
    assert [found.code for found in check(pair()).errors] == ["UNKNOWN_LABELS"]
    own = check({**pair(), "labels": {"front": 2, "back": 1}})
    assert own.errors == [] and own.targets == ("front", "back")


@pytest.mark.parametrize("own", [{"tail": 1}, {"front": 0}, {"front": 1, "back": 1}, [1, 2]])
def test_a_table_that_cannot_be_right_is_found_beforehand(pair: Any, own: Any) -> None:
    (found,) = PairCheck(MODALITIES)({**pair(), "labels": own}).errors
    assert found.code == "UNKNOWN_LABELS"


def test_entries_with_tables_of_their_own_need_none_of_the_datalist(pair: Any, tmp_path: Path) -> None:
    entries = [{**pair(), "labels": {"front": 1, "back": 2}}]
    check = DatalistCheck({"training": entries}, PairCheck(MODALITIES), tmp_path)
    check.run()
    assert check.errors == []
    without = DatalistCheck({"training": [*entries, pair()]}, PairCheck(MODALITIES), tmp_path)
    with pytest.raises(SystemExit):
        without.run()
    assert {found.code for found in without.errors} == {"UNKNOWN_LABELS"}


def test_items_say_what_their_labels_speak_of(pair: Any) -> None:
    label = pair()
    partly = {**label, "labels": {"back": 2}}
    label_values = {"mr": {"front": 1, "back": 2}}
    transform = training_transforms(MODALITIES, 64, label_values=label_values, augment=False)
    with pytest.raises(RuntimeError, match=r"UNKNOWN_LABELS|transform"):
        SegmentationDataset([partly], transform=transform)[0]  # the file holds a 1, which nothing explains
    whole = SegmentationDataset([label], transform=transform)[0]
    assert whole["labelled"] == "" and set(whole["label"].unique().tolist()) == {0, 1, 2}
    only = training_transforms({"mr": ["front", "back", "tail"]}, 64, label_values=label_values, augment=False)
    assert SegmentationDataset([label], transform=only)[0]["labelled"] == "front,back"
