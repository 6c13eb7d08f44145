"""Evaluation tables against Dice values worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator

from esp_medsam_monai.engines import (
    EvaluationDataset,
    EvaluationStep,
    EvaluationTables,
    dice_rows,
    prepare_case,
    summarize,
)
from esp_medsam_monai.engines.pair_check import Finding, PairFacts
from esp_medsam_monai.errors import InputRefused

MODALITIES = {"xray": ["lung"], "mr": ["front", "back"]}


def image(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, -1, 1)


def test_dice_of_each_target_by_hand() -> None:
    rows = dice_rows(
        image([2, 2, 3, 0, 0]), image([2, 2, 2, 0, 0]), {"front": 2, "back": 3}, case="c", modality="mr", domain="d"
    )
    assert [(row.target, row.dice, row.reference, row.predicted) for row in rows] == [
        ("front", pytest.approx(2 * 2 / (2 + 3)), 3, 2),
        ("back", 0.0, 0, 1),  # found where it is not
    ]


def test_both_empty_is_counted_and_not_averaged() -> None:
    values = {"lung": 1}
    rows = [
        *dice_rows(image([0, 0]), image([0, 0]), values, case="a", modality="xray", domain="one"),
        *dice_rows(image([1, 0]), image([0, 0]), values, case="b", modality="xray", domain="one"),
        *dice_rows(image([1, 1]), image([1, 1]), values, case="c", modality="xray", domain="two"),
    ]
    assert [row.dice for row in rows] == [None, 0.0, 1.0]
    assert summarize(rows) == {
        "xray": {
            "lung": {"dice": 0.5, "n": 2, "std": 0.5, "median": 0.5, "both_empty": 1, "reference_empty": 1},
        }
    }
    assert {name: table["lung"]["n"] for name, table in summarize(rows, by="domain").items()} == {"one": 1, "two": 1}
    assert summarize(rows[:1])["xray"]["lung"]["dice"] is None


def test_grids_that_differ_are_told() -> None:
    with pytest.raises(ValueError, match=r"c: prediction \(1, 2, 1\) and label \(1, 3, 1\)"):
        dice_rows(image([0, 0]), image([0, 0, 0]), {"lung": 1}, case="c", modality="xray")


class Perfect:
    """An inferer that copies the image's intensities as labels."""

    def __call__(self, inputs: torch.Tensor, network: Any) -> torch.Tensor:
        return inputs


def case(name: str, modality: str, found: list[int], true: list[int], domain: str | None = None) -> dict[str, Any]:
    meta = {"modality": modality, "filename_or_obj": f"/data/{name}", "affine": np.eye(4)}
    item: dict[str, Any] = {"image": MetaTensor(image(found), meta=meta), "label": MetaTensor(image(true))}
    return item | ({} if domain is None else {"domain": domain})


def test_files_hold_every_case_in_the_agreed_shape(tmp_path: Path) -> None:
    cases = [
        case("p.v1/brain.one.nii.gz", "mr", [2, 2, 3, 0], [2, 2, 3, 3], "hospital"),
        case("p.v1/chest.png", "xray", [1, 0, 0, 0], [1, 1, 0, 0]),
        case("p.v1/series.2", "xray", [1, 0, 0, 0], [1, 0, 0, 0]),  # a folder of DICOM files
    ]
    tables = EvaluationTables(tmp_path / "out", MODALITIES)
    SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(cases, batch_size=1),
        torch.nn.Identity(),
        prepare_batch=prepare_case,
        inferer=Perfect(),
        val_handlers=[tables],
        decollate=False,
    ).run()
    tables.finish()  # nothing failed, so nothing is raised
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {m: {t: (entry["dice"], entry["n"]) for t, entry in targets.items()} for m, targets in metrics.items()} == {
        "mr": {"front": (1.0, 1), "back": (pytest.approx(2 / 3), 1)},
        "xray": {"lung": (pytest.approx((2 / 3 + 1) / 2), 2)},
    }
    assert set(json.loads((tmp_path / "out" / "metrics_by_domain.json").read_text())) == {"hospital"}
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["modality"], row["domain"], row["target"], row["reference"]) for row in rows] == [
        ("brain.one", "mr", "hospital", "front", "2"),
        ("brain.one", "mr", "hospital", "back", "2"),
        ("chest", "xray", "", "lung", "2"),
        ("series.2", "xray", "", "lung", "1"),
    ]


def test_a_second_run_begins_anew(tmp_path: Path) -> None:
    tables = EvaluationTables(tmp_path, MODALITIES)
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader([case("chest.png", "xray", [1, 0], [1, 0])], batch_size=1),
        torch.nn.Identity(),
        prepare_batch=prepare_case,
        inferer=Perfect(),
        val_handlers=[tables],
        decollate=False,
    )
    for _ in range(2):
        evaluator.run()
        assert json.loads((tmp_path / "metrics.json").read_text())["xray"]["lung"]["n"] == 1


def test_a_pair_that_does_not_match_is_a_failure_and_never_loaded() -> None:
    def check(entry: dict[str, Any]) -> PairFacts:
        return PairFacts([Finding("warning", "EMPTY_LABEL", "a"), Finding("error", "LABEL_AFFINE", "b")], "mr")

    def load(entry: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("not asked for")

    pair_check: Any = check
    assert EvaluationDataset([{"image": "a.nii", "label": "b.nii"}], load, pair_check)[0] == {
        "failure": "LABEL_AFFINE: b",
        "input": "a.nii",
        "modality": "mr",
        "domain": "",
    }


class Choosy(Perfect):
    """An inferer that fails on large values."""

    def __call__(self, inputs: torch.Tensor, network: Any) -> torch.Tensor:
        if int(inputs.max()) > 100:
            raise MemoryError("too much of it")
        return inputs


def test_cases_that_cannot_be_read_or_segmented_are_listed_and_stop_no_other(tmp_path: Path) -> None:
    def load(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["image"] == "bad.png":
            raise InputRefused("TRUNCATED", "bad.png is cut off.")
        return case(entry["image"], "xray", [entry["value"], 0], [1, 0], entry.get("domain", ""))

    entries = [
        {"image": "bad.png", "modality": "xray", "domain": "here"},
        {"image": "large.png", "value": 200, "domain": "here"},
        {"image": "good.png", "value": 1, "domain": "here"},
    ]
    tables = EvaluationTables(tmp_path, MODALITIES)
    SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(EvaluationDataset(entries, load), batch_size=1),
        torch.nn.Identity(),
        prepare_batch=prepare_case,
        iteration_update=EvaluationStep(),
        inferer=Choosy(),
        val_handlers=[tables],
        decollate=False,
    ).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {"xray"} and metrics["xray"]["lung"]["n"] == 1 and metrics["xray"]["lung"]["dice"] == 1.0
    with (tmp_path / "cases.csv").open() as file:
        rows = [
            (row["case"], row["modality"], row["domain"], row["dice"], row["reason"]) for row in csv.DictReader(file)
        ]
    assert rows == [
        ("good", "xray", "here", "1.0", ""),
        ("bad", "xray", "here", "", "TRUNCATED: bad.png is cut off."),
        ("large", "xray", "here", "", "INTERNAL_ERROR: MemoryError: too much of it"),
    ]
    with pytest.raises(SystemExit, match="8"):
        tables.finish()
