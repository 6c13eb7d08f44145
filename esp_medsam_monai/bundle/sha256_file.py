"""A file's SHA-256 in a small file beside it, as the command ``sha256sum`` writes and checks it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from esp_medsam_monai.hashing import sha256_of

__all__ = ["stated_sha256", "verified_sha256", "write_sha256"]

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](\S.*)")


def _beside(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_name(f"{path.name}.sha256")


def write_sha256(path: str | os.PathLike[str]) -> Path:
    """Write ``<path>.sha256``, which ``sha256sum --check`` understands in the same folder."""
    target = _beside(path)
    target.write_text(f"{sha256_of(path)}  {Path(path).name}\n", encoding="utf-8")
    return target


def stated_sha256(path: str | os.PathLike[str]) -> str | None:
    """The hash that ``<path>.sha256`` states, in lower case; None when there is no such file.

    Raises:
        ValueError: when that file is not one line of a hash and this file's name.
    """
    path, beside = Path(path), _beside(path)
    if not beside.is_file():
        return None
    lines = beside.read_text(encoding="utf-8", errors="replace").splitlines()
    found = _LINE.fullmatch(lines[0]) if len(lines) == 1 else None
    if found is None or found[2] != path.name:
        raise ValueError(
            f"{beside} is not as sha256sum writes it: one line with 64 hexadecimal digits, two blanks and {path.name}. "
            f"Write it again (sha256sum {path.name} > {beside.name}) if you trust the file, or fetch both again."
        )
    return found[1].lower()


def verified_sha256(path: str | os.PathLike[str]) -> str:
    """The hash of a file, after comparing it with the one stated beside it, if there is one.

    Raises:
        ValueError: when the two differ, with both; or when what is stated cannot be read.
    """
    stated, digest = stated_sha256(path), sha256_of(path)
    if stated not in (None, digest):
        raise ValueError(
            f"{path} is not the file that {_beside(path).name} describes: its SHA-256 is {digest}, stated is {stated}. "
            "It is damaged or was exchanged: fetch it again. If you changed it yourself, write the .sha256 file again."
        )
    return digest
