"""The cases with the lowest Dice as pictures: what the reference says, what the network says."""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing, to_affine_nd

from esp_medsam_monai.engines.case_metrics import CaseRow
from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.io import atomic_path
from esp_medsam_monai.io.panels import Color, Panel, draw_panel, slice_panel

__all__ = ["WorstCase", "WorstCases"]

MAX_PIXELS = 640
DPI = 150
SIZE = 2.2  # inches, of the longer side of a panel
HEAD = 0.58  # inches, above the panels
GAP = 0.04  # inches, between panels
LEAST_WIDTH = 4.6  # inches, for the heading
# Okabe and Ito's sky blue and yellow: told apart with every kind of colour vision, on red tissue and on grey.
COLORS: dict[int, Color] = {1: (86 / 255, 180 / 255, 233 / 255), 2: (240 / 255, 228 / 255, 66 / 255)}
TITLES = ("image", "reference", "prediction")
_OURS = "[0-9][0-9]*_dice[01].[0-9][0-9].png"


@dataclass(frozen=True, order=True)
class WorstCase:
    """One target of one case, with its picture; the worst sorts first.

    Args:
        rank: Dice, then minus the share of pixels that are wrong, then names: an order that all ranks agree on.
        row: what was measured.
        panels: the slice without contours, with the reference's, with the prediction's.
        aspect: height of a pixel over its width.
    """

    rank: tuple[float, float, str, str, str, str]
    row: CaseRow = field(compare=False)
    panels: tuple[Panel, ...] = field(compare=False)
    aspect: float = field(compare=False)


class WorstCases:
    """Keeps the worst of the cases that it is shown, as small pictures: memory does not grow with their number.

    Args:
        count: how many to keep; 0 for none.
    """

    def __init__(self, count: int = 10) -> None:
        if count < 0:
            raise ValueError(f"the number of worst cases should be 0 or more, got {count}.")
        self.count = count
        self.cases: list[WorstCase] = []

    def add(self, row: CaseRow, image: MetaTensor, predicted: torch.Tensor, reference: torch.Tensor) -> None:
        """Show it one target of a case.

        Args:
            row: what was measured; without a Dice there is nothing to show.
            image: ``(C, *spatial)``, values 0..255.
            predicted: where the prediction holds the target, boolean ``(1, *spatial)``.
            reference: where the reference does.
        """
        if row.dice is None:
            return
        wrong = predicted != reference
        rank = (row.dice, -float(wrong.float().mean()), row.modality, row.domain, row.input, row.target)
        if self.count and (len(self.cases) < self.count or rank < self.cases[-1].rank):
            panels, aspect = _panels(image, predicted, reference, wrong)
            self.merge([WorstCase(rank, row, panels, aspect)])

    def merge(self, cases: Iterable[WorstCase]) -> None:
        """Take what another process has kept, or a single case."""
        for case in cases:
            bisect.insort(self.cases, case)
        del self.cases[self.count :]

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Draw ``01_<case>_<target>_dice0.12.png`` and so on, and ``overview.png`` with all of them.

        Pictures of these names that an earlier evaluation left are removed.

        Args:
            folder: made when missing, if there is anything to draw.

        Returns:
            The files; the overview is the last.
        """
        folder = Path(folder)
        for old in (*folder.glob(_OURS), folder / "overview.png"):
            old.unlink(missing_ok=True)
        if not self.cases:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for number, case in enumerate(self.cases, start=1):
            name = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{case.row.case[:80]}_{case.row.target}")
            width, height = _size(case)
            room = (max(3 * width + 0.3, LEAST_WIDTH), height + HEAD + 0.15)
            figure = Figure(figsize=room)
            _draw(figure, case, number, room)
            written.append(_save(figure, folder / f"{number:02d}_{name}_dice{case.row.dice:.2f}.png"))
        return [*written, _save(_overview(self.cases), folder / "overview.png")]


def _panels(
    image: MetaTensor, predicted: torch.Tensor, reference: torch.Tensor, wrong: torch.Tensor
) -> tuple[tuple[Panel, ...], float]:
    """Of a volume the slice where prediction and reference differ most, upright."""
    plan = slice_plan(image.affine, image.shape[1:], None, image.meta.get("slice_axis"))
    index, caption = 0, ""
    if image.ndim == 4 and image.shape[1 + plan.axis] > 1:
        counts = wrong[0].sum(dim=[i for i in range(3) if i != plan.axis])
        counts = counts.flip(0) if plan.flips[0] else counts
        index = int(counts.argmax())
        caption = f"{index + 1} / {len(counts)}"
    picture = plan.to_slices(image, index, index + 1)
    masks = [torch.zeros_like(reference, dtype=torch.uint8), reference.to(torch.uint8), 2 * predicted.to(torch.uint8)]
    panels = [
        slice_panel(picture, plan.to_slices(mask, index, index + 1), caption if i == 0 else "", MAX_PIXELS)
        for i, mask in enumerate(masks)
    ]
    spacing = affine_to_spacing(to_affine_nd(3, image.affine.detach().cpu().numpy().astype(np.float64)))
    return tuple(panels), float(spacing[plan.order[-2]] / spacing[plan.order[-1]])


def _size(case: WorstCase) -> tuple[float, float]:
    """Width and height of a panel in inches."""
    height, width = case.panels[0].labels.shape
    longest = max(height * case.aspect, width)
    return SIZE * width / longest, SIZE * height * case.aspect / longest


def _draw(figure: Figure | SubFigure, case: WorstCase, number: int, room: tuple[float, float]) -> None:
    """Heading and the three panels.

    Args:
        figure: where.
        case: what.
        number: its place among the worst.
        room: width and height of the figure in inches.
    """
    across, up = room
    width, height = _size(case)
    left, bottom = (across - 3 * width) / 2 - GAP, up - HEAD - height
    for i, (panel, title) in enumerate(zip(case.panels, TITLES, strict=True)):
        place = ((left + i * (width + GAP)) / across, bottom / up, width / across, height / up)
        axes = figure.add_axes(place)
        draw_panel(axes, panel, COLORS, case.aspect)
        axes.set_title(title, fontsize=7.5, pad=2.5)
    row = case.row
    distance = "undefined" if row.hd95 is None else f"{row.hd95:.1f} {row.unit}"
    facts = [f"Dice {row.dice:.2f}", f"IoU {row.iou:.2f}", f"HD95 {distance}", f"surface Dice {row.nsd:.2f}"]
    facts += [_short(row.domain)] if row.domain else []
    name = f"{number}  {row.modality} {row.target.replace('_', ' ')}: {_short(row.case)}"
    # A file's name may hold two dollar signs, and what lies between them is no formula.
    style: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(0.1 / across, 1 - 0.06 / up, name, size=8.5, weight="bold", **style)
    figure.text(0.1 / across, 1 - 0.22 / up, "  ·  ".join(facts), size=7.5, **style)


def _short(text: str, most: int = 44) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 + 1 :]}"


def _overview(cases: Sequence[WorstCase]) -> Figure:
    columns = min(len(cases), 2)
    width = 3 * SIZE + 0.4
    rows = [cases[i : i + columns] for i in range(0, len(cases), columns)]
    heights = [max(_size(case)[1] for case in row) + HEAD + 0.15 for row in rows]
    figure = Figure(figsize=(columns * width, sum(heights)))
    parts: Any = figure.subfigures(len(rows), columns, squeeze=False, height_ratios=heights, wspace=0, hspace=0)
    for number, case in enumerate(cases):
        row = number // columns
        _draw(parts[row, number % columns], case, number + 1, (width, heights[row]))
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", facecolor="white")
    return path
