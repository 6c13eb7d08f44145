"""The JSON file beside an image that names its modality."""

from __future__ import annotations

import json
from pathlib import Path

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import modality_from_code

__all__ = ["file_stem", "sidecar_files", "sidecar_modality"]

FOLDER_SIDECAR = "modality.json"


def file_stem(path: str | Path) -> str:
    """File name without its extension, where ``.nii.gz`` is one extension."""
    name = Path(path).name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem


def sidecar_modality(path: str | Path, root: str | Path | None = None) -> str | None:
    """Modality that a sidecar states for an image.

    ``<stem>.json`` beside the file is asked first, then ``modality.json`` of its folder, then of the folders above up
    to ``root``. The key ``modality`` is ours: one of our names, a DICOM code, or the name of a modality of one's own.
    ``Modality`` is what BIDS and dcm2niix write: a DICOM code.

    Args:
        path: an image file, or the folder of a DICOM series.
        root: uppermost folder to ask, None for the image's folder alone.

    Returns:
        The modality's name, or None when no sidecar tells.

    Raises:
        InputRefused: ``BAD_SIDECAR`` when a sidecar cannot be read as a JSON object or its modality is no text.
    """
    for candidate in sidecar_files(path, root):
        if (modality := _read(candidate)) is not None:
            return modality
    return None


def sidecar_files(path: str | Path, root: str | Path | None = None) -> list[Path]:
    """The sidecars of an image that exist, in the order in which :func:`sidecar_modality` asks them.

    Args:
        path: as for :func:`sidecar_modality`.
        root: as for :func:`sidecar_modality`.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    candidates = [] if path.is_dir() else [path.with_name(f"{file_stem(path)}.json")]
    candidates.append(folder / FOLDER_SIDECAR)
    if root is not None and Path(root) in folder.parents:
        for parent in folder.parents:
            candidates.append(parent / FOLDER_SIDECAR)
            if parent == Path(root):
                break
    return [candidate for candidate in candidates if candidate.is_file()]


def _read(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputRefused("BAD_SIDECAR", f"{path} is no readable JSON ({error}); repair or remove it.") from error
    if not isinstance(content, dict):
        raise InputRefused("BAD_SIDECAR", f'{path} should be a JSON object such as {{"modality": "mr"}}.')
    for key in ("modality", "Modality"):
        value = content.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InputRefused("BAD_SIDECAR", f"{key} in {path} should be a text such as 'mr', got {value!r}.")
        if (known := modality_from_code(value)) is not None:
            return known
        if key == "modality" and value.strip():
            return value.strip().lower()
    return None
