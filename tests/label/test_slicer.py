"""What 3D Slicer's module asks of the server, through MONAI Label's own client (the module ships a copy of it)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from esp_medsam_monai.label import MODEL_NAME
from tests.label.label_server import Server, segment

client_module = pytest.importorskip(
    "monailabel.client", reason="needs an environment with MONAI Label: make test-label"
)


def as_slicer_asks(config: dict[str, Any], **chosen: Any) -> dict[str, Any]:
    """The module sends a model's whole config, of lists the first value, and wants NRRD."""
    left_alone = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
    return {**left_alone, **chosen, "result_extension": ".nrrd", "result_dtype": "uint8"}


def assert_same_in_the_world(nrrd: Path, nifti: Path) -> None:
    """Equal voxels at equal places; SimpleITK's world is LPS, nibabel's RAS."""
    found, expected = sitk.ReadImage(str(nrrd)), nib.load(nifti)
    assert np.array_equal(sitk.GetArrayFromImage(found).T, np.asanyarray(expected.dataobj))
    direction = np.array(found.GetDirection()).reshape(3, 3) * np.array(found.GetSpacing())
    flip = np.diag([-1, -1, 1])
    np.testing.assert_allclose(flip @ direction, expected.affine[:3, :3], atol=1e-4)
    np.testing.assert_allclose(flip @ np.array(found.GetOrigin()), expected.affine[:3, 3], atol=1e-4)


def test_segment_a_study_and_a_volume_that_only_slicer_has(
    server: Server, studies: Path, volume_file: Path, small_bundle: Path, tmp_path: Path
) -> None:
    expected = segment(studies / "volume.nii.gz", tmp_path / "out", small_bundle) / "volume_seg.nii.gz"
    client = client_module.MONAILabelClient(server.url, str(tmp_path))
    config = client.info()["models"][MODEL_NAME]["config"]
    file, told = client.infer(MODEL_NAME, "volume", as_slicer_asks(config))
    assert_same_in_the_world(Path(file), expected)
    assert told["label_names"]["mr_hippocampus_anterior"] == 7

    # "Add data" in Slicer: the volume is uploaded into a session, which knows no sidecar.
    session = client.create_session(str(volume_file))["session_id"]
    params = as_slicer_asks(config, modality="mr")
    file, told = client.infer(MODEL_NAME, "", params, session_id=session)
    assert told["modality_source"] == "user"
    assert_same_in_the_world(Path(file), expected)
    client.remove_session(session)


def test_a_label_goes_to_the_server_and_comes_back(server: Server, studies: Path, tmp_path: Path) -> None:
    client = client_module.MONAILabelClient(server.url, str(tmp_path))
    image = nib.load(studies / "volume.nii.gz")
    drawn = np.zeros(image.shape, np.uint8)
    drawn[5:9, 6:12, 2:4] = 7
    nib.save(nib.Nifti1Image(drawn, image.affine), tmp_path / "drawn.nii.gz")
    client.save_label("volume", str(tmp_path / "drawn.nii.gz"), "final")
    back = client.download_label("volume", "final")
    assert np.array_equal(np.asanyarray(nib.load(back).dataobj), drawn)
    assert client.info()["datastore"]["completed"] == 1
