"""The commands of docs/label.md, as they stand there; only the port is another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from esp_medsam_monai.__main__ import main
from tests.label.conftest import HAS_LABEL, WITHOUT
from tests.label.label_server import Server, copy_files

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "label.md").read_text(encoding="utf-8")
CHECKED_ELSEWHERE = {  # by a word of the command: file and test
    "make label ": ("test_guide.py", "test_make_label_starts_a_server"),
    "esp-medsam label ": ("test_infer.py", "test_info_shows_what_a_client_needs"),
    "make label-pacs": ("test_pacs.py", "test_make_label_pacs_goes_through_all_steps"),
    "sudo ": ("test_namespace.py", "test_a_missing_program_is_named"),
    "label-rollback": ("test_published_weights.py", "test_the_command"),
    "pip install": ("../test_packaging.py", "test_make_builds_its_environment"),
    "/train/": ("training_client.py", "start"),
}


def commands() -> list[str]:
    """Every command of the guide, with its continued lines."""
    blocks = re.findall(r"^```bash\n(.*?)^```", GUIDE, flags=re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_every_command_is_run_by_a_test() -> None:
    for command in commands():
        named = next((test for word, test in CHECKED_ELSEWHERE.items() if word in command), None)
        if named is None:
            assert command.startswith("curl "), f"no test runs {command!r}"
            continue
        text = (Path(__file__).parent / named[0]).read_text(encoding="utf-8")
        assert f"def {named[1]}" in text, f"{named} is to run {command!r}"


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("curl ") and "/train/" not in line])
def test_requests_are_answered(server: Server, studies: Path, volume_file: Path, tmp_path: Path, command: str) -> None:
    image = nib.load(studies / "volume.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, 7, np.uint8), image.affine), tmp_path / "mask.nii.gz")
    words = command.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl --fail-with-body ", 1)
    done = subprocess.run(words, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "-o mask.nii.gz" in command:
        assert nib.load(tmp_path / "mask.nii.gz").shape == image.shape


@pytest.fixture
def made(tmp_path: Path, small_bundle: Path, volume_file: Path) -> Iterator[Server]:
    """A server started by make, whose environment is the one that runs the tests."""
    if not HAS_LABEL:
        pytest.skip(WITHOUT)
    studies = copy_files([volume_file], tmp_path / "STUDIES")
    stamp = f"{sys.prefix}/.installed-label"
    command = ["make", "-C", str(ROOT), "-o", stamp, f"LABEL_VENV={sys.prefix}", "label", f"STUDIES={studies}"]
    environment = {"ESP_MEDSAM_BUNDLE": str(small_bundle)}
    server = Server(studies, tmp_path / "app", environment=environment, command=command)
    yield server
    server.stop()


def test_make_label_starts_a_server(made: Server) -> None:
    assert "esp_medsam" in made.wait().get("/info/").json()["models"]


def test_make_label_asks_for_studies(tmp_path: Path) -> None:
    if not HAS_LABEL:
        pytest.skip(WITHOUT)
    stamp = f"{sys.prefix}/.installed-label"
    command = ["make", "-C", str(ROOT), "-o", stamp, f"LABEL_VENV={sys.prefix}", "label"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "STUDIES": ""})
    assert done.returncode != 0
    assert "make label STUDIES=FOLDER" in done.stdout


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
