"""The JSON file beside a mask says what its values mean, and that it is ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esp_medsam_monai import __version__
from esp_medsam_monai.io.mask_sidecar import is_our_sidecar, write_mask_sidecar
from esp_medsam_monai.io.sidecar import sidecar_modality
from esp_medsam_monai.modalities import describe_target

ROW = {
    "target": "hippocampus_anterior",
    "label": 7,
    "name": "mr_hippocampus_anterior",
    "voxels": 24,
    "percent": 2.4,
    "volume_ml": 0.072,
    "area_mm2": None,
    "slices": 4,
    "centroid_mm": [1.0, 2.0, 3.0],
    "components": 1,
}


def written(path: Path, case: str = "sub/a") -> Path:
    return write_mask_sidecar(
        path,
        case=case,
        input="in/a.nii.gz",
        modality="mr",
        targets=[ROW],
        modality_source="dicom",
        weights_sha256="ab",
        configuration_sha256="cd",
        warnings=["NON_FINITE: 3 voxels"],
    )


def test_values(tmp_path: Path) -> None:
    content = json.loads(written(tmp_path / "sub" / "a_seg.json").read_text(encoding="utf-8"))
    assert content["generator"] == f"esp_medsam_monai {__version__}"
    assert "not a medical device" in content["notice"]
    assert (content["case"], content["input"], content["modality"]) == ("sub/a", "in/a.nii.gz", "mr")
    assert (content["weights_sha256"], content["configuration_sha256"]) == ("ab", "cd")
    assert content["warnings"] == ["NON_FINITE: 3 voxels"]
    row = describe_target("mr", "hippocampus_anterior")
    assert row is not None
    label = content["labels"]["7"]
    assert label["name"] == "mr_hippocampus_anterior"
    assert label["color"] == list(row.color)
    assert (label["voxels"], label["volume_ml"], label["centroid_mm"]) == (24, 0.072, [1.0, 2.0, 3.0])


def test_values_sidecar_speaks_for_its_mask(tmp_path: Path) -> None:
    """By the contract a JSON file beside an image names its modality; this one does so for the mask."""
    written(tmp_path / "a_seg.json")
    (tmp_path / "a_seg.nii.gz").touch()
    assert sidecar_modality(tmp_path / "a_seg.nii.gz") == "mr"


def test_values_ours_is_known_again(tmp_path: Path) -> None:
    assert is_our_sidecar(written(tmp_path / "a_seg.json"))


@pytest.mark.parametrize(
    "text",
    [
        '{"modality": "mr"}',
        '{"generator": "esp_medsam_monai_of_another 1.0"}',
        '{"generator": null}',
        '["esp_medsam_monai 1"]',
        '{"generator": "esp_med',
        "",
    ],
)
def test_bad_input_foreign_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert not is_our_sidecar(tmp_path / "a.json")


def test_bad_input_missing_and_binary(tmp_path: Path) -> None:
    assert not is_our_sidecar(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    assert not is_our_sidecar(tmp_path / "a.json")
    assert not is_our_sidecar(tmp_path)


def test_values_name_that_is_no_text(tmp_path: Path) -> None:
    """Linux allows any bytes in a name; Python keeps them as lone surrogates, and the file reads back as it was."""
    name = "caf\udce9"
    content = json.loads(written(tmp_path / "a_seg.json", case=name).read_text(encoding="utf-8"))
    assert content["case"] == name
