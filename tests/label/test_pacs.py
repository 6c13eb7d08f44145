"""A DICOMweb archive as studies: listed, segmented in place, stored back as DICOM SEG, found again."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from pydicom.dataset import Dataset

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

from examples.pacs.orthanc import Orthanc, missing_for_orthanc
from examples.pacs.sample import write_sample
from tests.label.label_server import Server, segment
from tests.label.segments_in_place import segments_in_place

ANTERIOR, POSTERIOR = 7, 8  # label values of the contract's table
REAL_SERIES = {"t2": "mr_brain_t2", "t1": "mr_brain_t1post", "chest": "single/RG3_J2KR.dcm"}
OTHER_SERIES = {"US": "single/US1_UNCR.dcm", "CR": "single/gdcm-CR-MONO1-10-chest.dcm", "CT": "ct_liver_3slices"}


@dataclass
class Archive:
    """Orthanc with the sample series, and a Label server over it; ``references`` are the command's masks by folder."""

    orthanc: Orthanc
    server: Server
    cache: Path
    series: str
    images: Path
    references: dict[str, nib.Nifti1Image]

    @property
    def reference(self) -> nib.Nifti1Image:
        """Mask of the sample."""
        return self.references["head"]


def _copy_series(source: Path, series: dict[str, str], target: Path) -> None:
    """Copy series, each a folder or a file, into folders named by the keys."""
    for name, place in series.items():
        (target / name).mkdir(parents=True)
        for file in sorted((source / place).glob("*.dcm")) or [source / place]:
            shutil.copy(file, target / name)


@pytest.fixture(scope="module")
def archive(namespace, repository, tmp_path_factory, request) -> Iterator[Archive]:
    """One for the module: it starts slowly."""
    if missing := missing_for_orthanc():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("pacs")
    bundle = repository / "bundles" / "esp_medsam"
    images = folder / "images"
    write_sample(images / "head")
    with suppress(pytest.skip.Exception):  # without the real data their tests are skipped alone
        _copy_series(request.getfixturevalue("shared_dir") / "data" / "dicom", REAL_SERIES, images)
    masks = segment(images, folder / "masks", bundle)
    references = {file.parent.name: nib.load(file) for file in masks.rglob("*_seg.nii.gz")}
    with Orthanc(namespace, folder / "orthanc") as orthanc:
        (series,) = orthanc.upload(images / "head")
        settings = {
            "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
            "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "0",
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
            "MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT": "15",
        }
        server = Server(
            orthanc.dicomweb_url, folder / "app", ["--bundle", str(bundle)], settings, prefix=namespace.prefix
        )
        namespace.forward(server.port)
        with server:
            (cache,) = (folder / "cache").iterdir()
            yield Archive(orthanc, server, cache, series, images, references)


def _mask(answer: requests.Response, folder: Path) -> nib.Nifti1Image:
    assert answer.status_code == 200, answer.text
    file = folder / "answer.nii.gz"
    file.write_bytes(answer.content)
    return nib.load(file)


def _same(mask: nib.Nifti1Image, reference: nib.Nifti1Image) -> None:
    assert mask.shape == reference.shape
    np.testing.assert_allclose(mask.affine, reference.affine, rtol=0, atol=1e-5)
    assert np.count_nonzero(np.asarray(mask.dataobj) != np.asarray(reference.dataobj)) == 0


def test_the_sample_lies_where_its_volume_lies(tmp_path):
    """Nibabel's file says where each voxel is; the series is checked slice by slice against it."""
    source = nib.load(Path(nib.__file__).parent / "tests" / "data" / "anatomical.nii")
    to_voxel, stored = np.linalg.inv(source.affine), np.asarray(source.dataobj)
    for file in write_sample(tmp_path)[::6]:
        slice_ = pydicom.dcmread(file)
        across, down = np.reshape(np.array(slice_.ImageOrientationPatient, float), (2, 3))
        for row, column in ((0, 0), (3, 17), (30, 5)):
            place = np.array(slice_.ImagePositionPatient, float)
            place = place + column * slice_.PixelSpacing[1] * across + row * slice_.PixelSpacing[0] * down
            voxel = nib.affines.apply_affine(to_voxel, place * (-1, -1, 1))
            assert np.abs(voxel - np.rint(voxel)).max() < 1e-3
            assert slice_.pixel_array[row, column] == stored[tuple(np.rint(voxel).astype(int))]


