"""Metrics of a case by hand, in its unit, and the rule for empty masks."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from esp_medsam_monai.engines import CaseRow, SurfaceTolerance, case_rows, surface_metrics

VALUES = {"front": 2, "back": 3}


def rows_of(predicted: torch.Tensor, reference: torch.Tensor, sides: tuple[float, float, float]) -> dict[str, CaseRow]:
    image = MetaTensor(
        torch.zeros(1, *predicted.shape[1:]),
        affine=torch.diag(torch.tensor([*sides, 1.0])),
        meta={"filename_or_obj": "/data/c.nii"},
    )
    found = case_rows(
        image, predicted, reference, VALUES, SurfaceTolerance(3.0, 1.0), case="c", modality="mr", domain="d"
    )
    return {row.target: row for row in found}


def volume(*boxes: tuple[int, slice, slice, slice]) -> torch.Tensor:
    labels = torch.zeros(1, 20, 10, 6, dtype=torch.uint8)
    for value, *place in boxes:
        labels[0][tuple(place)] = value
    return labels


def test_a_volume_is_measured_in_mm_and_as_a_whole() -> None:
    """A box of 4 x 4 x 2 voxels, shifted by one slice of 5 mm: its half is found."""
    here, rows = slice(8, 12), slice(3, 7)
    row = rows_of(volume((2, here, rows, slice(2, 4))), volume((2, here, rows, slice(3, 5))), (1.0, 2.0, 5.0))["front"]
    assert (row.dice, row.iou) == (pytest.approx(0.5), pytest.approx(1 / 3))
    # All voxels belong to the surface. Of 32, the 16 in the common slice have distance 0, the others one slice, or less
    # beside the box's corners; there are none.
    assert (row.hd95, row.hd95_penalized, row.unit) == (5.0, 5.0, "mm")
    assert (row.nsd, row.tolerance) == (0.5, 3.0)
    assert (row.case, row.modality, row.domain, row.input) == ("c", "mr", "d", "/data/c.nii")


def test_what_empty_masks_count() -> None:
    box = (slice(8, 12), slice(3, 7), slice(2, 4))
    diagonal = math.sqrt((20 * 1) ** 2 + (10 * 2) ** 2 + (6 * 5) ** 2)
    only_reference = rows_of(volume(), volume((2, *box)), (1.0, 2.0, 5.0))
    only_prediction = rows_of(volume((2, *box)), volume(), (1.0, 2.0, 5.0))
    for row, sizes in ((only_reference["front"], (32, 0)), (only_prediction["front"], (0, 32))):
        assert (row.dice, row.iou, row.nsd, row.hd95) == (0, 0, 0, None)
        assert row.hd95_penalized == pytest.approx(diagonal)
        assert (row.reference, row.predicted) == sizes
    neither = only_reference["back"]
    assert (neither.dice, neither.iou, neither.nsd, neither.hd95, neither.hd95_penalized) == (None,) * 5


@pytest.mark.parametrize("corner", [(0, 0, 0), (13, 0, 2), (13, 4, 0)])
def test_distances_do_not_depend_on_how_much_lies_around_a_mask(corner: tuple[int, int, int]) -> None:
    """At the edge of the image, and away from it; measured in the whole image."""
    x, y, z = corner
    generator = torch.Generator().manual_seed(1)
    predicted, reference = torch.zeros(2, 1, 20, 10, 6, dtype=torch.uint8)
    for mask in (predicted, reference):
        mask[0, x : x + 7, y : y + 6, z : z + 4] = 2 * (torch.rand(7, 6, 4, generator=generator) < 0.6)
    row = rows_of(predicted, reference, (1.0, 2.0, 5.0))["front"]
    assert (row.hd95, row.nsd) == surface_metrics(predicted[0] == 2, reference[0] == 2, (1.0, 2.0, 5.0), 3.0)


def test_one_slice_of_a_volume_is_a_picture() -> None:
    """In 3D all pixels of a slice would be surface, and the inside of a mask would count."""
    predicted, reference = torch.zeros(2, 1, 20, 20, 1, dtype=torch.uint8)
    reference[0, 2:18, 2:18] = 2
    predicted[0, 2:18, 2:18] = 2
    predicted[0, 8:12, 8:12] = 0  # a hole of 4 x 4
    row = rows_of(predicted, reference, (1.0, 1.0, 9.0))["front"]
    # Surfaces of 60 pixels, and 16 around the hole (its corners lie inside by a side), farther than 3 mm from the rim.
    assert row.nsd == pytest.approx(120 / 136)
    assert row.unit == "mm"


def test_a_photograph_is_measured_in_pixels() -> None:
    predicted, reference = torch.zeros(2, 1, 20, 20, dtype=torch.uint8)
    reference[0, 5:10, 5:10] = 3
    predicted[0, 8:13, 5:10] = 3
    row = rows_of(predicted, reference, (-1.0, -1.0, 1.0))["back"]
    assert (row.hd95, row.unit, row.tolerance) == (3.0, "px", 1.0)
