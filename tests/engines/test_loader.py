"""The loader: pinned memory for a GPU alone."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.engines import cached_loader
from tests.engines.small_training import Items


@pytest.mark.parametrize(("device", "pinned"), [(None, False), ("cpu", False), ("cuda", True), ("cuda:1", True)])
def test_memory_is_pinned_for_a_gpu(device, pinned):
    given = device if device is None else torch.device(device)
    assert cached_loader(Items(), 2, device=given).pin_memory is pinned
    assert cached_loader(Items(), 2, device=device, pin_memory=False).pin_memory is False