def test_a_series_is_segmented_as_by_the_command(archive, tmp_path):
    assert np.asarray(archive.reference.dataobj).any()
    _same(_mask(archive.server.infer(archive.series), tmp_path), archive.reference)


@pytest.mark.parametrize("name", ["t2", "t1"])
def test_a_real_series_is_segmented_as_by_the_command(archive, shared_dir, tmp_path, name):
    (series,) = archive.orthanc.upload(archive.images / name)
    _same(_mask(archive.server.infer(series), tmp_path), archive.references[name])


def test_what_the_network_knows_is_listed_and_no_segmentation(archive, shared_dir, tmp_path):
    images = shared_dir / "data" / "dicom"
    before = archive.server.get("/datastore/").json()["total"]
    _copy_series(images, OTHER_SERIES, tmp_path)
    archive.orthanc.upload(tmp_path)
    archive.orthanc.store(pydicom.dcmread(images / "ct_liver_3slices_seg.dcm"))
    assert {found.Modality for found in archive.orthanc.find()} >= {"CR", "CT", "MR", "SEG", "US"}
    assert archive.server.get("/datastore/").json()["total"] == before + 2  # CR and US: there are no weights for CT


@pytest.mark.parametrize("label_info", [None, [{"name": "dermoscopy_lesion"}, {"name": "xray_lung"}]])
def test_dicom_seg_is_named_and_in_place(archive, tmp_path, label_info):
    answer = archive.server.infer(archive.series, "dicom_seg", label_info=label_info)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom"
    file = tmp_path / "seg.dcm"
    file.write_bytes(answer.content)
    seg = pydicom.dcmread(file)
    assert (seg.Modality, seg.SOPClassUID) == ("SEG", "1.2.840.10008.5.1.4.1.1.66.4")
    (source,) = archive.orthanc.find(SeriesInstanceUID=archive.series)
    assert (seg.StudyInstanceUID, seg.PatientID) == (source.StudyInstanceUID, "SAMPLE")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == archive.series
    for item, part, code in zip(
        seg.SegmentSequence, ("anterior", "posterior"), ("255549009", "255551008"), strict=True
    ):
        assert item.SegmentLabel == f"mr hippocampus {part}"
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert kind.CodeMeaning == "Hippocampus"
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == code
    labels = np.asarray(archive.reference.dataobj)
    assert segments_in_place(file, archive.reference, tmp_path / "read") == {
        "mr hippocampus anterior": np.count_nonzero(labels == ANTERIOR),
        "mr hippocampus posterior": np.count_nonzero(labels == POSTERIOR),
    }


def _save(archive: Archive, mask: Path, label_info: object = None) -> requests.Response:
    return requests.put(
        f"{archive.server.url}/datastore/label",
        params={"image": archive.series, "tag": "final"},
        data={"params": json.dumps({"label_info": label_info})},
        files={"label": (mask.name, mask.read_bytes())},
        timeout=300,
    )


def _segmentations(archive: Archive) -> dict[str, Dataset]:
    return {found.SeriesInstanceUID: found for found in archive.orthanc.find(Modality="SEG")}


def test_a_saved_label_is_found_in_the_archive(archive, tmp_path):
    before = _segmentations(archive)
    file = tmp_path / "label.nii.gz"
    nib.save(archive.reference, file)
    assert _save(archive, file).status_code == 200
    (series,) = set(_segmentations(archive)) - set(before)
    (seg,) = archive.orthanc.retrieve(series)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == archive.series
    seg.save_as(tmp_path / "stored.dcm")
    assert set(segments_in_place(tmp_path / "stored.dcm", archive.reference, tmp_path / "read")) == {
        "mr hippocampus anterior",
        "mr hippocampus posterior",
    }
    assert archive.server.get("/datastore/").json()["completed"] == 1


