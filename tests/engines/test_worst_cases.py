"""Which cases are kept, what their pictures show, and that memory does not grow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from esp_medsam_monai.engines import CaseRow, WorstCases
from tests.engines.case_row import ROW


def masks(*shape: int) -> tuple[MetaTensor, torch.Tensor, torch.Tensor]:
    image = MetaTensor(torch.full((1, *shape), 100.0), affine=torch.eye(4))
    return image, torch.zeros(1, *shape, dtype=torch.bool), torch.zeros(1, *shape, dtype=torch.bool)


def named(case: str, dice: float | None) -> CaseRow:
    return dataclasses.replace(ROW, case=case, input=case, dice=dice)


def test_the_worst_are_kept_in_order_whoever_saw_them() -> None:
    values = [0.9, 0.1, None, 0.5, 0.0, 0.7, 0.3]
    whole, first, second = (WorstCases(3) for _ in range(3))
    for i, value in enumerate(values):
        for keeper in (whole, (first, second)[i % 2]):
            keeper.add(named(f"case{i}", value), *masks(8, 8))
            assert len(keeper.cases) <= 3
    assert [case.row.dice for case in whole.cases] == [0.0, 0.1, 0.3]
    first.merge(second.cases)
    assert [case.row for case in first.cases] == [case.row for case in whole.cases]


def test_of_equal_dice_more_wrong_pixels_are_worse() -> None:
    keeper = WorstCases(1)
    for name, size in (("a", 2), ("b", 5), ("c", 3)):
        image, predicted, reference = masks(8, 8)
        reference[0, :size] = True
        keeper.add(named(name, 0.0), image, predicted, reference)
    assert keeper.cases[0].row.case == "b"


def test_a_volume_shows_the_slice_of_the_largest_disagreement() -> None:
    image, predicted, reference = masks(12, 16, 9)
    reference[0, 2:9, 3:12, 2:8] = True
    predicted[0, 2:9, 3:12, 2:8] = True
    predicted[0, 2:7, 3:12, 5] = False  # the sixth slice from below
    predicted[0, 2:4, 3:12, 3] = False
    keeper = WorstCases()
    keeper.add(ROW, image, predicted, reference)
    plain, true, found = keeper.cases[0].panels
    assert plain.caption == "6 / 9"
    assert not plain.labels.any()
    assert [(int((panel.labels == value).sum())) for panel, value in ((true, 1), (found, 2))] == [7 * 9, 2 * 9]
    assert plain.labels.shape == (16, 12)  # rows run along the second axis
    assert (plain.picture == 100).all()


def test_large_pictures_are_kept_small() -> None:
    keeper = WorstCases()
    keeper.add(ROW, *masks(3000, 1000))
    assert max(keeper.cases[0].panels[0].picture.shape) <= 640
    assert keeper.cases[0].panels[0].picture.dtype == np.uint8


def test_pictures_replace_those_of_an_earlier_evaluation(tmp_path: Path) -> None:
    image, predicted, reference = masks(40, 30)
    reference[0, 5:20, 5:20] = True
    predicted[0, 15:30, 5:20] = True
    keeper = WorstCases()
    keeper.add(named("../a $x$ b", 0.12), image, predicted, reference)
    keeper.add(named("c" * 300, 0.5), image, predicted, reference)
    (tmp_path / "03_old_front_dice0.40.png").write_text("")
    (tmp_path / "mine.png").write_text("")
    written = keeper.write(tmp_path)
    assert [path.name for path in written] == [
        *("01_.._a_x_b_front_dice0.12.png", f"02_{'c' * 80}_front_dice0.50.png", "overview.png"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", *(path.name for path in written)}
    pixels = np.asarray(Image.open(written[0]).convert("RGB")).astype(int)
    for color in ((86, 180, 233), (240, 228, 66)):  # both contours are there
        assert (np.abs(pixels - color).max(axis=2) < 12).any()


def test_none_are_asked_for(tmp_path: Path) -> None:
    keeper = WorstCases(0)
    keeper.add(ROW, *masks(8, 8))
    assert keeper.write(tmp_path / "worst") == []
    assert not (tmp_path / "worst").exists()
    with pytest.raises(ValueError, match="0 or more"):
        WorstCases(-1)
