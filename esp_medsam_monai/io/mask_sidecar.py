"""A JSON file beside each mask: what its values mean, what was found, and what made it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esp_medsam_monai import __version__
from esp_medsam_monai.modalities import target_color

from .atomic import atomic_path

__all__ = ["NOT_A_MEDICAL_DEVICE", "is_our_sidecar", "write_mask_sidecar"]

NOT_A_MEDICAL_DEVICE = "Research software, not a medical device: not to be used for diagnosis or treatment."

GENERATOR = "esp_medsam_monai"


def write_mask_sidecar(
    path: str | os.PathLike[str],
    *,
    case: str,
    input: str,
    modality: str,
    targets: Sequence[Mapping[str, Any]],
    modality_source: str | None = None,
    weights_sha256: str | None = None,
    configuration_sha256: str | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """Write ``<case>_seg.json`` beside ``<case>_seg.nii.gz`` or ``.png``, as BIDS does; whole or not at all.

    Args:
        path: the JSON file.
        case: name of the case with its relative folder.
        input: path of the image as given.
        modality: our name of the modality.
        targets: rows of :func:`~esp_medsam_monai.io.statistics.target_statistics`.
        modality_source: ``user``, ``datalist``, ``dicom``, ``sidecar`` or ``default``.
        weights_sha256: hash of the weights' file.
        configuration_sha256: hash of the settings.
        warnings: sentences for the reader of the mask.

    Returns:
        The path.
    """
    labels = {
        str(row["label"]): {
            "name": row["name"],
            "color": list(target_color(modality, row["target"])),
            **{key: value for key, value in row.items() if key not in ("label", "name")},
        }
        for row in targets
    }
    content = {
        "generator": f"{GENERATOR} {__version__}",
        "notice": NOT_A_MEDICAL_DEVICE,
        "case": case,
        "input": input,
        "modality": modality,
        "modality_source": modality_source,
        "labels": labels,
        "weights_sha256": weights_sha256,
        "configuration_sha256": configuration_sha256,
        "warnings": list(warnings),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        # Names of files need not be UTF-8; what cannot be written becomes an escape, which JSON reads back.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def is_our_sidecar(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a JSON file of :func:`write_mask_sidecar`; False for everything else, missing files too."""
    path = Path(path)
    try:
        # Only files: a pipe would keep us waiting.
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("generator", "")).split(" ")[0] == GENERATOR
