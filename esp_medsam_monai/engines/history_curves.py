"""The curves of a training as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esp_medsam_monai.io import atomic_path

__all__ = ["draw_history"]

_TITLES = {"dice": "Dice", "kd": "distillation error"}
_WIDE = 20.0


def draw_history(epochs: list[dict[str, Any]], path: Path, metric: str = "dice") -> None:
    """Draw the loss with its parts, and beside it the metric of every modality with their mean, over the epochs.

    A metric with values below 0 is an error with its sign turned, so that larger is better: it is drawn as the error
    that it is, on a logarithmic axis. The loss gets one too when it falls by a factor of 20 or more.

    Args:
        epochs: rows of ``history.json``, see ``TrainingHistory``.
        path: PNG to write; it is replaced at once, so that a viewer never sees half a picture.
        metric: the metric's key in the rows.
    """
    # Not by pyplot: no window system, no global state.
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    marker = "o" if len(epochs) < 30 else ""
    _draw_loss(left, epochs, marker)
    _draw_metric(right, [row for row in epochs if metric in row], metric, marker)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _draw_loss(axes: Axes, epochs: list[dict[str, Any]], marker: str) -> None:
    losses = [row["loss"] for row in epochs]
    axes.plot([row["epoch"] for row in epochs], losses, color="#333333", marker=marker, markersize=3, label="loss")
    parts = sorted({name for row in epochs for name in row.get("loss_parts", {})})
    for name in parts:
        points = [(row["epoch"], row["loss_parts"][name]) for row in epochs if name in row.get("loss_parts", {})]
        axes.plot(*zip(*points, strict=True), linewidth=1.0, linestyle="--", label=name)
    axes.set(title="Training loss", xlabel="epoch", ylabel="mean of the epoch")
    if losses and min(losses) > 0 and max(losses) > _WIDE * min(losses):
        axes.set_yscale("log")
    if parts:
        axes.legend(frameon=False, fontsize=9)


def _draw_metric(axes: Axes, rows: list[dict[str, Any]], metric: str, marker: str) -> None:
    is_error = any(value < 0 for row in rows for value in row[metric].values())
    names = sorted({name for row in rows for name in row[metric]} - {"mean"})
    for name in [*names, "mean"]:
        points = [(row["epoch"], abs(row[metric][name])) for row in rows if name in row[metric]]
        if points:
            style: dict[str, Any] = {"color": "black", "linewidth": 2.4} if name == "mean" else {"linewidth": 1.3}
            x, y = zip(*points, strict=True)
            axes.plot(x, y, label=f"{name}  {y[-1]:.3g}", marker=marker, markersize=3, **style)
    axes.set(title=f"Validation {_TITLES.get(metric, metric)}", xlabel="epoch")
    if is_error:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 10 * low:  # within a decade, powers of ten say little
            for each in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                each(lambda y, _: f"{y:.3g}")
    else:
        axes.set_ylim(0, 1)
    if rows:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="last value", fontsize=9)
