"""NormalizeSlices: against segment-anything's own preprocessing, and the published divisor against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import NormalizeSlices, NormalizeSlicesd
from segment_anything.modeling import Sam


def test_sam_divisor_equals_segment_anything():
    sam = Sam(torch.nn.Module(), torch.nn.Module(), torch.nn.Module())
    x = torch.rand(2, 3, 8, 6) * 255
    assert torch.allclose(NormalizeSlices("sam")(x), (x - sam.pixel_mean) / sam.pixel_std, atol=1e-6)


def test_published_divisor_is_the_mean():
    x = torch.full((1, 3, 2, 2), 255.0)
    expected = [255 / 123.675 - 1, 255 / 116.28 - 1, 255 / 103.53 - 1]
    np.testing.assert_allclose(NormalizeSlices("published")(x)[0, :, 0, 0].numpy(), expected, rtol=1e-5)


def test_grey_becomes_three_channels():
    grey = (torch.rand(2, 1, 5, 5) * 255).to(torch.uint8)
    normalize = NormalizeSlices()
    result = normalize(grey)
    assert result.shape == (2, 3, 5, 5)
    assert result.dtype == torch.float32
    assert torch.equal(result, normalize(grey.expand(2, 3, 5, 5)))
    assert torch.equal(NormalizeSlicesd("image")({"image": grey[1]})["image"], result[1])


def test_wrong_use_is_told():
    with pytest.raises(ValueError, match="published"):
        NormalizeSlices("std")
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\)"):
        NormalizeSlices()(torch.zeros(1, 2, 4, 4))
