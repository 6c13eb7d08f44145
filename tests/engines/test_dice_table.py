"""Dice of each target against values worked out by hand, and what empty masks count."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.engines import dice_rows, summarize


def image(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, -1, 1)


def test_dice_of_each_target_by_hand() -> None:
    rows = dice_rows(
        image([2, 2, 3, 0, 0]), image([2, 2, 2, 0, 0]), {"front": 2, "back": 3}, case="c", modality="mr", domain="d"
    )
    assert [(row.target, row.dice, row.reference, row.predicted) for row in rows] == [
        ("front", pytest.approx(2 * 2 / (2 + 3)), 3, 2),
        ("back", 0.0, 0, 1),  # found where it is not
    ]


def test_both_empty_is_counted_and_not_averaged() -> None:
    values = {"lung": 1}
    rows = [
        *dice_rows(image([0, 0]), image([0, 0]), values, case="a", modality="xray", domain="one"),
        *dice_rows(image([1, 0]), image([0, 0]), values, case="b", modality="xray", domain="one"),
        *dice_rows(image([1, 1]), image([1, 1]), values, case="c", modality="xray", domain="two"),
    ]
    assert [row.dice for row in rows] == [None, 0.0, 1.0]
    assert summarize(rows) == {
        "xray": {
            "lung": {"dice": 0.5, "n": 2, "std": 0.5, "median": 0.5, "both_empty": 1, "reference_empty": 1},
        }
    }
    assert summarize(rows[:1])["xray"]["lung"]["dice"] is None


def test_grids_that_differ_are_told() -> None:
    with pytest.raises(ValueError, match=r"c: prediction \(1, 2, 1\) and label \(1, 3, 1\)"):
        dice_rows(image([0, 0]), image([0, 0, 0]), {"lung": 1}, case="c", modality="xray")
