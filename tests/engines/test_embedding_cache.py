"""The cache of embeddings: whole files, whatever happens; a key for all that matters; sizes told beforehand."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import distillation_transforms

from esp_medsam_monai.engines import CacheBuilder, DistillationDataset, DistillationTargets, EmbeddingCache
from tests.engines.small_distillation import MODALITIES, SIDE, make_dataset, make_teacher, save_pictures

EMBEDDING = np.random.default_rng(0).standard_normal((4, 3, 3)).astype(np.float16)


def put_many(folder: Path, number: int) -> None:
    cache = EmbeddingCache(folder, {"teacher": 1})
    cache.describe()
    for i in range(number):
        cache.put(f"{i:064x}", np.full((64, 16, 16), i, np.float16))


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    return save_pictures(tmp_path)


def builder(datalist: Path, cache: Path | None, **options: Any) -> CacheBuilder:
    targets = DistillationTargets(make_teacher(**options), cache)
    return CacheBuilder(targets, make_dataset(datalist), make_dataset(datalist, "validation"), "cpu", batch_size=3)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.npy") if not path.name.startswith("."))


def test_numpy_reads_the_files_and_no_pickle_is_in_them(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, {"teacher": 1})
    cache.put("ab12", EMBEDDING)
    (file,) = files(tmp_path)
    assert file.parent.name == "ab" and cache.has("ab12") and not cache.has("ab13")
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), EMBEDDING)
    np.testing.assert_array_equal(cache.get("ab12"), EMBEDDING)
    assert cache.get("ab13") is None


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "other type"])
def test_a_damaged_file_is_computed_again(
    tmp_path: Path, datalist: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = builder(datalist, tmp_path / "cache")
    whole.fill()
    file = files(tmp_path / "cache")[5]
    before = file.read_bytes()
    if damage == "other type":
        np.save(file, EMBEDDING.astype(np.float32))
        file.write_bytes(file.read_bytes() + zlib.crc32(file.read_bytes()).to_bytes(4, "little"))
    else:
        flipped = bytes([before[200 % len(before)] ^ 1])
        file.write_bytes({"cut": before[:-9], "a bit": before[:140] + flipped + before[141:], "empty": b""}[damage])
    again = builder(datalist, tmp_path / "cache")
    again.fill()
    assert file.read_bytes() == before
    assert again.targets.misses == 1 and "damaged" in caplog.text


def test_the_size_told_is_the_size_on_disk(datalist: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    building = builder(datalist, tmp_path / "cache")
    with caplog.at_level(logging.INFO):
        told = building.tell()
    assert len(files(tmp_path / "cache")) == 1, "nothing but the trial should be computed before"
    building.fill()
    # Two dermoscopy pictures in seven views and two radiographs in six; validation shows the first two unchanged.
    assert len(files(tmp_path / "cache")) == 2 * 7 + 2 * 6
    sizes = [file.stat().st_size for file in files(tmp_path / "cache")]
    assert told == sum(sizes) + 2 * sizes[0]
    assert "28 teacher embeddings" in caplog.text


def test_too_little_room_is_told_before_anything_is_computed(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(EmbeddingCache, "free_bytes", lambda self: 1000)
    building = builder(datalist, tmp_path / "cache")
    building.tell()
    assert "too little" in caplog.text
    with pytest.raises(OSError, match="--cache_dir"):
        building.fill()
    assert len(files(tmp_path / "cache")) == 1


def test_a_full_disk_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, sync: bool = True) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("esp_medsam_monai.engines.embedding_cache.atomic_path", full)
    cache = EmbeddingCache(tmp_path / "cache", {})
    cache.describe()
    cache.put("ab", EMBEDDING)
    cache.put("cd", EMBEDDING)
    assert caplog.text.count("no more embeddings are kept") == 1


def test_a_folder_that_cannot_be_made_is_told_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/cache .*--cache_dir"):
        EmbeddingCache(tmp_path / "file" / "cache", {})


def test_without_a_cache_there_is_nothing_to_tell_and_nothing_to_fill(datalist: Path) -> None:
    building = builder(datalist, None)
    assert building.tell() == 0 and building.targets.teacher.network.images == 0
    with pytest.raises(ValueError, match="--cache_dir FOLDER"):
        building.fill()


def test_another_teacher_has_another_cache(datalist: Path, tmp_path: Path) -> None:
    item = make_dataset(datalist)[0]
    image, names, keys = item["image"][None], [item["modality"]], [item["key"]]
    first, again, other = (DistillationTargets(make_teacher(seed), tmp_path) for seed in (1, 1, 2))
    embeddings = [targets.embed(image, names, keys) for targets in (first, again, other)]
    assert [targets.misses for targets in (first, again, other)] == [1, 0, 1]
    assert torch.equal(embeddings[0], embeddings[1]) and not torch.equal(embeddings[0], embeddings[2])
    larger = make_teacher(1)
    larger.network.img_size = 64
    assert DistillationTargets(larger, tmp_path).cache.folder != first.cache.folder


def test_other_content_view_or_preprocessing_is_another_key(datalist: Path) -> None:
    def dataset(**options: Any) -> DistillationDataset:
        chain = distillation_transforms(**{"modalities": MODALITIES, "image_size": SIDE, **options})
        return DistillationDataset(datalist=datalist, transform=chain)

    plain = dataset()
    keys = [plain[index]["key"] for index in plain.all_views()]
    for options in ({"divisor": "published"}, {"image_size": 64}):
        other = dataset(**options)
        keys += [other[index]["key"] for index in other.all_views()]
    assert len(set(keys)) == len(keys) == 3 * 26
    assert [dataset()[index]["key"] for index in plain.all_views()] == keys[:26]
    before = plain[0]["key"]
    shutil.copy(datalist.parent / "2.png", datalist.parent / "0.png")
    assert dataset()[0]["key"] == dataset()[2]["key"] != before


def start(folder: Path, number: int) -> Any:
    """A process that fills a cache; forked, because importing everything anew takes longer than the test."""
    process = multiprocessing.get_context("fork").Process(target=put_many, args=(folder, number))
    process.start()
    return process


def test_a_kill_leaves_whole_files_and_the_next_run_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, 100_000)
    deadline = time.monotonic() + 60
    while len(files(tmp_path)) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    cache = EmbeddingCache(tmp_path, {"teacher": 1})
    cache.describe()
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".partial")]
    there = files(tmp_path)
    assert len(there) >= 20
    for file in there:
        found = cache.get(file.stem)
        assert found is not None and (found == int(file.stem, 16)).all()


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    processes = [start(tmp_path, 60) for _ in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    cache = EmbeddingCache(tmp_path, {"teacher": 1})
    assert cache.count() == 60 and not list(tmp_path.rglob(".partial*"))
    for number in range(60):
        found = cache.get(f"{number:064x}")
        assert found is not None and (found == number).all()
