"""SaveMaskd: names and kinds of files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from esp_medsam_monai.transforms import SaveMaskd, postprocessing
from monai.data import MetaTensor
from monai.transforms import SaveImaged


@pytest.mark.parametrize(
    ("shape", "meta", "expected"),
    [
        ((4, 5, 6), {"filename_or_obj": "in/scan.1.nii.gz", "case": "sub/scan.1"}, "sub/scan.1_seg.nii.gz"),
        ((4, 5, 6), {"filename_or_obj": "in/scan.1.nii.gz"}, "scan.1_seg.nii.gz"),
        ((4, 5), {"filename_or_obj": "in/photo.JPG", "case": "photo"}, "photo_seg.png"),
        ((4, 5), {"filename_or_obj": "in/flat.nii", "case": "flat"}, "flat_seg.nii.gz"),
        ((4, 5, 1), {"filename_or_obj": ("in/1.dcm", "in/2.dcm"), "case": "in"}, "in_seg.nii.gz"),
    ],
)
def test_values_names(shape: tuple[int, ...], meta: dict, expected: str, tmp_path: Path) -> None:
    mask = MetaTensor(torch.zeros((1, *shape), dtype=torch.uint8), meta=dict(meta))
    done = SaveMaskd("pred", tmp_path)({"pred": mask})
    assert (tmp_path / expected).is_file()
    assert done["pred"].meta["saved_to"] == str(tmp_path / expected)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="--output_dir"):
        SaveMaskd("pred", None)({"pred": MetaTensor(torch.zeros(1, 4, 5))})
    with pytest.raises(KeyError):
        SaveMaskd("pred", "out")({})
    assert SaveMaskd("pred", "out", allow_missing_keys=True)({"image": 1}) == {"image": 1}


def test_postprocessing_is_what_monai_label_leaves_out() -> None:
    """MONAI Label drops savers by ``isinstance(t, SaveImaged)`` and returns the mask itself."""
    assert all(isinstance(transform, SaveImaged) for transform in postprocessing().transforms)
