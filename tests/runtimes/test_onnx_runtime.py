"""ONNX Runtime and TensorRT behind the call of the network; TensorRT as far as a machine without a GPU can tell."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher
from esp_medsam_monai.runtimes import OnnxRuntime, RuntimeMissing, TensorRTRuntime
from esp_medsam_monai.runtimes import onnx_runtime as module
from tests.networks.conftest import randomise

pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript (extra export)")
pytest.importorskip("onnxruntime", reason="the runtime under test (extra fast)")

MODALITIES = {"xray": ["lung"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]}
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(scope="module")
def net() -> ESPMedSAM:
    made = randomise(ESPMedSAM(MODALITIES, img_size=64))
    assert isinstance(made, ESPMedSAM)
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that one test exports are there for the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESP_MEDSAM_CACHE", str(cache))


def _images(net: ESPMedSAM, names: list[str]) -> torch.Tensor:
    """Images without a patch on the edge, where rounding would decide."""
    images = torch.randn(len(names), 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert net.forward_features(images, names)["patch_logits"].abs().min() > 1e-3, "choose another seed"
    return images


@pytest.mark.slow
def test_computes_what_the_network_computes(net: ESPMedSAM) -> None:
    runtime = OnnxRuntime(net)
    assert (runtime.name, runtime.precision) == ("onnxruntime", "fp32")
    for names in (["mr"], ["mr", "xray", "mr"]):
        images = _images(net, names)
        found = runtime(images, names)
        with torch.no_grad():
            expected = net(images, names)
        assert isinstance(expected, torch.Tensor)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_file_is_kept_for_these_weights(net: ESPMedSAM, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another runtime takes the file of the first; other weights do not."""
    OnnxRuntime(net).prepare("mr", 64)
    kept = {path.name for path in (cache / "onnx").glob("mr_64_*.onnx")}
    assert len(kept) == 1
    asked = []

    def note(*args: Any, **kwargs: Any) -> None:
        asked.append(args[1])
        raise LookupError("exported again")

    monkeypatch.setattr(module, "export_onnx", note)
    OnnxRuntime(net).prepare("mr", 64)
    assert asked == []
    with pytest.raises(LookupError):
        OnnxRuntime(randomise(ESPMedSAM(MODALITIES, img_size=64), seed=1)).prepare("mr", 64)  # type: ignore[arg-type]
    assert [path.name for path in asked if path.name in kept] == []


@pytest.mark.slow
def test_cache_that_cannot_be_written(
    net: ESPMedSAM, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OnnxRuntime(net).prepare("mr", 64)
    (file,) = (cache / "onnx").glob("mr_64_*.onnx")
    (tmp_path / "file").write_bytes(b"")  # no folder, for root too

    def copy(network: Any, path: Path, *args: Any, **kwargs: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(file, path))

    monkeypatch.setenv("ESP_MEDSAM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(module, "export_onnx", copy)
    assert OnnxRuntime(net)(_images(net, ["mr"]), "mr").shape == (1, 2, 64, 64)


def test_what_is_missing_is_told(net: ESPMedSAM) -> None:
    assert OnnxRuntime.missing(CPU, "fp32") is None
    assert "use fp32" in str(OnnxRuntime.missing(CPU, "fp16"))
    assert "bf16" in str(OnnxRuntime.missing(CPU, "bf16"))
    assert "openvino" in str(OnnxRuntime.missing(CPU, "int8"))
    assert "runtime torch" in str(OnnxRuntime.missing(torch.device("mps"), "fp32"))
    assert "GPUs only, and the device is cpu" in str(TensorRTRuntime.missing(CPU, "fp32"))
    with pytest.raises(RuntimeMissing, match="runtime tensorrt in fp16 cannot be used"):
        TensorRTRuntime(net, "fp16")
    teacher = SAMTeacher.__new__(SAMTeacher)
    torch.nn.Module.__init__(teacher)
    teacher.register_buffer("target_table", torch.zeros(1, 1))
    teacher.modalities, teacher.img_size, teacher.default_modality = {"mr": ("cord",)}, 64, "mr"
    with pytest.raises(RuntimeMissing, match="ESPMedSAM only, got SAMTeacher"):
        OnnxRuntime(teacher)


@pytest.mark.parametrize(
    ("runtime", "provider"), [(OnnxRuntime, "CUDAExecutionProvider"), (TensorRTRuntime, "TensorrtExecutionProvider")]
)
def test_provider_that_is_missing_is_named(
    runtime: type[OnnxRuntime], provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    given = ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: given)
    assert runtime.missing(GPU, "fp16") is None
    given.remove(provider)
    assert f"no {provider}" in str(runtime.missing(GPU, "fp16"))


def test_engines_are_for_the_images_of_a_side(net: ESPMedSAM, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRTRuntime, "missing", classmethod(lambda cls, device, precision: None))
    (name, options), *others = TensorRTRuntime(net, "fp16", GPU)._providers(448)
    assert name == "TensorrtExecutionProvider"
    assert options["trt_profile_min_shapes"] == "image:1x3x448x448"
    assert options["trt_fp16_enable"] is True
    assert Path(options["trt_engine_cache_path"]).parent == cache
    # What TensorRT cannot do falls to CUDA, and last to the CPU.
    assert [each if isinstance(each, str) else each[0] for each in others] == [
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
