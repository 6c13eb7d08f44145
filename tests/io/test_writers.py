"""write_mask: a mask lies on its image, and a broken write leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from PIL import Image

from esp_medsam_monai.io import atomic_path, write_mask


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


def test_values_atomic_path_hides_the_file_until_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
    assert target.read_text(encoding="utf-8") == "whole"
    assert list(tmp_path.iterdir()) == [target]
