"""``esp-medsam segment`` and ``info``: the bundle's options, its exit statuses, one sentence for what goes wrong."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import esp_medsam_monai
from esp_medsam_monai.__main__ import main
from esp_medsam_monai.bundle import config_options, write_sha256
from esp_medsam_monai.commands import segment as command
from esp_medsam_monai.commands.quiet import quiet_monai
from esp_medsam_monai.modalities import label_names, shipped_modalities
from tests.bundles.small_bundle import make_small_bundle


@pytest.fixture(scope="module")
def bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configs for a small network with random weights."""
    return make_small_bundle(repository, tmp_path_factory.mktemp("small") / "bundle")


@pytest.fixture
def empty_bundle(bundle: Path, tmp_path: Path) -> Path:
    """The same without weights."""
    shutil.copytree(bundle / "configs", tmp_path / "bare" / "configs")
    return tmp_path / "bare"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one picture."""
    (tmp_path / "in").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "in" / "eye.png")
    return tmp_path / "in"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a run would get: the run itself is left out."""
    got: dict[str, Any] = {}

    def note(bundle: Path, input: str, output: str, options: dict[str, Any]) -> None:
        got.update(options, IN=input, OUT=output, bundle=bundle)

    monkeypatch.setattr(command, "_run_bundle", note)
    return got


