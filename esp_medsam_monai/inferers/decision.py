"""From logits to label values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["decide"]


def decide(logits: torch.Tensor, values: Sequence[int]) -> torch.Tensor:
    """Label of every pixel: 0 where all logits are below 0, otherwise the value of the target with the largest.

    Args:
        logits: ``(S, K, H, W)``.
        values: label value of each of the K targets, 1..255.

    Returns:
        uint8 ``(S, 1, H, W)``.
    """
    # Target by target: indices of the largest would take eight bytes a pixel, and twice the time.
    largest = logits[:, :1]
    labels = (largest >= 0).to(torch.uint8) * values[0]
    for channel, value in enumerate(values[1:], start=1):
        logit = logits[:, channel : channel + 1]
        labels.masked_fill_((logit >= 0) & (logit > largest), value)
        largest = torch.maximum(largest, logit)
    return labels
