"""Dice, IoU, HD95 and surface Dice of every target of a case, with empty masks told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from monai.data import MetaTensor
from monai.metrics import compute_iou

from esp_medsam_monai.engines.dice_table import DiceRow, dice_rows
from esp_medsam_monai.engines.surface_metrics import Grid, SurfaceTolerance, surface_metrics

__all__ = ["CaseRow", "case_rows"]


@dataclass(frozen=True)
class CaseRow(DiceRow):
    """How well one target was found in one case.

    What empty masks count:

    ==================  ====  ===  ===  ===============================================
    the target is in    dice  iou  nsd  hd95
    ==================  ====  ===  ===  ===============================================
    neither             none  none none none
    reference alone     0     0    0    none; ``hd95_penalized`` is the image's diagonal
    prediction alone    0     0    0    none; ``hd95_penalized`` is the image's diagonal
    both                the metrics themselves; ``hd95_penalized`` is ``hd95``
    ==================  ====  ===  ===  ===============================================

    Args:
        iou: intersection over union, 0 to 1.
        hd95: 95th percentile of the Hausdorff distance.
        hd95_penalized: the same, and the diagonal of the image where one mask is empty: a mean that leaves such cases
            out rewards a network that finds nothing.
        nsd: normalised surface Dice at ``tolerance``, 0 to 1.
        unit: of distances and tolerance, ``mm`` or ``px``.
        tolerance: of the surface Dice.
        input: path of the image.
    """

    iou: float | None
    hd95: float | None
    hd95_penalized: float | None
    nsd: float | None
    unit: str
    tolerance: float
    input: str = ""


def case_rows(
    image: MetaTensor,
    predicted: torch.Tensor,
    reference: torch.Tensor,
    values: Mapping[str, int],
    tolerance: SurfaceTolerance | None = None,
    *,
    case: str,
    modality: str,
    domain: str = "",
) -> list[CaseRow]:
    """Compare two label images of one case, target by target: a volume as a whole in 3D, a picture or a slice in 2D.

    Args:
        image: ``(C, *spatial)``; its metadata give the size of the pixels.
        predicted: label values ``(1, *spatial)``.
        reference: label values ``(1, *spatial)`` on the same grid.
        values: ``{target: label value}`` of the targets that the reference states.
        tolerance: of the surface Dice, the defaults if None.
        case: name of the case.
        modality: its modality.
        domain: name of its set.

    Returns:
        a row per target.

    Raises:
        ValueError: when prediction and reference differ in shape.
    """
    grid = Grid.of(image)
    limit = (tolerance or SurfaceTolerance()).of(grid.unit)
    path = str(image.meta.get("filename_or_obj", ""))
    rows = []
    for row in dice_rows(predicted, reference, values, case=case, modality=modality, domain=domain):
        iou: float | None = None
        hd95: float | None = None
        penalized: float | None = None
        nsd: float | None = None
        if row.dice is not None:
            value = values[row.target]
            found, true = _box((predicted == value).reshape(grid.shape), (reference == value).reshape(grid.shape))
            iou = float(compute_iou(found[None, None], true[None, None], include_background=True, ignore_empty=False))
            if row.reference and row.predicted:
                hd95, nsd = surface_metrics(found, true, grid.spacing, limit)
                penalized = hd95
            else:
                penalized, nsd = grid.diagonal, 0.0
        rows.append(
            CaseRow(
                **vars(row),
                iou=iou,
                hd95=hd95,
                hd95_penalized=penalized,
                nsd=nsd,
                unit=grid.unit,
                tolerance=limit,
                input=path,
            )
        )
    return rows


def _box(found: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of both masks that holds anything: distances are slow, and the rest adds nothing to them.

    The surface stays the same: what lies at the edge of a box that was cut tight has nothing beyond it.
    """
    either = found | true
    box = []
    for axis in range(either.ndim):
        others = [i for i in range(either.ndim) if i != axis]
        filled = torch.nonzero(either.any(dim=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return found[tuple(box)], true[tuple(box)]
