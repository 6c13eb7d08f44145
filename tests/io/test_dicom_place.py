"""The place of DICOM frames out of tags that are rare, or wrong."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from esp_medsam_monai.io.dicom_place import place_of, same_direction

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def _dataset(**tags) -> Dataset:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def _region(unit: int, across: float, down: float) -> Dataset:
    return _dataset(
        PhysicalUnitsXDirection=unit, PhysicalUnitsYDirection=unit, PhysicalDeltaX=across, PhysicalDeltaY=down
    )


def test_ultrasound_states_its_pixels_in_centimetres():
    seconds, image = _region(4, 0.5, 0.5), _region(3, 0.02, -0.03)
    place = place_of(_dataset(SequenceOfUltrasoundRegions=[seconds, image]), 1)
    assert place.spacing == pytest.approx((0.2, 0.3))
    # Two images side by side, at different depths: no one size holds for the picture.
    assert place_of(_dataset(SequenceOfUltrasoundRegions=[image, _region(3, 0.04, 0.04)]), 1).spacing is None


def test_frames_by_their_offsets():
    coronal = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]  # the normal points to posterior
    dataset = _dataset(
        ImagePositionPatient=[1, 2, 3],
        ImageOrientationPatient=coronal,
        PixelSpacing=[1, 1],
        GridFrameOffsetVector=[10, 13, 16],
    )
    np.testing.assert_allclose(place_of(dataset, 3).positions, [[1, 2, 3], [1, 5, 3], [1, 8, 3]])


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    "orientation", [[0] * 6, [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 2, 0], [1, 0, 0, 0, 1], ["nan"] * 6, None]
)
def test_directions_that_are_none(orientation):
    place = place_of(
        _dataset(ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=orientation, PixelSpacing=[1, 1]), 1
    )
    assert place.orientation is None
    assert len(place.lacking) == 1 and "ImageOrientationPatient" in place.lacking[0]


def test_what_is_lacking_is_named():
    place = place_of(_dataset(ImageOrientationPatient=AXIAL, PixelSpacing=[0, 1]), 1)
    assert place.lacking[0] == "no ImagePositionPatient" and place.lacking[1].startswith("PixelSpacing [0")
    assert place_of(_dataset(), 1).lacking == (
        "no ImagePositionPatient",
        "no ImageOrientationPatient",
        "no PixelSpacing",
    )


def test_a_frame_s_own_word_counts_before_the_shared_one():
    shared = _dataset(PixelMeasuresSequence=[_dataset(PixelSpacing=[2, 2])])
    shared.PlaneOrientationSequence = [_dataset(ImageOrientationPatient=AXIAL)]
    own = _dataset(PixelMeasuresSequence=[_dataset(PixelSpacing=[3, 4])])
    own.PlanePositionSequence = [_dataset(ImagePositionPatient=[0, 0, 5])]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": [own]}
    place = place_of(_dataset(PixelSpacing=[9, 9], ImagePositionPatient=[7, 7, 7], **groups), 1)
    assert (place.spacing, place.positions, place.orientation) == ((4.0, 3.0), ((0.0, 0.0, 5.0),), tuple(AXIAL))


@pytest.mark.parametrize(
    ("tags", "thickness"),
    [
        ({"SpacingBetweenSlices": 5, "SliceThickness": 4}, 5.0),  # with a gap, or overlapping
        ({"SpacingBetweenSlices": -5, "SliceThickness": 4}, 4.0),
        ({"SliceThickness": 0}, 1.0),
        ({}, 1.0),
    ],
)
def test_thickness_is_the_distance_of_slices_where_it_is_stated(tags, thickness):
    assert place_of(_dataset(**tags), 1).thickness == thickness


def test_directions_agree_to_a_thousandth():
    assert same_direction(AXIAL, [1.0, 0.0005, 0.0, -0.0005, 1.0, 0.0])
    assert not same_direction(AXIAL, [1.0, 0.002, 0.0, -0.002, 1.0, 0.0])
