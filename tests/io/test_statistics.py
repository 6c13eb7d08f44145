"""target_statistics: numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from esp_medsam_monai.io.statistics import target_statistics

TARGETS = {"hippocampus_anterior": 7, "hippocampus_posterior": 8}


def mask_of(values: np.ndarray, affine: np.ndarray, **meta: object) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values)[None], affine=torch.tensor(affine, dtype=torch.float64), meta=meta)


def block() -> MetaTensor:
    """2 x 3 x 4 voxels of 7 in 10 x 10 x 10 voxels of 0.5 x 2 x 3 mm, origin (1, 2, 3), patient left first."""
    values = np.zeros((10, 10, 10), dtype=np.uint8)
    values[2:4, 3:6, 4:8] = 7
    affine = np.diag([-0.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = (1, 2, 3)
    return mask_of(values, affine)


def test_values_of_a_block() -> None:
    anterior, posterior = target_statistics(block(), TARGETS, "mr")
    assert anterior == {
        "target": "hippocampus_anterior",
        "label": 7,
        "name": "mr_hippocampus_anterior",
        "voxels": 24,
        "percent": 2.4,
        "volume_ml": 0.072,  # 24 x 3 mm³
        "area_mm2": None,
        "slices": 4,  # along the third axis, the thickest
        "centroid_mm": [1 - 0.5 * 2.5, 2 + 2 * 4.0, 3 + 3 * 5.5],
        "components": 1,
    }
    assert posterior == {
        "target": "hippocampus_posterior",
        "label": 8,
        "name": "mr_hippocampus_posterior",
        "voxels": 0,
        "percent": 0.0,
        "volume_ml": 0.0,
        "area_mm2": None,
        "slices": 0,
        "centroid_mm": None,
        "components": 0,
    }


@pytest.mark.parametrize(("axis", "meta", "slices"), [(0, {}, 2), (1, {}, 3), (None, {"slice_axis": 1}, 3)])
def test_values_slices_follow_the_plan(axis: int | None, meta: dict, slices: int) -> None:
    mask = block()
    mask.meta.update(meta)
    assert target_statistics(mask, TARGETS, "mr", axis)[0]["slices"] == slices


def test_values_do_not_depend_on_the_storage_order(volume) -> None:
    made = volume(spacing=(0.7, 0.8, 2.0), angles=(17.0, -24.0, 9.0), dtype="uint8")
    made.array[...] = np.where(made.array > 150, 7, 0)
    rows = [target_statistics(mask_of(v.array, v.affine), TARGETS, "mr")[0] for v in made.orientations()[::5]]
    for row in rows:
        assert row["centroid_mm"] == pytest.approx(rows[0]["centroid_mm"], abs=2e-3)
        assert {key: row[key] for key in row if key != "centroid_mm"} == {
            key: rows[0][key] for key in rows[0] if key != "centroid_mm"
        }


def test_values_shear_does_not_change_the_volume() -> None:
    """A tilted gantry moves slices along each other, which keeps base and height."""
    mask = block()
    sheared = mask.affine.clone()
    sheared[1, 2] = 1.3
    mask.affine = sheared
    assert target_statistics(mask, TARGETS, "mr")[0]["volume_ml"] == pytest.approx(0.072)


def test_values_of_a_photograph_are_counts() -> None:
    """PNG and JPEG: pixels have no size."""
    values = np.zeros((20, 10), dtype=np.uint8)
    values[:5, :4] = values[10:, 8:] = 1
    (row,) = target_statistics(mask_of(values, np.diag([-1.0, -1.0, 1.0, 1.0])), {"lesion": 1}, "dermoscopy")
    assert (row["voxels"], row["percent"], row["slices"], row["components"]) == (40, 20.0, 1, 2)
    assert (row["volume_ml"], row["area_mm2"], row["centroid_mm"]) == (None, None, None)


@pytest.mark.parametrize("shape", [(20, 10), (20, 10, 1)])
@pytest.mark.parametrize("sides", [(0.2, 0.5), (1.0, 1.0)])
def test_values_of_a_radiograph_are_areas(shape: tuple[int, ...], sides: tuple[float, float]) -> None:
    """DICOM without a place in the patient is ``diag(-sx, -sy, 1, 1)``; sides of 1 also stand for no size at all."""
    values = np.zeros(shape, dtype=np.uint8)
    values[:5, :4] = 2
    mask = mask_of(values, np.diag([-sides[0], -sides[1], 1.0, 1.0]), has_place=False)
    (row,) = target_statistics(mask, {"lung": 2}, "xray")
    assert row["area_mm2"] == (2.0 if sides == (0.2, 0.5) else None)
    assert (row["volume_ml"], row["centroid_mm"], row["slices"]) == (None, None, 1)


def test_values_of_frames_without_a_place_are_counts() -> None:
    """An anonymised multi-frame image: a volume in mL would be made up."""
    mask = block()
    mask.meta["has_place"] = False
    row = target_statistics(mask, TARGETS, "mr")[0]
    assert row["voxels"] == 24
    assert (row["volume_ml"], row["area_mm2"], row["centroid_mm"]) == (None, None, None)


def test_values_of_one_slice_in_a_patient() -> None:
    """A single MR slice has a thickness and a place; the slice may lie along any axis."""
    values = np.zeros((1, 20, 10), dtype=np.uint8)
    values[:, :5, :4] = 7
    affine = np.diag([4.0, 0.5, 0.5, 1.0])
    affine[2, 3] = -10
    row = target_statistics(mask_of(values, affine), TARGETS, "mr")[0]
    assert (row["area_mm2"], row["volume_ml"], row["slices"]) == (5.0, 0.02, 1)
    assert row["centroid_mm"] == [0.0, 1.0, -9.25]


def test_values_of_a_slice_whose_sides_are_not_at_right_angles() -> None:
    values = np.zeros((20, 10, 1), dtype=np.uint8)
    values[:5, :4] = 7
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[0, 1] = 1.0  # a parallelogram of base 2 mm and height 3 mm
    row = target_statistics(mask_of(values, affine), TARGETS, "mr")[0]
    assert (row["area_mm2"], row["volume_ml"]) == (120.0, 0.48)


def test_values_of_an_empty_mask() -> None:
    rows = target_statistics(block() * 0, TARGETS, "mr")
    assert [(row["voxels"], row["percent"], row["volume_ml"], row["slices"]) for row in rows] == [(0, 0.0, 0.0, 0)] * 2
    assert [(row["centroid_mm"], row["components"]) for row in rows] == [(None, 0)] * 2


def test_values_at_the_edges_of_the_image_and_of_each_other() -> None:
    """Only the box around all targets is looked at, in any memory order; here it is the image, and one target's own."""
    values = np.zeros((6, 7, 8), dtype=np.uint8)
    values[0, 0, 0] = values[5, 6, 7] = 7
    values[2:4, 3, 5] = 8
    for stored in (values, np.asfortranarray(values)):
        first, second = target_statistics(mask_of(stored, np.eye(4)), TARGETS, "mr", axis=0)
        assert (first["voxels"], first["slices"], first["components"]) == (2, 2, 2)
        assert first["centroid_mm"] == [2.5, 3.0, 3.5]
        assert (second["voxels"], second["slices"], second["components"]) == (2, 2, 1)
        assert second["centroid_mm"] == [2.5, 3.0, 5.0]


def test_values_components_agree_with_scipy() -> None:
    values = (np.random.default_rng(3).random((15, 14, 13)) > 0.93).astype(np.uint8) * 7
    expected = ndimage.label(values, structure=np.ones((3, 3, 3)))[1]
    assert expected > 5
    assert target_statistics(mask_of(values, np.eye(4)), TARGETS, "mr")[0]["components"] == expected
