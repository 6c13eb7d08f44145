"""Ranks divide the cases of a folder and of an evaluation, write once, and end together."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import make_volume
from tests.distributed import folders, launch
from tests.engines.folder_runs import report_rows

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

VOLUMES = 6
EVALUATIONS = (folders.evaluation_of_one, folders.evaluation_with_failure)
ALONE = (folders.first, *EVALUATIONS)
FAILING = (folders.dying, folders.interrupted, folders.check_data, folders.main_rank_fails, folders.rank_fails)
TOGETHER = (folders.first, folders.again, folders.anew, folders.uneven, *EVALUATIONS, *FAILING)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes with their brighter halves as labels, and among them a picture that cannot be read."""
    folder = tmp_path_factory.mktemp("folders")
    entries = []
    for index in range(VOLUMES):
        volume = make_volume(shape=(30, 30, 3), spacing=(1.0, 1.0, 2.0), seed=index)
        image = volume.save(folder / "in" / f"case{index}.nii.gz")
        label = nib.Nifti1Image((volume.array > 60 + 10 * index).astype(np.uint8), volume.affine)
        nib.save(label, folder / f"label{index}.nii.gz")
        entries.append({"image": str(image), "label": str(folder / f"label{index}.nii.gz"), "modality": "mr"})
    damaged = folder / "in" / f"{folders.DAMAGED}.png"
    damaged.write_bytes(b"no picture")
    entries.insert(2, {**entries[0], "image": str(damaged)})
    (folder / "in" / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    (folder / "entries.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def statuses(repository: Path, out: Path) -> dict[str, list[int]]:
    alone = launch.start(repository, out, 1, *ALONE)
    assert alone == {"first": [8], "evaluation_of_one": [0], "evaluation_with_failure": [8]}
    return launch.start(repository, out, 2, *TOGETHER)


def masks(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asanyarray(nib.load(path).dataobj) for path in sorted(folder.glob("*_seg.nii.gz"))}


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def calls(out: Path, name: str) -> list[int]:
    return [int((out / f"{name}_2_{rank}.calls").read_text()) for rank in range(2)]


def by_status(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for case, row in report_rows(folder).items():
        found.setdefault(row["status"], set()).add(case)
    return found


CASES = {f"case{index}" for index in range(VOLUMES)}


def test_ranks_make_the_masks_of_one_process_and_one_report(statuses: dict[str, list[int]], out: Path) -> None:
    """The first run, then one that finds all done, then one that does all again (`overwrite`), in one folder."""
    assert [statuses[name] for name in ("first", "again", "anew")] == [[8, 8]] * 3
    alone, together = masks(out / "run_1"), masks(out / "run_2")
    assert len(alone) == VOLUMES
    assert alone.keys() == together.keys()
    assert all(np.array_equal(alone[name], together[name]) for name in alone)
    assert by_status(out / "run_2") == {"done": CASES, "failed": {folders.DAMAGED}}
    assert report(out / "run_2")["run"]["exit_status"] == 8
    with (out / "run_2" / "report.csv").open() as file:
        assert {row["case"] for row in csv.DictReader(file)} >= {*CASES, folders.DAMAGED}
    page = (out / "run_2" / "report.html").read_text()
    assert all(case in page for case in CASES)
    assert not list((out / "run_2").rglob(".partial-*"))
    assert not list((out / "run_2").glob("*.before*"))


def test_no_case_is_done_twice(statuses: dict[str, list[int]], out: Path) -> None:
    assert sum(calls(out, "run")) == VOLUMES, "of the run that did all again"
    assert min(calls(out, "run")) > 0, "one rank did everything"


def test_a_rank_with_nothing_left_takes_over_from_a_busy_one(statuses: dict[str, list[int]], out: Path) -> None:
    assert statuses["uneven"] == [8, 8]
    busy, other = calls(out, "uneven")
    assert (busy, other) == (1, VOLUMES - 1)
    assert by_status(out / "uneven_2") == {"done": CASES, "failed": {folders.DAMAGED}}


def test_a_rank_that_dies_ends_the_others_with_a_report(statuses: dict[str, list[int]], out: Path) -> None:
    main, died = statuses["dying"]
    assert died == -signal.SIGKILL
    assert main not in (0, -signal.SIGALRM, -signal.SIGKILL)
    content = report(out / "dying_2")
    assert content["run"]["exit_status"] == main
    assert content["run"]["finished"]
    assert {row["case"] for row in content["cases"] if row["status"] == "done"}


def test_interrupted_ranks_end_alike_with_a_report(statuses: dict[str, list[int]], out: Path) -> None:
    assert statuses["interrupted"] == [130, 130]
    content = report(out / "interrupted_2")
    assert content["run"]["exit_status"] == 130
    done = {row["case"] for row in content["cases"] if row["status"] == "done"}
    assert len(done) == 2, "each rank had finished one"
    assert {name.removesuffix("_seg.nii.gz") for name in masks(out / "interrupted_2")} == done


@pytest.mark.parametrize("name", [each.__name__ for each in EVALUATIONS])
def test_ranks_evaluate_as_one_process(statuses: dict[str, list[int]], out: Path, name: str) -> None:
    assert statuses[name] == ([8, 8] if name == "evaluation_with_failure" else [0, 0])
    alone, together = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".png"}
        for folder in (out / f"{name}_1", out / f"{name}_2")
    )
    assert Path("metrics.json") in alone
    assert alone == together


def test_data_are_checked_once_and_errors_end_all_ranks(statuses: dict[str, list[int]], out: Path) -> None:
    assert statuses["check_data"] == [8, 8]
    assert (out / "looks_0").exists()
    assert not (out / "looks_1").exists()


def test_a_failure_of_the_main_rank_ends_the_others(statuses: dict[str, list[int]], out: Path) -> None:
    assert statuses["main_rank_fails"] == [1, 1]
    assert "the main rank ended with OSError: no space left" in (out / "log.txt").read_text()


def test_a_failure_of_another_rank_hangs_nobody(statuses: dict[str, list[int]]) -> None:
    waiting, failed = statuses["rank_fails"]
    assert failed == 1
    assert waiting not in (0, -signal.SIGALRM)
