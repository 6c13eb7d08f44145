"""Which DICOM series are refused, and what each switch lets pass instead."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from esp_medsam_monai.errors import InputRefused, warnings_of
from esp_medsam_monai.io.dicom_header import read_header
from esp_medsam_monai.io.dicom_series import group_series, read_series
from esp_medsam_monai.io.rules import ReadingRules
from tests.conftest import AXIAL
from tests.faults.makers import enhanced

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LINE = [(0.0, 0.0, 2.0 * k) for k in range(5)]


def _refused(paths, **switches):
    with pytest.raises(InputRefused) as caught:
        read_series(paths, ReadingRules(**switches))
    return caught.value.code


def test_localizers_are_set_apart(tmp_path, dicom_series):
    uid = generate_uid()
    series = dicom_series(tmp_path / "a", LINE, SeriesInstanceUID=uid)
    localizer = dicom_series(
        tmp_path / "b", [(0.0, 0.0, 40.0)], SeriesInstanceUID=uid, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    groups = group_series(read_header(path) for path in (*series, *localizer))
    assert [len(group) for group in groups] == [5, 1]
    array, meta = read_series([*series, *localizer])
    assert array.shape[2] == 5 and meta["affine"][2, 2] == 2.0
    assert warnings_of(meta)[0].startswith("LOCALIZER: 1 ")
    assert _refused(localizer) == "LOCALIZER"
    array, meta = read_series(localizer, ReadingRules(allow_localizer=True))
    assert array.shape[2] == 1 and warnings_of(meta)[0].startswith("LOCALIZER: ")


def test_slices_of_one_series_that_face_several_ways(tmp_path, dicom_series):
    uid = generate_uid()
    axial = dicom_series(tmp_path / "a", LINE, SeriesInstanceUID=uid)
    coronal = dicom_series(tmp_path / "b", LINE[:2], (1, 0, 0, 0, 0, -1), SeriesInstanceUID=uid)
    assert _refused([*axial, *coronal]) == "MIXED_ORIENTATION"


def test_missing_slices_are_filled_where_they_were(tmp_path, dicom_series):
    array, meta = read_series(
        dicom_series(tmp_path, [(0, 0.3 * z, z) for z in (0.0, 2.0, 4.0, 8.0)]), ReadingRules(allow_missing_slices=True)
    )
    assert array.shape == (5, 6, 5) and np.unique(array[..., 3]).tolist() == [0.0]
    x, y = np.indices(array.shape[:2])
    np.testing.assert_array_equal(array[..., 4], 3000 + 10 * y + x)
    np.testing.assert_allclose(meta["affine"][:3, 2], [0.0, -0.6, 2.0])
    assert warnings_of(meta)[0].startswith("MISSING_SLICES: 1 ") and "6." in warnings_of(meta)[0]


def test_of_slices_in_one_place_the_first_number_counts(tmp_path, dicom_series):
    paths = dicom_series(tmp_path, [(0, 0, z) for z in (0.0, 2.0, 2.0, 2.0, 4.0)])
    for number, path in zip((1, None, 3, 9, 5), paths, strict=True):
        if number is not None:
            dataset = pydicom.dcmread(path)
            dataset.InstanceNumber = number
            dataset.save_as(path)
    array, meta = read_series(paths, ReadingRules(allow_duplicate_positions=True))
    # The files' names would put the third first, their order in the list the one without a number.
    assert array[0, 0].tolist() == [0.0, 2000.0, 4000.0]
    assert meta["affine"][2, 2] == 2.0
    assert warnings_of(meta)[0].startswith("DUPLICATE_POSITIONS: 2 ")


def test_images_without_a_place(tmp_path, dicom_file):
    pixels = np.zeros((4, 4), np.int16)
    for modality in ("CT", "MR", "PT"):
        path = dicom_file(tmp_path / f"{modality}.dcm", pixels, Modality=modality, PixelSpacing=[2, 3])
        assert _refused([path]) == "BAD_AFFINE"
        _, meta = read_series([path], ReadingRules(allow_identity=True))
        np.testing.assert_array_equal(meta["affine"], np.diag([-3.0, -2.0, 1.0, 1.0]))
        assert warnings_of(meta)[0].startswith("NO_PLACE: ")
    for modality in ("US", "CR", "DX", "OP", "GM"):
        assert warnings_of(read_series([dicom_file(tmp_path / "a.dcm", pixels, Modality=modality)])[1]) == []
    # A photograph of a screen states the modality of what was on it, and has no place of its own.
    _, meta = read_series([dicom_file(tmp_path / "b.dcm", pixels, SECONDARY_CAPTURE, Modality="CT")])
    assert warnings_of(meta)[0].startswith("NO_PLACE: ")


def test_frames_of_one_file_without_any_geometry_are_read(tmp_path, dicom_file):
    pixels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    array, meta = read_series([dicom_file(tmp_path / "a.dcm", pixels, Modality="MR")])
    np.testing.assert_array_equal(array, pixels.transpose(2, 1, 0))
    assert warnings_of(meta)[0].startswith("NO_PLACE: ")
    half = dicom_file(tmp_path / "b.dcm", pixels, Modality="MR", ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    assert _refused([half]) == "BAD_AFFINE"  # a part of a geometry is damaged


def test_uneven_steps_take_their_mean(tmp_path, dicom_series):
    paths = dicom_series(tmp_path, [(0, 0, z) for z in (0.0, 2.0, 4.0, 6.6, 8.6)])
    assert _refused(paths, allow_missing_slices=True) == "UNEVEN_SPACING"
    array, meta = read_series(paths, ReadingRules(allow_uneven_spacing=True))
    assert array.shape[2] == 5
    assert meta["affine"][2, 2] == pytest.approx(8.6 / 4)
    # The third slice lies at 4.0 and is taken to lie at 4.3.
    assert warnings_of(meta)[0].startswith("UNEVEN_SPACING: ") and "up to 0.300 mm" in warnings_of(meta)[0]


def test_switches_work_together(tmp_path, dicom_series):
    paths = dicom_series(tmp_path, [(0, 0, z) for z in (0.0, 2.0, 2.0, 4.0, 8.0, 10.3)])
    assert _refused(paths, allow_uneven_spacing=True, allow_duplicate_positions=True) == "MISSING_SLICES"
    rules = ReadingRules(allow_missing_slices=True, allow_uneven_spacing=True, allow_duplicate_positions=True)
    array, meta = read_series(paths, rules)
    assert array.shape[2] == 6 and meta["affine"][2, 2] == pytest.approx(10.3 / 5)
    assert [sentence.split(":")[0] for sentence in warnings_of(meta)] == [
        "DUPLICATE_POSITIONS",
        "MISSING_SLICES",
        "UNEVEN_SPACING",
    ]


@pytest.mark.parametrize(("height", "code"), [(120.0, "MISSING_SLICES"), (121.0, "UNEVEN_SPACING")])
def test_no_switch_lets_a_far_slice_shift_the_spacing(tmp_path, dicom_series, height, code):
    paths = dicom_series(tmp_path, [(0, 0, z) for z in (0.0, 2.0, 4.0, 6.0, height)])
    assert _refused(paths, allow_missing_slices=True, allow_uneven_spacing=True) == code


def test_missing_frames_of_one_file_are_filled_too(tmp_path):
    path = enhanced(tmp_path, [(AXIAL, 6.0), (AXIAL, 0.0), (AXIAL, 2.0)])
    assert _refused([path]) == "MISSING_SLICES"
    stored = pydicom.dcmread(path).pixel_array.astype(np.float32)
    array, meta = read_series([path], ReadingRules(allow_missing_slices=True))
    for plane, frame in ((0, 1), (1, 2), (3, 0)):
        np.testing.assert_array_equal(array[..., plane], stored[frame].T)
    assert set(np.unique(array[..., 2])) == {stored.min()}
    assert meta["affine"][2, 2] == 2.0


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_what_broken_numbers_do(tmp_path, dicom_series):
    """Text where a number belongs: no harm where nothing depends on it."""
    paths = dicom_series(tmp_path, LINE, InstanceNumber="7", SeriesNumber="3")
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content.replace(b"IS\x02\x007 ", b"IS\x02\x00x ").replace(b"IS\x02\x003 ", b"IS\x02\x00y "))
    header = read_header(paths[0])
    assert header.instance is None and header.number == "y"
    assert read_series(paths)[0].shape == (5, 6, 5)


def test_grey_and_colour_are_no_volume(tmp_path, dicom_file):
    place = {"ImageOrientationPatient": list(AXIAL), "PixelSpacing": [1, 1], "SeriesInstanceUID": "1.2.3"}
    grey = dicom_file(tmp_path / "a.dcm", np.zeros((5, 7), np.uint8), ImagePositionPatient=[0, 0, 0], **place)
    colour = dicom_file(tmp_path / "b.dcm", np.zeros((5, 7, 3), np.uint8), ImagePositionPatient=[0, 0, 1], **place)
    assert _refused([grey, colour]) == "MIXED_SHAPES"
