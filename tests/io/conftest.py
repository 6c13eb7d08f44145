"""What the tests of DICOM SEG share."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydicom.uid import generate_uid

from esp_medsam_monai.io import MedicalImageReader
from esp_medsam_monai.io.rules import ReadingRules


@pytest.fixture
def space() -> dict[str, str]:
    """Tags that place images in one study and space."""
    return {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}


@pytest.fixture
def dcmqi(tmp_path):
    """Reader of a SEG by dcmqi: ``(nibabel image, list of segments)``."""
    beside = Path(sys.executable).with_name("segimage2itkimage")
    program = str(beside) if beside.exists() else shutil.which("segimage2itkimage")
    if program is None:
        pytest.skip("dcmqi is not installed (pip install dcmqi)")

    def read(path):
        folder = tmp_path / "dcmqi"
        folder.mkdir()
        options = ["--inputDICOM", path, "--outputDirectory", folder, "--prefix", "s", "-t", "nii", "--mergeSegments"]
        subprocess.run([program, *map(str, options)], check=True, capture_output=True)
        (image,) = folder.glob("*.nii.gz")
        segments = json.loads((folder / "s-meta.json").read_text(encoding="utf-8"))["segmentAttributes"]
        return nib.load(image), [segment for group in segments for segment in group]

    return read


@pytest.fixture
def masked() -> Callable[..., MetaTensor]:
    """Factory of masks on the grid of DICOM images; ``values`` are spread at random over all voxels."""

    def make(paths: Sequence[Path], values: Sequence[int] = (7, 8), rules: ReadingRules | None = None) -> MetaTensor:
        array, meta = MedicalImageReader(rules=rules).get_data([str(path) for path in paths])
        labels = np.random.default_rng(0).choice(np.array([0, *values], np.uint8), size=array.shape[-3:])
        return MetaTensor(torch.from_numpy(labels[None]), affine=torch.from_numpy(meta["affine"]))

    return make
