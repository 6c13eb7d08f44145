"""Means over cases and what belongs to them: how sure they are, and what empty masks did to them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esp_medsam_monai.engines.case_metrics import CaseRow
from esp_medsam_monai.engines.dice_table import by_target, dice_summary
from esp_medsam_monai.io import atomic_path

__all__ = ["RULES", "bootstrap_ci95", "metric_summary", "summarize_by_domain", "summarize_cases", "write_summary"]

RESAMPLES = 2000

RULES = (
    "A target that neither reference nor prediction hold has no value (`both_empty`). One that only one of them holds "
    "has Dice, IoU and surface Dice 0 and no HD95 (`undefined`): the mean of HD95 is given without such cases, and "
    "with the image's diagonal in their place (`hd95_penalized`). n counts all but `both_empty`. Volumes are measured "
    "as a whole in 3D, pictures in 2D; distances are in mm where the size of the pixels is known, otherwise in pixels "
    "(px), and the two are never averaged together. The interval is a 95 % bootstrap interval of the mean Dice over "
    "cases."
)
"""What the numbers mean, for the reader of a table."""

_COLUMNS = (
    *("modality", "target", "n", "Dice", "95 %", "median", "IoU", "surface Dice", "HD95", "undefined"),
    *("HD95 penalized", "only predicted", "only in reference", "in neither"),
)


def summarize_cases(rows: Iterable[CaseRow], seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """All metrics per modality and target.

    Args:
        rows: of all cases.
        seed: of the bootstrap.

    Returns:
        ``{modality: {target: {"dice", "n", ...}}}``, see :func:`metric_summary`.
    """
    return {
        modality: {target: metric_summary(group, seed) for target, group in targets.items()}
        for modality, targets in by_target(rows).items()
    }


def summarize_by_domain(rows: Iterable[CaseRow], seed: int = 0) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """``{domain: {modality: {target: {"dice", "n", ...}}}}`` of the rows that name a domain."""
    domains: dict[str, list[CaseRow]] = {}
    for row in rows:
        if row.domain:
            domains.setdefault(row.domain, []).append(row)
    return {domain: summarize_cases(group, seed) for domain, group in sorted(domains.items())}


def metric_summary(rows: Sequence[CaseRow], seed: int = 0) -> dict[str, Any]:
    """All metrics of one target over cases.

    Returns:
        what :func:`~esp_medsam_monai.engines.dice_table.dice_summary` gives, and ``dice_ci95`` (see
        :func:`bootstrap_ci95`), ``prediction_empty`` (only the reference holds the target), ``iou`` (mean) and
        ``surface``: ``{"mm" or "px": {"n", "hd95", "undefined", "hd95_penalized", "nsd", "tolerance"}}``, where
        ``hd95`` is the mean over the ``n - undefined`` cases that have one and ``hd95_penalized`` the mean over all n.
    """
    counted = [row for row in rows if row.dice is not None]
    return {
        **dice_summary(rows),
        "dice_ci95": bootstrap_ci95([row.dice for row in counted if row.dice is not None], seed),
        "prediction_empty": sum(row.predicted == 0 for row in counted),
        "iou": _mean(row.iou for row in counted),
        "surface": {
            unit: _surface([row for row in counted if row.unit == unit])
            for unit in sorted({row.unit for row in counted})
        },
    }


def _surface(rows: Sequence[CaseRow]) -> dict[str, Any]:
    return {
        "n": len(rows),
        "hd95": _mean(row.hd95 for row in rows),
        "undefined": sum(row.hd95 is None for row in rows),
        "hd95_penalized": _mean(row.hd95_penalized for row in rows),
        "nsd": _mean(row.nsd for row in rows),
        "tolerance": rows[0].tolerance,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def bootstrap_ci95(values: Sequence[float], seed: int = 0) -> list[float] | None:
    """95 % confidence interval of a mean: percentiles of the means of resampled cases (Efron and Tibshirani 1993).

    Args:
        values: one per case, in any order.
        seed: the same seed and values give the same interval.

    Returns:
        lower and upper bound; None for fewer than two values.
    """
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    ordered = np.sort(values)
    means = [generator.choice(ordered, len(ordered)).mean() for _ in range(RESAMPLES)]
    return [float(bound) for bound in np.percentile(means, (2.5, 97.5))]


def write_summary(
    path: str | os.PathLike[str], table: Mapping[str, Mapping[str, Mapping[str, Any]]], failed: int = 0
) -> Path:
    """Write a table of Markdown, with the rules below it.

    Args:
        path: the file; it appears whole or not at all.
        table: see :func:`summarize_cases`.
        failed: number of cases that could not be evaluated.

    Returns:
        The path.
    """
    rows = [_COLUMNS, ("---", "---", *("--:",) * (len(_COLUMNS) - 2))]
    rows += [_line(modality, target, entry) for modality, targets in table.items() for target, entry in targets.items()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if failed:
        lines += ["", f"{failed} cases failed and are in none of the means; cases.csv says why."]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*lines, "", RULES, ""]), encoding="utf-8")
    return Path(path)


def _line(modality: str, target: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    def per_unit(key: str, decimals: int) -> str:
        parts = entry["surface"].items()
        return (
            "; ".join(f"{_text(part[key], decimals)} {unit}" for unit, part in parts if part[key] is not None) or "none"
        )

    ci = entry["dice_ci95"]
    nsd = [f"{_text(part['nsd'])} ({part['tolerance']:g} {unit})" for unit, part in entry["surface"].items()]
    return (
        *(modality, target, str(entry["n"]), _text(entry["dice"])),
        "none" if ci is None else f"{ci[0]:.3f} to {ci[1]:.3f}",
        *(_text(entry["median"]), _text(entry["iou"]), "; ".join(nsd) or "none", per_unit("hd95", 1)),
        str(sum(part["undefined"] for part in entry["surface"].values())),
        per_unit("hd95_penalized", 1),
        *(str(entry[key]) for key in ("reference_empty", "prediction_empty", "both_empty")),
    )


def _text(value: float | None, decimals: int = 3) -> str:
    return "none" if value is None else f"{value:.{decimals}f}"
