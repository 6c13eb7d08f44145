"""The packages that a bundle needs, compared with those that are installed, before any of them is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from esp_medsam_monai import __version__

__all__ = ["unmet_requirements"]

_OWN = "esp-medsam-monai"


def unmet_requirements(bundle_metadata: Mapping[str, Any] | None = None) -> list[str]:
    """A sentence on each package that is missing or too old, with the command that helps; empty when all is well.

    Asked for are the bundle's ``required_packages_version``, as lowest versions, and what this package itself was
    installed with (its own lower bounds for MONAI, torch and the rest). MONAI's fields ``monai_version``,
    ``pytorch_version`` and ``numpy_version`` tell what the weights were made with and are no demand.

    Args:
        bundle_metadata: content of the bundle's ``metadata.json``.
    """
    wanted: dict[str, tuple[str, SpecifierSet]] = {}
    for name, version in ((bundle_metadata or {}).get("required_packages_version") or {}).items():
        wanted[canonicalize_name(name)] = (name, SpecifierSet(f">={version}"))
    for requirement in _own_requirements():
        key = canonicalize_name(requirement.name)
        name, specifier = wanted.get(key, (requirement.name, SpecifierSet()))
        wanted[key] = (name, specifier & requirement.specifier)
    sentences = []
    for name, specifier in wanted.values():
        found = _installed(name)
        asked = ",".join(sorted({f"{s.operator}{s.version}" for s in specifier}))
        if found is None:
            sentences.append(f"{name} is not installed; run: pip install '{name}{asked}'")
        elif not specifier.contains(Version(found), prereleases=True):
            sentences.append(
                f"{name} {found} is installed and {asked} is needed; run: pip install --upgrade '{name}{asked}'"
            )
    return sentences


def _own_requirements() -> list[Requirement]:
    """What this package was installed with, without its extras."""
    try:
        texts = metadata.requires(_OWN) or []
    except metadata.PackageNotFoundError:  # not installed by pip, so nobody stated anything
        return []
    requirements = [Requirement(text) for text in texts]
    return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]


def _installed(name: str) -> str | None:
    if canonicalize_name(name) == _OWN:
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
