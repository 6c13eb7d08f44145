"""Where a training may write."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["check_output_dir"]


def check_output_dir(output_dir: str | os.PathLike[str]) -> Path:
    """A folder for a training's files, created; never the ``models`` folder of a bundle, which holds shipped weights.

    Raises:
        ValueError: when it is, or lies in, a folder ``models`` beside a bundle's ``configs/metadata.json``.
    """
    folder = Path(output_dir).resolve()
    for parent in (folder, *folder.parents):
        if parent.name == "models" and (parent.parent / "configs" / "metadata.json").is_file():
            raise ValueError(f"{output_dir}: holds the weights of a bundle; give another --output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
