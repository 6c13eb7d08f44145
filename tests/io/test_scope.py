"""Where "far outside" begins; the other cases of outside_training are in test_report.py."""

from __future__ import annotations

import pytest

from esp_medsam_monai.io import outside_training


@pytest.mark.parametrize(
    ("sides", "warned"),
    # The hippocampi of the training were cut out of 30 to 70 mm; half as much again is let pass.
    [((21.0, 50.0), False), ((19.0, 50.0), True), ((50.0, 104.0), False), ((50.0, 106.0), True)],
)
def test_values_half_as_much_again_is_let_pass(sides: tuple[float, float], warned: bool) -> None:
    assert bool(outside_training("mr", ["hippocampus_anterior"], sides)) is warned
