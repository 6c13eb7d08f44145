"""Every stage starts in two ranks, learns in step, and writes each of its files once."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch

from tests.bundles.small_run import make_pictures
from tests.distributed import launch, stages

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

TRAININGS = (stages.train, stages.teacher, stages.aggregator, stages.distill, stages.finetune)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    make_pictures(folder)
    stages.make_weights(folder)
    return folder


@pytest.fixture(scope="module")
def statuses(repository: Path, out: Path) -> dict[str, list[int]]:
    return launch.start(repository, out, 2, *TRAININGS, stages.evaluate)


@pytest.mark.parametrize("stage", [each.__name__ for each in TRAININGS])
def test_a_stage_trains_in_two_ranks(statuses: dict[str, list[int]], out: Path, stage: str) -> None:
    assert statuses[stage] == [0, 0], (out / "log.txt").read_text()
    best = torch.load(out / stage / "best.pt", weights_only=True)
    assert not [key for key in best if key.startswith("module.")]
    rows = json.loads((out / stage / "history.json").read_text())
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    # Four images an epoch, two a batch: one step of both ranks.
    assert torch.load(out / stage / "last.pt", weights_only=True)["iteration"] == len(rows)
    written = {path.name for path in (out / stage).glob("events*")}
    assert len({name.split(".")[-2] for name in written}) == 1, "the files of one process"


def test_evaluation_counts_every_case_once(statuses: dict[str, list[int]], out: Path) -> None:
    assert statuses["evaluate"] == [0, 0], (out / "log.txt").read_text()
    with (out / "evaluate" / "cases.csv").open() as file:
        rows = [(row["case"], row["target"]) for row in csv.DictReader(file)]
    assert sorted(rows) == [("0", "lesion"), ("1", "lung"), ("2", "lesion"), ("3", "lung")]
