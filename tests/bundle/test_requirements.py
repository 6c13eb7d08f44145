"""Packages that a bundle asks for: all that are missing or too old are told, with the command that helps."""

from __future__ import annotations

import configparser
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import esp_medsam_monai
from esp_medsam_monai.bundle import requirements, unmet_requirements


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An installation of these packages and no others."""
    versions: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(requirements.metadata, "version", version)
    monkeypatch.setattr(requirements.metadata, "requires", lambda name: ["torch>=2.8", 'pytest>=8; extra == "test"'])
    return versions


def test_all_are_told_at_once(installed: dict[str, str]) -> None:
    installed.update(nibabel="4.9", pydicom="3.0.1")
    wanted = {"nibabel": "5.0", "pydicom": "2.4", "SimpleITK": "2.3", "esp-medsam-monai": "0.1.0"}
    assert unmet_requirements({"required_packages_version": wanted}) == [
        "nibabel 4.9 is installed and >=5.0 is needed; run: pip install --upgrade 'nibabel>=5.0'",
        "SimpleITK is not installed; run: pip install 'SimpleITK>=2.3'",
        "torch is not installed; run: pip install 'torch>=2.8'",
    ]


@pytest.mark.parametrize(
    ("version", "enough"),
    [("2.8.0", True), ("2.15.0+cpu", True), ("2.10.0.dev20260101+cu130", True), ("2.7.1", False), ("2.8.0rc1", False)],
)
def test_versions_compare_as_versions(installed: dict[str, str], version: str, enough: bool) -> None:
    """2.10 is newer than 2.8; builds and nightlies count."""
    installed["torch"] = version
    assert (unmet_requirements() == []) is enough


def test_a_newer_bundle_asks_for_a_newer_package(installed: dict[str, str]) -> None:
    installed["torch"] = "2.8.0"
    said = unmet_requirements({"required_packages_version": {"esp-medsam-monai": "99.0"}})
    assert len(said) == 1
    assert f"esp-medsam-monai {esp_medsam_monai.__version__} is installed and >=99.0 is needed" in said[0]


def test_made_with_is_no_demand(installed: dict[str, str]) -> None:
    installed["torch"] = "2.8.0"
    assert unmet_requirements({"pytorch_version": "2.15.0", "monai_version": "9.9.9", "numpy_version": "9.9"}) == []


def test_this_installation_is_complete(repository: Path) -> None:
    path = repository / "bundles" / "esp_medsam" / "configs" / "metadata.json"
    assert unmet_requirements(json.loads(path.read_text(encoding="utf-8"))) == []


def test_metadata_agrees_with_setup_cfg(repository: Path) -> None:
    """The same lower bound in both, and nothing that an installation would not bring."""
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    bounds: dict[str, Any] = {}
    for line in config["options"]["install_requires"].split("\n"):
        if line.strip():
            requirement = Requirement(line)
            bounds[canonicalize_name(requirement.name)] = {s.version for s in requirement.specifier}
    path = repository / "bundles" / "esp_medsam" / "configs" / "metadata.json"
    stated = json.loads(path.read_text(encoding="utf-8"))["required_packages_version"]
    assert stated.pop("esp-medsam-monai") == esp_medsam_monai.__version__
    assert stated
    assert {name: {version} for name, version in stated.items()} == {
        name: bounds.get(canonicalize_name(name)) for name in stated
    }
