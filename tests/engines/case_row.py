"""A measured case for tests of tables and pictures."""

from __future__ import annotations

from esp_medsam_monai.engines import CaseRow

ROW = CaseRow(
    case="c",
    modality="mr",
    domain="",
    target="front",
    dice=0.5,
    reference=1,
    predicted=1,
    iou=0.5,
    hd95=4.0,
    hd95_penalized=4.0,
    nsd=0.5,
    unit="mm",
    tolerance=1.0,
)
