"""Inferers: the 2D network over images and volumes of any size."""

from __future__ import annotations

from .slice_batch import SliceBatchInferer
from .uncertainty import ImageUncertainty, Uncertainty

__all__ = ["ImageUncertainty", "SliceBatchInferer", "Uncertainty"]
