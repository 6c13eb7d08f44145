"""What stands in a NIfTI header and is not the image: two affines, units, checksums."""

from __future__ import annotations

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from esp_medsam_monai.errors import InputRefused, warnings_of
from esp_medsam_monai.io.nifti import read_nifti
from tests.faults.makers import SPACING, broken_qform, nifti, noise


def test_the_sform_counts_where_both_are_set(tmp_path):
    shifted = np.diag((*SPACING, 1.0))
    shifted[0, 3] = 12.5
    path = nifti(tmp_path / "a.nii", qform=shifted)
    _, meta = read_nifti(path)
    np.testing.assert_allclose(meta["affine"], nib.load(path).affine)
    assert "differ by up to 12.5 mm" in warnings_of(meta)[0]
    shifted[0, 3] = 0.002
    assert "differ by up to 0.002 mm" in warnings_of(read_nifti(nifti(tmp_path / "c.nii", qform=shifted))[1])[0]
    shifted[0, 3] = 0.0005
    assert warnings_of(read_nifti(nifti(tmp_path / "b.nii", qform=shifted))[1]) == []


def test_the_qform_counts_where_it_stands_alone(tmp_path):
    path = nifti(tmp_path / "a.nii", qform=np.diag([1.5, 1.25, 5.0, 1.0]), sform_code=0)
    _, meta = read_nifti(path)
    np.testing.assert_allclose(meta["affine"], np.diag([1.5, 1.25, 5.0, 1.0]), atol=1e-6)
    assert warnings_of(meta) == []


def test_a_broken_qform_is_survived_beside_a_good_sform(tmp_path):
    array, meta = read_nifti(broken_qform(tmp_path / "a.nii.gz", sform_code=1))
    np.testing.assert_array_equal(array, noise())
    np.testing.assert_allclose(meta["affine"], np.diag((*SPACING, 1.0)))
    assert warnings_of(meta)[0].startswith("BROKEN_QFORM: ")
    with pytest.raises(InputRefused, match="w2 should be positive") as caught:
        read_nifti(broken_qform(tmp_path / "b.nii.gz", sform_code=0))
    assert caught.value.code == "BAD_AFFINE"


def test_the_checksum_is_looked_at(tmp_path):
    """A changed byte in a stored block decompresses well; only the checksum at the end of the file tells."""
    path = nifti(tmp_path / "a.nii.gz", noise((40, 40, 4)))
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputRefused, match="CRC") as caught:
        read_nifti(path)
    assert caught.value.code == "TRUNCATED"


def test_what_follows_the_image_does_no_harm(tmp_path):
    path = nifti(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + b"something else")
    np.testing.assert_array_equal(read_nifti(path)[0], noise())


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_both_versions_and_both_byte_orders(tmp_path, kind, name):
    array = noise(dtype=">f4")
    header = kind.header_class(endianness=">")
    image = kind(array, np.eye(4), header)
    image.header.set_data_dtype(">f4")
    nib.save(image, tmp_path / name)
    read, _ = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(read, array)
    assert read.dtype.isnative


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_scaled_values_are_float32_and_as_nibabel_has_them(tmp_path, name):
    path = nifti(tmp_path / name, scl_slope=0.5, scl_inter=-1024.0)
    array, _ = read_nifti(path)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, nib.load(path).get_fdata(), rtol=1e-6)
    np.testing.assert_array_equal(array, noise() * 0.5 - 1024)


def test_scaling_takes_no_volume_in_float64(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", noise((64, 64, 200)), scl_slope=0.5, scl_inter=-1024.0)
    tracemalloc.start()
    try:
        array, _ = read_nifti(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.7 * array.nbytes  # what is stored takes half of it


def test_scaling_beyond_float32_is_infinite(tmp_path):
    array, _ = read_nifti(nifti(tmp_path / "a.nii", noise(dtype=np.float32), scl_slope=3e38))
    assert np.isinf(array).any()
