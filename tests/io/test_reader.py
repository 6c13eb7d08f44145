from __future__ import annotations

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image

from esp_medsam_monai.errors import InputRefused, find_refusal, warnings_of
from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.io.reader import MedicalImageReader

# MONAI's LoadImage makes every reader that it knows; this one misses a decoder for GPUs.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")


@pytest.fixture
def load():
    """Loads as the bundles do: a flat Compose that begins with LoadImaged."""
    transform = Compose([LoadImaged("image", reader=MedicalImageReader(), ensure_channel_first=True, image_only=True)])
    return lambda path: transform({"image": path})["image"]


def _refusal(load, path):
    with pytest.raises(RuntimeError) as caught:
        load(path)
    return find_refusal(caught.value)


def test_volumes_keep_values_shape_and_affine(tmp_path, load, awkward_volume):
    path = awkward_volume.save(tmp_path / "a b.nii.gz")
    image = load(path)
    assert isinstance(image, MetaTensor) and image.shape == (1, *awkward_volume.array.shape)
    np.testing.assert_array_equal(image[0].numpy(), awkward_volume.array.astype(np.float32))
    np.testing.assert_allclose(image.affine, nib.load(path).affine)
    np.testing.assert_allclose(image.meta["original_affine"], nib.load(path).affine)
    assert tuple(image.meta["spatial_shape"]) == awkward_volume.array.shape
    assert image.meta["filename_or_obj"] == str(path)
    assert "modality" not in image.meta and "slice_axis" not in image.meta


def test_header_scaling_is_applied(tmp_path, load):
    stored = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    stored.header.set_slope_inter(2.0, -5.0)
    nib.save(stored, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_allclose(load(tmp_path / "a.nii")[0], expected)
    assert expected.min() < 0


@pytest.mark.parametrize(
    ("shape", "loaded"), [((4, 5), (4, 5)), ((4, 5, 1), (4, 5, 1)), ((4, 5, 6, 1), (4, 5, 6)), ((1, 5, 6), (1, 5, 6))]
)
def test_shapes_of_volumes(tmp_path, load, shape, loaded):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    assert load(tmp_path / "a.nii.gz").shape == (1, *loaded)


def test_colour_volumes_become_three_channels(tmp_path, load):
    colors = np.random.default_rng(0).integers(0, 255, (4, 5, 2, 3), dtype=np.uint8)
    structured = colors.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(structured, np.eye(4)), tmp_path / "a.nii.gz")
    image = load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.numpy(), colors.transpose(3, 0, 1, 2))


def test_pictures_are_seen_upright(tmp_path, load):
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    color = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    opaque = np.dstack([color, np.full((5, 7), 255, np.uint8)])
    deep = grey.astype(np.uint16) * 1000
    palette = Image.fromarray(color).quantize(16)
    for name, picture, expected in (
        ("grey", Image.fromarray(grey), grey[None]),
        ("color", Image.fromarray(color), color.transpose(2, 0, 1)),
        ("alpha", Image.fromarray(opaque), color.transpose(2, 0, 1)),
        ("deep", Image.fromarray(deep), deep[None]),
        ("bits", Image.fromarray(grey > 10), 255 * (grey > 10)[None]),
        ("palette", palette, np.asarray(palette.convert("RGB")).transpose(2, 0, 1)),
    ):
        picture.save(tmp_path / f"{name}.png")
        image = load(tmp_path / f"{name}.png")
        assert image.shape[1:] == (7, 5), name
        np.testing.assert_array_equal(image.affine, np.diag([-1.0, -1.0, 1.0, 1.0]))
        slices = slice_plan(image.affine, image.shape[1:]).to_slices(image)
        np.testing.assert_array_equal(slices[0], expected, err_msg=name)


def test_jpeg(tmp_path, load):
    Image.fromarray(np.full((5, 7, 3), (200, 30, 30), np.uint8)).save(tmp_path / "a.JPG", quality=95)
    image = load(tmp_path / "a.JPG")
    assert image.shape == (3, 7, 5) and abs(image[0].mean() - 200) < 5 and abs(image[1].mean() - 30) < 5


