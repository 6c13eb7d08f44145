"""What goes wrong at a server: every answer says what and why, none hangs, and the next request is served."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

from esp_medsam_monai.hashing import sha256_of
from esp_medsam_monai.label import MODEL_NAME
from tests.label.label_server import ANSWER_LIMIT, Server, copy_files, segment


def save(path: Path, seed: int, shape: tuple[int, ...] = (20, 24, 6), modality: str = "mr") -> Path:
    """A volume of noise with a sidecar."""
    array = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 2.5, 1])), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"modality": modality}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies: two good ones, one of which nobody says the modality, a CT, a NIfTI cut short and a text."""
    folder = tmp_path_factory.mktemp("faults") / "studies"
    folder.mkdir()
    for seed, name in enumerate(["one", "two", "untold", "broken"]):
        save(folder / f"{name}.nii.gz", seed)
    (folder / "untold.json").unlink()
    save(folder / "chest.nii.gz", 9, modality="ct")
    whole = (folder / "broken.nii.gz").read_bytes()
    (folder / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("this is no image\n")
    return folder


@pytest.fixture(scope="module")
def serving(folder: Path, small_bundle: Path) -> Iterator[Server]:
    """One server for the tests that leave no trace."""
    with Server(folder, folder.parent / "app", ["--bundle", str(small_bundle)]) as running:
        yield running


@pytest.fixture(scope="module")
def masks(folder: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The masks of the good studies, by the bundle's own command."""
    good = [file for name in ("one", "two") for file in folder.glob(f"{name}.*")]
    parent = tmp_path_factory.mktemp("masks")
    output = segment(copy_files(good, parent / "images"), parent / "masks", small_bundle)
    return {name: nib.load(output / f"{name}_seg.nii.gz").get_fdata() for name in ("one", "two")}


def mask_of(response: requests.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    content = response.content
    return nib.Nifti1Image.from_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).get_fdata()


def sentence(response: requests.Response, *statuses: int) -> str:
    """The answer's one readable sentence."""
    assert response.status_code in statuses, response.text
    detail = response.json()["detail"]
    assert isinstance(detail, str), detail
    assert len(detail.split()) >= 4, detail
    assert "\n" not in detail
    assert "Traceback" not in response.text
    return detail


@pytest.fixture(autouse=True)
def the_next_request_is_served(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test of the common server it still segments."""
    if "serving" not in request.fixturenames:
        yield
        return
    running, expected = request.getfixturevalue("serving"), request.getfixturevalue("masks")["one"]
    yield
    np.testing.assert_array_equal(mask_of(running.infer("one")), expected)


@pytest.mark.parametrize(
    ("image", "params", "code", "words"),
    [
        ("untold", {}, "NO_MODALITY", ["untold.nii.gz", "Known names"]),
        ("one", {"modality": "mri-ish"}, "UNKNOWN_MODALITY", ["mri-ish", "Known names"]),
        ("one", {"modality": "ct"}, "NO_WEIGHTS", ["ct", "They have"]),
        ("chest", {}, "NO_WEIGHTS", ["ct", "They have"]),
        ("broken", {"modality": "mr"}, "", ["broken.nii.gz"]),
        ("text", {"modality": "mr"}, "", ["text.nii.gz"]),
    ],
)
def test_a_study_that_cannot_be_segmented_is_refused_by_name(serving, image, params, code, words):
    told = sentence(serving.infer(image, **params), 422)
    assert told.startswith(code or tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    assert told.split(":")[0].replace("_", "").isupper()
    for word in words:
        assert word in told


def test_unknown_names_are_named(serving):
    assert "'nowhere'" in sentence(serving.infer("nowhere"), 404)
    assert "'no_such_model'" in sentence(serving.infer("one", model="no_such_model"), 404, 422)
    asked = requests.post(f"{serving.url}/activelearning/no_such_strategy", json={}, timeout=ANSWER_LIMIT)
    assert "'no_such_strategy'" in sentence(asked, 404, 422)


def test_an_uploaded_text_is_refused(serving, tmp_path):
    (tmp_path / "mine.nii.gz").write_text("dear reader, this is a letter\n")
    sentence(serving.infer(file=tmp_path / "mine.nii.gz", modality="mr"), 422)


@pytest.mark.parametrize("params", ["{no json", "'modality': mr", "[1, 2]", "5", '"mr"'])
def test_params_that_are_no_object_are_refused(serving, params):
    answer = requests.post(
        f"{serving.url}/infer/{MODEL_NAME}", params={"image": "one"}, data={"params": params}, timeout=ANSWER_LIMIT
    )
    assert "params" in sentence(answer, 422)


def test_a_request_without_an_image_and_dicom_seg_of_a_nifti_are_refused(serving):
    assert "NO_IMAGE" in sentence(serving.infer(""), 422)
    assert "DICOM" in sentence(serving.infer("one", output="dicom_seg"), 422)


def test_a_label_of_an_unknown_image_is_refused(serving, folder):
    with (folder / "one.nii.gz").open("rb") as label:
        answer = requests.put(
            f"{serving.url}/datastore/label",
            params={"image": "nowhere", "tag": "final"},
            files={"label": ("nowhere.nii.gz", label)},
            timeout=ANSWER_LIMIT,
        )
    assert "nowhere" in sentence(answer, 404)
    assert not list((folder / "labels").rglob("nowhere*"))


def test_a_study_deleted_after_it_was_listed_is_not_found(serving, folder, masks):
    save(folder / "short_lived.nii.gz", 3)
    listed: dict = {}
    while "short_lived" not in listed:  # the server watches the folder; a hang is pytest's to end
        listed = serving.get("/datastore/?output=all").json()["objects"]
    (folder / "short_lived.nii.gz").unlink()
    assert "'short_lived'" in sentence(serving.infer("short_lived"), 404)


@pytest.mark.parametrize("images", [["one", "one"], ["one", "two"], ["one", "two", "untold", "nowhere", "one", "two"]])
def test_clients_at_once_get_the_masks_of_one_client(serving, masks, images):
    with ThreadPoolExecutor(len(images)) as clients:
        answers = list(clients.map(serving.infer, images))
    for image, answer in zip(images, answers, strict=True):
        if image in masks:
            np.testing.assert_array_equal(mask_of(answer), masks[image])
        else:
            sentence(answer, 404, 422)


def test_a_server_killed_while_it_segments_works_again(tmp_path, small_bundle, folder, masks):
    studies = copy_files(list(folder.glob("one.*")), tmp_path / "studies")
    save(studies / "large.nii.gz", 0, (64, 64, 150))
    options = ["--bundle", str(small_bundle)]
    environment = {"TMPDIR": str(tmp_path)}
    with Server(studies, tmp_path / "app", options, environment) as first:
        before = hashes(tmp_path / "app" / "model")
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(first.infer, "large")
            while "Infer Request (final)" not in first.log.read_text(errors="replace"):
                assert not answer.done()
            first.signal(signal.SIGKILL)
            with pytest.raises(requests.ConnectionError):
                answer.result(ANSWER_LIMIT)
    assert hashes(tmp_path / "app" / "model") == before
    with Server(studies, tmp_path / "app", options, environment) as second:
        np.testing.assert_array_equal(mask_of(second.infer("one")), masks["one"])
    assert hashes(tmp_path / "app" / "model") == before


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
