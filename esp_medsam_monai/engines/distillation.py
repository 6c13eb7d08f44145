"""What a distillation gives its trainer and its validator: images, and the teacher's embeddings of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor

from esp_medsam_monai.engines.embedding_cache import EmbeddingCache
from esp_medsam_monai.engines.frozen_teacher import FrozenTeacher
from esp_medsam_monai.engines.ranks import gather_objects, is_main_rank

__all__ = ["DistillationTargets"]

_LOGGER = logging.getLogger(__name__)


class DistillationTargets:
    """``prepare_batch`` of a distillation; the place of the label is taken by the teacher's embeddings.

    Embeddings come from the cache where it has them; the others are computed, all of a batch together, and kept.
    Either way they are rounded to half precision, so that a cache changes no loss. As a handler it says after each
    epoch how many came from where.

    Args:
        teacher: computes embeddings.
        cache_dir: folder of :class:`~esp_medsam_monai.engines.EmbeddingCache`; None or empty: no cache.
    """

    def __init__(self, teacher: FrozenTeacher, cache_dir: str | os.PathLike[str] | None = None) -> None:
        self.teacher = teacher
        self.cache_dir = cache_dir
        self.hits = self.misses = 0
        self._cache: EmbeddingCache | None = None

    @property
    def cache(self) -> EmbeddingCache | None:
        """The cache of this teacher, None when there is no ``cache_dir``."""
        if self._cache is None and self.cache_dir:
            self._cache = EmbeddingCache(self.cache_dir, self.teacher.settings)
            if is_main_rank():
                self._cache.describe()
        return self._cache

    def attach(self, engine: Engine) -> None:
        """Register with a trainer: weights that are missing or do not fit are told before the first step."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)

    def _start(self, _: Engine) -> None:
        self.teacher.load()
        self.hits = self.misses = 0

    def _tell(self, _: Engine) -> None:
        counts = gather_objects((self.hits, self.misses))
        hits, misses = (sum(values) for values in zip(*counts, strict=True))
        self.hits = self.misses = 0
        if is_main_rank() and self.cache_dir:
            _LOGGER.info("teacher embeddings: %d from the cache, %d computed", hits, misses)

    def embed(self, image: Tensor, modality: Sequence[str], keys: Sequence[str]) -> Tensor:
        """The teacher's embeddings, from the cache or anew.

        Args:
            image: ``(B, 3, S, S)``.
            modality: the modality of each image.
            keys: hash of each image's content.

        Returns:
            ``(B, 256, h, w)``, half precision, on the image's device.
        """
        found = [self.cache.get(key) if self.cache else None for key in keys]
        missing = [row for row, embedding in enumerate(found) if embedding is None]
        self.hits += len(found) - len(missing)
        self.misses += len(missing)
        kept = [torch.from_numpy(embedding) for embedding in found if embedding is not None]
        if not missing:
            return _moved(torch.stack(kept), image.device)
        computed = self.teacher(image[missing] if kept else image, [modality[row] for row in missing])
        if self.cache:
            for row, embedding in zip(missing, computed.cpu().numpy(), strict=True):
                self.cache.put(keys[row], embedding)
        computed = computed.to(image.device)
        if not kept:
            return computed
        rows = dict(zip(missing, computed, strict=True))
        there = [row for row in range(len(found)) if row not in rows]
        rows.update(zip(there, _moved(torch.stack(kept), image.device), strict=True))
        return torch.stack([rows[row] for row in range(len(found))])

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[list[str]], dict[str, Any]]:
        """Prepare a batch of :class:`~esp_medsam_monai.engines.DistillationDataset`.

        Args:
            batch: ``image`` ``(B, 3, S, S)``, ``modality`` (B names) and ``key`` (B hashes).
            device: where image and embedding go.
            non_blocking: copy without waiting where memory is pinned.
            kwargs: further arguments of ``Tensor.to``.

        Returns:
            image, the teacher's embedding ``(B, 256, h, w)`` in float32, positional arguments of the network (the
            names) and its keyword arguments (``embed_only``).
        """
        names = list(batch["modality"])
        image = batch[CommonKeys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs)
        return image, self.embed(image, names, batch["key"]).float(), (names,), {"embed_only": True}


def _moved(embeddings: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what a GPU still has to do."""
    if device.type != "cuda":
        return embeddings.to(device)
    return embeddings.pin_memory().to(device, non_blocking=True)
