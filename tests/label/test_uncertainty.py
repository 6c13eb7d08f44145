"""Active learning: scores of unlabelled images in the datastore, and which image is served next."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from monai.bundle import ConfigParser

from esp_medsam_monai.inferers import ImageUncertainty
from tests.label.label_server import ANSWER_LIMIT, Server

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

from monailabel.datastore.local import LocalDatastore

from esp_medsam_monai.label.infer_task import SegmentationInferTask
from esp_medsam_monai.label.uncertainty import UncertaintyScoring, UncertaintyStrategy

STRATEGY = "uncertainty"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Volumes a, b and c, of which nobody says the modality of c."""
    for seed, name in enumerate("abc"):
        array = np.random.default_rng(seed).integers(0, 500, (20, 24, 3)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 3, 1])), tmp_path / f"{name}.nii.gz")
        if name != "c":
            (tmp_path / f"{name}.json").write_text('{"modality": "mr"}', encoding="utf-8")
    return tmp_path


@pytest.fixture
def datastore(folder: Path) -> LocalDatastore:
    return LocalDatastore(str(folder))


@pytest.fixture
def scoring(small_bundle: Path, tmp_path: Path) -> UncertaintyScoring:
    """Over a copy of the bundle whose weights a test may replace."""
    copy = tmp_path / "app" / "esp_medsam"
    for part in ("configs", "models"):
        (copy / part).mkdir(parents=True)
        for file in (small_bundle / part).iterdir():
            if file.is_file():
                (copy / part / file.name).write_bytes(file.read_bytes())
    return UncertaintyScoring(SegmentationInferTask(str(copy), {}))


def known(datastore: LocalDatastore, image: str) -> dict:
    return datastore.get_image_info(image).get("uncertainty", {})


def next_image(datastore: LocalDatastore, serve: bool = False) -> dict:
    """What the strategy serves; with ``serve`` it is noted as the endpoint of MONAI Label does."""
    chosen = UncertaintyStrategy()({"strategy": STRATEGY}, datastore)
    if serve:
        served = {STRATEGY: {"ts": int(time.time())}}
        datastore.update_image_info(chosen["id"], {"strategy": served})
    return chosen


def test_every_unlabelled_image_is_scored_or_says_why_not(datastore, scoring, folder):
    datastore.save_label("b", str(folder / "b.nii.gz"), "final", {})
    counts = scoring({}, datastore)
    assert (counts["scored"], counts["refused"], counts["waiting"]) == (1, 1, 0)
    assert known(datastore, "b") == {}
    assert known(datastore, "c")["reason"].startswith("NO_MODALITY: ")
    assert json.loads((folder / "datastore_v2.json").read_text())["objects"]["a"]["image"]["info"]["uncertainty"]


def test_the_score_is_that_of_the_bundle(datastore, scoring, small_bundle, folder):
    """The same image through the bundle's config, without anything of MONAI Label."""
    scoring({}, datastore)
    parser = ConfigParser(ConfigParser.load_config_file(str(small_bundle / "configs" / "inference.yaml")))
    parser.update({"bundle_root": str(small_bundle), "device": torch.device("cpu")})
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(small_bundle / "models" / "model.pt"))
    image = parser.get_parsed_content("preprocessing")({"image": str(folder / "a.nii.gz")})["image"]
    expected = ImageUncertainty(parser.get_parsed_content("inferer"))(image, network.eval())
    found = known(datastore, "a")
    assert found["score"] == pytest.approx(expected.score, abs=1e-6)
    assert 0 < found["score"] < 1


def test_nothing_is_scored_twice_with_the_same_weights(datastore, scoring):
    scoring({}, datastore)
    assert scoring.pending(datastore) == []
    assert scoring({}, datastore)["scored"] == 0
    weights = Path(scoring.infer_task.get_path())
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 10**9))
    assert scoring.pending(datastore) == ["c", "a", "b"]  # c never had a score
    assert scoring({}, datastore)["scored"] == 2


