"""Where the bundle lies: the one named, the one of the environment, the one that came with the package."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["VARIABLE", "bundle_weights", "find_bundle", "missing_weights", "shipped_bundle"]

VARIABLE = "ESP_MEDSAM_BUNDLE"
"""Environment variable with the folder of the bundle to use."""


def shipped_bundle() -> Path:
    """The bundle that came with the package: inside a wheel (configs alone), beside the package in a checkout.

    Raises:
        FileNotFoundError: when the installation lacks it.
    """
    package = Path(__file__).parents[1]
    places = (package / "template", package.parent / "bundles" / "esp_medsam")
    for folder in places:
        if (folder / "configs" / "metadata.json").is_file():
            return folder
    raise FileNotFoundError(
        f"the bundle that comes with the package is neither at {places[0]} nor at {places[1]}; "
        "install esp-medsam-monai again."
    )


def find_bundle(given: str | os.PathLike[str] | None = None) -> Path:
    """The bundle to run.

    Args:
        given: its folder; None takes the environment's ``ESP_MEDSAM_BUNDLE``, or else the one of the package.

    Raises:
        FileNotFoundError: when there is no bundle with an ``inference.yaml`` there.
    """
    named = given or os.environ.get(VARIABLE)
    if not named:
        return shipped_bundle()
    folder = Path(named)
    if not (folder / "configs" / "inference.yaml").is_file():
        source = "" if given else f" (from {VARIABLE})"
        raise FileNotFoundError(
            f"{folder}{source} is no bundle: there is no configs/inference.yaml in it; "
            "name the folder that holds configs/ and models/ with --bundle DIR."
        )
    return folder


def bundle_weights(bundle_root: str | os.PathLike[str]) -> str:
    """Path of a bundle's own weights, for a config that starts from them: ``models/model.pt``.

    Args:
        bundle_root: folder of the bundle.
    """
    return str(Path(bundle_root) / "models" / "model.pt")


def missing_weights(bundle: Path, ckpt: str | os.PathLike[str] | None = None) -> str | None:
    """The sentence to say when the weights of a run are not there, or None when they are.

    Args:
        bundle: folder of the bundle.
        ckpt: file of weights to take instead of the bundle's ``models/model.pt``.
    """
    if ckpt:
        return None if Path(ckpt).is_file() else f"there is no file of weights {ckpt}; check --ckpt."
    weights = bundle / "models" / "model.pt"
    if weights.is_file():
        return None
    return (
        f"the bundle {bundle} has no weights (models/model.pt); name a bundle that has with --bundle DIR, or a file of "
        "weights with --ckpt FILE. An installed wheel holds configs alone: the shipped weights lie in the repository, "
        "under bundles/esp_medsam."
    )