def test_palette_labels_keep_their_indices(tmp_path):
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    picture = Image.new("P", (3, 2))
    picture.putdata(indices.ravel().tolist())
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    picture.save(tmp_path / "a.png")
    loader = LoadImaged("label", reader=MedicalImageReader(labels=True), ensure_channel_first=True)
    np.testing.assert_array_equal(loader({"label": tmp_path / "a.png"})["label"][0], indices.T)


def test_labels_of_one_bit_are_zero_and_one(tmp_path):
    bits = np.array([[True, False, True], [False, False, True]])
    Image.fromarray(bits).save(tmp_path / "a.png")
    loader = LoadImaged("label", reader=MedicalImageReader(labels=True), ensure_channel_first=True)
    np.testing.assert_array_equal(loader({"label": tmp_path / "a.png"})["label"][0], bits.T)


def test_dicom_file_list_and_folder_agree(tmp_path, load, dicom_series):
    paths = dicom_series(tmp_path, [(0.0, 0.0, 3.0 * k) for k in range(4)])
    images = [load(str(tmp_path)), load([str(path) for path in paths]), load(tuple(reversed(paths)))]
    for image in images:
        assert image.shape == (1, 5, 6, 4)
        assert torch.equal(image.as_tensor(), images[0].as_tensor())
        assert image.meta["modality"] == "ct" and image.meta["modality_source"] == "dicom"
        assert image.meta["slice_axis"] == 2
        np.testing.assert_allclose(image.affine, np.diag([-0.5, -0.7, 3.0, 1.0]))
    assert load(paths[0]).shape == (1, 5, 6, 1)


def test_dicom_beside_other_objects(tmp_path, load, dicom_file, dicom_series):
    dicom_series(tmp_path, [(0.0, 0.0, k) for k in range(3)])
    dicom_file(tmp_path / "report.dcm", Modality="SR")
    (tmp_path / "notes.txt").write_text("not a DICOM file")
    assert load(tmp_path).shape == (1, 5, 6, 3)
    dicom_series(tmp_path / "other", [(0.0, 0.0, k) for k in range(2)])
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / f"second_{path.name}")
    assert _refusal(load, tmp_path).code == "SEVERAL_SERIES"


def test_colour_dicom(tmp_path, load, dicom_file):
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    image = load(dicom_file(tmp_path / "a.dcm", picture, Modality="US"))
    plan = slice_plan(image.affine, image.shape[1:], stacking_axis=image.meta["slice_axis"])
    np.testing.assert_array_equal(plan.to_slices(image)[0], picture.transpose(2, 0, 1))


def test_modality_from_sidecar_and_dicom_before_it(tmp_path, load, volume, dicom_file):
    path = volume().save(tmp_path / "a.nii.gz")
    (tmp_path / "a.json").write_text(json.dumps({"Modality": "MR"}))
    image = load(path)
    assert image.meta["modality"] == "mr" and image.meta["modality_source"] == "sidecar"
    for modality, expected in (("US", ("ultrasound", "dicom")), ("XC", ("dermoscopy", "sidecar"))):
        path = dicom_file(tmp_path / "b.dcm", np.zeros((5, 7), np.uint8), Modality=modality)
        (tmp_path / "b.json").write_text(json.dumps({"modality": "dermoscopy"}))
        image = load(path)
        assert (image.meta["modality"], image.meta["modality_source"]) == expected


def _cut(path, source):
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def _uncompressed_and_cut(path, source):
    path.write_bytes(gzip.decompress(source.read_bytes())[:-100])


