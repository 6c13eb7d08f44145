"""Trainings that are killed (``kill -9``) and resumed end as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import training_transforms
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from PIL import Image

import esp_medsam_monai.engines.history
from esp_medsam_monai.engines import (
    BalancedModalitySampler,
    LastEpochValidationHandler,
    ModalityDice,
    SegmentationDataset,
    TrainingCheckpoints,
    TrainingHistory,
    TrainingSchedule,
    TrainingStep,
    cached_loader,
    prepare_batch,
)
from esp_medsam_monai.io import atomic_path

KILLS = 20
EPOCHS = 4
MODALITIES = {"dermoscopy": ["lesion"], "xray": ["lung"]}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def write_images(folder: Path) -> Path:
    """Six pictures of each modality with a disc somewhere, and their datalist; the last two are for validation."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    content: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for i in range(12):
        modality = list(MODALITIES)[i % 2]
        y, x = generator.integers(20, 44, size=2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 200
        picture = np.where(disc, 60, 180) + generator.integers(-20, 20, size=(64, 64))
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(disc.astype(np.uint8)).save(folder / f"{i}_seg.png")
        entry = {"image": f"{i}.png", "label": f"{i}_seg.png", "modality": modality}
        content["validation" if i >= 10 else "training"].append(entry)
    (folder / "list.json").write_text(json.dumps(content))
    return folder / "list.json"


class Small(torch.nn.Module):
    """Two convolutions, a running mean and a dropout: all that makes it hard to repeat a step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 5, padding=2),
            torch.nn.BatchNorm2d(4),
            torch.nn.Dropout(0.3),
            torch.nn.Conv2d(4, 1, 1),
        )

    def forward(self, x: torch.Tensor, modality: Any = None, return_features: bool = False) -> Any:
        logits = self.layers(x)
        return {"logits": logits} if return_features else logits


def loss(features: dict[str, torch.Tensor], label: torch.Tensor, _: list[str]) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(features["logits"], (label > 0).float())


def draw_quickly(_: list[dict[str, Any]], path: Path, metric: str) -> None:
    """In place of ``draw_history``, which takes longer than an epoch here."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"a picture")


def train(datalist: Path, folder: Path, num_workers: int, kill_before_rename: int | None = None) -> None:
    """Train, or go on, with the parts that train.yaml names and a small network."""
    if kill_before_rename is not None:
        _kill_before(kill_before_rename)
    esp_medsam_monai.engines.history.draw_history = draw_quickly
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of data loaders, as in any process but this one
    torch.manual_seed(0)
    network = Small()
    torch.manual_seed(os.getpid())  # what has drawn from torch's random state before must not matter
    resume = any((folder / name).exists() for name in ("last.pt", "previous.pt"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05, fused=True)
    parts = {
        section: SegmentationDataset(
            datalist=datalist, section=section, transform=training_transforms(MODALITIES, 64, augment=i == 0)
        )
        for i, section in enumerate(("training", "validation"))
    }
    validator = SupervisedEvaluator(
        torch.device("cpu"),
        cached_loader(parts["validation"], 2),
        network,
        prepare_batch=prepare_batch,
        key_val_metric={"val_dice": ModalityDice(MODALITIES)},
        decollate=False,
    )
    SupervisedTrainer(
        torch.device("cpu"),
        EPOCHS,
        cached_loader(parts["training"], 3, BalancedModalitySampler(parts["training"], 6), num_workers),
        network,
        optimizer,
        loss,
        prepare_batch=prepare_batch,
        iteration_update=TrainingStep(seed=0),
        train_handlers=[
            TrainingSchedule(optimizer, warmup_iterations=3),
            LastEpochValidationHandler(1, validator),
            TrainingCheckpoints(folder, network, optimizer, validator, resume),
            TrainingHistory(folder, validator, resume=resume),
        ],
        decollate=False,
    ).run()


def _kill_before(number: int) -> None:
    """Let this process die before its ``number``-th rename, counted from 1."""
    rename, count = Path.replace, 0

    def replace(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.replace = replace  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def start() -> Callable[..., Any]:
    """Starts a function (``train``) in a process of its own, forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["esp_medsam_monai.engines", "esp_medsam_monai.transforms"])

    def begin(*args: Any, target: Callable[..., None] = train) -> Any:
        process = context.Process(target=target, args=args)
        process.start()
        return process

    process = context.Process(target=time.sleep, args=(0,))
    process.start()
    process.join()  # from here on everything is imported
    return begin


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def undisturbed(start: Callable[..., Any], datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that nobody killed; ``seconds`` in it says how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    process = start(datalist, folder, 0)
    process.join()
    (folder / "seconds").write_text(str(time.monotonic() - began))
    assert process.exitcode == 0
    return folder


def assert_same_result(folder: Path, undisturbed: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"last.pt", "previous.pt", "best.pt", "history.json", "curve.png"}
    best, expected = (torch.load(path / "best.pt", weights_only=True) for path in (folder, undisturbed))
    torch.testing.assert_close(best, expected, rtol=0, atol=0)
    last, expected = (torch.load(path / "last.pt", weights_only=True) for path in (folder, undisturbed))
    for state in (last, expected):
        del state["minutes"]
    torch.testing.assert_close(last, expected, rtol=0, atol=0)
    rows, expected_rows = (json.loads((path / "history.json").read_text()) for path in (folder, undisturbed))
    assert [(row["epoch"], row["loss"], row["dice"]) for row in rows] == [
        (row["epoch"], row["loss"], row["dice"]) for row in expected_rows
    ]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))


def test_the_undisturbed_training_learns(undisturbed: Path) -> None:
    """Otherwise equal weights would prove little."""
    rows = json.loads((undisturbed / "history.json").read_text())
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert len({row["loss"] for row in rows}) == EPOCHS


def test_killed_at_random_moments(start: Callable[..., Any], datalist: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Again and again, also in resumed runs, with and without a worker that reads ahead."""
    moments = random.Random(0)
    seconds = float((undisturbed / "seconds").read_text())
    kills = trainings = 0
    while kills < KILLS:
        folder = tmp_path / f"run{trainings}"
        for _ in range(KILLS):
            process = start(datalist, folder, trainings % 2)
            process.join(timeout=moments.uniform(0.2, 1.0) * seconds)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode == 0
        assert_same_result(folder, undisturbed)
        trainings += 1


@pytest.mark.parametrize("number", range(5, 10))
def test_killed_before_each_rename_of_an_epoch(
    start: Callable[..., Any], datalist: Path, undisturbed: Path, tmp_path: Path, number: int
) -> None:
    """The fifth to the ninth are history, curve, previous.pt, last.pt and best.pt of the second epoch."""
    process = start(datalist, tmp_path / "run", 0, number)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process = start(datalist, tmp_path / "run", 0)
    process.join()
    assert process.exitcode == 0
    assert_same_result(tmp_path / "run", undisturbed)


def options(repository: Path, datalist: Path, folder: Path) -> dict[str, Any]:
    """Options of the bundle's training, small."""
    return {
        "config_file": str(repository / "bundles" / "esp_medsam" / "configs" / "train.yaml"),
        "bundle_root": str(repository / "bundles" / "esp_medsam"),
        "datalist": str(datalist),
        "output_dir": str(folder),
        "device": "cpu",
        "image_size": 64,
        "samples_per_epoch": 4,
        "batch_size": 2,
        "max_epochs": 2,
    }


def train_bundle(given: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    run = ConfigWorkflow(workflow_type="train", run_id="training", meta_file=None, logging_file=False, **given)
    run.initialize()
    run.run()


def test_the_command_goes_on_after_a_kill(
    start: Callable[..., Any], datalist: Path, repository: Path, tmp_path: Path
) -> None:
    whole = start(options(repository, datalist, tmp_path / "whole"), target=train_bundle)
    folder = tmp_path / "killed"
    words = [
        word for name, value in options(repository, datalist, folder).items() for word in (f"--{name}", str(value))
    ]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "last.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = torch.load(folder / "last.pt", weights_only=True)["epoch"]
    done = subprocess.run([*command, "--resume", "true"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"last.pt: going on after epoch {before}" in done.stdout + done.stderr
    assert "data: unchanged since they were checked" in done.stdout + done.stderr
    whole.join()
    assert whole.exitcode == 0
    weights, expected = (torch.load(path / "best.pt", weights_only=True) for path in (folder, tmp_path / "whole"))
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    assert [row["epoch"] for row in json.loads((folder / "history.json").read_text())] == [1, 2]
    assert not list(folder.glob(".partial-*"))