def test_numbers_of_3d_slicer_keep_their_names(archive, tmp_path):
    """Slicer numbers the segments of a scene 1, 2, ... and says which is which."""
    before = _segmentations(archive)
    labels = np.asarray(archive.reference.dataobj)
    renumbered = np.where(labels == POSTERIOR, 1, np.where(labels == ANTERIOR, 2, 0)).astype(np.uint8)
    renumbered[0, 0, 0] = 3
    file = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(renumbered, archive.reference.affine), file)
    info = [
        {"name": "cyst", "idx": 3},
        {"name": "mr_hippocampus_posterior", "idx": 1},
        {"name": "mr_hippocampus_anterior", "idx": 2},
    ]
    assert _save(archive, file, info).status_code == 200
    (series,) = set(_segmentations(archive)) - set(before)
    (seg,) = archive.orthanc.retrieve(series)
    names = [item.SegmentLabel for item in seg.SegmentSequence]
    assert names == ["mr hippocampus posterior", "mr hippocampus anterior", "cyst"]


def test_an_empty_label_is_refused_with_a_sentence(archive, tmp_path):
    file = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(archive.reference.shape, np.uint8), archive.reference.affine), file)
    answer = _save(archive, file)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("NO_DICOM_SEG: the label is empty")


def test_a_download_that_broke_off_is_made_good(archive, tmp_path):
    assert archive.server.infer(archive.series).status_code == 200
    files = sorted((archive.cache / archive.series).iterdir())
    for file in files[len(files) // 2 :]:
        file.unlink()
    _same(_mask(archive.server.infer(archive.series), tmp_path), archive.reference)


@pytest.mark.parametrize("image", ["1.2.3.4", "../../etc", "nothing"])
def test_a_series_that_is_not_there_is_a_sentence(archive, image):
    answer = archive.server.infer(image)
    assert answer.status_code == 404
    assert image in answer.json()["detail"]


def test_a_series_that_was_removed_is_gone_here_too(archive, tmp_path):
    write_sample(tmp_path)
    (series,) = archive.orthanc.upload(tmp_path)
    total = archive.server.get("/datastore/").json()["total"]
    assert archive.server.infer(series).status_code == 200
    archive.orthanc.delete(series)
    answer = archive.server.infer(series)
    assert (answer.status_code, "may have been removed" in answer.json()["detail"]) == (404, True)
    assert not list(archive.cache.rglob(f"{series}*"))
    assert archive.server.get("/datastore/").json()["total"] == total - 1


def test_a_dicom_seg_of_another_workstation_is_a_label_to_train_on(archive, tmp_path):
    write_sample(tmp_path)
    (series,) = archive.orthanc.upload(tmp_path)
    answer = archive.server.infer(series, "dicom_seg")
    archive.orthanc.store(pydicom.dcmread(io.BytesIO(answer.content)))
    entries = archive.server.get("/datastore/?output=train").json()
    (label,) = [entry["label"] for entry in entries if series in entry["image"]]
    _same(nib.load(label), archive.reference)
    archive.orthanc.delete(series)


def test_a_compressed_radiograph_is_fetched_as_it_is_stored(archive, shared_dir, tmp_path):
    """Orthanc cannot decompress JPEG 2000, and answers 500 to who asks for that."""
    (series,) = archive.orthanc.upload(archive.images / "chest")
    _same(_mask(archive.server.infer(series), tmp_path), archive.references["chest"])
    answer = archive.server.infer(series, "dicom_seg")
    assert (answer.status_code, answer.json()["detail"][:13]) == (422, "NO_DICOM_SEG:")


def test_an_archive_that_hangs_does_not_hang_the_server(archive):
    archive.orthanc.process.send_signal(signal.SIGSTOP)
    try:
        answer = archive.server.infer(archive.series)
    finally:
        archive.orthanc.process.send_signal(signal.SIGCONT)
    assert (answer.status_code, answer.json()["detail"][:11]) == (502, "NO_ARCHIVE:")
    assert archive.server.infer(archive.series).status_code == 200


def test_make_label_pacs_goes_through_all_steps(repository, namespace):
    if missing := missing_for_orthanc():
        pytest.skip(missing)
    command = [sys.executable, "-m", "examples.pacs", "--once", "--port", "0"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Found again by QIDO-RS (Modality=SEG)" in done.stdout
    assert not done.stderr
