"""Networks whose every part matters: fresh ones have zeros and tiny weights that would hide mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from esp_medsam_monai.networks import ESPMedSAM

MODALITIES = {"xray": ["lung"], "mr": ["hippocampus_anterior", "hippocampus_posterior"], "fundus": ["vessel"]}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep signals of order one, as the golden outputs have them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            a = torch.randn(value.shape, generator=generator)
            if key.endswith("running_var"):
                a = 1 + 0.5 * torch.tanh(a)
            elif "quer" in key:
                pass
            elif value.ndim >= 2:
                a = a / value[0].numel() ** 0.5
            else:
                a = 1 + 0.1 * a if key.endswith("weight") else 0.1 * a
            value.copy_(a)
    return module.eval()


@pytest.fixture(scope="session")
def randomised() -> Callable[..., nn.Module]:
    """The function :func:`randomise`."""
    return randomise


@pytest.fixture(scope="module")
def net() -> ESPMedSAM:
    """Three modalities, one of them with two targets; tests that change it put it back."""
    return randomise(ESPMedSAM(MODALITIES, img_size=64))


@pytest.fixture(scope="session")
def images() -> Callable[..., torch.Tensor]:
    """Factory of images ``(count, 3, side, side)``."""

    def make(count: int = 1, side: int = 64, seed: int = 0) -> torch.Tensor:
        return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))

    return make
