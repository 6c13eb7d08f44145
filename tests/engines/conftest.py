"""A folder of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


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
