"""write_mask: a mask lies on its image, and a broken write leaves nothing behind."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from PIL import Image

from esp_medsam_monai.io.label_table import read_label_table
from esp_medsam_monai.io.writers import write_mask


def labels(shape: tuple[int, ...], affine: np.ndarray | None = None) -> MetaTensor:
    values = np.random.default_rng(0).integers(0, 9, size=shape).astype(np.uint8)
    return MetaTensor(torch.tensor(values)[None], affine=torch.tensor(np.eye(4) if affine is None else affine))


def test_shape_and_values_lie_on_the_image(awkward_volume: Any, tmp_path: Path) -> None:
    mask = labels(awkward_volume.array.shape, awkward_volume.affine)
    path = write_mask(tmp_path / "sub" / "a_seg.nii.gz", mask)
    stored = nib.load(path)
    assert stored.shape == awkward_volume.array.shape
    assert stored.get_data_dtype() == np.uint8
    np.testing.assert_allclose(stored.affine, awkward_volume.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(stored.dataobj), mask.numpy()[0])


def test_values_other_readers_see_the_same_geometry(volume, tmp_path: Path) -> None:
    made = volume(spacing=(0.7, 0.8, 5.0), angles=(17.0, -24.0, 9.0))
    image = sitk.ReadImage(str(made.save(tmp_path / "image.nii.gz")))
    mask = sitk.ReadImage(str(write_mask(tmp_path / "mask.nii.gz", labels(made.array.shape, made.affine))))
    assert mask.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, name)(), getattr(image, name)(), atol=1e-4)


def test_values_codes_of_the_header_are_kept(tmp_path: Path) -> None:
    mask = labels((4, 5, 6))
    mask.meta.update(sform_code=2, qform_code=0)
    header = nib.load(write_mask(tmp_path / "a.nii.gz", mask)).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 1)
    assert header.get_xyzt_units()[0] == "mm"


def test_shape_sheared_affine_is_kept(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 0.3  # a tilted gantry
    np.testing.assert_allclose(nib.load(write_mask(tmp_path / "a.nii.gz", labels((4, 5, 6), affine))).affine, affine)


def test_values_picture_is_upright(tmp_path: Path) -> None:
    mask = labels((7, 3))  # (W, H) as pictures are loaded
    stored = np.asarray(Image.open(write_mask(tmp_path / "a_seg.png", mask)))
    assert stored.shape == (3, 7)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, mask.numpy()[0].T)


def test_bad_input_is_never_overwritten(volume, tmp_path: Path) -> None:
    path = volume().save(tmp_path / "a.nii.gz")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="input"):
        write_mask(tmp_path / "x" / ".." / "a.nii.gz", labels((12, 10, 8)), str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_bad_input_is_never_overwritten_through_a_link(link: str, volume, tmp_path: Path) -> None:
    path = volume().save(tmp_path / "a.nii.gz")
    before = path.read_bytes()
    output = tmp_path / "a_seg.nii.gz"
    getattr(output, link)(path)
    with pytest.raises(ValueError, match="input"):
        write_mask(output, labels((12, 10, 8)), [str(path)])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("a.png", labels((4, 5, 6)), "pictures"),
        ("a.mha", labels((4, 5, 6)), "nii.gz"),
        ("a.nii.gz", labels((4, 5, 6))[0], "should be"),
        ("a.nii.gz", MetaTensor(torch.full((1, 4, 5), 0.5)), "whole numbers"),
        ("a.nii.gz", MetaTensor(torch.full((1, 4, 5), 300)), "whole numbers"),
    ],
)
def test_bad_input(name: str, mask: MetaTensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_mask(tmp_path / name, mask)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_interrupted_write_keeps_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mask(tmp_path / "a.nii.gz", labels((4, 5, 6)))
    before = path.read_bytes()

    def full_disk(image: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_mask(path, labels((4, 5, 6)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


NAMES = {7: ("mr_hippocampus_anterior", (204, 121, 167)), 8: ("mr_hippocampus_posterior", (120, 200, 120))}


def two_targets() -> MetaTensor:
    values = torch.zeros((1, 4, 5, 6), dtype=torch.uint8)
    values[0, 0, 0, 0], values[0, 1, 1, 1] = 7, 8
    return MetaTensor(values, affine=torch.eye(4))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_values_names_and_colors_are_in_the_file(name: str, tmp_path: Path) -> None:
    path = write_mask(tmp_path / name, two_targets(), labels=NAMES)
    assert read_label_table(path) == {0: ("background", (0, 0, 0)), **NAMES}
    np.testing.assert_array_equal(np.asanyarray(nib.load(path).dataobj), two_targets().numpy()[0])


def test_values_table_is_what_other_readers_expect(tmp_path: Path) -> None:
    """Connectome Workbench: code 30, CaretExtension / VolumeInformation / LabelTable, VolumeType Label, shares of 1.

    TotalSegmentator: ``get_content()`` of the first extension, at least two entries, text in each.
    """
    only_seven = two_targets()
    only_seven[only_seven == 8] = 0
    path = write_mask(tmp_path / "a.nii.gz", only_seven, labels={7: ("a<b & ü", (255, 0, 51))})
    first, second = nib.load(path).header.extensions
    assert second.get_code() == 30
    root = ET.fromstring(first.get_content())
    assert root.tag == "CaretExtension"
    assert root.findtext("VolumeInformation[@Index='0']/VolumeType") == "Label"
    entries = root.findall("VolumeInformation/LabelTable/Label")
    assert [(entry.get("Key"), entry.text) for entry in entries] == [("0", "background"), ("7", "a<b & ü")]
    assert [float(entries[1].attrib[part]) for part in ("Red", "Green", "Blue", "Alpha")] == [1.0, 0.0, 0.2, 1.0]


def test_values_extension_has_no_zero_bytes(tmp_path: Path) -> None:
    """They are no XML, and readers hand the whole block to their parser."""
    for length in range(1, 18):
        path = write_mask(tmp_path / "a.nii", two_targets(), labels={7: ("n" * length, (1, 2, 3)), 8: ("b", (4, 5, 6))})
        raw, start = path.read_bytes(), 352
        for expected in (0, 30):
            size, code = np.frombuffer(raw[start : start + 8], dtype="<i4")
            assert (size % 16, code) == (0, expected)
            assert b"\0" not in raw[start + 8 : start + size]
            assert raw[start + 8 : start + size] == raw[360 : 352 + size]  # both say the same
            start += size


def test_bad_input_value_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds the values \[8\]"):
        write_mask(tmp_path / "a.nii.gz", two_targets(), labels={7: NAMES[7]})
    assert list(tmp_path.iterdir()) == []


def test_values_file_without_a_table(volume, tmp_path: Path) -> None:
    assert read_label_table(volume().save(tmp_path / "a.nii.gz")) == {}
    assert read_label_table(write_mask(tmp_path / "b.nii.gz", two_targets())) == {}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png"])
def test_values_two_runs_give_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = labels((7, 3)) if name == "a.png" else two_targets()
    first = write_mask(tmp_path / name, mask, labels=None if name == "a.png" else NAMES).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)  # gzip notes the time unless told not to
    second = write_mask(tmp_path / "another folder" / name, mask, labels=None if name == "a.png" else NAMES)
    assert second.read_bytes() == first


def damaged(damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a mask is damaged on its way to the disk."""
    save = nib.save

    def save_badly(image: Any, target: Path) -> None:
        save(damage(image) or image, target)
        if damage is truncated:
            target.write_bytes(target.read_bytes()[:-30])

    monkeypatch.setattr(nib, "save", save_badly)


