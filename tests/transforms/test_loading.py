"""The loader: what it tells nobody needs to read."""

from __future__ import annotations

import logging
import warnings

import nibabel as nib
import numpy as np
import pytest
from esp_medsam_monai.transforms.loading import load_medical_imaged

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io import ReadingRules


def test_says_nothing_and_keeps_the_stored_type(tmp_path, caplog):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), path)
    (tmp_path / "scan.json").write_text('{"modality": "mr"}')
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        image = load_medical_imaged("image")({"image": str(path)})["image"]
    assert caplog.records == []
    assert image.shape == (1, 2, 3, 4)
    assert str(image.dtype) == "torch.int16"


def test_messages_of_others_still_come_through(caplog):
    before = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").level
    load_medical_imaged("image")
    assert logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").level == before


def test_label_files_are_read_as_such(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    array[0, 0, 0] = np.nan  # of an image it would be replaced
    path = tmp_path / "scan_seg.nii.gz"
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    load_medical_imaged("image")({"image": str(path)})
    with pytest.raises(InputRefused, match="NON_FINITE"):
        load_medical_imaged("label", labels=True)({"label": str(path)})


def test_rules_reach_the_reader(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    array[0, 0, :2] = np.nan
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    load_medical_imaged("image")({"image": str(path)})
    with pytest.raises(InputRefused, match="NON_FINITE"):
        load_medical_imaged("image", rules=ReadingRules(non_finite_limit=0.05))({"image": str(path)})


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_slices_lie_together_as_in_the_file(tmp_path, dtype, name):
    """A copy in C order would scatter the pixels of a slice over the whole volume."""
    array = np.arange(60, dtype=dtype).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name)
    image = load_medical_imaged("image")({"image": str(tmp_path / name)})["image"]
    assert image.stride()[1:] == (1, 3, 12)
    np.testing.assert_array_equal(image[0].numpy(), array)
