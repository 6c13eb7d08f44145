"""int8: what becomes eight bits and what does not, and whose weights a file on disk belongs to."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("openvino", reason="int8 models are OpenVINO's")
pytest.importorskip("nncf", reason="NNCF quantises")

from esp_medsam_monai.networks import ESPMedSAM, fuse
from esp_medsam_monai.runtimes import OpenVINORuntime, RuntimeMissing, fingerprint
from esp_medsam_monai.runtimes.quantize import quantize
from esp_medsam_monai.runtimes.quantized_files import find_quantized, load_quantized, save_quantized
from tests.networks.conftest import randomise

SIDE = 64
MODALITIES = {"xray": ["lung"], "mr": ["anterior", "posterior"]}


@pytest.fixture(scope="module")
def network() -> Any:
    """Without the patch prompt, whose threshold makes jumps out of small errors."""
    return randomise(ESPMedSAM(MODALITIES, img_size=SIDE, default_modality="mr", use_patch_prompt=False))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(network: ESPMedSAM, images: torch.Tensor) -> Any:
    return quantize(network, "mr", images[:2])


@pytest.fixture
def folder(model: Any, network: ESPMedSAM, tmp_path: Path) -> Path:
    """A folder with the model of these weights."""
    save_quantized(model, tmp_path, fingerprint(network), "mr", SIDE, {"calibration": {"images": 2}})
    return tmp_path


def test_the_encoder_is_quantised_and_the_decoder_is_not(model: Any) -> None:
    names = [each.get_friendly_name() for each in model.get_ops() if each.get_type_name() == "FakeQuantize"]
    for part in ("blocks.0.attn", "blocks.0.mlp", "blocks.11.attn", "blocks.11.mlp"):
        assert any(part in name for name in names), part
    assert not [name for name in names if "mask_decoder" in name]


def test_the_quantised_network_computes_nearly_the_same(folder: Path, network: ESPMedSAM, images: torch.Tensor) -> None:
    """Against the plain network, on images that calibration did not see; the file is a third smaller or more."""
    runtime = OpenVINORuntime(network, "int8", quantized=find_quantized(folder, network))
    with torch.no_grad():
        expected = network(images[2:], "mr")
    error = float((runtime(images[2:], "mr") - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.1  # at 1e-4 nothing would have been rounded to eight bits
    floats = 4 * sum(each.numel() for each in fuse(network, "mr").parameters())
    assert (folder / f"mr_{SIDE}.bin").stat().st_size < 0.67 * floats


def test_images_must_be_there_and_square(network: ESPMedSAM, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="no images of mr"):
        quantize(network, "mr", images[:0])
    with pytest.raises(ValueError, match=r"should have the shape \(3, 64, 64\), got \(3, 64, 32\)"):
        quantize(network, "mr", images[..., :32], SIDE)


def test_files_are_found_for_their_own_weights_alone(folder: Path, network: ESPMedSAM) -> None:
    path = folder / f"mr_{SIDE}.xml"
    assert load_quantized(folder, fingerprint(network), "mr", SIDE) == path
    assert find_quantized(folder, network) == {("mr", SIDE): path}
    other = copy.deepcopy(network)
    with torch.no_grad():
        next(iter(other.mask_decoder.parameters())).add_(1e-3)
    assert load_quantized(folder, fingerprint(other), "mr", SIDE) is None
    assert find_quantized(folder, other) == {}
    with pytest.raises(RuntimeMissing, match="esp-medsam quantize --modality mr --side 64"):
        OpenVINORuntime(other, "int8", quantized=find_quantized(folder, other)).prepare("mr", SIDE)


def test_another_modality_and_side_are_none(folder: Path, network: ESPMedSAM) -> None:
    assert load_quantized(folder, fingerprint(network), "xray", SIDE) is None
    assert load_quantized(folder, fingerprint(network), "mr", 96) is None
    # Renamed by somebody: the JSON knows what it is.
    for name in ("xml", "bin", "json"):
        (folder / f"mr_{SIDE}.{name}").rename(folder / f"xray_{SIDE}.{name}")
    assert find_quantized(folder, network) == {}


@pytest.mark.parametrize("damage", ["bin", "json", "no json", "no bin"])
def test_damaged_files_are_none(folder: Path, network: ESPMedSAM, damage: str) -> None:
    path = folder / f"mr_{SIDE}.{damage.removeprefix('no ')}"
    if damage.startswith("no "):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-100])
    assert load_quantized(folder, fingerprint(network), "mr", SIDE) is None


def test_the_json_says_what_the_model_is(folder: Path, network: ESPMedSAM) -> None:
    content = json.loads((folder / f"mr_{SIDE}.json").read_text(encoding="utf-8"))
    assert (content["modality"], content["side"], content["calibration"]) == ("mr", SIDE, {"images": 2})
    assert content["weights_sha256"] == fingerprint(network)
    assert find_quantized(folder / "nowhere", network) == {}
