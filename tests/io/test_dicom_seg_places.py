"""Voxels of a DICOM SEG lie where those of the NIfTI lie: read back by dcmqi, and from the tags what it cannot hold."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from esp_medsam_monai.errors import warnings_of
from esp_medsam_monai.io import write_mask
from esp_medsam_monai.io.dicom_seg import missing_for_dicom_seg, write_dicom_seg
from esp_medsam_monai.io.rules import ReadingRules

TARGETS = {"hippocampus_anterior": 7, "hippocampus_posterior": 8}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CR_STORAGE, US_STORAGE = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.6.1"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"

needs_highdicom = pytest.mark.skipif(missing_for_dicom_seg() is not None, reason=str(missing_for_dicom_seg()))


def assert_same_places(stated: nib.Nifti1Image, found: nib.Nifti1Image, renamed: dict[int, int]) -> None:
    """Every labelled voxel of one image lies, to 0.01 voxel, on one of the other with its label; none is left."""
    labels, others = np.asarray(stated.dataobj), np.asarray(found.dataobj)
    voxels = np.argwhere(labels)
    assert len(voxels) == np.count_nonzero(others) > 0
    at = nib.affines.apply_affine(np.linalg.inv(found.affine) @ stated.affine, voxels)
    assert np.abs(at - at.round()).max() < 0.01
    expected = np.array([renamed[label] for label in labels[tuple(voxels.T)]])
    np.testing.assert_array_equal(others[tuple(at.round().astype(int).T)], expected)


def voxels_of(seg: Dataset) -> dict[int, set[tuple[float, ...]]]:
    """World coordinates (LPS, mm, 0.01 mm steps) of the pixels of each segment, frame by frame from the tags."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[int, set[tuple[float, ...]]] = {}
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        holder = group if "SegmentIdentificationSequence" in group else shared
        number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points = corner + np.outer(columns * across, orientation[:3]) + np.outer(rows * down, orientation[3:])
        found.setdefault(number, set()).update(tuple(point) for point in points.round(2).tolist())
    return found


def voxels_of_mask(mask: MetaTensor, value: int) -> set[tuple[float, ...]]:
    points = nib.affines.apply_affine(mask.affine.numpy(), np.argwhere(mask[0].numpy() == value))
    return {tuple(point) for point in ((points * (-1, -1, 1)).round(2) + 0.0).tolist()}


def rounded(points: set[tuple[float, ...]]) -> list[tuple[float, ...]]:
    return sorted(tuple(v + 0.0 for v in point) for point in points)


SERIES = {
    "axial": AXIAL,
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal_from_behind": (-1, 0, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, 0, 0, -1),
    "oblique_twice": (0, 0.6, 0.8, 1, 0, 0),
}


@needs_highdicom
@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_series_in_any_orientation(tmp_path, dicom_series, space, dcmqi, name, kind, masked):
    normal = np.cross(SERIES[name][:3], SERIES[name][3:])
    paths = dicom_series(
        tmp_path / "in", [(3.0, -4.0, 5.0) + 1.5 * k * normal for k in range(4)], SERIES[name], **space
    )
    mask = masked(paths)
    seg = write_dicom_seg(tmp_path / "seg.dcm", mask, paths[::-1], "mr", TARGETS, kind)
    found, segments = dcmqi(seg)
    nifti = write_mask(tmp_path / "seg.nii.gz", mask)
    assert_same_places(nib.load(nifti), found, {7: 1, 8: 2} if kind == "binary" else {7: 7, 8: 8})
    assert [segment["SegmentLabel"] for segment in segments] == ["mr hippocampus anterior", "mr hippocampus posterior"]
    # The whole series has its frames, so that a viewer that counts them does not shift the mask.
    assert found.shape == mask.shape[1:]


@needs_highdicom
@pytest.mark.parametrize("name", ["mr_brain_t2", "mr_brain_t1post"])
def test_a_real_series(tmp_path, shared_dir, dcmqi, name, masked):
    paths = sorted((shared_dir / "data" / "dicom" / name).glob("*.dcm"))
    mask = masked(paths)
    mask[:, :, :, :5] = 0
    seg = write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS)
    found, _ = dcmqi(seg)
    assert_same_places(nib.load(write_mask(tmp_path / "seg.nii.gz", mask)), found, {7: 1, 8: 2})
    assert pydicom.dcmread(seg).FrameOfReferenceUID == pydicom.dcmread(paths[0]).FrameOfReferenceUID


@needs_highdicom
def test_gantry_tilt(tmp_path, dicom_series, space, masked):
    paths = dicom_series(tmp_path / "in", [(1.0, 0.3 * k, 1.0 * k) for k in range(5)], **space)
    mask = masked(paths)
    found = voxels_of(pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS)))
    for number, value in ((1, 7), (2, 8)):
        assert rounded(found[number]) == rounded(voxels_of_mask(mask, value))


