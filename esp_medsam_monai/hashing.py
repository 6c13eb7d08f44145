"""Hashes that tell whether files and settings are still the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["sha256_of", "sha256_of_files", "sha256_of_settings", "stamp_of_files"]

_BLOCK = 1 << 20


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """One hash of the names and contents of several files, whatever their order and their folder."""
    lines = sorted(f"{Path(path).name} {sha256_of(path)}" for path in paths)
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def stamp_of_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """One hash of the names, sizes and times of change of several files: a quick look, without reading them."""
    lines = []
    for path in paths:
        status = Path(path).stat()
        lines.append(f"{Path(path).name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(sorted(lines)))).hexdigest()


def sha256_of_settings(settings: Any) -> str:
    """Hash of nested settings, whatever the order of their keys; what JSON does not know counts by its text."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