def test_a_run_is_bounded_and_the_next_goes_on(datastore, scoring):
    counts = [scoring({"max_samples": 2}, datastore) for _ in range(3)]
    assert [(each["scored"], each["refused"], each["waiting"]) for each in counts] == [(2, 0, 1), (0, 1, 0), (0, 0, 0)]
    scoring.max_samples = 1
    assert UncertaintyScoring(scoring.infer_task, max_samples=1).pending(datastore) == []


def test_a_request_can_say_the_modality(datastore, scoring):
    assert scoring({"modality": "xray"}, datastore)["refused"] == 0
    assert "score" in known(datastore, "c")


def test_a_broken_and_a_removed_image_cost_the_others_nothing(datastore, scoring, folder):
    (folder / "a.nii.gz").write_bytes(b"no NIfTI")
    (folder / "c.nii.gz").unlink()
    counts = scoring({}, datastore)
    assert (counts["scored"], counts["refused"]) == (1, 1)
    assert known(datastore, "a")["reason"]
    assert "score" in known(datastore, "b")
    assert datastore.list_images() == ["a", "b"]


def test_labels_that_the_server_saved_meanwhile_are_kept(datastore, scoring, folder):
    """Scoring runs in a process of its own, with a datastore object of its own."""
    server = LocalDatastore(str(folder))
    server.save_label("b", str(folder / "b.nii.gz"), "final", {"author": "somebody"})
    scoring({"max_samples": 1}, datastore)
    saved = json.loads((folder / "datastore_v2.json").read_text())["objects"]
    assert saved["b"]["labels"]["final"]["info"]["author"] == "somebody"
    assert "score" in saved["a"]["image"]["info"]["uncertainty"]


def test_the_least_sure_image_comes_first(datastore):
    for image, score in {"a": 0.2, "b": 0.7, "c": 0.5}.items():
        datastore.update_image_info(image, {"uncertainty": {"score": score}})
    assert [next_image(datastore, serve=True)["id"] for _ in range(3)] == ["b", "c", "a"]


def test_images_without_a_score_come_after_scored_ones_and_before_refused_ones(datastore):
    datastore.update_image_info("a", {"uncertainty": {"reason": "NO_MODALITY: nothing says it"}})
    datastore.update_image_info("c", {"uncertainty": {"score": 0.01}})
    served = [next_image(datastore, serve=True) for _ in range(3)]
    assert [each["id"] for each in served] == ["c", "b", "a"]
    assert "NO_MODALITY" in served[2]["note"]


def test_of_images_served_a_short_while_ago_the_one_that_waits_longest_comes(datastore):
    now = int(time.time())
    for image, ago in {"a": 60, "b": 600, "c": 30}.items():
        datastore.update_image_info(image, {"strategy": {STRATEGY: {"ts": now - ago}}, "uncertainty": {"score": 0.5}})
    assert next_image(datastore)["id"] == "b"
    datastore.update_image_info("c", {"strategy": {STRATEGY: {"ts": now - 100 * 3600}}})
    assert next_image(datastore)["id"] == "c"


def test_a_fresh_datastore_is_served_by_name_and_says_so(datastore, folder):
    chosen = next_image(datastore)
    assert chosen["id"] == "a"
    assert "no image has a score yet" in chosen["note"]
    for image in "abc":
        datastore.save_label(image, str(folder / "a.nii.gz"), "final", {})
    assert UncertaintyStrategy()({"strategy": STRATEGY}, datastore) is None


def test_the_server_scores_by_itself_and_only_what_is_new(studies, small_bundle, tmp_path):
    """At its start, in a process of its own; serving images starts nothing while all have a score."""
    automatic = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "true"}
    with Server(studies, tmp_path / "app", ["--bundle", str(small_bundle)], automatic) as server:
        assert STRATEGY in server.get("/info/").json()["strategies"]
        end, info = time.monotonic() + ANSWER_LIMIT, {}
        while "score" not in info and time.monotonic() < end:
            info = server.get("/datastore/image/info?image=volume").json().get("uncertainty", {})
            time.sleep(0.5)
        assert 0 < info["score"] < 1
        for _ in range(2):
            served = requests.post(f"{server.url}/activelearning/{STRATEGY}", json={}, timeout=ANSWER_LIMIT).json()
            assert served["id"] == "volume"
            assert served["uncertainty"] == info
        assert len(server.get("/scoring/?all=true").json()) == 1
