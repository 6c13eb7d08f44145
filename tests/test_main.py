"""The command line: its words reach the library, and its mistakes are told in a line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from esp_medsam_monai import __version__
from esp_medsam_monai.__main__ import main


@pytest.fixture
def pictures(tmp_path):
    """Ten images with a mask each, as ``(images, labels)``."""
    folders = tmp_path / "images", tmp_path / "labels"
    for folder in folders:
        folder.mkdir()
        for i in range(10):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"case{i}.png")
    return folders


def _datalist(pictures, output, *more):
    images, labels = map(str, pictures)
    return main(["datalist", "--images", images, "--labels", labels, "--output", str(output), *more])


def test_datalist_is_written(pictures, tmp_path, capsys):
    status = _datalist(
        pictures,
        tmp_path / "list.json",
        "--modality",
        "mr",
        "--target",
        "front=1",
        "back=2",
        "--fractions",
        "6",
        "2",
        "2",
    )
    content = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))
    assert status == 0
    assert [len(content[section]) for section in ("training", "validation", "test")] == [6, 2, 2]
    assert content["labels"] == {"mr": {"front": 1, "back": 2}}
    assert content["training"][0]["modality"] == "mr"
    assert "6 training, 2 validation, 2 test" in capsys.readouterr().out


def test_datalist_appends_a_modality(pictures, tmp_path):
    assert _datalist(pictures, tmp_path / "list.json", "--modality", "xray") == 0
    assert (
        _datalist(pictures, tmp_path / "list.json", "--modality", "ultrasound", "--domain", "clinic", "--append") == 0
    )
    content = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))
    entries = [entry for section in ("training", "validation", "test") for entry in content[section]]
    assert sorted((entry["modality"], entry.get("domain")) for entry in entries) == sorted(
        [("xray", None)] * 10 + [("ultrasound", "clinic")] * 10, key=str
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "front"], "'front' is not TARGET=VALUE"),
        (["--target", "front=one"], "'one' is no whole number"),
        (["--target", "front=1", "front=2"], "'front' is given twice"),
        (["--images", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_told_in_a_line(pictures, tmp_path, capsys, words, said):
    assert _datalist(pictures, tmp_path / "list.json", "--modality", "mr", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "list.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["xray"], "'xray' is not MODALITY=FILE"),
        (["xray=nowhere.pth"], "there is no file nowhere.pth"),
        (["xray=a.pth", "xray=b.pth"], "'xray' is given twice"),
    ],
)
def test_import_mistakes_are_told_in_a_line(tmp_path, capsys, words, said):
    assert main(["import-weights", *words, "--output", str(tmp_path / "bundle")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_import_of_what_is_no_checkpoint_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "skin.pth").write_bytes(b"these are no weights")
    assert main(["import-weights", f"dermoscopy={tmp_path / 'skin.pth'}", "--output", str(tmp_path / "bundle")]) == 2
    said = capsys.readouterr().err
    assert "skin.pth" in said
    assert "Traceback" not in said


def test_module_runs_from_the_shell():
    words = [sys.executable, "-m", "esp_medsam_monai"]
    version = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == __version__
    nothing = subprocess.run(words, capture_output=True, text=True, check=False)
    assert nothing.returncode == 2
    assert "COMMAND" in nothing.stderr


def test_version_is_quick():
    """Version and help answer without loading torch."""
    code = "import sys, runpy; sys.argv = ['', '--version']\n"
    code += "try: runpy.run_module('esp_medsam_monai', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [__version__, "False"]
