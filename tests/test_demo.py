"""The demo: its pictures are real and there, and it tells the expected from the unexpected."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from esp_medsam_monai.modalities import MODALITIES, SHIPPED_MODALITIES, shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM


@pytest.fixture(scope="module")
def demo(repository) -> ModuleType:
    """``examples/demo.py``, which is a script and no part of the package."""
    spec = importlib.util.spec_from_file_location("demo_script", repository / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _case(picture, **changes):
    return {
        "case": picture.case,
        "input": f"images/{picture.location}",
        "status": "done",
        "reason": None,
        "output": "mask.nii.gz",
        "warnings": [],
    } | changes


def test_every_picture_is_in_the_installed_packages(demo, tmp_path):
    found, missing = demo.gather(tmp_path)
    import pydicom

    if int(pydicom.__version__.split(".")[0]) < 3:  # examples_*.dcm came with pydicom 3
        missing = [picture for picture in missing if "examples_" not in picture.file]
    assert missing == []
    for picture in found:
        assert (tmp_path / picture.location).stat().st_size > 1000


def test_sidecars_name_modalities_that_exist(demo, tmp_path):
    found, _ = demo.gather(tmp_path)
    for picture in found:
        sidecar = (tmp_path / picture.location).with_suffix(".json")
        assert sidecar.exists() == (picture.modality is not None)
        if sidecar.exists():
            assert json.loads(sidecar.read_text(encoding="utf-8"))["modality"] in SHIPPED_MODALITIES


def test_dicom_pictures_say_their_modality(demo):
    """No sidecar, so the file itself must speak."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    codes = {code for row in MODALITIES.values() for code in row.dicom_codes}
    for picture in demo.PICTURES:
        if picture.modality is None and (path := get_testdata_file(Path(picture.file).name, download=False)):
            assert dcmread(path).Modality in codes


def test_missing_package_is_told(demo, tmp_path, monkeypatch):
    absent = demo.Picture("x", "no_such_package_anywhere", "a.png", "mr", "nothing")
    monkeypatch.setattr(demo, "PICTURES", (absent,))
    assert demo.gather(tmp_path) == ([], [absent])


@pytest.mark.parametrize(
    ("refused", "changes", "expected"),
    [
        ("", {}, True),
        ("", {"status": "failed", "reason": "NO_MODALITY: nothing says it"}, False),
        ("NO_WEIGHTS", {"status": "failed", "reason": "NO_WEIGHTS: ct has none"}, True),
        ("NO_WEIGHTS", {"status": "failed", "reason": "UNREADABLE: cut short"}, False),
        ("NO_WEIGHTS", {}, False),
    ],
)
def test_tells_expected_from_unexpected(demo, capsys, refused, changes, expected):
    picture = demo.Picture("spine", "pydicom", "a.dcm", None, "a vertebra", "no weights", refused)
    assert demo.tell(picture, _case(picture, **changes), Path("masks")) is expected
    said = capsys.readouterr().out
    assert "OUTSIDE the training data: no weights" in said
    assert ("UNEXPECTED" in said) is not expected


def test_case_that_the_report_forgot_is_unexpected(demo, capsys):
    picture = demo.PICTURES[0]
    assert demo.find_case([_case(demo.PICTURES[1])], picture) is None
    assert demo.tell(picture, None, Path("masks")) is False
    assert "does not mention" in capsys.readouterr().out


def test_each_picture_finds_its_own_case(demo):
    cases = [_case(picture) for picture in demo.PICTURES]
    assert [demo.find_case(cases, picture)["case"] for picture in demo.PICTURES] == [p.case for p in demo.PICTURES]
    series = [picture for picture in demo.PICTURES if picture.location.suffix == ".dcm"]
    by_folder = [_case(picture, input=f"images/{picture.case}") for picture in series]
    assert [demo.find_case(by_folder, picture)["case"] for picture in series] == [p.case for p in series]


def test_demo_runs_from_anywhere(demo, repository, tmp_path):
    """The whole of it with untrained weights: every picture gives its mask, and CT is refused."""
    bundle = tmp_path / "bundle"
    shutil.copytree(repository / "bundles" / "esp_medsam", bundle, ignore=shutil.ignore_patterns("*.pt*"))
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(ESPMedSAM(shipped_modalities(), img_size=224).state_dict(), bundle / "models" / "model.pt")
    words = [sys.executable, str(repository / "examples" / "demo.py"), "--bundle", "bundle", "--output", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert run.stdout.count("refused: NO_WEIGHTS") == 1
    said = [line.split(": ", 1)[1] for line in run.stdout.splitlines() if line.startswith(("  mask: ", "  preview: "))]
    found, _ = demo.gather(tmp_path / "again")
    assert len(said) == 2 * sum(not picture.refused for picture in found)
    assert [name for name in said if not (tmp_path / name).is_file()] == []
