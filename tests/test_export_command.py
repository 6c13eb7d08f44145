"""``esp-medsam export`` and MONAI's own exports: the same network, in a file that other programs run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esp_medsam_monai.__main__ import main
from esp_medsam_monai.commands import export
from esp_medsam_monai.hashing import sha256_of
from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM
from tests.bundles.small_bundle import SIDE, make_small_bundle


@pytest.fixture(scope="module")
def bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configs for a small network with random weights."""
    return make_small_bundle(repository, tmp_path_factory.mktemp("small") / "bundle")


def _session(path: Path) -> Any:
    pytest.importorskip("onnx", reason="ONNX files need onnx (extra export)")
    ort = pytest.importorskip("onnxruntime", reason="files are computed by onnxruntime (extra fast)")
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


@torch.no_grad()
def _expected(bundle: Path, images: torch.Tensor, modality: str) -> np.ndarray:
    """What the bundle's network computes, built without its configs."""
    network = ESPMedSAM(shipped_modalities(), img_size=SIDE)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    logits = network.eval()(images, modality)
    assert isinstance(logits, torch.Tensor)
    return logits.numpy()


@pytest.mark.slow
def test_export(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="export and check need extras export and fast")
    path = tmp_path / "mr.onnx"
    words = ["export", "--output", str(path), "--modality", "mr", "--side", "96", "--bundle", str(bundle)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert str(path) in said
    assert "checked: single images and a batch" in said
    session = _session(path)
    stated = session.get_modelmeta().custom_metadata_map
    assert (stated["modality"], stated["side"]) == ("mr", "96")
    assert stated["weights_sha256"] == sha256_of(bundle / "models" / "model.pt")
    # Segment Anything's constants, as its authors publish them.
    assert json.loads(stated["mean"]) == [123.675, 116.28, 103.53]
    assert json.loads(stated["divisor"]) == [58.395, 57.12, 57.375]
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    expected = _expected(bundle, images, "mr")
    np.testing.assert_allclose(session.run(None, {"image": images.numpy()})[0], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--modality", "ct"], "unknown modality 'ct'"),
        (["--side", "100"], "side should be a multiple of 32"),
        (["--ckpt", "gone.pt"], "no file of weights gone.pt"),
        (["--bundle", "nowhere"], "nowhere is no bundle"),
    ],
)
def test_mistakes_are_told_in_a_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript (extra export)")
    assert main(["export", "--output", str(tmp_path / "a.onnx"), "--bundle", str(bundle), *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_does_not_stay(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And sizes of single modalities are taken: the export itself is left out."""
    import esp_medsam_monai.runtimes as runtimes

    given: dict[str, Any] = {}

    def write(network: Any, path: Path, modality: str, side: int, properties: Any) -> None:
        given.update(modality=modality, side=side)
        path.write_bytes(b"a file")

    def refuse(path: Path, network: Any, images: torch.Tensor) -> float:
        assert path.is_file()
        raise ValueError("logits differ")

    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    config = copy / "configs" / "inference.yaml"
    text = config.read_text(encoding="utf-8")
    assert "image_sizes: null" in text
    config.write_text(text.replace("image_sizes: null", "image_sizes: {fundus: 96}"), encoding="utf-8")
    monkeypatch.setattr(runtimes, "export_onnx", write)
    monkeypatch.setattr(runtimes, "check_onnx", refuse)
    monkeypatch.setattr(runtimes, "missing_for_check", lambda: None)
    words = ["export", "--output", str(tmp_path / "a.onnx"), "--bundle", str(copy), "--modality", "fundus"]
    assert main(words) == 1
    assert "logits differ" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()
    assert given == {"modality": "fundus", "side": 96}
    monkeypatch.setattr(runtimes, "missing_for_check", lambda: "it is not there.")
    assert main(words[:-2]) == 0
    said = capsys.readouterr().out
    assert "not checked: it is not there." in said
    assert "fundus at 96" in said
    assert given == {"modality": None, "side": SIDE}


def test_published_divisor_is_stated() -> None:
    """The published weights divide by the mean."""
    stated = export._normalization("published")
    assert stated["divisor"] == stated["mean"] == "[123.675, 116.28, 103.53]"


def _monai(bundle: Path, command: str, path: Path, *words: str, net_id: str = "network_def") -> None:
    configs = bundle / "configs"
    given = {
        "net_id": net_id,
        "filepath": path,
        "ckpt_file": bundle / "models" / "model.pt",
        "meta_file": configs / "metadata.json",
        "config_file": configs / "inference.yaml",
        "_meta_#network_data_format#inputs#image#spatial_shape": f"[{SIDE},{SIDE}]",
    }
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", command, *options, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_onnx_export_of_monai(bundle: Path, tmp_path: Path) -> None:
    """``exported`` of the config: one input, images of one modality, any number of them."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="PyTorch's exporter needs extra export")
    kwargs = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": {0: "batch"}}}
    words = ("--modality", "mr", "--input_shape", f"[2,3,{SIDE},{SIDE}]", "--converter_kwargs", str(kwargs))
    _monai(bundle, "onnx_export", tmp_path / "m.onnx", *words, net_id="exported")
    session = _session(tmp_path / "m.onnx")
    for count in (1, 3):
        images = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))
        found = session.run(["logits"], {"image": images.numpy()})[0]
        np.testing.assert_allclose(found, _expected(bundle, images, "mr"), atol=1e-3)


@pytest.mark.slow
def test_ckpt_export_of_monai(bundle: Path, tmp_path: Path) -> None:
    """TorchScript by tracing; what scripting understands of Python is not enough for a network with names."""
    _monai(bundle, "ckpt_export", tmp_path / "m.ts", "--use_trace", "True")
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = torch.jit.load(tmp_path / "m.ts")(images).detach().numpy()
    np.testing.assert_allclose(found, _expected(bundle, images, "dermoscopy"), atol=1e-3)
