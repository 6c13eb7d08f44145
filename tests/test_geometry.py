from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from esp_medsam_monai.geometry import slice_axis, slice_plan


def _stack(volume, **kwargs):
    return slice_plan(volume.affine, volume.array.shape, **kwargs).to_slices(volume.array[None])


def test_all_storage_orders_give_one_stack(awkward_volume):
    orientations = awkward_volume.orientations()
    assert len({(v.array.shape, v.array.tobytes()) for v in orientations}) > 1
    for axis in (None, "sagittal", "coronal", "axial"):
        stacks = [_stack(stored, axis=axis) for stored in orientations]
        for stack in stacks[1:]:
            np.testing.assert_array_equal(stack, stacks[0])


def test_stacking_axis_follows_the_storage_order(volume):
    # The acquisition stacked the first axis; every storage order names it by its own number.
    shape = (12, 10, 8)
    stacks = [
        _stack(stored, stacking_axis=stored.array.shape.index(12)) for stored in volume(shape=shape).orientations()
    ]
    assert stacks[0].shape == (12, 1, 8, 10)
    for stack in stacks[1:]:
        np.testing.assert_array_equal(stack, stacks[0])


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_round_trip_is_exact(awkward_volume, kind):
    plan = slice_plan(awkward_volume.affine, awkward_volume.array.shape)
    image = kind(np.stack([awkward_volume.array, awkward_volume.array + 1]))
    slices = plan.to_slices(image)
    assert slices.ndim == 4 and slices.shape[0] == awkward_volume.array.shape[plan.axis] and slices.shape[1] == 2
    assert not isinstance(slices, MetaTensor)
    np.testing.assert_array_equal(np.asarray(plan.from_slices(slices)), np.asarray(image))
    # Masks have another number of channels than the image.
    assert plan.from_slices(slices[:, :1]).shape == (1, *awkward_volume.array.shape)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_range_of_slices_is_cut_out_of_the_stack(awkward_volume, kind):
    plan = slice_plan(awkward_volume.affine, awkward_volume.array.shape)
    image = kind(awkward_volume.array[None])
    whole = np.asarray(plan.to_slices(image))
    for start, stop in ((0, 3), (2, 5), (5, None), (3, 3), (4, 2), (0, 99), (-2, None)):
        np.testing.assert_array_equal(np.asarray(plan.to_slices(image, start, stop)), whole[start:stop])


def test_numpy_slices_are_views(volume):
    stored = volume().orientations()[41]
    assert np.shares_memory(_stack(stored), stored.array)


# World position of a voxel in RAS: x grows to the patient's right, y to anterior, z to superior. The expectations
# are the definition of the radiological picture, told by world coordinates and not by axes.
@pytest.mark.parametrize(
    ("axis", "through", "down", "across"),
    [
        ("axial", (2, 1), (1, -1), (0, -1)),
        ("coronal", (1, 1), (2, -1), (0, -1)),
        ("sagittal", (0, -1), (2, -1), (1, -1)),
    ],
)
def test_pictures_are_radiological(volume, axis, through, down, across):
    stored = volume(angles=(5.0, -8.0, 11.0)).orientations()[29]
    positions = nib.affines.apply_affine(stored.affine, np.moveaxis(np.indices(stored.array.shape), 0, -1))
    plan = slice_plan(stored.affine, stored.array.shape, axis=axis)
    stack = plan.to_slices(np.moveaxis(positions, -1, 0))
    for direction, (coordinate, sign) in zip((0, 2, 3), (through, down, across), strict=True):
        steps = np.diff(stack, axis=direction)[:, coordinate]
        assert (np.sign(steps) == sign).all()


def test_asked_plane_agrees_with_nibabel_names():
    rng = np.random.default_rng(3)
    for _ in range(200):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = rotation * rng.uniform(0.5, 5.0, size=3)
        names = nib.aff2axcodes(affine)
        for plane, codes in (("sagittal", "LR"), ("coronal", "PA"), ("axial", "IS")):
            assert names[slice_axis(affine, (9, 8, 7), axis=plane)] in codes


@pytest.mark.parametrize(
    ("shape", "spacing", "asked", "expected"),
    [
        ((9, 9, 9), (1.0, 1.0, 1.0), {"axis": 1, "stacking_axis": 0}, 1),
        ((9, 1, 9), (1.0, 1.0, 9.0), {"stacking_axis": 0}, 0),
        ((9, 1, 9), (1.0, 1.0, 9.0), {}, 1),
        ((9, 9, 9), (1.06, 1.0, 1.0), {}, 0),
        ((9, 9, 9), (1.04, 1.0, 1.0), {}, 2),
        ((9, 9, 9), (3.0, 3.0, 1.0), {}, 2),
        ((1, 1, 9), (1.0, 1.0, 1.0), {}, 1),
        ((9, 9), (1.0, 1.0, 1.0), {"axis": "sagittal"}, 2),
    ],
)
def test_order_of_the_rules(volume, shape, spacing, asked, expected):
    assert slice_axis(volume(spacing=spacing).affine, shape, **asked) == expected


def test_picture_file_stays_as_it_is_seen():
    # (C, W, H) with the affine of pictures: the slice is the picture, rows by columns.
    picture = np.arange(2 * 5).reshape(2, 5)
    plan = slice_plan(np.diag([-1.0, -1.0, 1.0, 1.0]), (5, 2))
    slices = plan.to_slices(picture.T[None])
    np.testing.assert_array_equal(slices[0, 0], picture)
    np.testing.assert_array_equal(plan.from_slices(slices), picture.T[None])
    assert plan == slice_plan(np.diag([-1.0, -1.0, 1.0]), (5, 2))


def test_two_dimensional_images_follow_their_affine(volume):
    three = volume(shape=(6, 4, 1)).orientations()[3]  # the same plane, flipped
    plan = slice_plan(three.affine, three.array.shape[:2])
    np.testing.assert_array_equal(plan.to_slices(three.array[None, ..., 0]), _stack(three, axis=2))


def test_gantry_tilt_keeps_its_stacking_direction():
    sheared = np.array([[-0.7, 0, 0, 0], [0, -0.7, 1.5, 0], [0, 0, 5, 0], [0, 0, 0, 1.0]])
    plan = slice_plan(sheared, (8, 8, 4))
    assert plan.axis == 2 and plan.order == (2, 1, 0) and plan.flips == (False, False, False)


@pytest.mark.parametrize(
    ("affine", "shape", "kwargs", "message"),
    [
        (np.diag([1.0, 0.0, 1.0, 1.0]), (4, 4, 4), {}, "singular"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), (4, 4, 4), {}, "finite"),
        (np.eye(2), (4, 4, 4), {}, "affine"),
        (np.eye(4), (4, 4, 4, 4), {}, "spatial shape"),
        (np.eye(4), (4, 4, 4), {"axis": "transversal"}, "axial"),
        (np.eye(4), (4, 4, 4), {"axis": 3}, "slicing axis 3"),
    ],
)
def test_useless_arguments_are_named(affine, shape, kwargs, message):
    with pytest.raises(ValueError, match=message):
        slice_plan(affine, shape, **kwargs)
