from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from esp_medsam_monai.hashing import sha256_of_files, stamp_of_files
from esp_medsam_monai.io.cases import find_cases

LINE = [(0.0, 0.0, float(k)) for k in range(3)]


def _picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


def _names(cases):
    return [case.name for case in cases]


def test_mixed_folder(tmp_path, volume, dicom_file, dicom_series):
    volume().save(tmp_path / "b.nii.gz")
    _picture(tmp_path / "sub" / "a.png")
    _picture(tmp_path / "sub" / "c.JPEG")
    paths = dicom_series(tmp_path / "sub" / "knee", LINE, SeriesNumber=4)
    dicom_file(tmp_path / "sub" / "knee" / "structures.dcm", Modality="RTSTRUCT")
    dicom_file(tmp_path / "seg.dcm", np.zeros((4, 4), np.uint8), "1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG")
    (tmp_path / "sub" / "a.json").write_text(json.dumps({"modality": "dermoscopy"}))
    (tmp_path / "sub" / "notes.txt").write_text("notes")
    _picture(tmp_path / ".hidden" / "a.png")
    cases, ignored = find_cases(tmp_path)
    assert _names(cases) == ["b", "sub/a", "sub/c", "sub/knee/knee"]
    assert [case.kind for case in cases] == ["nifti", "picture", "picture", "dicom"]
    assert [case.modality for case in cases] == [None, "dermoscopy", None, "ct"]
    assert [case.modality_source for case in cases] == [None, "sidecar", None, "dicom"]
    assert cases[0].image == str(tmp_path / "b.nii.gz")
    assert cases[3].image == tuple(sorted(str(path) for path in paths))
    assert ignored == ["seg.dcm", "sub/knee/structures.dcm"]


def test_several_series_in_one_folder(tmp_path, dicom_file, dicom_series):
    folder = tmp_path / "study"
    for number in (2, 7):
        for path in dicom_series(tmp_path / "work", LINE, SeriesNumber=number, SeriesInstanceUID=f"1.2.{number}"):
            folder.mkdir(exist_ok=True)
            path.rename(folder / f"{number}_{path.name}")
    assert _names(find_cases(tmp_path)[0]) == ["study/study_2", "study/study_7"]
    # A localizer that shares the number of a series, a radiograph without one, a single slice.
    dicom_file(folder / "scout.dcm", np.zeros((4, 4), np.int16), SeriesNumber=7, SeriesInstanceUID="1.2.7")
    dicom_file(folder / "hand.dcm", np.zeros((4, 4), np.int16), Modality="CR", SeriesInstanceUID="1.3")
    cases, _ = find_cases(tmp_path)
    assert _names(cases) == ["study/study_2", "study/study_7_7_001", "study/study_7_scout", "study/study_hand"]
    assert cases[2].image == str(folder / "scout.dcm")
    picked, _ = find_cases(tmp_path, series="1.2.2")
    assert _names(picked) == ["study/study"] and len(picked[0].image) == 3


def test_dicom_directly_in_the_searched_folder(tmp_path, dicom_series):
    dicom_series(tmp_path / "patient 1", LINE)
    assert _names(find_cases(tmp_path / "patient 1")[0]) == ["patient 1"]


def test_collisions_join_the_extension(tmp_path, volume, dicom_series):
    _picture(tmp_path / "a.png")
    _picture(tmp_path / "a.jpg")
    volume().save(tmp_path / "a.nii.gz")
    volume().save(tmp_path / "a_png.nii")
    volume().save(tmp_path / "x" / "x.nii.gz")
    dicom_series(tmp_path / "x", LINE)
    names = _names(find_cases(tmp_path)[0])
    assert names == ["a_jpg", "a_nii_gz", "a_png", "a_png_2", "x/x_dcm", "x/x_nii_gz"]


def test_results_are_never_input(tmp_path, volume):
    volume().save(tmp_path / "a.nii.gz")
    volume().save(tmp_path / "user_seg.nii.gz")  # somebody's own file may be called so
    _picture(tmp_path / "sub" / "b.png")
    # A run into this very folder, and one into a folder below it.
    rows = [{"case": "a", "output": "a_seg.nii.gz"}, {"case": "sub/b", "output": "sub/b_seg.png"}]
    rows = [{**row, "status": "done"} for row in rows]
    for out in (tmp_path, tmp_path / "old"):
        volume().save(out / "a_seg.nii.gz")
        _picture(out / "a_preview.png")
        _picture(out / "sub" / "b_seg.png")
        _picture(out / "sub" / "b_preview.png")
        (out / "report.json").write_text(json.dumps({"run": {}, "cases": rows}))
    _picture(tmp_path / "out" / "unfinished_seg.png")
    cases, ignored = find_cases(tmp_path, tmp_path / "out")
    assert _names(cases) == ["a", "sub/b", "user_seg"]
    assert len(ignored) == 8 and "old/sub/b_preview.png" in ignored and "a_seg.nii.gz" in ignored
    assert _names(find_cases(tmp_path, tmp_path)[0]) == ["a", "out/unfinished_seg", "sub/b", "user_seg"]


def test_masks_are_known_by_their_sidecars(tmp_path, volume):
    """Also after the folder was moved away from its report."""
    for name in ("a", "b"):
        volume().save(tmp_path / f"{name}_seg.nii.gz")
        _picture(tmp_path / f"{name}_preview.png")
    (tmp_path / "a_seg.json").write_text(json.dumps({"generator": "esp_medsam_monai 0.9.0"}))
    (tmp_path / "b_seg.json").write_text(json.dumps({"generator": "another program"}))
    _picture(tmp_path / ".partial-1-c_seg.png")
    cases, ignored = find_cases(tmp_path)
    assert _names(cases) == ["b_preview", "b_seg"]
    assert ignored == ["a_preview.png", "a_seg.nii.gz"]


