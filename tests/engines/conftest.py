"""A folder of cases, and pairs of image and label."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.engines.pairs import Entry, save_picture, save_volume


@pytest.fixture
def folder(volume: Any, tmp_path: Path) -> Path:
    """Two volumes and a picture, all with sidecars, the volumes' in the folder above."""
    root = tmp_path / "in"
    volume(spacing=(4.0, 5.0, 6.0)).save(root / "mr" / "deep" / "a.nii.gz")
    volume(shape=(40, 45, 1), dtype="uint8").save(root / "mr" / "deep" / "b.nii")
    (root / "mr" / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(root / "chest.png")
    (root / "chest.json").write_text('{"Modality": "DX"}', encoding="utf-8")
    return root


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Entry]:
    """Makes an MR volume with a label that holds 1 and 2; ``label`` and ``affine`` replace those of the label."""
    numbers = iter(range(1000))

    def make(label: np.ndarray | None = None, affine: np.ndarray | None = None, **entry: str) -> Entry:
        i = next(numbers)
        if label is None:
            label = np.zeros((4, 5, 3), np.uint8)
            label[0], label[1] = 1, 2
        image = np.random.default_rng(i).integers(0, 99, size=(4, 5, 3)).astype(np.int16)
        return {
            "image": save_volume(tmp_path / f"{i}.nii.gz", image),
            "label": save_volume(tmp_path / f"{i}_seg.nii.gz", label, affine),
            "modality": "mr",
            **entry,
        }

    return make


@pytest.fixture
def radiograph(tmp_path: Path) -> Callable[..., Entry]:
    """Makes an X-ray picture with a label."""
    numbers = iter(range(1000))

    def make(label: np.ndarray | None = None, **entry: str) -> Entry:
        i = next(numbers)
        pixels = np.random.default_rng(100 + i).integers(0, 255, size=(6, 8))
        return {
            "image": save_picture(tmp_path / f"x{i}.png", pixels),
            "label": save_picture(tmp_path / f"x{i}_seg.png", np.eye(6, 8) * 255 if label is None else label),
            "modality": "xray",
            **entry,
        }

    return make
