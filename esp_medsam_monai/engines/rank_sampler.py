"""The images of a validation or an evaluation, divided among the ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sized

from torch.utils.data import Sampler

from esp_medsam_monai.engines.ranks import rank, world_size

__all__ = ["RankSampler"]


class RankSampler(Sampler[int]):
    """Every N-th image, beginning with the rank's number; each image on one rank, none twice.

    torch's ``DistributedSampler`` repeats images until all ranks have equally many, which would count them twice, and
    refuses fewer images than ranks. Here a rank may have nothing to do: its length is 1 all the same, because MONAI's
    engines leave out a run of length 0 and the handlers that the other ranks wait for.

    Args:
        dataset: what is divided.
    """

    def __init__(self, dataset: Sized) -> None:
        self.dataset = dataset

    def _own(self) -> range:
        return range(rank(), len(self.dataset), world_size())

    def __iter__(self) -> Iterator[int]:
        own = self._own()
        if not own and len(self.dataset):
            warnings.filterwarnings("ignore", message="Data iterator can not provide data anymore")
        return iter(own)

    def __len__(self) -> int:
        return max(len(self._own()), min(len(self.dataset), 1))
