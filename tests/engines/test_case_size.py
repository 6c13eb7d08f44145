"""The size of a case, from its header."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from esp_medsam_monai.engines.case_size import OVERLAP_BYTES, is_small, volume_bytes
from esp_medsam_monai.io import Case, find_cases
from tests.conftest import write_dicom_series


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_values_nifti_counts_as_float32_whatever_is_stored(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), dtype), np.eye(4)), path)
    assert volume_bytes(Case("a", str(path), "nifti")) == 4 * 5 * 6 * 7


def test_values_picture_counts_its_channels(tmp_path: Path) -> None:
    Image.new("RGB", (8, 5)).save(tmp_path / "a.png")
    assert volume_bytes(Case("a", str(tmp_path / "a.png"), "picture")) == 4 * 3 * 8 * 5


def test_values_dicom_counts_its_files(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "in", [(0, 0, z) for z in (0, 2, 4)], shape=(6, 5))
    case = find_cases(tmp_path / "in")[0][0]
    assert volume_bytes(case) == 4 * 6 * 5 * 3


def test_values_a_ct_of_200_slices_is_small_and_one_of_800_is_not(tmp_path: Path) -> None:
    for slices, small in ((200, True), (800, False)):
        header = nib.Nifti1Header()
        header.set_data_shape((512, 512, slices))
        header.set_data_dtype(np.int16)
        (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4))
        assert is_small(Case("a", str(tmp_path / "a.nii"), "nifti")) is small
    assert OVERLAP_BYTES == 4 * 512 * 512 * 256


@pytest.mark.parametrize("kind", ["nifti", "picture", "dicom"])
def test_values_what_cannot_be_read_is_not_small(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"nothing of the kind")
    case = Case("a", str(path), kind)  # type: ignore[arg-type]
    assert volume_bytes(case) is None
    assert not is_small(case)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes there")
def test_values_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    assert volume_bytes(Case("a", str(tmp_path / "a.nii"), "nifti")) is None
