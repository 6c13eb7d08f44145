"""SaveMaskd: names and kinds of files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from esp_medsam_monai.transforms import SaveMaskd, postprocessing
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from esp_medsam_monai.io.label_table import read_label_table
from esp_medsam_monai.modalities import shipped_modalities


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


def test_bad_input_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.nii.gz"
    path.write_bytes(b"the image")
    mask = MetaTensor(torch.zeros(1, 4, 5, 6), meta={"filename_or_obj": str(path), "case": "a"})
    with pytest.raises(ValueError, match="would be overwritten"):
        SaveMaskd("pred", tmp_path)({"pred": mask})
    assert path.read_bytes() == b"the image"


def mr_mask(value: int, modality: str | None = "mr") -> MetaTensor:
    mask = MetaTensor(torch.zeros((1, 4, 5, 6), dtype=torch.uint8), meta={"filename_or_obj": "in/a.nii.gz"})
    mask[0, 1, 2, 3] = value
    if modality:
        mask.meta["modality"] = modality
    return mask


def test_values_names_of_the_mask_s_own_modality_are_in_the_file(tmp_path: Path) -> None:
    postprocessing("pred", tmp_path, shipped_modalities())({"pred": mr_mask(8)})
    table = read_label_table(tmp_path / "a_seg.nii.gz")
    assert {value: name for value, (name, _) in table.items()} == {  # the contract's table
        0: "background",
        7: "mr_hippocampus_anterior",
        8: "mr_hippocampus_posterior",
    }
    assert len({color for _, color in table.values()}) == 3


@pytest.mark.parametrize(
    ("mask", "message"),
    [(mr_mask(2), r"\[2\]"), (mr_mask(8, None), "modality None"), (mr_mask(8, "ct"), "modality 'ct'")],
)
def test_bad_input_mask_that_the_modalities_do_not_explain(mask: MetaTensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SaveMaskd("pred", tmp_path, modalities=shipped_modalities())({"pred": mask})
    assert list(tmp_path.iterdir()) == []


def test_postprocessing_is_what_monai_label_leaves_out() -> None:
    """MONAI Label drops savers by ``isinstance(t, SaveImaged)`` and returns the mask itself."""
    assert all(isinstance(transform, SaveImaged) for transform in postprocessing().transforms)
