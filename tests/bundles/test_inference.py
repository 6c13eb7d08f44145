"""The inference config: complete, and one command from any folder gives masks, previews and a report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_net_in_out
from monai.data import MetaTensor
from PIL import Image

from esp_medsam_monai.modalities import label_names, shipped_modalities
from tests.bundles.small_bundle import SIDE, make_small_bundle


@pytest.fixture(scope="module")
def bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with random weights in half precision."""
    return make_small_bundle(repository, tmp_path_factory.mktemp("small") / "bundle", half=True)


def workflow(bundle: Path, **overrides: Any) -> ConfigWorkflow:
    made = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.yaml"),
        workflow_type="inference",
        logging_file=False,
        run_id="inference",
        bundle_root=str(bundle),
        **overrides,
    )
    made.initialize()
    return made


def fill(folder: Path, volume: Any) -> None:
    """One case of each kind, and a broken one."""
    volume(spacing=(4.0, 5.0, 6.0)).save(folder / "mr" / "a.nii.gz")
    (folder / "mr" / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    picture = np.random.default_rng(0).integers(0, 255, size=(30, 40, 3)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "skin.jpg")
    (folder / "skin.json").write_text('{"modality": "dermoscopy"}', encoding="utf-8")
    (folder / "mr" / "cut.nii.gz").write_bytes((folder / "mr" / "a.nii.gz").read_bytes()[:100])


def test_properties_are_complete(bundle: Path) -> None:
    made = workflow(bundle)
    assert made.check_properties() == []
    assert made.parser["dataset"]["transform"] == "@preprocessing"
    assert made.parser["evaluator"]["postprocessing"] == "@postprocessing"


def test_shape_network_is_as_metadata_says(bundle: Path) -> None:
    verify_net_in_out(
        net_id="network_def",
        config_file=str(bundle / "configs" / "inference.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        device="cpu",
        n=1,
        p=1,
        any=SIDE,
    )


def test_values_label_table_of_metadata(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    table = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert {int(value): name for value, name in table.items()} == label_names(shipped_modalities())


def test_values_command_from_another_folder(bundle: Path, volume: Any, tmp_path: Path) -> None:
    fill(tmp_path / "in", volume)
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += ["--config_file", str(bundle / "configs" / "inference.yaml"), "--bundle_root", str(bundle)]
    command += ["--dataset_dir", "../in", "--output_dir", "../out"]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)
    assert done.returncode == 8, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert {row["case"]: row["status"] for row in report["cases"]} == {
        "mr/a": "done",
        "mr/cut": "failed",
        "skin": "done",
    }
    assert report["run"]["weights_sha256"]
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names - {".locks/report.lock"} == {
        "mr/a_preview.png",
        "mr/a_seg.json",
        "mr/a_seg.nii.gz",
        "mr/cut.error.txt",
        "report.csv",
        "report.html",
        "report.json",
        "skin_preview.png",
        "skin_seg.json",
        "skin_seg.png",
    }
    assert "(3 of 3)" in done.stdout
    assert Image.open(tmp_path / "out" / "skin_seg.png").size == (40, 30)
    mask = nib.load(tmp_path / "out" / "mr" / "a_seg.nii.gz")
    assert mask.shape == (12, 10, 8)
    assert set(np.unique(np.asanyarray(mask.dataobj))) <= {0, 7, 8}


def test_values_empty_folder_ends_with_2(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    made = workflow(bundle, dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"))
    made.run()
    with pytest.raises(SystemExit) as end:
        made.finalize()
    assert end.value.code == 2


def test_values_modality_asked_for_holds_for_all(bundle: Path, volume: Any, tmp_path: Path) -> None:
    volume(shape=(12, 10, 2)).save(tmp_path / "in" / "a.nii")
    made = workflow(
        bundle,
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        modality="mr",
        preview=False,
        ckpt=str(bundle / "models" / "model.pt"),
    )
    made.run()
    made.finalize()
    row = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["cases"][0]
    assert (row["modality"], row["modality_source"], row["status"]) == ("mr", "user", "done")
    assert not list((tmp_path / "out").glob("*_preview.png"))


def test_values_48_storage_orders_give_the_same_labels(bundle: Path, volume: Any) -> None:
    made = workflow(bundle)
    network, inferer = made.network_def.eval(), made.inferer
    stored = volume(shape=(9, 11, 2), spacing=(1.0, 1.1, 2.5), dtype="float32")
    reference = None
    for turned in stored.orientations():
        image = MetaTensor(torch.tensor(turned.array.copy())[None, None], affine=torch.tensor(turned.affine)[None])
        image.is_batch = True
        labels = inferer(image, network, "mr").as_tensor()[0, 0].numpy()
        back = nib.as_closest_canonical(nib.Nifti1Image(labels, turned.affine)).get_fdata()
        reference = back if reference is None else reference
        np.testing.assert_array_equal(back, reference)
    assert reference is not None
    assert len(np.unique(reference)) > 1


def test_values_real_folder(bundle: Path, shared_dir: Path, tmp_path: Path) -> None:
    """A real series, a real volume and a real picture side by side."""
    folder = tmp_path / "in"
    data = shared_dir / "data"
    series = sorted((data / "dicom" / "mr_brain_t2").glob("*.dcm"))
    scan = next(iter(sorted((data / "volumes" / "msd_hippocampus" / "images").glob("*.nii.gz"))))
    photo = next(iter(sorted((data / "colonoscopy" / "kvasir_seg" / "images").glob("*.jpg"))))
    for name, files in (("t2", series), ("hippocampus", [scan]), ("polyp", [photo])):
        (folder / name).mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / name)
    (folder / "hippocampus" / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    (folder / "polyp" / "modality.json").write_text('{"modality": "colonoscopy"}', encoding="utf-8")
    made = workflow(bundle, dataset_dir=str(folder), output_dir=str(tmp_path / "out"))
    made.run()
    made.finalize()
    found = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["cases"]
    assert [(row["modality"], row["modality_source"], row["slices"]) for row in found] == [
        ("mr", "sidecar", nib.load(scan).shape[2]),
        ("colonoscopy", "sidecar", 1),
        ("mr", "dicom", len(series)),
    ]
    assert found[2]["case"] == "t2/t2"
    assert "outside what the weights were trained on" in found[2]["warnings"][0]
    mask = nib.load(tmp_path / "out" / "hippocampus" / f"{scan.name.removesuffix('.nii.gz')}_seg.nii.gz")
    np.testing.assert_allclose(mask.affine, nib.load(scan).affine, atol=1e-5)
