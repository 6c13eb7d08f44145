"""Box plots of a metric: a box for every target and a point for every case."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure

from esp_medsam_monai.engines.case_metrics import CaseRow
from esp_medsam_monai.io import atomic_path
from esp_medsam_monai.modalities import target_color

__all__ = ["write_box_plot", "write_box_plots"]

MEDIAN, LINE, FILL, OUTLINE, PENALTY = "#111111", "#555555", "#f1f1f1", "#333333", "#c1121f"


def write_box_plots(folder: str | os.PathLike[str], rows: Sequence[CaseRow]) -> list[Path]:
    """Draw ``dice.png`` and ``hd95_mm.png`` or ``hd95_px.png``, and the same per domain where the rows name domains.

    Pictures of these names that an earlier evaluation left are removed.

    Args:
        folder: made when missing.
        rows: of all cases; those without a value are not drawn.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counted = [row for row in rows if row.dice is not None]
    written = []
    for ending, named in (("", False), ("_by_domain", True)):
        if named and not any(row.domain for row in counted):
            continue
        views = {"dice": (counted, "Dice")}
        for unit in ("mm", "px"):
            views[f"hd95_{unit}"] = ([row for row in counted if row.unit == unit], f"HD95 ({unit})")
        for name, (group, label) in views.items():
            if group:
                path = folder / f"{name}{ending}.png"
                written.append(write_box_plot(path, _grouped(group, named), label, distance=name != "dice"))
    for name in ("dice", "hd95_mm", "hd95_px", "dice_by_domain", "hd95_mm_by_domain", "hd95_px_by_domain"):
        if folder / f"{name}.png" not in written:
            (folder / f"{name}.png").unlink(missing_ok=True)
    return written


def _grouped(rows: Sequence[CaseRow], by_domain: bool) -> dict[tuple[str, ...], list[CaseRow]]:
    groups: dict[tuple[str, ...], list[CaseRow]] = {}
    for row in rows:
        key = (row.modality, row.target, *((row.domain or "no domain",) if by_domain else ()))
        groups.setdefault(key, []).append(row)
    return dict(sorted(groups.items()))


def write_box_plot(
    path: str | os.PathLike[str],
    groups: Mapping[tuple[str, ...], Sequence[CaseRow]],
    label: str,
    distance: bool = False,
) -> Path:
    """Draw a row for every group: quartiles, median, whiskers (Tukey's: 1.5 times the box's length at most), all cases.

    Args:
        path: the PNG; it appears whole or not at all.
        groups: ``{(modality, target, further words ...): rows}``, rows with a value.
        label: of the axis.
        distance: draw HD95 instead of Dice; cases without one lie at their penalty, as red crosses.

    Returns:
        The path.
    """
    figure = Figure(figsize=(8.5, 1.15 + 0.42 * len(groups)), layout="constrained")
    axes = figure.subplots()
    ticks = {}
    smallest, largest, penalties = np.inf, 0.0, False
    for position, (key, rows) in zip(range(len(groups), 0, -1), groups.items(), strict=True):
        ticks[position] = f"{_name(key)}  (n = {len(rows)})"
        values = np.array([row.hd95_penalized if distance else row.dice for row in rows], dtype=float)
        undefined = np.array([distance and row.hd95 is None for row in rows], dtype=bool)
        _draw_box(axes, position, values)
        _draw_points(axes, position, values, undefined, target_color(key[0], key[1]))
        smallest, largest = min(smallest, float(values.min())), max(largest, float(values.max()))
        penalties = penalties or bool(undefined.any())
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set_ylim(0.4, len(groups) + 0.6)
    if distance:
        _distance_axis(axes, smallest, largest)
    else:
        axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"{label}; red crosses: one mask is empty, hence the image's diagonal" if penalties else label)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", facecolor="white")
    return Path(path)


def _name(key: tuple[str, ...]) -> str:
    modality, target, *further = key
    return " · ".join([f"{modality} {target.replace('_', ' ')}", *further])


def _distance_axis(axes: Axes, smallest: float, largest: float) -> None:
    """Most cases differ by little and a few by much: logarithmic, but linear below 1, for there are zeros."""
    steps = [0.0, 0.5, *(factor * 10.0**power for power in range(9) for factor in (1, 2, 5))]
    first = max(step for step in steps if step <= smallest)
    last = next((step for step in steps if step >= max(largest, 1)), largest)
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xticks([step for step in steps if first <= step <= last])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(first, last)
    # Points at the ends are shown whole.
    for collection in axes.collections:
        collection.set_clip_on(False)


def _draw_box(axes: Axes, position: int, values: np.ndarray) -> None:
    """Drawn by hand, because the names of ``boxplot``'s options differ between releases of matplotlib."""
    (stats,) = boxplot_stats(values)
    low, high, height = stats["q1"], stats["q3"], 0.62
    axes.barh(position, high - low, left=low, height=height, facecolor=FILL, edgecolor=LINE, linewidth=0.9)
    axes.hlines([position] * 2, [stats["whislo"], high], [low, stats["whishi"]], color=LINE, linewidth=0.9)
    ends = [position - height / 4] * 2, [position + height / 4] * 2
    axes.vlines([stats["whislo"], stats["whishi"]], *ends, color=LINE, linewidth=0.9)
    axes.vlines(stats["med"], position - height / 2, position + height / 2, color=MEDIAN, linewidth=2, zorder=5)


def _draw_points(
    axes: Axes, position: int, values: np.ndarray, undefined: np.ndarray, color: tuple[int, int, int]
) -> None:
    # The same cloud for the same number of cases: a picture drawn again is the same picture.
    heights = position + np.random.default_rng(0).uniform(-1, 1, len(values)) * (0.24 if len(values) > 5 else 0.1)
    size, alpha = (20, 0.85) if len(values) <= 60 else (11, 0.6) if len(values) <= 300 else (6, 0.4)
    shade = tuple(channel / 255 for channel in color)
    style: dict[str, Any] = {"alpha": alpha, "edgecolors": OUTLINE, "linewidths": 0.3, "zorder": 3}
    axes.scatter(values[~undefined], heights[~undefined], s=size, color=shade, **style)
    axes.scatter(values[undefined], heights[undefined], s=22, color=PENALTY, marker="x", linewidths=0.9, zorder=4)