@needs_highdicom
def test_orientations_that_differ_by_rounding(tmp_path, dicom_series, space, masked):
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in (0.0, 1.0)], **space)
    last = pydicom.dcmread(paths[0])
    last.ImageOrientationPatient = [1.0, 0.00001, 0.0, 0.0, 1.0, 0.0]
    last.save_as(paths[0])
    assert write_dicom_seg(tmp_path / "seg.dcm", masked(paths), paths, "mr", TARGETS)


@needs_highdicom
@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_every_image_has_its_frame_whatever_was_found_on_it(tmp_path, dicom_series, space, kind, masked):
    """Some viewers count frames from the first image, and shift a mask whose empty ones were left out."""
    paths = dicom_series(tmp_path / "in", [(0, 0, 2.0 * k) for k in range(4)], **space)
    mask = masked(paths)
    mask[..., [0, 2, 3]] = 0
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS, kind))
    places = [float(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in seg.PerFrameFunctionalGroupsSequence]
    assert sorted(places) == sorted([0.0, 2.0, 4.0, 6.0] * (2 if kind == "binary" else 1))


@needs_highdicom
def test_missing_slices_have_no_frames(tmp_path, dicom_series, space, masked):
    """The reader fills the gap with an empty slice, where no image lies that a frame could refer to."""
    heights = (0.0, 2.0, 4.0, 8.0)
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in heights], **space)
    mask = masked(paths, rules=ReadingRules(allow_missing_slices=True))
    assert mask.shape[-1] == 5
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS))
    lost = int(torch.count_nonzero(mask[..., 3]))
    assert [w for w in warnings_of(mask.meta) if w.startswith(f"DICOM_SEG_PLANES: {lost} labelled voxels")]
    mask[..., 3] = 0
    for number, value in ((1, 7), (2, 8)):
        assert rounded(voxels_of(seg)[number]) == rounded(voxels_of_mask(mask, value))


@needs_highdicom
def test_duplicates_and_uneven_steps_that_the_reader_let_pass(tmp_path, dicom_series, space, masked):
    rules = ReadingRules(allow_duplicate_positions=True, allow_uneven_spacing=True)
    heights = (0.0, 2.0, 2.0, 4.3, 6.2)
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in heights], **space)
    mask = masked(paths, rules=rules)
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS))
    places = [float(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in seg.PerFrameFunctionalGroupsSequence]
    assert sorted(set(places)) == [0.0, 2.0, 4.3, 6.2]  # where the images lie, not where the even grid puts them
    counts = dict.fromkeys(places, 0)
    for z, frame in zip(places, seg.pixel_array, strict=True):
        counts[z] += int(frame.sum())
    assert [counts[z] for z in sorted(counts)] == torch.count_nonzero(mask[0], dim=(0, 1)).tolist()


@needs_highdicom
def test_a_single_slice(tmp_path, dicom_series, space, masked):
    paths = dicom_series(tmp_path / "in", [(1, 2, 3)], **space)
    mask = masked(paths)
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", {"my_own": 7, "other": 8}))
    for number, value in ((1, 7), (2, 8)):
        assert rounded(voxels_of(seg)[number]) == rounded(voxels_of_mask(mask, value))


def enhanced(path, dicom_file, shared_orientation, **tags):
    heights = (4.0, 0.0, 2.0)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing = [0.7, 0.5]
    shared.PixelMeasuresSequence = Sequence([measures])
    frames = []
    for z in heights:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0.0, 0.0, z]
        frame.PlanePositionSequence = Sequence([position])
        if not shared_orientation:
            frame.PlaneOrientationSequence = Sequence([plane])
        frames.append(frame)
    if shared_orientation:
        shared.PlaneOrientationSequence = Sequence([plane])
    pixels = np.arange(3 * 6 * 5, dtype=np.uint16).reshape(3, 6, 5)
    groups = {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }
    return dicom_file(path, pixels, ENHANCED_MR, Modality="MR", SeriesInstanceUID=generate_uid(), **groups, **tags)


@needs_highdicom
@pytest.mark.parametrize("shared_orientation", [True, False])
def test_enhanced_multiframe(tmp_path, dicom_file, space, shared_orientation, masked):
    path = enhanced(tmp_path / "in.dcm", dicom_file, shared_orientation, **space)
    mask = masked([path])
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, [path], "mr", TARGETS))
    for number, value in ((1, 7), (2, 8)):
        assert rounded(voxels_of(seg)[number]) == rounded(voxels_of_mask(mask, value))


@needs_highdicom
@pytest.mark.parametrize(("sop_class", "kind", "colour"), [(CR_STORAGE, "CR", False), (US_STORAGE, "US", True)])
def test_a_picture_without_a_place_in_the_patient(tmp_path, dicom_file, sop_class, kind, colour, masked):
    pixels = np.arange(6 * 5 * (3 if colour else 1), dtype=np.uint8).reshape(6, 5, *([3] if colour else []))
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    path = dicom_file(tmp_path / "in.dcm", pixels, sop_class, Modality=kind, **uids)
    mask = masked([path], values=(2,))
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, [path], "xray", {"lung": 2}))
    np.testing.assert_array_equal(seg.pixel_array.reshape(6, 5), mask[0, ..., 0].numpy().T == 2)
    reference = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
    assert "FrameOfReferenceUID" not in seg
