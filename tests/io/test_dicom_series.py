from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.dicom_header import DicomHeader, is_dicom, read_header
from esp_medsam_monai.io.dicom_place import Place
from esp_medsam_monai.io.dicom_series import group_series, read_series
from esp_medsam_monai.io.rules import ReadingRules

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LINE = [(0.0, 0.0, 2.0 * k) for k in range(5)]


AS_PICTURES = ReadingRules(allow_identity=True)


def _refused(paths, rules=None):
    with pytest.raises(InputRefused) as caught:
        read_series(paths, rules)
    return caught.value.code


def test_slices_are_sorted_by_position_whatever_their_numbers_say(tmp_path, dicom_series):
    numbers = iter((3, 1, 5, 2, 4))
    paths = dicom_series(tmp_path, LINE)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = next(numbers)
        dataset.save_as(path)
    array, meta = read_series(paths[::-1])
    assert array.shape == (5, 6, 5) and array.dtype == np.float32
    x, y, z = np.indices(array.shape)
    np.testing.assert_array_equal(array, 1000 * z + 10 * y + x)
    np.testing.assert_allclose(meta["affine"], LPS_TO_RAS @ np.diag([0.5, 0.7, 2.0, 1.0]))
    assert meta["slice_axis"] == 2 and meta["modality"] == "ct" and meta["modality_source"] == "dicom"


@pytest.mark.parametrize("orientation", [AXIAL, (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1), (0, 0.6, 0.8, 1, 0, 0)])
def test_geometry_agrees_with_itk(tmp_path, orientation, dicom_series):
    normal = np.cross(orientation[:3], orientation[3:])
    paths = dicom_series(tmp_path, [(3.0, -4.0, 5.0) + 1.5 * k * normal for k in range(4)], orientation)
    array, meta = read_series(paths)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    for index in ((0, 0, 0), (4, 5, 3), (1, 2, 2)):
        point = np.append(image.TransformIndexToPhysicalPoint(index), 1.0)
        np.testing.assert_allclose(meta["affine"] @ [*index, 1.0], LPS_TO_RAS @ point, atol=1e-5)
        assert array[index] == image[index]


def test_gantry_tilt_stays_in_the_affine(tmp_path, dicom_series):
    _, meta = read_series(dicom_series(tmp_path, [(1.0, 0.3 * k, 1.0 * k) for k in range(5)]))
    np.testing.assert_allclose(meta["affine"][:3, 2], [0.0, -0.3, 1.0])
    np.testing.assert_allclose(meta["affine"][:3, 3], [-1.0, 0.0, 0.0])


def test_jitter_within_tolerance_passes(tmp_path, dicom_series):
    _, meta = read_series(dicom_series(tmp_path, [(0, 0, z) for z in (0.0, 2.008, 4.0, 5.99, 8.0)]))
    assert meta["affine"][2, 2] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("heights", "code"),
    [
        ((0, 1, 2, 4, 5), "MISSING_SLICES"),
        ((0, 1, 2, 3, 40), "MISSING_SLICES"),
        ((0, 1, 2, 3, 40.4), "UNEVEN_SPACING"),
        ((0, 1, 3), "MISSING_SLICES"),
        ((0, 1, 2, 3.05, 4.05), "UNEVEN_SPACING"),
        ((0, 1, 2, 3.5, 4.5), "UNEVEN_SPACING"),
        ((0, 1, 1, 2, 3), "DUPLICATE_POSITIONS"),
        ((0, 1, 1.005, 2, 3), "DUPLICATE_POSITIONS"),
    ],
)
def test_uneven_positions_are_refused(tmp_path, heights, code, dicom_series):
    assert _refused(dicom_series(tmp_path, [(0, 0, z) for z in heights])) == code


def test_a_slice_off_the_line_is_refused(tmp_path, dicom_series):
    assert _refused(dicom_series(tmp_path, [(0, 0.5 * (k == 2), k) for k in range(5)])) == "IRREGULAR_POSITIONS"


@pytest.mark.parametrize(("spacing", "refused"), [([0.7, 0.503], True), ([0.7005, 0.5], False)])
def test_several_pixel_spacings_are_refused(tmp_path, dicom_series, spacing, refused):
    """To a thousandth: some scanners round differently from slice to slice."""
    paths = dicom_series(tmp_path, LINE[:2])
    dataset = pydicom.dcmread(paths[0])
    dataset.PixelSpacing = spacing
    dataset.save_as(paths[0])
    if refused:
        assert _refused(paths) == "MIXED_SPACING"
    else:
        assert read_series(paths)[0].shape == (5, 6, 2)


