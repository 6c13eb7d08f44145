"""A training round over HTTP with the shipped weights: ten real volumes, labelled, make masks of five others better."""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

from esp_medsam_monai.label import MODEL_NAME
from tests.label import training_client as client
from tests.label.label_server import Server

pytestmark = pytest.mark.slow

TARGETS = {"anterior": (7, 1), "posterior": (8, 2)}
"""Value in our table (contract.md) and in the set's own label files, by target."""

LABELLED, OTHERS, EPOCHS = 10, 5, 3


def dice(mask: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Dice of each target over a whole volume."""
    found = {name: (mask == ours, label == theirs) for name, (ours, theirs) in TARGETS.items()}
    return {name: float(2 * (a & b).sum() / (a.sum() + b.sum())) for name, (a, b) in found.items()}


def segmented(server: Server, name: str) -> np.ndarray:
    response = server.infer(name, modality="mr")
    assert response.status_code == 200, response.text
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(response.content)).dataobj)


@pytest.fixture(scope="module")
def volumes(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Volumes that the shipped weights were neither trained nor chosen with: a folder of studies, and their labels."""
    data = shared_dir / "data"
    split = json.loads((data / "splits.json").read_text())["mr_hippocampus"]["in_domain"]["msd_hippocampus"]["test"]
    files = split[: LABELLED + OTHERS]
    root = tmp_path_factory.mktemp("hippocampus")
    (root / "studies").mkdir()
    (root / "labels").mkdir()
    source = data / "volumes" / "msd_hippocampus"
    truth = {}
    for file in files:
        shutil.copy(source / "images" / file, root / "studies")
        label = nib.load(source / "labels" / file)
        truth[file.removesuffix(".nii.gz")] = np.asarray(label.dataobj)
        encoded = np.zeros(label.shape, dtype=np.uint8)
        for ours, theirs in TARGETS.values():
            encoded[np.asarray(label.dataobj) == theirs] = ours
        nib.save(nib.Nifti1Image(encoded, label.affine), root / "labels" / file)
    names = list(truth)
    return SimpleNamespace(root=root, truth=truth, labelled=names[:LABELLED], others=names[LABELLED:])


@pytest.fixture(scope="module")
def round_(volumes: SimpleNamespace, repository: Path) -> Iterator[SimpleNamespace]:
    """One training round, with infer requests from before its start to its end."""
    bundle = repository / "bundles" / "esp_medsam"
    with Server(volumes.root / "studies", volumes.root / "app", ["--bundle", str(bundle)]) as server:

        def measure() -> list[dict[str, float]]:
            return [dice(segmented(server, name), volumes.truth[name]) for name in volumes.others]

        before = measure()
        for name in volumes.labelled:
            client.save_label(server, name, volumes.root / "labels" / f"{name}.nii.gz")
        ended, answers = threading.Event(), []

        def ask() -> None:
            while not ended.wait(5):
                answers.append(server.infer(volumes.others[0], modality="mr").status_code)

        asking = threading.Thread(target=ask)
        assert client.start(server, max_epochs=EPOCHS).status_code == 200
        client.wait(server, client.says("before the training"))
        asking.start()
        try:
            state = client.wait(server)
        finally:
            ended.set()
            asking.join()
        yield SimpleNamespace(
            before=before,
            after=measure(),
            state=state,
            answers=answers,
            stats=server.get("/info/").json()["train_stats"],
        )


def mean(rows: list[dict[str, float]], target: str | None = None) -> float:
    names = TARGETS if target is None else [target]
    return statistics.fmean(row[name] for row in rows for name in names)


def test_dice_on_other_volumes_rises(round_: SimpleNamespace, record_property: Callable[[str, object], None]) -> None:
    assert round_.state["status"] == "DONE", round_.state
    told = {name: (mean(round_.before, name), mean(round_.after, name)) for name in TARGETS}
    record_property("Dice before and after", told)
    assert mean(round_.after) > mean(round_.before), told


def test_every_epoch_tells_loss_and_dice(round_: SimpleNamespace) -> None:
    epochs = [line for line in round_.state["details"] if f"/{EPOCHS}  loss " in line]
    assert len(epochs) == EPOCHS and all("Dice" in line for line in epochs)


def test_the_server_answered_meanwhile(round_: SimpleNamespace) -> None:
    assert len(round_.answers) > 1 and set(round_.answers) == {200}


def test_the_result_can_be_asked_for(round_: SimpleNamespace) -> None:
    stats = round_.stats[MODEL_NAME]
    assert (stats["training"], stats["validation"], stats["left_out"]) == (8, 2, 0)
    assert stats["better"] and stats["best_metric"] >= stats["before"]
