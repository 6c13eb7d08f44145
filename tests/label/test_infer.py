"""Inference through MONAI Label is the bundle's own command, voxel for voxel, and in place."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from PIL import Image

from esp_medsam_monai.label import MODEL_NAME
from tests.label.label_server import Server, copy_files, segment

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

TABLE = {
    "dermoscopy_lesion": 1,
    "xray_lung": 2,
    "ultrasound_lesion": 3,
    "fundus_vessel": 4,
    "microscopy_nucleus": 5,
    "colonoscopy_polyp": 6,
    "mr_hippocampus_anterior": 7,
    "mr_hippocampus_posterior": 8,
}
"""The contract's label values."""


def save(answer: requests.Response, path: Path) -> Path:
    """The file that an answer carries."""
    assert answer.status_code == 200, answer.text
    path.write_bytes(answer.content)
    return path


def assert_same_mask(found: Path, expected: Path) -> None:
    """Zero voxels differ, and the affine is that of the command's mask, as far as NIfTI's quaternions hold it."""
    one, other = nib.load(found), nib.load(expected)
    assert one.shape == other.shape
    assert np.count_nonzero(np.asanyarray(one.dataobj) != np.asanyarray(other.dataobj)) == 0
    np.testing.assert_allclose(one.affine, other.affine, rtol=0, atol=1e-4)


def test_info_shows_what_a_client_needs(server: Server) -> None:
    info = server.get("/info/").json()
    model = info["models"][MODEL_NAME]
    assert model["type"] == "segmentation"
    assert model["labels"] == TABLE
    assert model["config"]["modality"] == ["auto", *dict.fromkeys(name.split("_")[0] for name in TABLE)]
    assert set(model["label_colors"]) == set(TABLE)
    assert all(len(color) == 3 for color in model["label_colors"].values())
    assert "segments" in model["description"]
    assert model["config"]["model_filename"] == ["model.pt"]
    assert MODEL_NAME in info["trainers"]
    assert "uncertainty" in info["strategies"]
    assert info["labels"] == list(TABLE)


@pytest.fixture(scope="module")
def expected(studies: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's mask of the study."""
    masks = segment(studies / "volume.nii.gz", tmp_path_factory.mktemp("expected") / "out", small_bundle)
    assert len(np.unique(np.asanyarray(nib.load(masks / "volume_seg.nii.gz").dataobj))) > 1, (
        "an empty mask shows nothing"
    )
    return masks / "volume_seg.nii.gz"


@pytest.mark.parametrize("params", [{}, {"modality": "auto"}, {"modality": "mr"}, {"modality": ["auto", "mr"]}])
def test_a_study_of_the_folder(server: Server, expected: Path, tmp_path: Path, params: dict[str, str]) -> None:
    assert_same_mask(save(server.infer("volume", **params), tmp_path / "mask.nii.gz"), expected)


def test_outputs(server: Server) -> None:
    told = server.infer("volume", "json").json()
    assert told["modality"] == "mr"
    assert told["modality_source"] == "sidecar"
    assert told["label_names"] == TABLE
    assert isinstance(told["warnings"], list)
    both = server.infer("volume", "all")
    assert both.headers["content-type"].startswith("multipart/form-data")
    assert b'"modality": "mr"' in both.content
    refused = server.infer("volume", "dicom_seg")
    assert "DICOM" in refused.json()["detail"], "a folder of NIfTI has no series to refer to"


def test_an_uploaded_file(server: Server, volume_file: Path, expected: Path, tmp_path: Path) -> None:
    assert_same_mask(save(server.infer(file=volume_file, modality="mr"), tmp_path / "mask.nii.gz"), expected)
    answer = server.infer(file=volume_file)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("NO_MODALITY: ")


def test_a_picture(server: Server, small_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 40, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "skin.png")
    expected = segment(tmp_path / "in", tmp_path / "out", small_bundle, "--modality=dermoscopy") / "skin_seg.png"
    answer = server.infer(file=tmp_path / "in" / "skin.png", modality="dermoscopy")
    found = Image.open(save(answer, tmp_path / "mask.png"))
    assert np.array_equal(np.asarray(found), np.asarray(Image.open(expected)))


def test_the_shipped_bundle_on_real_volumes_and_series(shared_dir: Path, repository: Path, tmp_path: Path) -> None:
    data = shared_dir / "data"
    volumes = data / "volumes"
    split = json.loads((data / "splits.json").read_text())["mr_hippocampus"]["in_domain"]["msd_hippocampus"]
    files = [volumes / "msd_hippocampus" / "images" / name for name in split["test"][:3]]
    files += [volumes / "spinal_cord_t2" / "t2.nii.gz", volumes / "promise12" / "promise12_case0_image.nii.gz"]
    studies = copy_files(files, tmp_path / "studies")
    bundle = repository / "bundles" / "esp_medsam"
    masks = segment(studies, tmp_path / "out", bundle, "--modality=mr")
    expected = {file.name.removesuffix(".nii.gz"): masks for file in files}
    for series in ("mr_brain_t1post", "mr_brain_t2"):
        # A folder on the server's disk is a study too; through DICOMweb: test_pacs.py.
        expected[str(data / "dicom" / series)] = segment(
            data / "dicom" / series, tmp_path / series, bundle, "--dicom_seg=false"
        )
    labelled = 0
    with Server(studies, tmp_path / "app", ["--bundle", str(bundle)]) as server:
        for study, folder in expected.items():
            params = {} if study.startswith("/") else {"modality": "mr"}
            mask = save(server.infer(study, **params), tmp_path / "mask.nii.gz")
            assert_same_mask(mask, folder / f"{Path(study).name}_seg.nii.gz")
            labelled += int(np.count_nonzero(np.asanyarray(nib.load(mask).dataobj)))
    assert labelled > 1000
