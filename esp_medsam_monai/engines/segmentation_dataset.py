"""The images and labels of a datalist, ready for mixed-modality batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose

from esp_medsam_monai.engines.datalist import read_datalist
from esp_medsam_monai.engines.sampler import SeededIndex

__all__ = ["SegmentationDataset"]


class SegmentationDataset(CacheDataset):
    """Images with labels, from a list of entries or from a section of a datalist.

    What comes before the first random transform is computed once per entry, when it is first asked for (training
    starts at once); the rest is computed every time. A :class:`SeededIndex` sets the random state of the transforms.

    Args:
        data: entries with ``image`` and ``label``, optionally ``modality`` and ``domain``. MONAI Label puts its own
            entries, with ``image`` and ``label`` alone, in this place; they take their modality from ``modality``.
        datalist: JSON file that is read when ``data`` is empty, see :func:`read_datalist`.
        section: section of the datalist.
        transform: flat ``Compose`` that makes tensors ``image`` ``(3, H, W)`` and ``label`` ``(1, H, W)`` of an entry,
            with the modality in the image's metadata. H and W must be the same for all entries.
        modality: modality of entries that state none, for balanced sampling; the transforms route by themselves.
        dataset_dir: folder that the datalist's relative paths start from, its own folder by default.
        required: a datalist without entries in this section is an error. Without a datalist the dataset may be empty,
            because a workflow can be built and looked at without data; :class:`BalancedModalitySampler` then refuses.
        cache_rate: share of the entries that are kept in memory.

    Each item is ``{"image", "label", "modality", "domain", "labelled"}`` with plain tensors, as the metadata of a
    photograph and of a volume do not collate, and texts; for the last see
    :class:`~esp_medsam_monai.transforms.EncodeLabelsd`.
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
        cache_rate: float = 1.0,
    ) -> None:
        entries = [dict(entry) for entry in data]
        if not entries and datalist:
            entries = read_datalist(datalist, section, dataset_dir, required, check_files=False)
        self.modalities = tuple(str(entry.get("modality") or modality or "") for entry in entries)
        super().__init__(entries, transform or Compose([]), cache_rate=cache_rate, runtime_cache="threads")

    def _transform(self, index: int) -> dict[str, Any]:
        if isinstance(index, SeededIndex):
            self.transform.set_random_state(seed=index.seed)
        item = super()._transform(index)
        image, label = item["image"], item["label"]
        routed = image.meta.get("modality") if isinstance(image, MetaTensor) else None
        return {
            "image": _plain(image),
            "label": _plain(label),
            "modality": routed or self.modalities[index],
            "domain": str(self.data[index].get("domain", "")),
            "labelled": str(item.get("labelled", "")),
        }


def _plain(x: Any) -> torch.Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else torch.as_tensor(x)
