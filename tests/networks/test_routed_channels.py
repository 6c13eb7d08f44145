"""RoutedChannels: each image gets the channels of its own targets, and trains no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esp_medsam_monai.networks import ABSENT_LOGIT, RoutedChannels

MODALITIES = {"xray": ["lung"], "mr": ["front", "back"]}


class Planes(nn.Module):
    """Channel k is k everywhere, plus a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = torch.arange(3.0) + self.offset
        return planes.view(1, 3, 1, 1).expand(len(x), 3, *x.shape[2:])


def test_channels_follow_the_table_and_absent_ones_are_marked():
    net = RoutedChannels(Planes(), MODALITIES, img_size=8)
    logits = net(torch.zeros(2, 3, 8, 8), ["mr", "xray"])
    assert logits.shape == (2, 2, 8, 8)
    assert logits[:, :, 0, 0].tolist() == [[1.0, 2.0], [0.0, ABSENT_LOGIT]]
    assert net(torch.zeros(1, 3, 8, 8), "xray").shape == (1, 1, 8, 8)
    assert torch.equal(net(torch.zeros(2, 3, 8, 8), ["mr", "xray"], return_features=True)["logits"], logits)


def test_a_loss_reaches_the_own_channels_alone():
    planes = Planes()
    RoutedChannels(planes, MODALITIES, img_size=8)(torch.zeros(1, 3, 8, 8), ["mr"]).sum().backward()
    assert planes.offset.grad.tolist() == [0.0, 64.0, 64.0]


def test_unknown_and_missing_modalities_are_refused():
    net = RoutedChannels(Planes(), MODALITIES, img_size=8)
    for modality in ("ct", None):
        with pytest.raises(ValueError, match="knows: xray, mr"):
            net(torch.zeros(1, 3, 8, 8), modality)
    assert RoutedChannels(Planes(), MODALITIES, 8, default_modality="mr")(torch.zeros(1, 3, 8, 8)).shape[1] == 2