def _affine(matrix):
    def make(path, source):
        image = nib.load(source)
        image.header.set_sform(matrix, code=1)
        image.header.set_qform(None, code=0)
        with path.open("wb") as stream:
            header = image.header.copy()
            header["magic"], header["vox_offset"] = b"n+1", 352
            stream.write(header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F"))

    return make


@pytest.mark.parametrize(
    ("name", "make", "code"),
    [
        ("missing.nii.gz", lambda path, source: None, "NOT_FOUND"),
        ("text.nii.gz", lambda path, source: path.write_text("hello"), "NOT_AN_IMAGE"),
        ("empty.nii.gz", lambda path, source: path.write_bytes(b""), "NOT_AN_IMAGE"),
        ("empty.nii", lambda path, source: path.write_bytes(b""), "NOT_AN_IMAGE"),
        ("cut.nii.gz", _cut, "TRUNCATED"),
        ("cut.nii", _uncompressed_and_cut, "TRUNCATED"),
        ("text.png", lambda path, source: path.write_text("hello"), "NOT_AN_IMAGE"),
        ("empty.jpg", lambda path, source: path.write_bytes(b""), "NOT_AN_IMAGE"),
        ("text.dcm", lambda path, source: path.write_text("hello"), "NOT_AN_IMAGE"),
        ("folder", lambda path, source: path.mkdir(), "NOT_AN_IMAGE"),
        ("singular.nii", _affine(np.diag([1.0, 1.0, 0.0, 1.0])), "BAD_AFFINE"),
        ("not_finite.nii", _affine(np.diag([1.0, 1.0, np.nan, 1.0])), "BAD_AFFINE"),
        (
            "series.nii.gz",
            lambda path, source: nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), path),
            "UNSUPPORTED_SHAPE",
        ),
        (
            "complex.nii.gz",
            lambda path, source: nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.complex64), np.eye(4)), path),
            "UNSUPPORTED_TYPE",
        ),
    ],
)
def test_unreadable_files_are_refused_by_name(tmp_path, load, volume, name, make, code):
    make(tmp_path / name, volume(shape=(40, 40, 40)).save(tmp_path / "good" / "whole.nii.gz"))
    refusal = _refusal(load, tmp_path / name)
    assert refusal is not None and refusal.code == code
    assert name in refusal.message


def test_lists_are_for_dicom(tmp_path, load, volume, dicom_file):
    paths = [str(volume().save(tmp_path / f"{name}.nii.gz")) for name in "ab"]
    assert _refusal(load, paths).code == "SEVERAL_FILES"
    grey = dicom_file(tmp_path / "grey.dcm", np.zeros((5, 7), np.uint8), Modality="US")
    assert _refusal(load, [str(grey), str(tmp_path / "absent.dcm")]).code == "NOT_FOUND"


def test_warnings_travel_in_the_metadata(tmp_path, volume):
    brain = volume(dtype="float32")
    brain.array[0, 0, 0] = np.nan
    path = brain.save(tmp_path / "a.nii.gz")
    loaded = {}
    for labels in (False, True):
        loader = LoadImaged("image", reader=MedicalImageReader(labels), ensure_channel_first=True)
        try:
            loaded[labels] = loader({"image": path})["image"]
        except InputRefused as refusal:
            loaded[labels] = refusal.code
    assert loaded[True] == "NON_FINITE"
    assert warnings_of(loaded[False].meta)[0].startswith("NON_FINITE: 1 of 960 ")
    assert float(loaded[False][0, 0, 0, 0]) == np.nanmin(brain.array)


def test_damaged_picture_is_refused(tmp_path, load):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
        _cut(tmp_path / f"cut.{suffix}", tmp_path / f"whole.{suffix}")
        assert _refusal(load, tmp_path / f"cut.{suffix}").code == "TRUNCATED"


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_real_files(shared_dir, load):
    folder = shared_dir / "data" / "dicom" / "single"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    found = {path.name: load(path) for path in sorted(folder.glob("*.dcm"))}
    shapes = {name: tuple(image.shape) for name, image in found.items()}
    assert shapes["US1_UNCR.dcm"] == (3, 640, 480, 1)
    assert shapes["emri_small.dcm"] == (1, 64, 64, 10)
    # Made anonymous so thoroughly that it does not say where it lies.
    assert "NO_PLACE" in found["emri_small.dcm"].meta["warnings"]
    # Inverted greys: in a chest radiograph the air of the lungs is darker than the spine between them.
    chest = found["gdcm-CR-MONO1-10-chest.dcm"][0, :, :, 0]
    assert chest[110, 200] < chest[215, 200] and found["RG3_J2KR.dcm"].meta["modality"] == "xray"
