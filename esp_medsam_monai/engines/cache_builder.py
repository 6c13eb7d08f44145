"""How large the cache of a teacher's embeddings becomes, told beforehand; and a way to fill it in advance."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from monai.data import DataLoader
from tqdm import tqdm

from esp_medsam_monai.engines.distillation import DistillationTargets
from esp_medsam_monai.engines.distillation_dataset import DistillationDataset, ViewIndex
from esp_medsam_monai.engines.embedding_cache import file_bytes
from esp_medsam_monai.engines.ranks import barrier, is_main_rank, rank, world_size

__all__ = ["CacheBuilder"]

_LOGGER = logging.getLogger(__name__)
_SPARE_BYTES = 1 << 28  # left free on a disk, for checkpoints and whoever shares it


class CacheBuilder:
    """Steps of a run around the cache of :class:`~esp_medsam_monai.engines.DistillationTargets`.

    :meth:`tell` says before a training how large the cache can become, and :meth:`fill` computes all of it, split over
    the ranks. A run that is killed goes on where it was: what is there is not computed again.

    Args:
        targets: gives embeddings and holds the cache.
        trained: images of which every view is used.
        validated: images of which the unchanged view is used.
        device: where images go.
        batch_size: images at a time.
        num_workers: processes that prepare images.
    """

    def __init__(
        self,
        targets: DistillationTargets,
        trained: DistillationDataset,
        validated: DistillationDataset | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        self.targets = targets
        self.trained = trained
        self.validated = validated
        self.device = device
        self.batch_size = batch_size
        self.num_workers = num_workers

    def tell(self, refuse: bool = False) -> int:
        """Say in the log how large the complete cache is.

        Args:
            refuse: too little room on the disk is an error; otherwise a warning.

        Returns:
            Bytes of all embeddings that may be wanted, there or not; 0 without a cache. Views of equal content share
            one, so that it may stay smaller.

        Raises:
            OSError: when the disk has too little room and ``refuse`` is set.
        """
        cache = self.targets.cache
        number = len(self.trained.all_views()) + len(self.validated or ())
        if cache is None or not number:
            return 0
        there = min(cache.count(), number)
        each = file_bytes(self._shape())  # keeps the embedding that it tries
        missing, free = (number - there) * each, cache.free_bytes()
        text = (
            f"{cache.folder}: {number} teacher embeddings (views of {len(self.trained) + len(self.validated or ())} "
            f"images) of {each / 1e6:.2f} MB take {number * each / 1e9:.3f} GB; {there} are there, the disk has "
            f"{free / 1e9:.1f} GB free"
        )
        if is_main_rank():
            _LOGGER.info(text)
        if missing + _SPARE_BYTES > free:
            text += ". That is too little: choose another --cache_dir, or fewer --slices_per_volume"
            if refuse:
                raise OSError(text)
            if is_main_rank():
                _LOGGER.warning("%s. What does not fit will be computed again and again.", text)
        return number * each

    def fill(self) -> None:
        """Compute every embedding that is not there.

        Raises:
            ValueError: when there is no cache to fill.
            OSError: when the disk has too little room; nothing has been computed then.
        """
        cache = self.targets.cache
        if cache is None:
            raise ValueError("there is no cache to fill; give --cache_dir FOLDER.")
        self.tell(refuse=True)
        barrier()  # so that nobody counts what another has just written
        self.targets.teacher.load()
        self._fill(self.trained, self.trained.all_views())
        if self.validated is not None:
            self._fill(self.validated, [ViewIndex(index, 0) for index in range(len(self.validated))])
        barrier()
        if is_main_rank():
            _LOGGER.info("%s: complete, %d teacher embeddings", cache.folder, cache.count())

    def _fill(self, dataset: DistillationDataset, views: Sequence[ViewIndex]) -> None:
        own = list(views)[rank() :: world_size()]
        loader = DataLoader(dataset, batch_size=self.batch_size, sampler=own, num_workers=self.num_workers)
        bar = tqdm(total=len(own), desc="teacher embeddings", unit="view", disable=None if is_main_rank() else True)
        with bar:
            for batch in loader:
                self.targets(batch, self.device)
                bar.update(len(batch["key"]))

    def _shape(self) -> tuple[int, ...]:
        """Shape of an embedding, by trying the first image."""
        item = self.trained[0] if len(self.trained) else self.validated[0]  # type: ignore[index]
        image = item["image"][None].to(self.device)
        return tuple(self.targets.embed(image, [item["modality"]], [item["key"]]).shape[1:])
