"""The ONNX file: read by ONNX's checker and computed by ONNX Runtime, not by the code that wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import NormalizeSlices
from monai.bundle import ConfigParser
from PIL import Image

from esp_medsam_monai import __version__
from esp_medsam_monai.checkpoints import load_weights
from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher
from esp_medsam_monai.runtimes import RuntimeMissing, check_onnx, decided_images, export_onnx
from esp_medsam_monai.runtimes import onnx_export as module
from tests.networks.conftest import MODALITIES, randomise

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx (extra export)")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript (extra export)")
ort = pytest.importorskip("onnxruntime", reason="files are computed by onnxruntime (extra fast)")

pytestmark = pytest.mark.slow  # PyTorch's exporter
SIDE = 64


@pytest.fixture(scope="module")
def net() -> ESPMedSAM:
    """Three modalities, one of them with two targets."""
    made = randomise(ESPMedSAM(MODALITIES, img_size=SIDE))
    assert isinstance(made, ESPMedSAM)
    return made


@pytest.fixture(scope="module")
def mr_file(net: ESPMedSAM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "new"
    return export_onnx(net, folder / "mr.onnx", "mr", properties={"weights_sha256": "abc"})


@pytest.fixture(scope="module")
def routed_file(net: ESPMedSAM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(net, tmp_path_factory.mktemp("onnx") / "all.onnx")


def _outside(model: Any) -> list[str]:
    return [each.name for each in model.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]


def test_one_file_that_says_what_it_is(mr_file: Path, net: ESPMedSAM) -> None:
    assert [path.name for path in mr_file.parent.iterdir()] == ["mr.onnx"]
    model = onnx.load(mr_file)
    onnx.checker.check_model(model, full_check=True)
    assert _outside(model) == []
    stated = {each.key: each.value for each in model.metadata_props}
    assert stated == {
        "modality": "mr",
        "targets": json.dumps({"mr": {"hippocampus_anterior": 2, "hippocampus_posterior": 3}}),
        "side": "64",
        "esp_medsam_monai": __version__,
        "weights_sha256": "abc",
    }
    assert {node.domain for node in model.graph.node} == {""}  # ONNX's own operators: every reader knows them
    assert str(Path(__file__).parents[2]).encode() not in mr_file.read_bytes()


def test_shapes_of_one_modality(mr_file: Path) -> None:
    session = ort.InferenceSession(mr_file, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(float)", [3, SIDE, SIDE])
    assert (logits.name, logits.type, logits.shape[1:]) == ("logits", "tensor(float)", [2, SIDE, SIDE])
    assert isinstance(image.shape[0], str)
    assert image.shape[0] == logits.shape[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_one_modality_computes_the_same(mr_file: Path, net: ESPMedSAM, batch: int) -> None:
    images = decided_images(net, SIDE, "mr", batch)
    session = ort.InferenceSession(mr_file, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(images, "mr").numpy()
    np.testing.assert_allclose(session.run(None, {"image": images.numpy()})[0], expected, atol=1e-3)


@pytest.mark.parametrize("names", [["mr"], ["fundus", "mr", "xray"], ["mr", "mr", "fundus"]])
def test_all_modalities_compute_the_same(routed_file: Path, net: ESPMedSAM, names: list[str]) -> None:
    """Numbers of modalities are their places in the network's table; what a modality lacks holds -1e4."""
    index = torch.tensor([list(MODALITIES).index(name) for name in names])
    images = torch.cat([decided_images(net, SIDE, name, 1) for name in names])
    session = ort.InferenceSession(routed_file, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["modality"]) == list(MODALITIES)
    found = session.run(None, {"image": images.numpy(), "modality": index.numpy()})[0]
    with torch.no_grad():
        expected = net(images, index).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert [(row[1] == -1e4).all() for row in found] == [name != "mr" for name in names]


def test_check_takes_the_right_file(mr_file: Path, routed_file: Path, net: ESPMedSAM) -> None:
    for path, modality in ((mr_file, "mr"), (routed_file, None)):
        assert check_onnx(path, net, decided_images(net, SIDE, modality)) <= 1e-3


def test_check_finds_other_weights(mr_file: Path, net: ESPMedSAM) -> None:
    other = randomise(ESPMedSAM(MODALITIES, img_size=SIDE), seed=1)
    with pytest.raises(ValueError, match=r"mr\.onnx does not compute what the network computes"):
        check_onnx(mr_file, other, decided_images(other, SIDE, "mr", 1))  # type: ignore[arg-type]


def test_images_of_the_check_are_decided(net: ESPMedSAM) -> None:
    images = decided_images(net, SIDE, "mr", 3)
    assert images.shape == (3, 3, SIDE, SIDE)
    with torch.no_grad():
        assert net.forward_features(images, "mr")["patch_logits"].abs().min() > 1e-3


def test_what_cannot_be_exported_is_told(net: ESPMedSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="side should be a multiple of 32"):
        export_onnx(net, tmp_path / "a.onnx", "mr", side=100)
    with pytest.raises(ValueError, match="unknown modality 'ct'"):
        export_onnx(net, tmp_path / "a.onnx", "ct")
    with pytest.raises(ValueError, match="only ESPMedSAM can be exported, got SAMTeacher"):
        export_onnx(SAMTeacher.__new__(SAMTeacher), tmp_path / "a.onnx")
    monkeypatch.setattr(module, "_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(
        RuntimeMissing, match=r"no_such_package not installed; pip install 'esp-medsam-monai\[export\]'"
    ):
        export_onnx(net, tmp_path / "a.onnx", "mr")
    assert list(tmp_path.iterdir()) == []


def test_failed_writing_leaves_the_former_file(net: ESPMedSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def save(self, path: Path, external_data: bool) -> None:
            path.write_bytes(b"half a")

    former = tmp_path / "mr.onnx"
    former.write_bytes(b"former")
    with pytest.raises(onnx.checker.ValidationError):
        module._write(Broken(), former)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("mr.onnx", b"former")]


def _real_image(folder: Path, network: ESPMedSAM, modality: str, normalize: NormalizeSlices) -> torch.Tensor:
    """The first image of a modality that has no patch on the edge, ``(1, 3, S, S)``."""
    side = network.img_size
    for file in sorted((folder / modality).glob("*/images/*.jpg")):
        pixels = np.asarray(Image.open(file).convert("RGB").resize((side, side)), dtype=np.float32)
        image = normalize(torch.from_numpy(pixels).movedim(2, 0).unsqueeze(0))
        if network.forward_features(image, modality)["patch_logits"].abs().min() > 1e-3:
            return image
    raise AssertionError(f"no image of {modality} has clearly decided patches")


@torch.no_grad()
def test_shipped_network_on_real_images(repository: Path, shared_dir: Path, tmp_path: Path) -> None:
    """The first three modalities of the table, alone and in one mixed batch."""
    bundle = repository / "bundles" / "esp_medsam"
    config = ConfigParser()
    config.read_config(str(bundle / "configs" / "inference.yaml"))
    network = config.get_parsed_content("network_def").eval()
    load_weights(network, bundle / "models" / "model.pt")
    names = list(network.modalities)[:3]
    normalize = NormalizeSlices(config.get_parsed_content("divisor"))
    images = torch.cat([_real_image(shared_dir / "data", network, name, normalize) for name in names])
    shares = (network(images, names) > 0).float().mean((1, 2, 3))
    assert ((shares > 0.01) & (shares < 0.9)).all()  # there is something to agree on
    assert check_onnx(export_onnx(network, tmp_path / "all.onnx"), network, images) <= 1e-3
