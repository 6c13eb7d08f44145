"""Datalists: what is read, what is written, and what is said when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esp_medsam_monai.engines import datalist_labels, read_datalist, write_datalist


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def save(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A datalist with one relative training entry."""
    touch(tmp_path / "a" / "x.png"), touch(tmp_path / "a" / "y.png")
    entry = {"image": "a/x.png", "label": "a/y.png", "modality": "xray", "domain": "here"}
    return save(tmp_path / "list.json", {"training": [entry], "labels": {"mr": {"front": 1}}})


def test_relative_paths_start_at_the_file(listed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path.parent)
    entry = read_datalist(listed, "training")[0]
    assert entry == {
        "image": str(tmp_path / "a" / "x.png"),
        "label": str(tmp_path / "a" / "y.png"),
        "modality": "xray",
        "domain": "here",
    }


def test_dataset_dir_is_where_relative_paths_start(listed: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "moved"
    touch(elsewhere / "a" / "x.png"), touch(elsewhere / "a" / "y.png")
    assert read_datalist(listed, "training", str(elsewhere))[0]["image"] == str(elsewhere / "a" / "x.png")


def test_labels_are_the_table_or_none(listed: Path, tmp_path: Path) -> None:
    assert datalist_labels(listed) == {"mr": {"front": 1}}
    assert datalist_labels(save(tmp_path / "plain.json", {"training": []})) is None
    assert datalist_labels(None) is None
    with pytest.raises(ValueError, match="'labels' should be"):
        datalist_labels(save(tmp_path / "bad.json", {"labels": {"mr": ["front"]}}))


def test_a_missing_section_is_named(listed: Path) -> None:
    with pytest.raises(ValueError, match=r"list.json: has nothing in 'test'; it has entries in \['training'\]"):
        read_datalist(listed, "test")
    assert read_datalist(listed, "test", required=False) == []


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"training": [{"label": "a/y.png"}]}, ValueError, r"training\[0\]: needs the paths 'image' and 'label'"),
        ({"training": [{"image": "a/z.png", "label": "a/y.png"}]}, FileNotFoundError, r"image .*z.png does not exist"),
        ({"training": {"image": "a/x.png"}}, ValueError, "should be a list of entries, got dict"),
        ([1], ValueError, "is an object with the lists"),
    ],
)
def test_a_broken_entry_is_named(listed: Path, content: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_datalist(save(listed, content), "training")


def test_missing_files_can_be_left_to_a_look_at_all_of_them(listed: Path, tmp_path: Path) -> None:
    entry = {"image": "a/z.png", "label": "a/y.png"}
    (found,) = read_datalist(save(listed, {"training": [entry]}), "training", check_files=False)
    assert found["image"] == str(tmp_path / "a" / "z.png")


def test_no_list_and_no_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no datalist is given"):
        read_datalist(None, "training")
    with pytest.raises(FileNotFoundError, match="no such datalist"):
        read_datalist(tmp_path / "none.json", "training")
    (tmp_path / "text.json").write_text("training:")
    with pytest.raises(ValueError, match="is no JSON"):
        read_datalist(tmp_path / "text.json", "training")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Twenty images in two subfolders; labels with and without endings; one image without a label."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for i in range(20):
        touch(images / f"site{i % 2}" / f"case{i}.jpg")
        touch(labels / f"site{i % 2}" / f"case{i}{['', '_seg', '_mask'][i % 3]}.png")
    touch(images / "alone.jpg")
    return images, labels


def test_written_lists_read_back_with_the_right_pairs(folders: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out" / "list.json"
    counts = write_datalist(*folders, output, modality="xray", fractions=(0.7, 0.1, 0.2), domain="here")
    assert counts == {"training": 14, "validation": 2, "test": 4}
    entries = [entry for section in counts for entry in read_datalist(output, section)]
    assert len({entry["image"] for entry in entries}) == 20
    for entry in entries:
        stem = Path(entry["image"]).stem
        assert Path(entry["label"]).stem in (stem, f"{stem}_seg", f"{stem}_mask")
        assert (entry["modality"], entry["domain"]) == ("xray", "here")
    raw = json.loads(output.read_text())["training"][0]["image"]
    assert raw.startswith("../images/")


def test_the_split_depends_on_the_seed_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_datalist(*folders, tmp_path / f"{name}.json", modality="xray", seed=seed)
        texts.append((tmp_path / f"{name}.json").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_given_split_is_kept_and_modalities_join(folders: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "list.json"
    write_datalist(*folders, output, modality="xray", split={"test": ["site1/case1", "site0/case4"]})
    write_datalist(
        *folders, output, modality="mr", split={"training": ["site0/case0"]}, targets={"front": 3}, append=True
    )
    assert [Path(entry["image"]).stem for entry in read_datalist(output, "test")] == ["case1", "case4"]
    assert read_datalist(output, "training")[0]["modality"] == "mr"
    assert datalist_labels(output) == {"mr": {"front": 3}}
    with pytest.raises(ValueError, match="case99"):
        write_datalist(*folders, output, modality="xray", split={"test": ["case99"]})


def test_images_and_labels_may_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    for i in range(3):
        touch(folder / f"v{i}.nii.gz"), touch(folder / f"v{i}_seg.nii.gz")
    write_datalist(folder, folder, tmp_path / "list.json", modality="mr", fractions=(0, 0, 1))
    entries = read_datalist(tmp_path / "list.json", "test")
    assert sorted(Path(e["image"]).name for e in entries) == ["v0.nii.gz", "v1.nii.gz", "v2.nii.gz"]
    assert all(e["label"] == e["image"].replace(".nii", "_seg.nii") for e in entries)


def test_folders_without_a_pair_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "i" / "a.png"), touch(tmp_path / "l" / "b.png")
    with pytest.raises(ValueError, match="none of 1 images has a label"):
        write_datalist(tmp_path / "i", tmp_path / "l", tmp_path / "o.json", modality="xray")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_datalist(tmp_path / "x", tmp_path / "l", tmp_path / "o.json", modality="xray")
