"""One slice of an image with the contours of a mask on it, as every picture of ours shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

__all__ = ["BACKGROUND", "TEXT", "Color", "Panel", "draw_panel", "halo", "slice_panel"]

Color = tuple[float, float, float]
"""Red, green, blue in 0..1."""

BACKGROUND, TEXT = "#0e1116", "#f2f4f8"
"""Colours of a dark sheet and of the letters on it."""

TINT = 0.22
"""Opacity of a target's area."""

MAX_PIXELS = 1024


@dataclass(frozen=True)
class Panel:
    """One slice as it is shown.

    Args:
        picture: ``(H, W, 3)``, uint8.
        labels: ``(H, W)`` label values, uint8, 0 for background; a copy, which keeps no volume in memory.
        caption: letters in the lower left corner.
    """

    picture: np.ndarray
    labels: np.ndarray
    caption: str = ""


def slice_panel(picture: torch.Tensor, labels: torch.Tensor, caption: str = "", most: int = MAX_PIXELS) -> Panel:
    """Panel of a slice, made small enough to draw.

    Args:
        picture: ``(1, C, H, W)``, C = 1 or 3, values 0..255.
        labels: ``(1, 1, H, W)`` label values.
        caption: see :class:`Panel`.
        most: longest side of the result in pixels.
    """
    step = -(-max(picture.shape[-2:]) // most)
    small = torch.nn.functional.avg_pool2d(picture.float(), step, ceil_mode=True) if step > 1 else picture.float()
    # Bytes: matplotlib computes on pictures of floats in double precision, with copies that are as large each.
    shown = small.clamp(0, 255).round().to(torch.uint8).expand(-1, 3, -1, -1)[0].permute(1, 2, 0)
    return Panel(shown.cpu().numpy(), labels[0, 0, ::step, ::step].cpu().numpy().astype(np.uint8), caption)


def draw_panel(ax: Axes, panel: Panel, colors: Mapping[int, Color], aspect: float) -> None:
    """A slice, a light tint and a contour for every target.

    Args:
        ax: where.
        panel: what.
        colors: ``{label value: colour}``; values without a colour are not drawn.
        aspect: height of a pixel over its width.
    """
    ax.set_axis_off()
    ax.imshow(panel.picture, aspect=aspect, interpolation="bilinear")
    height, width = panel.labels.shape
    tint = np.zeros((height, width, 4), dtype=np.uint8)
    for value, color in colors.items():
        inside = panel.labels == value
        if not inside.any():
            continue
        tint[inside] = [round(255 * part) for part in (*color, TINT)]
        # A rim of zeros closes the contours of what touches the edge. Only the box around the target: a contour keeps
        # its coordinates and values in double precision until the sheet is drawn.
        filled = [np.flatnonzero(inside.any(axis)) for axis in (1, 0)]
        (top, bottom), (left, right) = [(int(index[0]), int(index[-1]) + 1) for index in filled]
        contour = ax.contour(
            np.arange(left - 1, right + 1),
            np.arange(top - 1, bottom + 1),
            np.pad(inside[top:bottom, left:right], 1).astype(np.uint8),
            levels=[0.5],
            colors=[color],
            linewidths=1.0,
        )
        # A dark rim below: a contour must not vanish on tissue of its own colour.
        contour.set_path_effects([withStroke(linewidth=2.2, foreground=BACKGROUND)])
    ax.imshow(tint, aspect=aspect, interpolation="nearest")
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.text(0.03, 0.03, panel.caption, transform=ax.transAxes, color=TEXT, size=7.5, path_effects=halo())


def halo() -> list[withStroke]:
    """A dark rim that keeps letters readable on bright pixels."""
    return [withStroke(linewidth=2, foreground=BACKGROUND)]
