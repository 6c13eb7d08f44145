"""Equal shares for all modalities, whatever the sizes of their sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Sampler

from esp_medsam_monai.engines.ranks import rank, world_size

__all__ = ["BalancedModalitySampler", "SeededIndex"]


class SeededIndex(int):
    """Index of an image, with the seed of the random changes that it gets this time.

    The seed travels with the index, because workers that live on from epoch to epoch have random states of their own,
    which no checkpoint can hold.

    Args:
        index: index in the dataset.
        seed: 0 to 2^32 - 1.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> SeededIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.seed


class _HasModalities(Protocol):
    modalities: Sequence[str]


class BalancedModalitySampler(Sampler[int]):
    """Draws every modality equally often in an epoch, and spreads each evenly over the epoch.

    Within a modality all images are seen once before any is seen again, also across epochs: a set of 30 images is
    repeated, a set of 500 is walked through in several epochs. The order depends on seed and epoch alone, and the seed
    of each :class:`SeededIndex` on these and the place in the epoch: a resumed training sees what an undisturbed one
    does, with any number of workers.

    In a distributed run each rank's batches are its parts of the batches that a single process would make of as many
    images as all ranks together: two ranks learn what one process with twice the batch size learns. Ranks always have
    equally many images; what is left over at the end of an epoch, fewer images than ranks, is left out.

    Args:
        dataset: has ``modalities``, the modality of each of its entries.
        num_samples: images in an epoch, of all ranks together.
        seed: of the order.
        weights: relative share of a modality, 1 for those not named; 0 leaves one out.
        batch_size: images in a batch of one rank; of no meaning to a single process.

    Raises:
        ValueError: when a number makes no sense; on iteration, when the dataset is empty, which MONAI's engines would
            pass over without a word.
    """

    def __init__(
        self,
        dataset: _HasModalities,
        num_samples: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        batch_size: int = 1,
    ) -> None:
        for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} should be at least 1, got {value}.")
        groups: dict[str, list[int]] = {}
        for index, modality in enumerate(dataset.modalities):
            groups.setdefault(modality, []).append(index)
        unknown = sorted(set(weights or {}) - set(groups)) if groups else []
        if unknown:
            raise ValueError(f"weights name {unknown}, but the dataset has the modalities {sorted(groups)}.")
        shares = {modality: float((weights or {}).get(modality, 1.0)) for modality in groups}
        total = sum(shares.values())
        if groups and (min(shares.values()) < 0 or total <= 0):
            raise ValueError(f"weights should be 0 or more, and not all 0; got {dict(weights or {})}.")
        self.num_samples = num_samples
        self.seed = seed
        self.batch_size = batch_size
        self.epoch = 0
        self._groups = {modality: group for modality, group in groups.items() if shares[modality] > 0}
        self._shares = {modality: shares[modality] / total for modality in self._groups}

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration give the order of this epoch (0 is the first), for instance after a resume."""
        self.epoch = epoch

    def _ends(self, epoch: int) -> dict[str, int]:
        """Images drawn of each modality before this epoch; the remainders of the division go round over the epochs."""
        total = epoch * self.num_samples
        exact = {modality: total * share for modality, share in self._shares.items()}
        ends = {modality: int(value + 1e-9) for modality, value in exact.items()}
        by_remainder = sorted(exact, key=lambda modality: ends[modality] - exact[modality])
        for modality in by_remainder[: total - sum(ends.values())]:
            ends[modality] += 1
        return ends

    def _draw(self, modality: str, start: int, end: int) -> list[int]:
        """Positions ``start`` to ``end`` of the endless sequence of permutations of one modality."""
        group = self._groups[modality]
        number = list(self._groups).index(modality)
        drawn: list[int] = []
        for lap in range(start // len(group), -(-end // len(group))):
            order = torch.randperm(len(group), generator=_generator(self.seed, number, lap)).tolist()
            first = lap * len(group)
            drawn.extend(group[i] for i in order[max(start - first, 0) : end - first])
        return drawn

    def __iter__(self) -> Iterator[int]:
        if not self._groups:
            raise ValueError("there are no images to train on. Give --datalist LIST.json with entries in 'training'.")
        starts, ends = self._ends(self.epoch), self._ends(self.epoch + 1)
        generator = _generator(self.seed, len(self._groups), self.epoch)
        places: list[tuple[float, int]] = []
        for modality in self._groups:
            drawn = self._draw(modality, starts[modality], ends[modality])
            jitter = torch.rand(len(drawn), generator=generator).tolist()
            places.extend(((i + jitter[i]) / len(drawn), index) for i, index in enumerate(drawn))
        order = [index for _, index in sorted(places)]
        seeds = np.random.SeedSequence([self.seed % 2**32, self.epoch]).generate_state(len(order)).tolist()
        self.epoch += 1
        drawn = [SeededIndex(index, seed) for index, seed in zip(order, seeds, strict=True)]
        return iter([drawn[place] for place in self._own_places()])

    def __len__(self) -> int:
        return len(self._own_places())

    def _own_places(self) -> list[int]:
        """Places in an epoch that this rank takes: of each batch of all ranks its part."""
        ranks, own = world_size(), rank()
        if self.num_samples < ranks:
            raise ValueError(f"num_samples should be at least 1 for each of the {ranks} ranks, got {self.num_samples}.")
        places: list[int] = []
        for start in range(0, self.num_samples, ranks * self.batch_size):
            share = min(self.batch_size, (self.num_samples - start) // ranks)
            places.extend(range(start + own * share, start + (own + 1) * share))
        return places


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    """A generator of its own for every (seed, stream, number)."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) * 1_000_003 + number)
