"""Compressed pixels: who decodes them, and what is said when nobody does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io import dicom_decoders
from esp_medsam_monai.io.dicom_pixels import read_frames
from tests.faults.makers import compressed


def _shipped(name: str) -> str:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not ship {name}")
    return path


@pytest.mark.parametrize(
    ("syntax", "says"),
    [
        ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000.*pylibjpeg"),
        ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000.*pylibjpeg"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL.*uncompressed"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4.*frames"),
        ("1.2.840.99999.1.2.4.102", "1.2.840.99999.1.2.4.102.*uncompressed"),
    ],
)
def test_what_cannot_be_decoded_is_named_with_what_could(tmp_path, syntax, says):
    path = compressed(tmp_path, syntax)
    with pytest.raises(InputRefused, match=says) as caught:
        read_frames(str(path))
    assert caught.value.code == "NO_DECODER"
    assert path.name in caught.value.message and syntax in caught.value.message


def test_pydicom_decodes_what_simpleitk_cannot(monkeypatch):
    path = _shipped("MR_small_RLE.dcm")
    expected = read_frames(path)

    def fail(dataset):
        raise RuntimeError("no codec")

    monkeypatch.setattr(dicom_decoders, "_by_simpleitk", fail)
    np.testing.assert_array_equal(read_frames(path), expected)
    monkeypatch.setattr(dicom_decoders, "_pydicom_decodes", lambda syntax: False)
    with pytest.raises(InputRefused, match="no codec") as caught:
        read_frames(path)
    assert caught.value.code == "TRUNCATED"


def test_damaged_pixels_are_no_lack_of_a_decoder(tmp_path):
    dataset = pydicom.dcmread(_shipped("MR_small_jp2klossless.dcm"))
    content = bytearray(dataset.PixelData)
    content[60:] = b"\0" * (len(content) - 60)
    dataset.PixelData = bytes(content)
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputRefused) as caught:
        read_frames(str(tmp_path / "a.dcm"))
    assert caught.value.code == "TRUNCATED"


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
def test_files_without_a_file_header(tmp_path, name):
    """As they were before DICOM had one: only the order of bytes tells how the pixels are stored."""
    whole = Path(_shipped(name))
    length = pydicom.dcmread(whole).file_meta.FileMetaInformationGroupLength
    (tmp_path / "old.dcm").write_bytes(whole.read_bytes()[144 + length :])
    np.testing.assert_array_equal(read_frames(str(tmp_path / "old.dcm")), read_frames(str(whole)))
