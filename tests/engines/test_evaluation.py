"""An evaluation of whole cases: its files, and the cases that cannot be evaluated."""

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
from PIL import Image

from esp_medsam_monai.engines import (
    EvaluationDataset,
    EvaluationStep,
    EvaluationTables,
    PairCheck,
    prepare_case,
    read_datalist,
)
from esp_medsam_monai.engines.pair_check import Finding, PairFacts
from esp_medsam_monai.errors import InputRefused

MODALITIES = {"xray": ["lung"], "mr": ["front", "back"]}


def image(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, -1, 1)


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
    by_domain = json.loads((tmp_path / "out" / "metrics_by_domain.json").read_text())
    assert by_domain == {"hospital": {"mr": metrics["mr"]}}
    assert (tmp_path / "out" / "summary.md").read_text().startswith("| modality | target | n | Dice |")
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {
        *("dice.png", "dice_by_domain.png", "hd95_px.png", "hd95_px_by_domain.png"),
    }
    assert [path.name for path in sorted((tmp_path / "out" / "worst").iterdir())] == [
        *("01_brain.one_back_dice0.67.png", "02_chest_lung_dice0.67.png", "03_brain.one_front_dice1.00.png"),
        *("04_series.2_lung_dice1.00.png", "overview.png"),
    ]
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


def test_targets_that_a_reference_does_not_speak_of_are_left_out(tmp_path: Path) -> None:
    whole, part = (case(name, "mr", [2, 3], [0, 3]) for name in ("a.nii", "b.nii"))
    tables = EvaluationTables(tmp_path, MODALITIES)
    SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader([{**whole, "labelled": ""}, {**part, "labelled": "back"}], batch_size=1),
        torch.nn.Identity(),
        prepare_batch=prepare_case,
        inferer=Perfect(),
        val_handlers=[tables],
        decollate=False,
    ).run()
    assert [(row.case, row.target, row.dice) for row in tables.rows] == [
        *(("a", "front", 0.0), ("a", "back", 1.0), ("b", "back", 1.0)),
    ]


def test_what_all_ranks_measured_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two handlers stand for two processes; the second one gathers what the first has sent."""
    sent: list[Any] = []
    monkeypatch.setattr("esp_medsam_monai.engines.evaluation_tables.gather_objects", lambda x: [*sent, x])
    cases = [case(f"{i}.png", "xray", [1, 0, 1, 0], [1, 0, i % 2, 0], "here") for i in range(4)]
    cases.append({"failure": "TRUNCATED: cut off.", "input": "bad.png", "modality": "xray", "domain": "here"})

    def run(folder: Path, part: list[dict[str, Any]]) -> EvaluationTables:
        tables = EvaluationTables(folder, MODALITIES, worst_cases=3)
        SupervisedEvaluator(
            torch.device("cpu"),
            DataLoader(part, batch_size=1),
            torch.nn.Identity(),
            prepare_batch=prepare_case,
            iteration_update=EvaluationStep(),
            inferer=Perfect(),
            val_handlers=[tables],
            decollate=False,
        ).run()
        return tables

    whole = run(tmp_path / "one", cases)
    first = run(tmp_path / "first", cases[1::2])
    sent.append((first.rows, first.failures, first.worst.cases))
    second = run(tmp_path / "two", cases[::2])
    assert second.rows == whole.rows
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 12
    for file in files:
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    with pytest.raises(SystemExit, match="8"):
        second.finish()


def test_a_case_that_cannot_be_compared_stops_no_other(tmp_path: Path) -> None:
    broken = case("broken.png", "xray", [1, 0], [1, 0])
    broken["label"] = MetaTensor(image([1, 0, 0]))
    tables = EvaluationTables(tmp_path, MODALITIES)
    SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader([broken, case("good.png", "xray", [1, 0], [1, 0])], batch_size=1),
        torch.nn.Identity(),
        prepare_batch=prepare_case,
        inferer=Perfect(),
        val_handlers=[tables],
        decollate=False,
    ).run()
    assert [row.case for row in tables.rows] == ["good"]
    assert [(row["case"], "differ in shape" in row["reason"]) for row in tables.failures] == [("broken", True)]


def test_an_entry_without_a_label_is_a_failure(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    entries = [{"image": "a.png", "modality": "xray"}, {"image": "a.png", "label": "a.png", "modality": "xray"}]
    (tmp_path / "list.json").write_text(json.dumps({"test": entries}))
    read = read_datalist(tmp_path / "list.json", "test", labels="optional")
    assert [("label" in entry) for entry in read] == [False, True]
    with pytest.raises(ValueError, match=r"test\[0\]: needs the paths 'image' and 'label'"):
        read_datalist(tmp_path / "list.json", "test")

    dataset = EvaluationDataset(read, lambda entry: {"loaded": entry["label"]}, PairCheck(MODALITIES))
    assert dataset[0]["failure"].startswith(f"NO_LABEL: {tmp_path / 'a.png'}")
    assert dataset[0]["modality"] == "xray"
    assert dataset[1] == {"loaded": str(tmp_path / "a.png")}


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
