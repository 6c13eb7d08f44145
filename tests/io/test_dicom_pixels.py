"""Pixel values of DICOM files: rescaled, upright in brightness, decoded."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from esp_medsam_monai.io.dicom_series import read_series
from esp_medsam_monai.io.rules import ReadingRules

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
LINE = [(0.0, 0.0, 2.0 * k) for k in range(5)]
AS_PICTURES = ReadingRules(allow_identity=True)


def test_rescale_and_inverted_greys(tmp_path, dicom_file):
    # CT stores 0..4095 for -1024..3071 HU; MR with a slope is where ITK does not apply it.
    stored = np.array([[0, 1024], [1064, 4095]], np.uint16)
    for modality in ("CT", "MR"):
        path = dicom_file(
            tmp_path / f"{modality}.dcm", stored, Modality=modality, RescaleSlope=1, RescaleIntercept=-1024
        )
        array, _ = read_series([path], AS_PICTURES)
        np.testing.assert_array_equal(array[..., 0], stored.T.astype(float) - 1024)
    path = dicom_file(
        tmp_path / "inverted.dcm",
        stored,
        Modality="CR",
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
    )
    array, _ = read_series([path], AS_PICTURES)
    np.testing.assert_array_equal(array[..., 0], 4095 - stored.T)
    signed = np.array([[-32768, -1], [0, 32767]], np.int16)
    path = dicom_file(tmp_path / "signed.dcm", signed, Modality="CR", PhotometricInterpretation="MONOCHROME1")
    array, _ = read_series([path], AS_PICTURES)
    np.testing.assert_array_equal(array[..., 0], [[32767, -1], [0, -32768]])


def test_every_slice_keeps_its_own_rescale(tmp_path, dicom_series):
    paths = dicom_series(tmp_path, LINE[:2])
    for slope, path in zip((2.0, 3.0), paths, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, 0.5
        dataset.save_as(path)
    array, _ = read_series(paths)
    assert array[1, 2, 0] == 2.0 * 21 + 0.5 and array[1, 2, 1] == 3.0 * 1021 + 0.5


def test_every_frame_keeps_its_own_rescale(tmp_path, dicom_file):
    frames = []
    for slope in (2.0, 3.0):
        frame, transformation = Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 0.5
        frame.PixelValueTransformationSequence = Sequence([transformation])
        frames.append(frame)
    pixels = np.full((2, 6, 5), 10, np.uint16)
    groups = {"PerFrameFunctionalGroupsSequence": Sequence(frames)}
    array, _ = read_series([dicom_file(tmp_path / "a.dcm", pixels, ENHANCED_MR, Modality="MR", **groups)])
    assert array[1, 2].tolist() == [20.5, 30.5]


# Compressed and odd files that come with pydicom, against SimpleITK reading the file as it is.
@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "JPEG-lossy.dcm",
        "CT_small.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "MR_small_bigendian.dcm",
    ],
)
def test_pixels_agree_with_simpleitk(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not ship {name}")
    array, _ = read_series([path])
    expected = sitk.GetArrayFromImage(sitk.ReadImage(path))
    np.testing.assert_array_equal(array.transpose(), expected)


def test_modality_lut_is_applied(tmp_path, dicom_file):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4, 0, 16], "HU", b"\n\0\x14\0\x28\0\x50\0"
    stored = np.array([[0, 1], [2, 3]], np.uint16)
    path = dicom_file(tmp_path / "a.dcm", stored, Modality="CR", ModalityLUTSequence=Sequence([table]))
    array, _ = read_series([path])
    np.testing.assert_array_equal(array[..., 0], [[10, 40], [20, 80]])
