"""Quantised models on disk: each with a JSON that says for which weights it was made, from what, and how it agrees."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esp_medsam_monai.hashing import sha256_of_files
from esp_medsam_monai.networks import SelfPromptingNetwork
from esp_medsam_monai.runtimes.checking import fingerprint

__all__ = ["find_quantized", "load_quantized", "quantized_folder", "save_quantized"]


def quantized_folder(bundle: str | os.PathLike[str]) -> Path:
    """Where a bundle's quantised models lie: ``models/int8``."""
    return Path(bundle) / "models" / "int8"


def save_quantized(
    model: Any,
    folder: str | os.PathLike[str],
    weights_sha256: str,
    modality: str,
    side: int,
    facts: Mapping[str, Any],
) -> Path:
    """Write ``<modality>_<side>.xml``, ``.bin`` and ``.json``; the JSON is last, and without it nothing is loaded.

    Args:
        model: an ``openvino.Model``.
        folder: of the bundle's quantised models, made when missing.
        weights_sha256: of the network that it was made of, see
            :func:`~esp_medsam_monai.runtimes.checking.fingerprint`.
        modality: name.
        side: side of the images in pixels.
        facts: what else the JSON says.

    Returns:
        the ``.xml``.
    """
    path = _model_path(folder, modality, side)
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = path.with_suffix(".json")
    stated.unlink(missing_ok=True)
    importlib.import_module("openvino").save_model(model, path, compress_to_fp16=False)
    content = {
        "modality": modality,
        "side": side,
        "weights_sha256": weights_sha256,
        "model_sha256": _model_sha256(path),
        **facts,
    }
    stated.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load_quantized(folder: str | os.PathLike[str], weights_sha256: str, modality: str, side: int) -> Path | None:
    """The quantised model for given weights, if there is one.

    Args:
        folder: of the bundle's quantised models; it need not exist.
        weights_sha256: of the network that is to be run, see
            :func:`~esp_medsam_monai.runtimes.checking.fingerprint`.
        modality: name.
        side: side of the images in pixels.

    Returns:
        the ``.xml``; None when there is none, it was made of other weights, or its files are not those that the JSON
        beside them describes.
    """
    path = _model_path(folder, modality, side)
    try:
        stated = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        fits = stated["weights_sha256"] == weights_sha256 and (stated["modality"], stated["side"]) == (modality, side)
        return path if fits and stated["model_sha256"] == _model_sha256(path) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def find_quantized(folder: str | os.PathLike[str], network: SelfPromptingNetwork) -> dict[tuple[str, int], Path]:
    """All quantised models in a folder that were made of a network's weights, as ``make_runtime`` takes them.

    Args:
        folder: of the bundle's quantised models; it need not exist.
        network: the trained network.

    Returns:
        ``{(modality, side): file}``.
    """
    found: dict[tuple[str, int], Path] = {}
    names = sorted(Path(folder).glob("*.json"))
    weights = fingerprint(network) if names else ""
    for name in names:
        modality, _, side = name.stem.rpartition("_")
        if modality in network.modalities and side.isdecimal():
            path = load_quantized(folder, weights, modality, int(side))
            if path is not None:
                found[modality, int(side)] = path
    return found


def _model_path(folder: str | os.PathLike[str], modality: str, side: int) -> Path:
    return Path(folder) / f"{modality}_{side}.xml"


def _model_sha256(path: Path) -> str:
    return sha256_of_files([path, path.with_suffix(".bin")])
