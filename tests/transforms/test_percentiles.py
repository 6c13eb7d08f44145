"""Percentiles by counting are those of numpy, and take no memory for it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import ScaleIntensityByModality
from esp_medsam_monai.transforms.percentiles import percentiles

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(0, 1000, size=(7, 5, 3)),
        RNG.normal(0, 1e-30, size=(9, 11)),
        RNG.integers(-3, 4, size=(6, 40)),
        np.array([[0.0, -0.0, 0.0]]),
        np.array([[5.0]]),
        np.array([[-2.0], [7.0]]),
        np.array([[-np.finfo(np.float32).max, 0.0, np.finfo(np.float32).max]]),
    ],
    ids=["normal", "tiny", "ties", "zeros", "one", "two", "extreme"],
)
@pytest.mark.parametrize("ranks", [(0.5, 99.5), (0.0, 100.0), (50.0, 33.3)])
def test_values_are_those_of_numpy(values: np.ndarray, ranks: tuple[float, float]) -> None:
    values = values.astype(np.float32)
    expected = np.percentile(values.astype(np.float64), ranks)
    np.testing.assert_allclose(percentiles(lambda: iter(values), ranks), expected, rtol=1e-12)


@pytest.mark.parametrize("modality", ["mr", "ct", "ultrasound"])
def test_scaling_takes_the_memory_of_its_result(modality: str) -> None:
    """No second volume: neither for what is finite, nor for sorting, nor in float64."""
    image = torch.from_numpy(RNG.integers(0, 3000, size=(1, 128, 128, 300)).astype(np.int16))
    tracemalloc.start()
    try:
        result = ScaleIntensityByModality()(image, modality)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * result.nbytes


@pytest.mark.parametrize("order", ["C", "F"])
def test_scaling_keeps_the_order_in_memory(order: str) -> None:
    """Slices of a volume that is stored slice by slice lie together, also afterwards."""
    array = np.asarray(RNG.integers(0, 99, size=(1, 4, 5, 6)), dtype=np.int16, order=order)  # type: ignore[call-overload]
    result = ScaleIntensityByModality()(torch.from_numpy(array), "ct")
    assert result.stride()[1:] == torch.from_numpy(array).stride()[1:]
