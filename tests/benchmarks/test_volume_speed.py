"""The benchmark of whole volumes: what it segments, and what it makes of its numbers."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest


def test_values_volume_has_a_body_and_slices_of_air(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    path = script("synthetic_volumes").write_ct(tmp_path / "a.nii.gz", 10, side=64, air=0.4)
    volume = np.asanyarray(nib.load(path).dataobj)
    assert (volume.shape, volume.dtype) == ((64, 64, 10), np.int16)
    assert [bool((volume[..., i] > -160).any()) for i in range(10)] == [False] * 2 + [True] * 6 + [False] * 2


def test_values_folder_of_small_volumes(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    folder = script("synthetic_volumes").write_mr_folder(tmp_path / "mr", 3)
    first, second, _ = (np.asanyarray(nib.load(path).dataobj) for path in sorted(folder.iterdir()))
    assert not np.array_equal(first, second)


def test_values_ratios(script: Callable[[str], ModuleType]) -> None:
    """By hand: 0.3 GB above an idle process, 4 x 512 x 512 x 200 bytes and 1.5 GB allowed, a slice a tenth dearer."""
    speed = script("volume_speed")
    args = argparse.Namespace(quick=False, slices=200, side=1024)

    def run(slices: int, wall: float, network: float, side: int | None = None) -> object:
        stages = {"read": 0.1, "prepare": 0.2, "network": network, "write": 0.3}
        return speed.Measured("ct", side, slices, 1, wall + 5, wall, stages, 1.0)

    found = {"large_200": run(200, 66.0, 60.0, 1024), "shipped_100": run(100, 10.0, 8.0)}
    found |= {"shipped_200": run(200, 21.0, 14.0), "shipped_800": run(800, 88.0, 80.0)}
    wanted = speed.targets(0.7, found, args)
    assert wanted["wall_over_network"]["large"] == pytest.approx(1.1)
    assert wanted["wall_over_network"]["shipped"] == pytest.approx(1.5)
    assert wanted["memory"]["200"] == pytest.approx({"over_gb": 0.3, "allowed_gb": 1.7097152})
    assert wanted["scaling"]["ratio"] == pytest.approx(1.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell it")
def test_values_peak_is_that_of_the_process_alone(script: Callable[[str], ModuleType]) -> None:
    """This process, which holds far more, does not count."""
    speed = script("volume_speed")
    code = "import time; x = bytearray(200_000_000); del x; time.sleep(1)"
    peak = speed.peak_gb(subprocess.Popen([sys.executable, "-c", code]))
    assert 0.2 < peak < 0.25
