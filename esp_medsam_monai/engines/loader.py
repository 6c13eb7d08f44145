"""A data loader whose workers keep what they have cached."""

from __future__ import annotations

from typing import Any

from monai.data import DataLoader
from torch.utils.data import Dataset, Sampler

__all__ = ["cached_loader"]


def cached_loader(
    dataset: Dataset, batch_size: int, sampler: Sampler[int] | None = None, num_workers: int = 0, **kwargs: Any
) -> DataLoader:
    """MONAI's ``DataLoader`` over a dataset that fills its cache lazily, in each of the workers.

    Workers live as long as the loader: a new one would begin with an empty cache.

    Args:
        dataset: for instance :class:`SegmentationDataset`.
        batch_size: images in a batch.
        sampler: order of the images; None: as they are.
        num_workers: processes that prepare batches; 0 prepares them in this process. Each keeps a cache of its own.
        kwargs: further arguments of the ``DataLoader``.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        **kwargs,
    )