def test_grouping_by_series_orientation_and_size(tmp_path, dicom_file, dicom_series):
    uid = generate_uid()
    dicom_series(tmp_path / "a", LINE, SeriesInstanceUID=uid)
    dicom_series(tmp_path / "b", LINE[:2], SeriesInstanceUID=uid, orientation=(0, 1, 0, 0, 0, -1))
    dicom_series(tmp_path / "c", LINE[:3], SeriesInstanceUID=uid, shape=(7, 5))
    dicom_series(tmp_path / "d", LINE[:4])
    dicom_file(tmp_path / "e" / "seg.dcm", np.zeros((6, 5), np.uint8), SEGMENTATION, Modality="SEG")
    for view in "12":  # radiographs of one series have no place in the patient: two pictures, not a stack
        dicom_file(tmp_path / "f" / f"{view}.dcm", np.zeros((6, 5), np.uint8), Modality="CR", SeriesInstanceUID=uid)
    files = sorted(tmp_path.rglob("*.dcm"))
    groups = group_series(read_header(path) for path in reversed(files))
    assert [len(group) for group in groups] == [5, 2, 3, 4, 1, 1]
    assert _refused(files) == "SEVERAL_SERIES"
    assert _refused([tmp_path / "e" / "seg.dcm"]) == "NOT_AN_IMAGE"


def test_single_slice_and_colour(tmp_path, dicom_file):
    picture = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    path = dicom_file(tmp_path / "us.dcm", picture, Modality="US")
    array, meta = read_series([path])
    assert array.shape == (3, 5, 6, 1)
    np.testing.assert_array_equal(array[..., 0], picture.transpose(2, 1, 0))
    np.testing.assert_array_equal(meta["affine"], np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert meta["modality"] == "ultrasound"


def test_enhanced_multiframe_takes_positions_of_its_frames(tmp_path, dicom_file):
    heights = (4.0, 0.0, 2.0)
    frames = []
    for z in heights:
        frame, plane = Dataset(), Dataset()
        plane.ImagePositionPatient = [0.0, 0.0, z]
        frame.PlanePositionSequence = Sequence([plane])
        frames.append(frame)
    shared, plane, measures, transformation = Dataset(), Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing = [0.7, 0.5]
    transformation.RescaleSlope, transformation.RescaleIntercept = 2, 1
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([transformation])
    pixels = np.stack([np.full((6, 5), z, np.uint16) for z in heights])
    path = dicom_file(
        tmp_path / "enhanced.dcm",
        pixels,
        ENHANCED_MR,
        Modality="MR",
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    array, meta = read_series([path])
    np.testing.assert_array_equal(array[0, 0], [1.0, 5.0, 9.0])
    np.testing.assert_allclose(meta["affine"], LPS_TO_RAS @ np.diag([0.5, 0.7, 2.0, 1.0]))


@pytest.mark.filterwarnings("ignore:Expected implicit VR")
def test_broken_files_are_named(tmp_path, dicom_file):
    text = tmp_path / "text.dcm"
    text.write_text("no DICOM at all")
    assert _refused([text]) == "NOT_AN_IMAGE"
    whole = dicom_file(tmp_path / "whole.dcm", np.zeros((64, 64), np.int16))
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(whole.read_bytes()[:-1000])
    assert _refused([cut], AS_PICTURES) == "TRUNCATED"
    header_only = dicom_file(tmp_path / "header.dcm", Rows=4, Columns=4, PhotometricInterpretation="MONOCHROME2")
    assert _refused([header_only]) == "TRUNCATED"


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_RLE.dcm", "SC_ybr_full_422_uncompressed.dcm", "image_dfl.dcm"]
)
def test_a_file_cut_anywhere_is_never_taken_for_no_image(tmp_path, name):
    """An image whose header ends early has no size, as an object without pixels: it must not be left out in silence."""
    whole = get_testdata_file(name, download=False)
    if whole is None:
        pytest.skip(f"this pydicom does not ship {name}")
    content = Path(whole).read_bytes()
    end = content.find(b"\xfc\xff\xfc\xff")  # trailing padding, which nobody misses
    path = tmp_path / "cut.dcm"
    for share in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 0.95):
        path.write_bytes(content[: int(share * (end if end > 0 else len(content)))])
        assert _refused([path]) in {"TRUNCATED", "NOT_AN_IMAGE"}, share
        with suppress(InputRefused):
            assert read_header(path).is_image, share


def test_grouping_takes_time_in_proportion(tmp_path):
    """Thousands of slices in a folder: comparing each with every group would take minutes."""
    place = Place(AXIAL, ((0.0, 0.0, 0.0),), (1.0, 1.0))
    headers = [DicomHeader(f"{k:06d}", True, series=str(k % 5000), size=(4, 4), place=place) for k in range(20000)]
    started = time.perf_counter()
    assert len(group_series(headers)) == 5000
    assert time.perf_counter() - started < 3.0


def test_dicom_is_recognised_without_its_suffix(tmp_path, dicom_file):
    path = dicom_file(tmp_path / "IM0001", np.zeros((4, 4), np.int16))
    assert is_dicom(path)
    path.write_bytes(b"something else" * 20)
    assert not is_dicom(path)


def test_real_series(shared_dir):
    folder = shared_dir / "data" / "dicom" / "mr_brain_t1post"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    array, meta = read_series(sorted(folder.glob("*.dcm")))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    expected = reader.Execute()
    np.testing.assert_array_equal(array.transpose(), sitk.GetArrayFromImage(expected))
    corner = expected.TransformIndexToPhysicalPoint((279, 319, 21))
    np.testing.assert_allclose((meta["affine"] @ [279, 319, 21, 1])[:3], LPS_TO_RAS[:3, :3] @ corner, atol=0.05)
