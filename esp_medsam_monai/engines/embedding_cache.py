"""Embeddings of a frozen teacher on disk, one file for each view of an image."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from esp_medsam_monai.hashing import sha256_of_settings
from esp_medsam_monai.io import atomic_path, remove_partials

__all__ = ["EmbeddingCache", "file_bytes"]

_LOGGER = logging.getLogger(__name__)
_CHECKSUM = 4  # bytes of a CRC-32


def file_bytes(shape: tuple[int, ...]) -> int:
    """Size on disk of one embedding, in bytes."""
    return len(_packed(np.zeros(shape, np.float16)))


def _packed(embedding: np.ndarray) -> bytes:
    """A npy file, and the CRC-32 of it, which numpy passes over."""
    buffer = io.BytesIO()
    np.save(buffer, embedding, allow_pickle=False)
    content = buffer.getvalue()
    return content + zlib.crc32(content).to_bytes(_CHECKSUM, "little")


class EmbeddingCache:
    """Half-precision embeddings by a key that says all about the image; files that no code can hide in.

    ``FOLDER/<teacher>/<two letters>/<key>.npy``: a npy file (``numpy.load`` reads it, without pickle), then its CRC-32.
    ``FOLDER/<teacher>/cache.json`` says in words what <teacher> stands for, and how many numbers an embedding has. Each
    file is whole or absent, whenever a run ends; any number of processes, also on other machines, may fill one cache at
    once. A damaged file counts as absent, with a warning, and is replaced. Where the disk is full, or may not be
    written to, the run goes on without keeping more.

    Args:
        folder: of caches of any number of teachers; made when missing.
        settings: what the embeddings depend on besides the images: the teacher.

    Raises:
        OSError: when there is no such folder, and it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.folder = Path(folder) / sha256_of_settings(self.settings)[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{folder} cannot hold a cache ({error.strerror}); give another --cache_dir.") from None
        self._writes = True

    def describe(self) -> None:
        """Write ``cache.json`` and remove what killed runs left; for one process of a run."""
        try:
            remove_partials(self.folder)
            with atomic_path(self.folder / "cache.json") as temporary:
                temporary.write_text(json.dumps(self.settings, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            self._stop_writing(error)

    def path(self, key: str) -> Path:
        """File of a key; subfolders keep each folder short."""
        return self.folder / key[:2] / f"{key}.npy"

    def has(self, key: str) -> bool:
        """Whether there is a file, whatever its state."""
        return self.path(key).is_file()

    def count(self) -> int:
        """Number of embeddings that are there."""
        return sum(not path.name.startswith(".") for path in self.folder.glob("*/*.npy"))

    def free_bytes(self) -> int:
        """Room on its disk."""
        return shutil.disk_usage(self.folder).free

    def get(self, key: str) -> np.ndarray | None:
        """An embedding, or None where there is none that can be used.

        Args:
            key: its key.

        Returns:
            float16, of its own memory.
        """
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        body, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
        try:
            if zlib.crc32(body).to_bytes(_CHECKSUM, "little") != checksum:
                raise ValueError("its checksum does not agree")
            embedding = np.load(io.BytesIO(body), allow_pickle=False)
            if embedding.dtype != np.float16:
                raise ValueError(f"it holds {embedding.dtype}")
        except (ValueError, EOFError) as error:
            _LOGGER.warning("%s is damaged (%s) and is computed again.", path, error)
            return None
        return embedding

    def put(self, key: str, embedding: np.ndarray) -> None:
        """Keep an embedding; where that fails the run loses time, and nothing else."""
        if not self._writes:
            return
        try:
            with atomic_path(self.path(key), sync=False) as temporary:
                temporary.write_bytes(_packed(np.asarray(embedding, np.float16)))
        except OSError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        self._writes = False
        _LOGGER.warning("no more embeddings are kept in %s: %s", self.folder, error)
