"""Dice per case, target and modality, with empty masks told apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from monai.metrics import compute_dice

__all__ = ["DiceRow", "by_target", "dice_rows", "dice_summary", "summarize"]

Row = TypeVar("Row", bound="DiceRow")


@dataclass(frozen=True)
class DiceRow:
    """Dice of one target in one case.

    Args:
        case: name of the case.
        modality: its modality.
        domain: name of the set that it comes from, empty if the datalist tells none.
        target: name of the target.
        dice: 0 to 1; None where neither reference nor prediction holds the target, which is right but no Dice.
        reference: pixels or voxels of the target in the reference.
        predicted: pixels or voxels of the target in the prediction.
    """

    case: str
    modality: str
    domain: str
    target: str
    dice: float | None
    reference: int
    predicted: int


def dice_rows(
    predicted: torch.Tensor,
    reference: torch.Tensor,
    values: Mapping[str, int],
    *,
    case: str,
    modality: str,
    domain: str = "",
) -> list[DiceRow]:
    """Compare two label images of one case, target by target, with MONAI's ``compute_dice``.

    Args:
        predicted: label values ``(1, *spatial)``.
        reference: label values ``(1, *spatial)`` on the same grid.
        values: ``{target: label value}`` of the case's modality.
        case: name of the case.
        modality: its modality.
        domain: name of its set.

    Returns:
        a row per target. A target that only the prediction holds has Dice 0.
    """
    if predicted.shape != reference.shape:
        raise ValueError(
            f"{case}: prediction {tuple(predicted.shape)} and label {tuple(reference.shape)} differ in shape."
        )
    rows = []
    for target, value in values.items():
        found, true = (predicted == value)[None], (reference == value)[None]
        sizes = int(true.sum()), int(found.sum())
        dice = float(compute_dice(found, true, include_background=True, ignore_empty=False)) if any(sizes) else None
        rows.append(DiceRow(case, modality, domain, target, dice, *sizes))
    return rows


def summarize(rows: Iterable[DiceRow]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean Dice and what belongs to it, per modality and target.

    Returns:
        ``{modality: {target: {"dice", "n", ...}}}``, see :func:`dice_summary`.
    """
    return {
        modality: {target: dice_summary(group) for target, group in targets.items()}
        for modality, targets in by_target(rows).items()
    }


def by_target(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Rows as ``{modality: {target: [rows]}}``, sorted by name."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.modality, row.target), []).append(row)
    table: dict[str, dict[str, list[Row]]] = {}
    for (modality, target), group in sorted(groups.items()):
        table.setdefault(modality, {})[target] = group
    return table


def dice_summary(rows: Sequence[DiceRow]) -> dict[str, Any]:
    """Dice of one target over cases.

    Returns:
        ``dice``, ``std`` and ``median``: mean, standard deviation and median over the ``n`` cases where reference or
        prediction hold the target (None when n is 0); ``both_empty`` cases are counted beside them, ``reference_empty``
        ones (only the prediction holds it, Dice 0) among them.
    """
    dice = [row.dice for row in rows if row.dice is not None]
    return {
        "dice": statistics.fmean(dice) if dice else None,
        "n": len(dice),
        "std": statistics.pstdev(dice) if dice else None,
        "median": statistics.median(dice) if dice else None,
        "both_empty": len(rows) - len(dice),
        "reference_empty": sum(row.reference == 0 and row.predicted > 0 for row in rows),
    }