def test_every_scalar_of_the_config_is_an_option(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told by YAML itself, not by the code under test; comments of the file are the help."""
    config = bundle / "configs" / "inference.yaml"
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    scalars = {
        name
        for name, value in content.items()
        if not isinstance(value, dict | list) and not str(value).startswith(("@", "$", "%"))
    }
    with pytest.raises(SystemExit) as end:
        main(["segment", "--help", "--bundle", str(bundle)])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert {name for name in scalars if f"--{name} VALUE" in said} == scalars - {
        "bundle_root",
        "dataset_dir",
        "output_dir",
    }
    assert "SeriesInstanceUID of the one DICOM series wanted" in " ".join(said.split())


def test_a_new_entry_of_the_config_is_an_option_at_once(tmp_path: Path, given: dict[str, Any]) -> None:
    (tmp_path / "configs").mkdir()
    text = "dataset_dir: null\ncolour: false # 50 % of people # like it\nshare: 0.5\nlike: '@colour'\n"
    (tmp_path / "configs" / "inference.yaml").write_text(text, encoding="utf-8")
    found = {each.name: (each.default, each.help) for each in config_options(tmp_path / "configs" / "inference.yaml")}
    assert found["colour"] == (False, "50 % of people # like it")
    assert found["share"] == (0.5, "")
    assert "like" not in found
    words = ["segment", "IN", "OUT", "--bundle", str(tmp_path), "--colour", "--share", "1e-4"]
    assert main(words) == 0
    assert (given["colour"], given["share"]) == (True, 1e-4)
    with pytest.raises(SystemExit) as end:
        main(["segment", "--help", "--bundle", str(tmp_path)])
    assert end.value.code == 0  # a per cent sign in a comment


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--preview", "false"], {"preview": False}),
        (["--no-preview"], {"preview": False}),
        (["--preview"], {"preview": True}),
        (["--preview=no", "--batch-size", "4"], {"preview": False, "batch_size": 4}),
        (["--axis", "0"], {"axis": 0}),
        (["--axis", "sagittal", "--series", "1.2.840.1"], {"axis": "sagittal", "series": "1.2.840.1"}),
        (["--ckpt", "2024-01-31"], {"ckpt": "2024-01-31"}),
        (["--device", "cpu"], {"device": "cpu"}),
        (["--network_def#img_size", "512"], {"network_def#img_size": 512}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_values_reach_the_run(
    bundle: Path, given: dict[str, Any], words: list[str], options: dict[str, Any], first: bool
) -> None:
    """Before and behind the folders: an option never swallows one of them."""
    places = [*words, "IN", "OUT"] if first else ["IN", "OUT", *words]
    assert main(["segment", "--bundle", str(bundle), *places]) == 0
    assert given == {"IN": "IN", "OUT": "OUT", "bundle": bundle, **options}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bath_size", "4"], "did you mean --batch_size?"),
        (["--no-preveiw"], "did you mean --"),
        (["--num_workers", "many"], "--num_workers takes a whole number, got 'many'"),
        (["--preview=maybe"], "--preview takes true or false, got 'maybe'"),
        (["--dataset_dir", "IN"], "esp-medsam segment IN OUT"),
        (["more"], "more"),
    ],
)
def test_usage_errors_end_with_2(
    bundle: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["segment", "IN", "OUT", "--bundle", str(bundle), *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not given


def _told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on the standard error of a command that ends with 1."""
    assert main(["segment", *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_no_bundle_and_no_weights_are_told(
    empty_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "nowhere is no bundle" in _told(capsys, "IN", "OUT", "--bundle", "nowhere")
    monkeypatch.setenv("ESP_MEDSAM_BUNDLE", "elsewhere")
    assert "elsewhere (from ESP_MEDSAM_BUNDLE) is no bundle" in _told(capsys, "IN", "OUT")
    monkeypatch.setenv("ESP_MEDSAM_BUNDLE", str(empty_bundle))
    said = _told(capsys, "IN", "OUT")
    assert "has no weights" in said
    assert "--bundle" in said and "--ckpt" in said
    assert "no file of weights gone.pt" in _told(capsys, "IN", "OUT", "--ckpt", "gone.pt")


def test_missing_packages_are_told_before_anything_runs(
    bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    metadata = copy / "configs" / "metadata.json"
    content = json.loads(metadata.read_text(encoding="utf-8"))
    content["required_packages_version"]["nibabel"] = "999"
    metadata.write_text(json.dumps(content), encoding="utf-8")
    said = _told(capsys, "IN", "OUT", "--bundle", str(copy))
    assert "nibabel" in said
    assert "pip install --upgrade" in said


def test_what_monai_wraps_is_unwrapped(
    bundle: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong value that only the component can judge."""
    said = _told(capsys, str(images), str(tmp_path / "out"), "--bundle", str(bundle), "--divisor", "golden")
    assert "golden" in said
    assert "Failed to" not in said


def test_python_door(bundle: Path, images: Path, tmp_path: Path) -> None:
    report = esp_medsam_monai.segment(images, tmp_path / "out", bundle=bundle, modality="fundus", preview=False)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [(row["case"], row["status"], row["modality"]) for row in report["cases"]] == [("eye", "done", "fundus")]
    assert (tmp_path / "out" / "eye_seg.png").is_file()
    failed = esp_medsam_monai.segment(images, tmp_path / "failed", bundle=bundle)
    assert failed["run"]["exit_status"] == 8
    assert failed["cases"][0]["reason"].startswith("NO_MODALITY")
    with pytest.raises(ValueError, match="did you mean modality"):
        esp_medsam_monai.segment(images, tmp_path / "no", bundle=bundle, modalty="fundus")
    with pytest.raises(AttributeError, match="segmant"):
        esp_medsam_monai.segmant  # noqa: B018


def test_python_door_tells_why_a_run_broke_off(bundle: Path, images: Path, tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(RuntimeError, match=r"ended with 1; .*other\.pt does not fit"):
        esp_medsam_monai.segment(images, tmp_path / "out", bundle=bundle, ckpt=str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="both input and output"):
        esp_medsam_monai.segment(images, images / ".." / "in", bundle=bundle)
    assert [path.name for path in images.iterdir()] == ["eye.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_nobody_reads_the_messages(bundle: Path, images: Path, tmp_path: Path) -> None:
    """``| head -1``: the run goes on to its end, and says nothing of what it cannot say."""
    for index in range(2):
        shutil.copy(images / "eye.png", images / f"eye{index}.png")
    words = [sys.executable, "-m", "esp_medsam_monai", "segment", str(images), str(tmp_path / "out")]
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [*words, "--bundle", str(bundle), "--modality", "fundus", "--no-preview"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["cases"]) == 3


def test_quiet() -> None:
    with quiet_monai():
        assert not logging.getLogger("highdicom.base").isEnabledFor(logging.INFO)


def test_package_stays_light() -> None:
    """Importing the package, and asking it for the function, loads neither torch nor MONAI."""
    code = "import sys, esp_medsam_monai as e; e.segment; print({'torch', 'monai'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_command_from_another_folder(bundle: Path, images: Path, tmp_path: Path) -> None:
    """A real process: exit status, and an output that a person can read."""
    (images / "cut.nii.gz").write_bytes(b"no image")
    words = [sys.executable, "-m", "esp_medsam_monai", "segment", "in", "out", "--bundle", str(bundle)]
    done = subprocess.run(
        [*words, "--modality", "fundus", "--no-preview"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 8, said
    rows = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["cases"]
    assert {row["case"]: row["status"] for row in rows} == {"eye": "done", "cut": "failed"}
    for noise in ("parsing config_file", "Traceback", "UserWarning", "input summary", "Engine run", "Logging file"):
        assert noise not in said
    assert "report" in done.stdout.splitlines()[-1]
    assert len(done.stdout.splitlines()) <= 6


def test_info(bundle: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sha256(bundle / "models" / "model.pt")
    assert main(["info", "--bundle", str(bundle), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (bundle / "models" / "model.pt.sha256").unlink()
    listed = {
        row["label"]: f"{name}_{row['name']}" for name, each in facts["modalities"].items() for row in each["targets"]
    }
    assert {0: "background", **listed} == label_names(shipped_modalities())
    assert facts["modalities"]["mr"]["targets"][0]["body_part"] == "brain"
    assert facts["weights"]["matches"] is True
    rows = {row["name"]: row["version"] for row in facts["runtimes"]}
    assert rows["torch"] == torch.__version__.partition("+")[0] or rows["torch"] == torch.__version__
    assert {"monai", "openvino", "onnxruntime", "tensorrt", "highdicom", "pydicom", "python"} <= rows.keys()


def test_info_without_weights(empty_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And for a bundle with modalities of its own: nothing is claimed about its training."""
    config = empty_bundle / "configs" / "inference.yaml"
    text = config.read_text(encoding="utf-8")
    entry = 'modalities:\n  _target_: esp_medsam_monai.modalities.extended_modalities\n  new: "@new_targets"\n'
    assert entry in text
    config.write_text(text.replace(entry, "modalities:\n  xray: [lung, heart]\n"), encoding="utf-8")
    assert main(["info", "--bundle", str(empty_bundle)]) == 0
    said = capsys.readouterr().out
    assert "2  heart" in said
    assert "trained on" not in said
    assert "none at" in said
    assert "Research and education; not a medical device" in said


def test_info_tells_weights_that_were_exchanged(empty_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = empty_bundle / "models" / "model.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    write_sha256(weights)
    weights.write_bytes(b"two")
    assert main(["info", "--bundle", str(empty_bundle)]) == 0
    assert "NOT as stated" in capsys.readouterr().out
