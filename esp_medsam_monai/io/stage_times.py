"""Where the time of a run went: the stages that a case goes through, and their sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["STAGES", "total_seconds"]

STAGES = ("read", "prepare", "network", "write")
"""What a case goes through.

``read``: file to memory. ``prepare``: routing and intensities before the network; around it turning, stretching and
deciding slices. ``network``: forward passes alone. ``write``: mask, preview, DICOM SEG, statistics, hashes. Stages of
different cases run at the same time, so their sum over a run is more than what a clock on the wall shows."""


def total_seconds(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum of each stage over the cases that a run has done.

    Args:
        rows: rows of a report; those that were not done by this run, or failed, do not count.
    """
    done = [row.get("seconds_by_stage") or {} for row in rows if row["status"] == "done"]
    return {stage: round(sum(times.get(stage, 0.0) for times in done), 3) for stage in STAGES}
