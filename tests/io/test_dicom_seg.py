"""What a DICOM SEG says, and what is refused; the places of its voxels are tested in test_dicom_seg_places.py."""

from __future__ import annotations

import ast
import inspect
import sys

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom.uid import generate_uid

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io import dicom_seg
from esp_medsam_monai.io.dicom_seg import missing_for_dicom_seg, write_dicom_seg

TARGETS = {"hippocampus_anterior": 7, "hippocampus_posterior": 8}
US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"

needs_highdicom = pytest.mark.skipif(missing_for_dicom_seg() is not None, reason=str(missing_for_dicom_seg()))


@needs_highdicom
@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, of the dates
def test_what_a_segment_says(tmp_path, dicom_series, space, masked):
    patient = {"PatientID": "P1", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101", "SeriesNumber": 4}
    dates = {"StudyDate": "1995.07.24", "StudyTime": "09:39:00"}  # as old equipment writes them
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in (0.0, 1.0, 2.0)], **space, **patient, **dates)
    mask = masked(paths)
    mask[mask == 7] = 0  # only the second target was found
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS))
    (segment,) = seg.SegmentSequence
    assert segment.SegmentNumber == 1 and segment.SegmentDescription == "label value 8"
    assert segment.SegmentLabel == "mr hippocampus posterior" and segment.SegmentAlgorithmType == "AUTOMATIC"
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("5366008", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Posterior"
    assert segment.TrackingID and segment.TrackingUID and len(segment.RecommendedDisplayCIELabValue) == 3
    assert (seg.PatientID, str(seg.PatientName), seg.StudyInstanceUID) == ("P1", "Doe^Jane", space["StudyInstanceUID"])
    assert (seg.StudyDate, seg.StudyTime, seg.SeriesNumber) == ("19950724", "093900", 1004)
    assert seg.FrameOfReferenceUID == space["FrameOfReferenceUID"] and not seg.ContentCreatorName
    referenced = {r.ReferencedSOPInstanceUID for r in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {pydicom.dcmread(path).SOPInstanceUID for path in paths}


@needs_highdicom
def test_colour_is_the_table_s(tmp_path, dicom_series, space, dcmqi, masked):
    """Through CIELab and back, by dcmqi."""
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in (0.0, 1.0)], **space)
    _, segments = dcmqi(write_dicom_seg(tmp_path / "seg.dcm", masked(paths), paths, "mr", TARGETS))
    colors = np.array([segment["recommendedDisplayRGBValue"] for segment in segments])
    np.testing.assert_allclose(colors, [(204, 121, 167), (120, 200, 120)], atol=2)


@needs_highdicom
def test_labelmap_holds_the_table_s_values(tmp_path, dicom_series, space, masked):
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in (0.0, 1.0)], **space)
    mask = masked(paths)
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS, "labelmap"))
    assert [segment.SegmentNumber for segment in seg.SegmentSequence if segment.SegmentNumber] == [7, 8]
    by_height = {
        float(group.PlanePositionSequence[0].ImagePositionPatient[2]): frame
        for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
    }
    for z, height in enumerate((0.0, 1.0)):
        np.testing.assert_array_equal(by_height[height], mask[0, ..., z].numpy().T)


@needs_highdicom
def test_an_empty_mask_gives_no_file(tmp_path, dicom_series, space, masked):
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in (0.0, 1.0)], **space)
    assert write_dicom_seg(tmp_path / "seg.dcm", masked(paths) * 0, paths, "mr", TARGETS) is None
    assert not (tmp_path / "seg.dcm").exists()


def refusal(*args) -> str:
    with pytest.raises(InputRefused) as refused:
        write_dicom_seg(*args)
    assert refused.value.code == "NO_DICOM_SEG"
    return refused.value.message


@needs_highdicom
def test_refusals(tmp_path, dicom_series, dicom_file, space, masked):
    out = tmp_path / "seg.dcm"
    heights = [(0, 0, z) for z in (0.0, 1.0, 2.0)]
    paths = dicom_series(tmp_path / "in", heights, **space)
    other = dicom_series(tmp_path / "other", [(0.2, 0, z) for _, _, z in heights], **space)
    nowhere = dicom_series(tmp_path / "nowhere", heights, StudyInstanceUID=generate_uid())
    clip = dicom_file(tmp_path / "clip.dcm", np.zeros((3, 6, 5), np.uint8), US_MULTIFRAME, Modality="US", **space)
    mask = masked(paths)
    assert "lie where the mask lies" in refusal(out, mask, other, "mr", TARGETS)
    assert "lie where the mask lies" in refusal(out, mask, paths[:2], "mr", TARGETS)
    assert "FrameOfReferenceUID" in refusal(out, mask, nowhere, "mr", TARGETS)
    assert "3 frames" in refusal(out, masked([clip]), [clip], "mr", TARGETS)
    lonely = dicom_series(tmp_path / "lonely", heights, FrameOfReferenceUID=generate_uid())
    assert "StudyInstanceUID" in refusal(out, mask, lonely, "mr", TARGETS)
    assert not out.exists()


@needs_highdicom
def test_bad_arguments(tmp_path, dicom_series, space, masked):
    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in (0.0, 1.0)], **space)
    mask = masked(paths)
    with pytest.raises(ValueError, match="input"):
        write_dicom_seg(paths[0], mask, paths, "mr", TARGETS)
    with pytest.raises(ValueError, match=r"\[8\]"):
        write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", {"hippocampus_anterior": 7})
    with pytest.raises(ValueError, match="binary"):
        write_dicom_seg(tmp_path / "seg.dcm", mask, paths, "mr", TARGETS, "fractional")
    with pytest.raises(ValueError, match="1, X, Y, Z"):
        write_dicom_seg(tmp_path / "seg.dcm", mask[..., 0], paths, "mr", TARGETS)


@needs_highdicom
@pytest.mark.parametrize("damage", ["short", "other_pixels", "other_space", "other_places"])
def test_a_damaged_file_is_not_kept(tmp_path, dicom_series, space, monkeypatch, damage, masked):
    import highdicom

    def save_badly(self, path, **kwargs):
        if damage == "other_pixels":
            self.PixelData = bytes(len(self.PixelData))
        if damage == "other_space":
            self.FrameOfReferenceUID = generate_uid()
        if damage == "other_places":
            for group in self.PerFrameFunctionalGroupsSequence:
                group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
        pydicom.Dataset.save_as(self, path, **kwargs)
        if damage == "short":
            path.write_bytes(path.read_bytes()[:2000])

    paths = dicom_series(tmp_path / "in", [(0, 0, z) for z in (0.0, 1.0)], **space)
    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", save_badly)
    with pytest.raises(OSError, match="was not kept"):
        write_dicom_seg(tmp_path / "out" / "seg.dcm", masked(paths), paths, "mr", TARGETS)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(pydicom, "__version__", "2.4.4")
    assert "pydicom 3" in missing_for_dicom_seg() and 'pip install "esp-medsam-monai[dicom]"' in missing_for_dicom_seg()
    monkeypatch.setattr(pydicom, "__version__", "3.0.1")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setitem(sys.modules, "highdicom.seg", None)
    assert "highdicom" in missing_for_dicom_seg()
    with pytest.raises(ImportError, match="highdicom"):
        write_dicom_seg("seg.dcm", MetaTensor(torch.zeros(1, 2, 2, 2)), [], "mr", TARGETS)


def test_the_module_imports_without_highdicom():
    """It is an extra: the rest of the package imports this module where highdicom is absent."""
    tree = ast.parse(inspect.getsource(dicom_seg))
    imported = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported and not [line for line in imported if "highdicom" in line]
