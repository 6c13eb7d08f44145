"""From logits to label values, against numpy; and stretching, against the plain way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from esp_medsam_monai.geometry import resize
from esp_medsam_monai.inferers.decision import decide


@pytest.mark.parametrize("targets", [1, 2, 5])
def test_decision_is_the_largest_logit_of_those_that_are_not_below_zero(targets: int) -> None:
    """Whole numbers, so that zeros and ties occur; the first of equals wins."""
    logits = torch.randint(-3, 4, (3, targets, 9, 7), generator=torch.Generator().manual_seed(0)).float()
    values = [9, 3, 250, 1, 77][:targets]
    table = np.array(values, dtype=np.uint8)
    expected = np.where(logits.numpy().max(1) < 0, 0, table[logits.numpy().argmax(1)])
    found = decide(logits, values)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found[:, 0].numpy(), expected)


@pytest.mark.parametrize("size", [(20, 30), (10, 30), (7, 30), (30, 9), (5, 6)])
def test_stretching_is_antialiased_wherever_something_shrinks(size: tuple[int, int]) -> None:
    x = torch.rand((2, 3, 10, 15), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize(x, size), F.interpolate(x, size, mode="bilinear", antialias=True))
