"""HD95 and surface Dice against distances worked out by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.distance import cdist

from esp_medsam_monai.engines import Grid, SurfaceTolerance, surface_metrics


def surface(mask: np.ndarray) -> np.ndarray:
    """Indices of the pixels of a mask that have a neighbour by a side that is not in it; beyond the edge is nothing."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)
    return np.argwhere(padded & ~inner) - 1


def brute_force(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> list[float]:
    distances = cdist(surface(first) * spacing, surface(second) * spacing)
    there, back = distances.min(axis=1), distances.min(axis=0)
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    return [max(np.percentile(there, 95), np.percentile(back, 95)), near / (len(there) + len(back))]


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((12, 9), (1.0, 1.0)), ((12, 9), (0.3, 2.5)), ((7, 8, 6), (1.0, 1.0, 1.0)), ((7, 8, 6), (0.7, 0.9, 3.1))],
)
def test_random_shapes_agree_with_brute_force(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    generator = np.random.default_rng(3)
    for _ in range(5):
        # Coarse blocks, so that masks have an inside.
        first, second = (np.kron(generator.random(shape) < 0.25, np.ones((2,) * len(shape))) > 0 for _ in range(2))
        found = surface_metrics(torch.from_numpy(first), torch.from_numpy(second), spacing, 1.3)
        assert found == pytest.approx(brute_force(first, second, spacing, 1.3), abs=1e-4)


def square(row: int, column: int, size: int = 10) -> torch.Tensor:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[row : row + size, column : column + size] = True
    return mask


def test_a_shifted_square_by_hand() -> None:
    """Shifted by 4 columns of 0.5 mm: the sides across it lie 2 mm apart, more than 5 % of its rim."""
    distance, _ = surface_metrics(square(10, 10), square(10, 14), (3.0, 0.5), 1.0)
    assert distance == pytest.approx(2.0)
    assert surface_metrics(square(10, 10), square(10, 14), (3.0, 0.5), 2.0)[1] == 1.0
    # 36 pixels make a rim. Within 1 mm of the other rim: along the shift 2 x 6 pixels that lie on it and 2 x 2 next to
    # its corners; the far side's 8 other pixels are 2 mm away; of the near side, inside the other square, 8 as well.
    assert surface_metrics(square(10, 10), square(10, 14), (3.0, 0.5), 1.0)[1] == pytest.approx(16 / 36)


def test_concentric_spheres_lie_apart_by_the_difference_of_their_radii() -> None:
    spacing = (1.0, 0.5, 2.0)
    axes = [np.arange(-20, 20 + step, step) for step in spacing]
    radius = np.sqrt(sum(grid**2 for grid in np.meshgrid(*axes, indexing="ij")))
    inner, outer = (torch.from_numpy(radius <= size) for size in (9, 14))
    distance, near = surface_metrics(inner, outer, spacing, 2.0)
    assert distance == pytest.approx(5, abs=1.2)  # voxels of up to 2 mm
    assert near == 0
    assert surface_metrics(inner, inner, spacing, 0.0) == (0, 1)


def test_a_neighbour_whose_distance_was_rounded_lies_within_the_tolerance() -> None:
    step = float(np.float32(1.00001))
    assert surface_metrics(square(10, 10), square(10, 11), (step, step), 1.0)[1] == 1.0
    assert surface_metrics(square(10, 10), square(10, 11), (1.01, 1.01), 1.0)[1] < 1.0


def image(shape: tuple[int, ...], sides: tuple[float, float, float], **meta: object) -> MetaTensor:
    return MetaTensor(torch.zeros(1, *shape), affine=torch.diag(torch.tensor([*sides, 1.0])), meta=meta)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (image((4, 5, 6), (-2.0, 1.0, 3.0)), Grid((4, 5, 6), (2, 1, 3), "mm")),
        (image((4, 5, 6), (1.0, 1.0, 1.0)), Grid((4, 5, 6), (1, 1, 1), "mm")),
        (image((4, 5, 1), (2.0, 1.0, 3.0)), Grid((4, 5), (2, 1), "mm")),
        (image((4, 1, 6), (2.0, 1.0, 3.0)), Grid((4, 6), (2, 3), "mm")),
        (image((4, 1, 1), (2.0, 1.0, 3.0)), Grid((4, 1), (2, 1), "mm")),
        (image((4, 5), (-1.0, -1.0, 1.0)), Grid((4, 5), (1, 1), "px")),  # a photograph
        (image((4, 5, 1), (-0.5, -0.5, 1.0), has_place=False), Grid((4, 5), (0.5, 0.5), "mm")),  # a radiograph
        (image((4, 5, 1), (-1.0, -1.0, 1.0), has_place=False), Grid((4, 5), (1, 1), "px")),
        (image((4, 5, 9), (-0.5, -0.5, 1.0), has_place=False), Grid((4, 5, 9), (1, 1, 1), "px")),  # frames of a film
    ],
)
def test_units_by_what_the_image_knows(picture: MetaTensor, expected: Grid) -> None:
    assert Grid.of(picture) == expected


def test_an_oblique_affine_has_the_lengths_of_its_axes() -> None:
    angle = 0.4
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    grid = Grid.of(MetaTensor(torch.zeros(1, 3, 3, 3), affine=turn @ scale))
    assert grid.spacing == pytest.approx((2, 3, 4))
    assert grid.diagonal == pytest.approx(np.sqrt(6**2 + 9**2 + 12**2))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="tolerances"):
        SurfaceTolerance(px=value)