def test_files_of_a_case(tmp_path, volume, dicom_series):
    path = volume().save(tmp_path / "in" / "a b.nii.gz")
    asked = [tmp_path / "in" / "a b.json", tmp_path / "in" / "modality.json"]
    for sidecar in asked:
        sidecar.write_text("{}")
    case = find_cases(tmp_path / "in")[0][0]
    assert case.files == (str(path), *map(str, asked))
    assert case.paths == (str(path),) and case.input == str(path)
    paths = dicom_series(tmp_path / "in" / "ct", LINE)
    case = find_cases(tmp_path / "in")[0][1]
    assert case.files == case.paths == tuple(sorted(map(str, paths)))  # DICOM says it; nothing else is asked
    assert case.input == str(tmp_path / "in" / "ct")
    paths[0].unlink()
    assert len(case.files) == 2


def test_one_file(tmp_path, volume, dicom_series):
    path = volume().save(tmp_path / "a.nii.gz")
    (tmp_path / "modality.json").write_text(json.dumps({"modality": "mr"}))
    cases, ignored = find_cases(path)
    assert [(case.name, case.image, case.modality) for case in cases] == [("a", str(path), "mr")]
    assert ignored == []
    (case,), _ = find_cases(dicom_series(tmp_path / "ct", LINE)[0])
    assert case.name == "003" and case.kind == "dicom"
    assert find_cases(tmp_path / "modality.json") == ([], [])


def test_a_localizer_is_a_case_of_its_own(tmp_path, dicom_series):
    tags = {"SeriesInstanceUID": "1.2.3", "SeriesNumber": 4}
    dicom_series(tmp_path / "knee", LINE, **tags)
    scout = dicom_series(tmp_path / "work", [(0.0, 0.0, 50.0)], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **tags)
    scout[0].rename(tmp_path / "knee" / "scout.dcm")
    cases, _ = find_cases(tmp_path)
    assert _names(cases) == ["knee/knee_4_001", "knee/knee_4_scout"]


def test_a_folder_that_cannot_be_opened_is_a_case_that_fails(tmp_path, volume, monkeypatch):
    """Simulated, because the superuser may open everything."""
    volume().save(tmp_path / "a.nii.gz")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    cases, _ = find_cases(tmp_path)
    assert _names(cases) == ["a", "closed"] and cases[1].files == ()


def test_a_report_of_another_program_hides_nothing(tmp_path):
    _picture(tmp_path / "a_seg.png")
    (tmp_path / "report.json").write_text(json.dumps({"cases": [{"case": "a"}]}))
    assert _names(find_cases(tmp_path)[0]) == ["a_seg"]
    (tmp_path / "report.json").write_text("{not json")
    assert _names(find_cases(tmp_path)[0]) == ["a_seg"]


def test_unreadable_files_are_still_cases(tmp_path):
    for name in ("a.nii.gz", "b.png", "c.dcm"):
        (tmp_path / name).write_bytes(b"broken")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b.json").write_text("{not json")
    cases, _ = find_cases(tmp_path)
    assert _names(cases) == ["a", "b", "c", "gone"]
    assert all(case.modality is None for case in cases)


def test_linked_folders_are_searched_once(tmp_path):
    _picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "in" / "real").mkdir(parents=True)
    (tmp_path / "in" / "real" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "real" / "loop").symlink_to(tmp_path / "in")
    assert _names(find_cases(tmp_path / "in")[0]) == ["real/linked/a"]


def test_folder_sidecars_reach_down(tmp_path):
    _picture(tmp_path / "in" / "p1" / "a.png")
    (tmp_path / "modality.json").write_text(json.dumps({"modality": "xray"}))  # above the searched folder
    assert find_cases(tmp_path / "in")[0][0].modality is None
    (tmp_path / "in" / "modality.json").write_text(json.dumps({"modality": "fundus"}))
    assert find_cases(tmp_path / "in")[0][0].modality == "fundus"


def test_no_folder(tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere"):
        find_cases(tmp_path / "nowhere")
    assert find_cases(tmp_path) == ([], [])


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_real_folder(shared_dir):
    folder = shared_dir / "data" / "dicom"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    cases, ignored = find_cases(folder)
    assert ignored == ["ct_liver_3slices_seg.dcm"]
    assert {case.name: len(case.image) for case in cases if isinstance(case.image, tuple)} == {
        "ct_liver_3slices/ct_liver_3slices": 3,
        "mr_brain_t1post/mr_brain_t1post": 22,
        "mr_brain_t2/mr_brain_t2": 22,
    }
    assert sum(case.name.startswith("single/") for case in cases) == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links of POSIX")
def test_strange_files_neither_hang_nor_end_the_search(tmp_path):
    (tmp_path / "circle.nii.gz").symlink_to("circle.nii.gz")
    os.mkfifo(tmp_path / "report.json")
    os.mkfifo(tmp_path / "a_seg.json")
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, as old archives have it
    for file in ("a_seg.png", name):
        Image.new("L", (4, 4)).save(tmp_path / file)
    found = {case.name: case for case in find_cases(tmp_path)[0]}
    assert set(found) == {"circle", "a_seg", os.fsdecode(b"caf\xe9")}
    assert len(sha256_of_files(found[os.fsdecode(b"caf\xe9")].files)) == 64
    assert len(stamp_of_files(found[os.fsdecode(b"caf\xe9")].files)) == 64
