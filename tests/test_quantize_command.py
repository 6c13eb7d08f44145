"""``esp-medsam quantize``: real files in, models that agree kept with their record, others not."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("openvino", reason="int8 models are OpenVINO's")
pytest.importorskip("nncf", reason="NNCF quantises")

from esp_medsam_monai.__main__ import main
from esp_medsam_monai.engines import quantization
from esp_medsam_monai.hashing import sha256_of
from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM
from esp_medsam_monai.runtimes.openvino_runtime import convert
from tests.bundles.small_bundle import SIDE, make_small_bundle
from tests.networks.conftest import randomise


def _network(seed: int) -> Any:
    return randomise(ESPMedSAM(shipped_modalities(), img_size=SIDE), seed)


@pytest.fixture(scope="module")
def floats() -> Any:
    """The bundle's network in floats, as the quantiser would give it back."""
    return convert(_network(0), "fundus", SIDE)


@pytest.fixture
def bundle(repository: Path, tmp_path: Path) -> Path:
    """The shipped configs for a small network whose masks are not empty."""
    root = make_small_bundle(repository, tmp_path / "bundle")
    torch.save(_network(0).state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Nine pictures."""
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(0)
    for number in range(9):
        picture = random.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, floats: Any) -> list[tuple[str, torch.Tensor, int]]:
    """What the quantiser is given; the model it gives back is the network as it is, so that masks agree."""
    calls: list[tuple[str, torch.Tensor, int]] = []

    def note(network: ESPMedSAM, modality: str, squares: list[torch.Tensor], side: int) -> Any:
        calls.append((modality, torch.stack(squares), side))
        return floats

    monkeypatch.setattr(quantization, "quantize", note)
    return calls


def _words(bundle: Path, *more: str) -> list[str]:
    return ["quantize", "--bundle", str(bundle), "--modality", "fundus", *more]


def test_what_agrees_is_kept_with_its_record(
    bundle: Path, images: Path, seen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_words(bundle, "--dataset_dir", str(images), "--images", "5", "--held_out", "2")) == 0
    said = capsys.readouterr().out
    ((modality, squares, side),) = seen
    assert (modality, side, tuple(squares.shape)) == ("fundus", SIDE, (5, 3, SIDE, SIDE))
    # 0..255 less SAM's mean over its deviation: about -2.1 to 2.6, of noise around 127 spread to both sides.
    assert -2.2 < float(squares.min()) < -0.5 < 0.5 < float(squares.max()) < 2.7
    folder = bundle / "models" / "int8"
    assert sorted(path.name for path in folder.iterdir()) == [f"fundus_{SIDE}.{end}" for end in ("bin", "json", "xml")]
    content = json.loads((folder / f"fundus_{SIDE}.json").read_text(encoding="utf-8"))
    assert content["weights_file_sha256"] == sha256_of(bundle / "models" / "model.pt")
    assert content["versions"]["openvino"] == version("openvino")
    assert content["versions"]["nncf"] == version("nncf")
    assert content["calibration"] == {"images": 5, "source": "in: two thirds"}
    agreement = content["agreement"]
    assert (agreement["images"], agreement["minimum_dice"]) == (2, 0.99)
    assert agreement["mean_dice"] > 0.999  # the same network by another library
    assert (images / agreement["worst_case"]).is_file()
    assert f"worst of fundus: {images / agreement['worst_case']}" in said
    assert "1.0000" in said and "yes" in said


def test_what_disagrees_is_not_kept(
    bundle: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        quantization, "quantize", lambda network, modality, squares, side: convert(_network(1), modality, side)
    )
    assert main(_words(bundle, "--dataset_dir", str(images), "--images", "2", "--held_out", "2")) == 0
    assert not (bundle / "models" / "int8").exists()
    said = capsys.readouterr().out
    assert "not kept, as the mean Dice is below 0.99: fundus" in said
    assert "worst of fundus" in said


def test_test_entries_are_measured_and_never_calibrated(bundle: Path, images: Path, seen: list[Any]) -> None:
    names = sorted(path.name for path in images.iterdir())
    sections = {"training": names[:3], "validation": names[3:4], "test": names[4:]}
    listed = {key: [{"image": name, "modality": "fundus"} for name in value] for key, value in sections.items()}
    (images / "list.json").write_text(json.dumps(listed), encoding="utf-8")
    assert main(_words(bundle, "--datalist", str(images / "list.json"))) == 0
    assert len(seen[0][1]) == 4
    content = json.loads((bundle / "models" / "int8" / f"fundus_{SIDE}.json").read_text(encoding="utf-8"))
    assert content["agreement"]["images"] == 5
    assert content["agreement"]["worst_case"] in names[4:]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--side", "50"], "multiple of 32"),
        (["--images", "0"], "--images"),
        (["--ckpt", "gone.pt"], "gone.pt"),
        (["--modality", "sonar"], "no modality 'sonar'"),
        (["--modality", "xray", "mr"], "0 images of xray"),
    ],
)
def test_faults_are_told(
    bundle: Path, images: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(_words(bundle, "--dataset_dir", str(images), *more)) == 1
    assert said in capsys.readouterr().err
