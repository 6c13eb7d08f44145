"""Means of cases by hand: empty masks, units and domains kept apart, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esp_medsam_monai.engines import CaseRow, metric_summary, summarize_by_domain, summarize_cases, write_summary
from esp_medsam_monai.engines.metric_table import bootstrap_ci95


def row(dice: float | None, hd95: float | None = None, penalized: float | None = None, **other: Any) -> CaseRow:
    fields: dict[str, Any] = {
        "case": "c",
        "modality": "xray",
        "domain": "",
        "target": "lung",
        "reference": 5,
        "predicted": 5,
        "iou": dice,
        "nsd": dice,
        "unit": "px",
        "tolerance": 2.0,
        "hd95": hd95,
    }
    return CaseRow(**{**fields, "dice": dice, "hd95_penalized": hd95 if penalized is None else penalized, **other})


def test_a_case_without_hd95_is_counted_and_stands_in_the_second_mean() -> None:
    rows = [
        row(1.0, 2.0),
        row(0.8, 4.0),
        row(0.0, penalized=100.0, predicted=0),
        row(0.0, penalized=50.0, reference=0),
        row(None, reference=0, predicted=0),
    ]
    entry = metric_summary(rows)
    assert {name: entry[name] for name in ("n", "both_empty", "reference_empty", "prediction_empty")} == {
        "n": 4,
        "both_empty": 1,
        "reference_empty": 1,
        "prediction_empty": 1,
    }
    assert (entry["dice"], entry["iou"]) == (pytest.approx(0.45), pytest.approx(0.45))
    assert entry["surface"] == {
        "px": {
            "n": 4,
            "hd95": 3.0,
            "undefined": 2,
            "hd95_penalized": 39.0,
            "nsd": pytest.approx(0.45),
            "tolerance": 2.0,
        }
    }


def test_millimetres_and_pixels_are_never_averaged_together(tmp_path: Path) -> None:
    table = summarize_cases([row(1.0, 2.0), row(0.5, 30.0, unit="mm", tolerance=1.0)])
    surface = table["xray"]["lung"]["surface"]
    assert {unit: (part["n"], part["hd95"]) for unit, part in surface.items()} == {"mm": (1, 30.0), "px": (1, 2.0)}
    text = write_summary(tmp_path / "summary.md", table, failed=3).read_text()
    assert "| xray | lung | 2 | 0.750 |" in text
    assert "| 30.0 mm; 2.0 px | 0 | 30.0 mm; 2.0 px | 0 | 0 | 0 |" in text
    assert "3 cases failed" in text


def test_modalities_of_one_domain_stay_apart() -> None:
    rows = [
        row(1.0, 0.0, domain="here", target="lesion"),
        row(0.0, 9.0, domain="here", target="lesion", modality="mr"),
        row(0.5, 1.0),
    ]
    table = summarize_by_domain(rows)
    assert {name: {m: t["lesion"]["dice"] for m, t in part.items()} for name, part in table.items()} == {
        "here": {"mr": 0.0, "xray": 1.0}
    }


def test_nothing_but_empty_masks_has_no_means(tmp_path: Path) -> None:
    table = summarize_cases([row(None, reference=0, predicted=0)])
    entry = table["xray"]["lung"]
    assert (entry["n"], entry["dice"], entry["dice_ci95"], entry["iou"], entry["surface"]) == (0, None, None, None, {})
    assert "| none |" in write_summary(tmp_path / "summary.md", table).read_text()


def test_the_interval_is_that_of_a_normal_mean() -> None:
    """For many values a mean is normal: 1.96 standard errors to either side."""
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    low, high = bootstrap_ci95(values.tolist()) or (0, 0)
    error = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == (
        pytest.approx(values.mean() - error, abs=1e-3),
        pytest.approx(values.mean() + error, abs=1e-3),
    )
    assert bootstrap_ci95(values[::-1].tolist()) == [low, high]
    assert bootstrap_ci95(values.tolist(), seed=1) != [low, high]
    assert bootstrap_ci95([0.5]) is None
