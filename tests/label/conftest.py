"""Servers for the tests of MONAI Label. They run where MONAI Label is installed: ``make test-label``."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.small_bundle import make_small_bundle
from tests.label.label_server import Server, copy_files
from tests.label.orthanc import namespace, orthanc  # noqa: F401 - fixtures

HAS_LABEL = importlib.util.find_spec("monailabel") is not None
WITHOUT = "needs an environment with MONAI Label: make test-label"


@pytest.fixture(scope="session")
def small_bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configs around a small network with random weights."""
    return make_small_bundle(repository, tmp_path_factory.mktemp("small") / "esp_medsam")


@pytest.fixture(scope="session")
def volume_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small oblique volume with a sidecar that calls it MR."""
    folder = tmp_path_factory.mktemp("volumes")
    generator = np.random.default_rng(0)
    affine = np.array([[0.9, 0.1, 0, -20], [-0.1, 0.9, 0.1, 10], [0, -0.1, 2.5, 5], [0, 0, 0, 1]])
    image = nib.Nifti1Image(generator.integers(0, 1000, (20, 24, 6)).astype(np.int16), affine)
    nib.save(image, folder / "volume.nii.gz")
    (folder / "volume.json").write_text('{"modality": "mr"}', encoding="utf-8")
    return folder / "volume.nii.gz"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, volume_file: Path) -> Path:
    """A folder of studies: one volume, ``volume``."""
    return copy_files([volume_file, volume_file.with_name("volume.json")], tmp_path_factory.mktemp("in") / "studies")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, studies: Path, small_bundle: Path) -> Iterator[Server]:
    """A server of the small bundle over :func:`studies`; one for all tests of a file, as it takes long to start."""
    if not HAS_LABEL:
        pytest.skip(WITHOUT)
    with Server(studies, tmp_path_factory.mktemp("server") / "app", ["--bundle", str(small_bundle)]) as running:
        yield running
