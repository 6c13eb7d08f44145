"""The images of a distillation: slices of a datalist's entries, labels or none, each in a finite number of views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose
from torch.utils.data import Dataset

from esp_medsam_monai.engines.datalist import read_datalist
from esp_medsam_monai.engines.sampler import SeededIndex
from esp_medsam_monai.engines.slice_count import count_slices
from esp_medsam_monai.transforms import ViewSliced

__all__ = ["DistillationDataset", "ViewIndex"]


class ViewIndex(int):
    """Index of an item, with the number of the view that is wanted of it.

    Args:
        index: index in the dataset.
        view: number of the view, see :func:`~esp_medsam_monai.transforms.views_of`.
    """

    view: int

    def __new__(cls, index: int, view: int) -> ViewIndex:
        self = super().__new__(cls, index)
        self.view = view
        return self

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.view


class DistillationDataset(Dataset):
    """Items ``{"image", "modality", "view", "key"}``; every slice of a volume that takes part is an item of its own.

    Which view an item shows depends on the index: a :class:`ViewIndex` names it; of a :class:`SeededIndex`, as
    :class:`BalancedModalitySampler` gives them, the seed decides; a plain index shows number 0, the image unchanged.
    Slices are kept in memory as bytes when they are first asked for.

    Args:
        data: entries with ``image``, optionally ``modality``; a ``label`` is not looked at.
        datalist: JSON file that is read when ``data`` is empty, see :func:`read_datalist`.
        section: section of the datalist.
        transform: flat ``Compose`` as of :func:`~esp_medsam_monai.transforms.distillation_transforms`.
        modality: modality of entries that state none, for balanced sampling; the transforms route by themselves.
        dataset_dir: folder that the datalist's relative paths start from, its own folder by default.
        required: a datalist without entries in this section is an error.
        slices_per_volume: evenly spaced slices of each volume that take part; None: all.
        cache_rate: share of the items that are kept in memory.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]] = (),
        datalist: str | PathLike[str] | None = None,
        section: str = "training",
        transform: Compose | None = None,
        modality: str | None = None,
        dataset_dir: str | None = None,
        required: bool = True,
        slices_per_volume: int | None = 8,
        cache_rate: float = 1.0,
    ) -> None:
        if slices_per_volume is not None and slices_per_volume < 1:
            raise ValueError(f"slices_per_volume should be at least 1, or null for all; got {slices_per_volume}.")
        self.data = [dict(entry) for entry in data]
        if not self.data and datalist:
            self.data = read_datalist(datalist, section, dataset_dir, required, check_files=False, labels=False)
        steps = list((transform or Compose([])).transforms)
        self.views = next((step for step in steps if isinstance(step, ViewSliced)), None)
        first = steps.index(self.views) if self.views is not None else len(steps)
        self.items = [
            {"image": entry["image"], **_modality(entry), "slice": (place, number)}
            for entry in self.data
            for number in [_number(entry["image"], slices_per_volume)]
            for place in range(number)
        ]
        self.modalities = tuple(str(item.get("modality") or modality or "") for item in self.items)
        slices = Compose(steps[:first])
        self._slices = CacheDataset(self.items, slices, cache_rate=cache_rate, runtime_cache="threads")
        self._look = Compose(steps[first:])

    def __len__(self) -> int:
        return len(self.items)

    def number_of_views(self, index: int) -> int:
        """How many views an item has."""
        return len(self.views.views(self.modalities[index])) if self.views is not None else 1

    def all_views(self) -> list[ViewIndex]:
        """Every view of every item."""
        return [ViewIndex(index, view) for index in range(len(self)) for view in range(self.number_of_views(index))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self._slices[int(index)])
        # Unlike `modalities`, this knows what stands in DICOM and sidecars.
        count = len(self.views.views(item["modality"])) if self.views is not None else 1
        if isinstance(index, ViewIndex):
            item["view"] = index.view % count
        else:
            item["view"] = index.seed % count if isinstance(index, SeededIndex) else 0
        item = self._look(item)
        image = item["image"]
        return {
            "image": image.as_tensor() if isinstance(image, MetaTensor) else image,
            "modality": item["modality"],
            "view": item["view"],
            "key": item["key"],
        }


def _modality(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"modality": entry["modality"]} if entry.get("modality") else {}


def _number(path: str, most: int | None) -> int:
    """Number of slices of an image that take part."""
    if most == 1:
        return 1
    count = count_slices(path)
    return count if most is None else min(count, most)
