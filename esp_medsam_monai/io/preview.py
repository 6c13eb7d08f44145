"""One picture a case, so that a person can judge a mask at a glance."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing, to_affine_nd

from esp_medsam_monai.geometry import SlicePlan, slice_plan
from esp_medsam_monai.modalities import target_color

from .atomic import atomic_path
from .label_counts import label_counts
from .panels import BACKGROUND, TEXT, Color, Panel, draw_panel, halo, slice_panel

__all__ = ["PANELS", "informative_slices", "write_preview"]

PANELS = "Panels"
"""Text chunk of the PNG with the place of every panel: JSON list of (left, upper, right, lower), pixels."""

MAX_PANELS = 6
DPI = 120
PANEL_HEIGHT = {False: 3.4, True: 2.3}  # inches, of a picture and of a slice
WIDTH = (5.6, 13.0)  # inches, least and most
MUTED, WARNING = "#98a1b0", "#ffb454"
# Letters at the left and upper edge of the radiological picture, by the anatomical axis that slices are stacked along.
EDGES = {0: ("A", "S"), 1: ("R", "S"), 2: ("R", "A")}


def write_preview(
    path: str | os.PathLike[str],
    image: MetaTensor,
    mask: torch.Tensor,
    targets: Mapping[str, int],
    modality: str,
    title: str,
    warnings: Sequence[str] = (),
    axis: int | str | None = None,
) -> Path:
    """Draw slices with the contours of the targets on them.

    A volume gives a row of up to six slices, spread over those that hold something, in the radiological orientation
    and true proportions; a picture is shown without and with contours. Where the panels lie, the file says in its text
    chunk :data:`PANELS`.

    Args:
        path: the PNG to write; it appears whole or not at all.
        image: ``(C, *spatial)``, C = 1 or 3, values 0..255.
        mask: ``(1, *spatial)`` label values.
        targets: ``{target: label value}`` of the modality.
        modality: our name of the modality.
        title: name of the case.
        warnings: sentences to show above the picture.
        axis: axis that was asked for, as for the inferer.

    Returns:
        The path.
    """
    plan = slice_plan(image.affine, image.shape[1:], axis, image.meta.get("slice_axis"))
    # A single slice, for instance a radiograph in DICOM, is shown as the picture that it is.
    is_volume = image.ndim == 4 and image.shape[1 + plan.axis] > 1
    affine = to_affine_nd(3, image.affine.detach().cpu().numpy().astype(np.float64))
    spacing = affine_to_spacing(affine)
    panels = _volume_panels(plan, image, mask) if is_volume else _picture_panels(plan, image, mask)
    pixel = [float(spacing[i]) for i in plan.order[-2:]]
    height, width = panels[0].labels.shape
    ratio = (width * pixel[1]) / (height * pixel[0])

    facts = [modality, " x ".join(str(size) for size in image.shape[1:])]
    facts += [" x ".join(f"{size:.3g}" for size in spacing) + " mm"] if is_volume else []
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    entries = _legend(mask, targets, modality, voxel_ml if is_volume else None)
    figure, axes = _figure(len(panels), ratio, is_volume, title, " · ".join(facts), warnings, entries)
    colors = {value: color for _, color, value in entries}
    for index, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
        # The first panel of a picture shows it as it is.
        draw_panel(ax, panel, {} if not is_volume and index == 0 else colors, pixel[0] / pixel[1])
    if is_volume:
        _letters(axes[0], affine, plan)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor=BACKGROUND, metadata={PANELS: json.dumps(_boxes(figure, axes))})
    return Path(path)


def informative_slices(filled: Sequence[bool], count: int = MAX_PANELS) -> list[int]:
    """Indices of up to ``count`` slices, evenly spread over those that hold something, or over all if none does."""
    candidates = [i for i, found in enumerate(filled) if found]
    if not candidates:
        # Neither the first nor the last slice: they rarely show anything.
        positions = (np.arange(min(count, len(filled))) + 0.5) * len(filled) / min(count, len(filled))
        return [int(position) for position in positions]
    picks = np.linspace(0, len(candidates) - 1, min(count, len(candidates)))
    return [candidates[round(pick)] for pick in picks]


def _picture_panels(plan: SlicePlan, image: MetaTensor, mask: torch.Tensor) -> list[Panel]:
    panel = slice_panel(plan.to_slices(image), plan.to_slices(mask), "")
    return [panel, panel]


def _volume_panels(plan: SlicePlan, image: MetaTensor, mask: torch.Tensor) -> list[Panel]:
    count = image.shape[1 + plan.axis]
    largest = mask[0].detach().cpu().numpy().max(axis=tuple({0, 1, 2} - {plan.axis}))
    filled = (largest[::-1] if plan.flips[0] else largest) > 0
    return [
        slice_panel(plan.to_slices(image, i, i + 1), plan.to_slices(mask, i, i + 1), f"{i + 1} / {count}")
        for i in informative_slices(filled.tolist())
    ]


def _legend(
    mask: torch.Tensor, targets: Mapping[str, int], modality: str, voxel_ml: float | None
) -> list[tuple[str, Color, int]]:
    """Text, colour and label value of every target."""
    counts = label_counts(mask.detach().cpu().numpy().astype(np.uint8, copy=False)[0])
    entries = []
    for target, value in targets.items():
        red, green, blue = target_color(modality, target)
        count = counts.get(value, 0)
        if count == 0:
            size = "nothing found"
        elif voxel_ml is None:
            size = f"{count:,} pixels, {100 * count / mask.numel():.1f} %"
        else:
            size = f"{count:,} voxels, {count * voxel_ml:.2f} mL"
        entries.append((f"{target.replace('_', ' ')}: {size}", (red / 255, green / 255, blue / 255), value))
    return entries


def _figure(
    count: int,
    ratio: float,
    is_volume: bool,
    title: str,
    facts: str,
    warnings: Sequence[str],
    entries: Sequence[tuple[str, Color, int]],
) -> tuple[Figure, list[Axes]]:
    """A dark sheet with heading, legend and empty panels; all lengths in inches."""
    margin, gap = 0.15, 0.06
    panel = PANEL_HEIGHT[is_volume]
    content = count * panel * ratio + (count - 1) * gap
    most = WIDTH[1] - 2 * margin
    panel, content = (panel * most / content, most) if content > most else (panel, content)
    width = max(content + 2 * margin, WIDTH[0])
    lines = [line for text in warnings for line in textwrap.wrap(text[:1].upper() + text[1:], int(width / 0.078))]
    columns = max(1, min(len(entries), int(width / 3.2)))
    rows = -(-len(entries) // columns)
    head, foot = 0.58 + 0.18 * len(lines), 0.16 + 0.21 * rows
    height = head + panel + foot
    figure = Figure(figsize=(width, height))
    room = int(width / 0.115)
    name = title if len(title) <= room else f"{title[: room // 2 - 1]}…{title[-room // 2 + 1 :]}"
    # A file's name may hold two dollar signs, and what lies between them is no formula.
    style: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(margin / width, 1 - 0.14 / height, name, color=TEXT, size=11.5, weight="bold", **style)
    figure.text(margin / width, 1 - 0.35 / height, facts, color=MUTED, size=8.5, **style)
    for index, line in enumerate(lines):
        figure.text(margin / width, 1 - (0.55 + 0.18 * index) / height, line, color=WARNING, size=8.5, **style)
    left = (width - content) / 2
    each = (content - (count - 1) * gap) / count
    axes = [
        figure.add_axes(((left + i * (each + gap)) / width, foot / height, each / width, panel / height))
        for i in range(count)
    ]
    figure.legend(
        handles=[Patch(facecolor=color, label=text) for text, color, _ in entries],
        loc="lower left",
        bbox_to_anchor=((margin - 0.05) / width, 0.02 / height),
        ncols=columns,
        frameon=False,
        labelcolor=TEXT,
        fontsize=8.5,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.6,
        borderaxespad=0,
    )
    return figure, axes


def _boxes(figure: Figure, axes: Sequence[Axes]) -> list[list[int]]:
    """Left, upper, right and lower edge of every panel in pixels of the file."""
    width, height = (side * DPI for side in figure.get_size_inches())
    boxes = [ax.get_position() for ax in axes]
    return [
        [round(box.x0 * width), round((1 - box.y1) * height), round(box.x1 * width), round((1 - box.y0) * height)]
        for box in boxes
    ]


def _letters(ax: Axes, affine: np.ndarray, plan: SlicePlan) -> None:
    """Say which side of the patient is at the left and at the top."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # The anatomical axis that neither rows nor columns run along, as the plan chose them.
    column, row = (int(np.abs(direction[:, plan.order[i]]).argmax()) for i in (-1, -2))
    left, top = EDGES.get(3 - column - row, ("", ""))
    for x, y, letter, across, along in ((0.03, 0.5, left, "left", "center"), (0.5, 0.98, top, "center", "top")):
        ax.text(x, y, letter, ha=across, va=along, transform=ax.transAxes, color=TEXT, size=8, path_effects=halo())
