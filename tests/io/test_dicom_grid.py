"""Where the tolerances of an even grid end, to either side."""

from __future__ import annotations

import numpy as np
import pytest

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.dicom_grid import Grid, arrange
from esp_medsam_monai.io.rules import ReadingRules
from tests.conftest import AXIAL


def _arranged(positions, thickness: float = 1.0, **switches: bool) -> Grid:
    points = [point if isinstance(point, tuple) else (0.0, 0.0, point) for point in positions]
    return arrange(points, AXIAL, (0.5, 0.7), thickness, "a series", ReadingRules(**switches))


def _code(positions, **switches: bool) -> str:
    with pytest.raises(InputRefused) as caught:
        _arranged(positions, **switches)
    return caught.value.code


def test_a_slice_may_lie_off_by_one_percent():
    assert _arranged((0, 10, 20.09, 30, 40)).count == 5
    assert _code((0, 10, 20.12, 30, 40)) == "UNEVEN_SPACING"


def test_of_thin_slices_by_a_hundredth_of_a_millimetre():
    assert _arranged((0, 0.5, 1.009, 1.5, 2)).count == 5
    assert _code((0, 0.5, 1.012, 1.5, 2)) == "UNEVEN_SPACING"


def test_what_lies_further_apart_is_no_duplicate():
    assert _code((0, 1, 1.009, 2, 3)) == "DUPLICATE_POSITIONS"
    assert _code((0, 1, 1.02, 2, 3)) == "UNEVEN_SPACING"


def test_the_error_of_several_steps_adds_up():
    """Three steps of 10 mm may be off by three times 0.1 mm; many steps by no more than five."""
    assert _code((0, 10, 20, 50.25, 60.25)) == "MISSING_SLICES"
    assert _code((0, 10, 20, 50.35, 60.35)) == "UNEVEN_SPACING"
    assert _code((0, 10, 20, 100.6, 110.6)) == "UNEVEN_SPACING"


def test_more_than_twice_the_usual_step_is_never_uneven():
    assert _arranged((0, 2, 4, 7.9, 9.9), allow_uneven_spacing=True).count == 5
    assert _code((0, 2, 4, 8.3, 10.3), allow_uneven_spacing=True) == "UNEVEN_SPACING"


def test_how_far_off_the_line_a_slice_may_lie():
    for step, passes, refused in ((1.0, 0.015, 0.03), (10.0, 0.09, 0.12)):
        heights = [step * k for k in range(5)]
        for shift, expected in ((passes, None), (refused, "IRREGULAR_POSITIONS")):
            line = [(0.0, shift * (k == 2), height) for k, height in enumerate(heights)]
            assert (_arranged(line).count == 5) if expected is None else (_code(line) == expected)


def test_a_single_slice_has_its_thickness():
    np.testing.assert_allclose(_arranged([7.0], thickness=4.0).affine, np.diag([-0.5, -0.7, 4.0, 1.0]) + _raised(7.0))


def _raised(height: float) -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[2, 3] = height
    return matrix
