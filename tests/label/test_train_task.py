"""Training on a MONAI Label server, over HTTP, with a small network."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

import psutil
import requests
import torch

from esp_medsam_monai.bundle import verified_sha256
from esp_medsam_monai.label import MODEL_NAME
from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM
from tests.bundles.small_bundle import SIDE
from tests.label import training_client as client
from tests.label.label_server import Server, segment

ANTERIOR, POSTERIOR = 7, 8  # contract.md, "Label values"
CASES = 4


def write_pair(folder: Path, name: str, seed: int, depth: int = 6) -> Path:
    """A noisy volume in ``folder`` with two bright blocks; beside the folder, the label of them."""
    generator = np.random.default_rng(seed)
    array = generator.integers(0, 100, (20, 24, 6))
    label = np.zeros((20, 24, depth), dtype=np.uint8)
    x, y = generator.integers(2, 8, 2)
    label[x : x + 5, y : y + 6], label[x + 6 : x + 10, y : y + 6] = ANTERIOR, POSTERIOR
    array[label[..., :6] == ANTERIOR] += 500
    array[label[..., :6] == POSTERIOR] += 300
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), folder / f"{name}.nii.gz")
    path = folder.with_name("labels") / f"{name}.nii.gz"
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("training")
    (root / "studies").mkdir()
    labels = {f"case{i}": write_pair(root / "studies", f"case{i}", seed=i) for i in range(CASES)}
    broken = write_pair(root / "studies", "broken", seed=9)
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), dtype=np.uint8), np.eye(4)), broken)
    return SimpleNamespace(
        root=root, studies=root / "studies", app=root / "app", labels=labels, broken=broken, models=root / "app/model"
    )


def weights_of(folders: SimpleNamespace) -> Path:
    return Path(folders.app / "model" / MODEL_NAME / "models" / "model.pt")


def mask_of(server: Server, image: str = "case0", modality: str = "mr") -> np.ndarray:
    response = server.infer(image, modality=modality)
    assert response.status_code == 200, response.text
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(response.content)).dataobj)


@pytest.fixture(scope="module")
def training(folders: SimpleNamespace, small_bundle: Path) -> Iterator[SimpleNamespace]:
    """A server on which one training was asked for without labels, one with odd options, and one was done."""
    with Server(folders.studies, folders.app, ["--bundle", str(small_bundle)]) as server:
        assert client.start(server).status_code == 200
        without_labels = client.wait(server)
        for image, label in folders.labels.items():
            client.save_label(server, image, label)
        client.save_label(server, "broken", folders.broken)
        client.start(server, max_epochs="many")
        odd = client.wait(server)
        before = mask_of(server)
        client.start(server, max_epochs=4, val_split=0, device="cpu")
        client.wait(server, client.says("epoch 1/4"))
        meanwhile, second = server.infer("case1", modality="mr"), client.start(server)
        running = client.status(server)["status"]
        done = client.wait(server)
        yield SimpleNamespace(
            server=server,
            without_labels=without_labels,
            odd=odd,
            before=before,
            after=mask_of(server),
            meanwhile=meanwhile,
            second=second,
            running=running,
            done=done,
            info=server.get("/info/").json(),
        )


def test_what_cannot_be_trained_ends_as_an_error_with_its_reason_last(training: SimpleNamespace) -> None:
    for state, code in ((training.without_labels, "NO_LABELS"), (training.odd, "BAD_OPTION")):
        assert state["status"] == "ERROR"
        assert code in state["details"][-1]
        assert not [line for line in state["details"] if "Traceback" in line]


def test_progress_can_be_seen(training: SimpleNamespace) -> None:
    assert training.done["status"] == "DONE", training.done
    told = "\n".join(training.done["details"])
    assert "epoch 4/4" in told and "loss" in told
    assert "served from now on" in told


def test_a_label_that_does_not_fit_costs_no_other(training: SimpleNamespace) -> None:
    stats = training.info["train_stats"][MODEL_NAME]
    assert (stats["training"], stats["left_out"]) == (CASES, 1)


def test_the_server_answers_meanwhile_and_trains_one_at_a_time(training: SimpleNamespace) -> None:
    assert training.meanwhile.status_code == 200
    if training.running == "RUNNING":  # a very fast machine may have ended it
        assert training.second.status_code == 429


def test_the_new_weights_are_used_without_a_restart(
    training: SimpleNamespace, folders: SimpleNamespace, tmp_path: Path
) -> None:
    assert (training.before != training.after).any()
    inputs = tmp_path / "in"
    inputs.mkdir()
    shutil.copy(folders.studies / "case0.nii.gz", inputs)
    out = segment(inputs, tmp_path / "out", folders.app / "model" / MODEL_NAME, "--modality", "mr")
    expected = np.asarray(nib.load(out / "case0_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(training.after, expected)


def test_other_modalities_stay_the_same_to_the_bit(training: SimpleNamespace, folders: SimpleNamespace) -> None:
    weights = weights_of(folders)
    outputs = []
    torch.manual_seed(0)
    images = {name: torch.randn(1, 3, SIDE, SIDE) for name in shipped_modalities()}
    for path in (weights.with_name("model.pt.shipped"), weights):
        network = ESPMedSAM(shipped_modalities(), img_size=SIDE).eval()
        network.load_state_dict(torch.load(path, weights_only=True))
        with torch.no_grad():
            outputs.append({name: network(image, name) for name, image in images.items()})
    changed = {name for name in images if not torch.equal(outputs[0][name], outputs[1][name])}
    assert changed == {"mr"}


def test_the_bundle_that_was_given_is_not_touched(
    training: SimpleNamespace, folders: SimpleNamespace, small_bundle: Path
) -> None:
    given = small_bundle / "models"
    assert [path.name for path in given.iterdir()] == ["model.pt"]
    shipped = weights_of(folders).with_name("model.pt.shipped")
    assert shipped.read_bytes() == (given / "model.pt").read_bytes()


def test_a_training_that_is_stopped_changes_nothing(training: SimpleNamespace, folders: SimpleNamespace) -> None:
    held = verified_sha256(weights_of(folders))
    client.start(training.server, max_epochs=10000)
    client.wait(training.server, client.says("epoch 1/10000"))
    assert client.stop(training.server).status_code == 200
    assert client.wait(training.server)["status"] == "STOPPED"
    assert verified_sha256(weights_of(folders)) == held


def training_process(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child for child in children if "train" in child.cmdline())


def wait_for_end(process: psutil.Process) -> None:
    """Wait for a process that is no child of this one, and that perhaps nobody reaps."""
    begin = time.monotonic()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - begin < 60, "it does not end"
        time.sleep(0.2)


def test_a_server_that_is_killed_takes_its_training_with_it(
    training: SimpleNamespace, folders: SimpleNamespace, small_bundle: Path
) -> None:
    """Also shows that what a stopped or killed training leaves does not hinder the next."""
    weights = weights_of(folders)
    held = verified_sha256(weights)
    client.start(training.server, max_epochs=10000, val_split=0)
    client.wait(training.server, client.says("epoch 1/10000"))
    orphan = training_process(training.server)
    os.kill(training.server.process.pid, signal.SIGKILL)  # the server alone
    training.server.process.wait()
    with Server(folders.studies, folders.app, ["--bundle", str(small_bundle)]) as server:
        assert server.infer("case0", modality="mr").status_code == 200
        wait_for_end(orphan)
        assert verified_sha256(weights) == held
        client.start(server, max_epochs=1, val_split=0)
        state: dict[str, Any] = client.wait(server)
        assert state["status"] == "DONE", state
    assert verified_sha256(weights) != held
    assert not list((folders.app / "trainings").rglob("*.pt"))
    with pytest.raises(requests.ConnectionError):
        server.get("/info/")
