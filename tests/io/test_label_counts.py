"""label_counts: every value is counted once, however the array lies in memory."""

from __future__ import annotations

import numpy as np
import pytest

from esp_medsam_monai.io.label_counts import label_counts


@pytest.mark.parametrize("shape", [(60,), (5, 6), (5, 6, 7)])
def test_values_agree_with_unique(shape: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 1, 7, 255], np.uint8), size=shape)
    labels[0] = 0
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    expected = dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert len(expected) == 3
    for stored in (labels, np.asfortranarray(labels), labels[::-1]):
        assert label_counts(stored) == expected
    assert label_counts(np.zeros(shape, np.uint8)) == {}
