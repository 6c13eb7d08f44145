"""A data loader whose workers keep what they have cached."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader
from torch.utils.data import Dataset, Sampler

from esp_medsam_monai.engines.rank_sampler import RankSampler
from esp_medsam_monai.engines.ranks import world_size

__all__ = ["cached_loader"]


def cached_loader(
    dataset: Dataset,
    batch_size: int,
    sampler: Sampler[int] | None = None,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> DataLoader:
    """MONAI's ``DataLoader`` over a dataset that fills its cache lazily, in each of the workers.

    Workers live as long as the loader: a new one would begin with an empty cache.

    Args:
        dataset: for instance :class:`SegmentationDataset`.
        batch_size: images in a batch.
        sampler: order of the images; None: as they are, divided among the ranks of a distributed run.
        num_workers: processes that prepare batches; 0 prepares them in this process. Each keeps a cache of its own.
        device: where batches go; for a GPU they are put into pinned memory, from which an engine that is told to be
            ``non_blocking`` copies without waiting. None: nowhere else.
        kwargs: further arguments of the ``DataLoader``.
    """
    if sampler is None and world_size() > 1:
        sampler = RankSampler(dataset)  # type: ignore[arg-type]
    kwargs.setdefault("pin_memory", device is not None and torch.device(device).type == "cuda")
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        **kwargs,
    )
