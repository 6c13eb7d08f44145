"""An analytic network and images for it, for tests of the inferer."""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.data import MetaTensor, list_data_collate


class Bright(nn.Module):
    """Analytic stand-in: target k is where the first channel exceeds its threshold; remembers what it was given."""

    def __init__(self, modalities=None, thresholds=(100.0, 200.0), img_size=32):
        super().__init__()
        self.modalities = modalities or {"xray": ("lung",), "mr": ("grey", "white")}
        self.thresholds = thresholds
        self.img_size = img_size
        self.calls: list[tuple[tuple[int, ...], object, dict]] = []
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, modality=None, **kwargs):
        self.calls.append((tuple(x.shape), modality, kwargs))
        count = len(self.modalities[modality or "xray"])
        # The second target's logit rises faster, so that it wins where both are positive.
        logits = [10**k * (x[:, :1] - self.thresholds[k]) for k in range(count)]
        return torch.cat(logits, dim=1) * self.scale


def boxes(shape=(12, 10, 8), affine=None, **meta) -> MetaTensor:
    """Noise below 50 with a box at 150 that holds a smaller one at 255."""
    x = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1)) * 50
    x[:, 2:10, 2:9, 1:7] = 150
    x[:, 4:7, 4:6, 3:5] = 255
    return MetaTensor(x, affine=torch.eye(4) if affine is None else affine, meta=dict(meta))


def batch(*images: MetaTensor) -> MetaTensor:
    return list_data_collate([{"image": image} for image in images])["image"]