def truncated(image: Any) -> None:
    pass


def other_value(image: Any) -> Any:
    array = np.array(image.dataobj)
    array[1, 1, 1] += 1
    return nib.Nifti1Image(array, image.affine)


def other_shape(image: Any) -> Any:
    return nib.Nifti1Image(image.dataobj[..., None], image.affine)


def other_type(image: Any) -> Any:
    return nib.Nifti1Image(image.dataobj.astype(np.int16), image.affine)


def other_affine(image: Any) -> Any:
    return nib.Nifti1Image(image.dataobj, image.affine + np.diag([0.002, 0, 0, 0]))


@pytest.mark.parametrize("damage", [truncated, other_value, other_shape, other_type, other_affine])
def test_bad_input_damage_on_the_way_to_the_disk(damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mask(tmp_path / "a.nii.gz", two_targets())
    before = path.read_bytes()
    damaged(damage, monkeypatch)
    with pytest.raises(OSError, match="read back"):
        write_mask(path, two_targets())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_values_affine_of_a_distant_origin_survives_the_header(tmp_path: Path) -> None:
    """Scanners put the origin a metre away; float32 keeps that to far less than a thousandth of a voxel."""
    affine = np.diag([0.3, 0.3, 0.5, 1.0])
    affine[:3, 3] = (-1234.56789, 987.654321, 2345.6789)
    assert write_mask(tmp_path / "a.nii.gz", labels((4, 5, 6), affine)).is_file()


def test_bad_input_affine_that_the_header_cannot_hold(tmp_path: Path) -> None:
    affine = np.diag([1e-4, 1e-4, 1e-4, 1.0])
    affine[:3, 3] = 12345.678901
    with pytest.raises(OSError, match="affine"):
        write_mask(tmp_path / "a.nii.gz", labels((4, 5, 6), affine))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["wrong", "broken"])
def test_bad_input_damaged_picture(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(image: Image.Image, target: Path) -> None:
        target.write_bytes(b"half")
        if kind == "wrong":
            saved(Image.new("L", image.size, 3), target)

    saved = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="read back"):
        write_mask(tmp_path / "a.png", MetaTensor(torch.zeros(1, 7, 3)))
    assert list(tmp_path.iterdir()) == []
