"""Items of a distillation: slices and views, by numbers alone."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import distillation_transforms

from esp_medsam_monai.engines import BalancedModalitySampler, DistillationDataset, SeededIndex, ViewIndex, cached_loader
from esp_medsam_monai.engines.slice_count import count_slices
from esp_medsam_monai.geometry import slice_plan
from tests.engines.pairs import save_picture, save_volume

MODALITIES = {"mr": ["hippocampus"], "fundus": ["vessel"]}
SIDE = 32


def save_stack(path: Path, slices: int = 6) -> str:
    """A volume whose k-th axial slice holds 40 k everywhere but in a corner (which sets the percentiles)."""
    array = np.broadcast_to(np.arange(slices) * 40, (20, 20, slices)).astype(np.int16).copy()
    return save_volume(path, array, np.diag([1.0, 1.0, 5.0, 1.0]))


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, str]]:
    picture = np.random.default_rng(0).integers(0, 255, size=(20, 20, 3))
    return [
        {"image": save_stack(tmp_path / "a.nii.gz"), "modality": "mr"},
        {"image": save_picture(tmp_path / "b.png", picture), "modality": "fundus"},
    ]


def dataset(entries: list[dict[str, str]], **options: Any) -> DistillationDataset:
    return DistillationDataset(entries, transform=distillation_transforms(MODALITIES, SIDE), **options)


def middle(item: dict[str, Any]) -> float:
    """Grey level in the middle of a normalised item, in 0..255."""
    return float(item["image"][0, SIDE // 2, SIDE // 2] * 58.395 + 123.675)


@pytest.mark.parametrize(
    ("number", "expected"), [(None, [0, 1, 2, 3, 4, 5]), (3, [1, 3, 5]), (1, [3]), (99, [0, 1, 2, 3, 4, 5])]
)
def test_slices_of_a_volume_are_evenly_spaced_items(
    entries: list[dict[str, str]], number: int | None, expected: list[int]
) -> None:
    data = dataset(entries, slices_per_volume=number)
    assert data.modalities == ("mr",) * len(expected) + ("fundus",)
    # MR is scaled between percentiles 0.5 and 99.5: here the lowest and the highest slice.
    levels = [round(middle(data[i]) / 51) for i in range(len(expected))]
    assert levels == expected


def test_headers_tell_as_many_slices_as_pixels(awkward_volume: Any, tmp_path: Path) -> None:
    volume = awkward_volume
    plan = slice_plan(volume.affine, volume.array.shape)
    assert count_slices(volume.save(tmp_path / "v.nii.gz")) == volume.array.shape[plan.axis]


def test_pictures_dicom_and_broken_files_are_counted(
    tmp_path: Path, dicom_series: Callable[..., list[Path]], entries: list[dict[str, str]]
) -> None:
    folder = dicom_series(tmp_path / "dicom", [(0, 0, 3 * k) for k in range(5)])[0].parent
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    paths = [folder, entries[1]["image"], tmp_path / "broken.nii.gz", tmp_path / "gone.nii.gz"]
    assert [count_slices(path) for path in paths] == [5, 1, 1, 1]


def test_the_index_says_which_view(entries: list[dict[str, str]]) -> None:
    data = dataset(entries)
    fundus = len(data) - 1
    plain = data[fundus]["image"]
    assert torch.equal(data[ViewIndex(fundus, 0)]["image"], plain)
    assert torch.equal(data[ViewIndex(fundus, 1)]["image"], plain.flip(2))
    assert torch.equal(data[ViewIndex(fundus, 2)]["image"], plain.flip(1))
    assert data[SeededIndex(fundus, 15)]["view"] == 15 % 7 and data[SeededIndex(0, 15)]["view"] == 15 % 6
    assert len(data.all_views()) == 6 * 6 + 7
    copy = pickle.loads(pickle.dumps(ViewIndex(3, 2)))
    assert (int(copy), copy.view) == (3, 2)


def test_all_views_can_be_had_where_a_sidecar_knows_better_than_the_datalist(
    entries: list[dict[str, str]], tmp_path: Path
) -> None:
    """Counted as a fundus image of seven views, and by its sidecar an MR of six."""
    (tmp_path / "b.json").write_text('{"modality": "mr"}')
    data = dataset([{"image": entries[1]["image"]}], modality="fundus")
    seen = [data[index] for index in data.all_views()]
    assert {item["modality"] for item in seen} == {"mr"}
    assert {item["view"] for item in seen} == set(range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_sampler_gives_the_same_views_by_seed_and_epoch(entries: list[dict[str, str]], workers: int) -> None:
    def views(epoch: int) -> list[tuple[str, int]]:
        data = dataset(entries)
        sampler = BalancedModalitySampler(data, 60, seed=3)
        sampler.set_epoch(epoch)
        loader = cached_loader(data, 4, sampler, num_workers=workers)
        return [pair for batch in loader for pair in zip(batch["key"], batch["view"].tolist(), strict=True)]

    first = views(1)
    assert first == views(1) != views(2)
    assert set(Counter(view for _, view in first)) == set(range(7))


def test_a_datalist_needs_no_labels(entries: list[dict[str, str]], tmp_path: Path) -> None:
    listed = [entries[0], {**entries[1], "label": "gone.png"}]
    (tmp_path / "list.json").write_text(json.dumps({"training": listed}))
    data = DistillationDataset(datalist=tmp_path / "list.json", transform=distillation_transforms(MODALITIES, SIDE))
    assert set(data[len(data) - 1]) == {"image", "modality", "view", "key"}
    assert all("label" not in entry for entry in data.data)


def test_a_wrong_number_of_slices_is_told(entries: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="slices_per_volume"):
        dataset(entries, slices_per_volume=0)
