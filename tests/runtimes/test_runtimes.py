"""Every runtime that is installed is called like the network, and gives what it gives."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.networks import ABSENT_LOGIT, ESPMedSAM, SAMTeacher
from esp_medsam_monai.runtimes import RUNTIMES, RuntimeMissing, available_runtimes, make_runtime
from tests.networks.conftest import MODALITIES, randomise


@pytest.fixture(scope="module")
def network():
    return randomise(ESPMedSAM(MODALITIES, img_size=64, default_modality="mr"))


@pytest.fixture(params=RUNTIMES)
def runtime(request, network):
    reason = RUNTIMES[request.param].missing(torch.device("cpu"), "fp32")
    if reason is not None:
        pytest.skip(reason)
    return make_runtime(network, request.param, "fp32")


def images(count: int, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(
    "modality",
    ["xray", None, ["mr", "xray", "fundus"], ["xray", "fundus", "xray"], torch.tensor([0, 1, 2])],
    ids=["name", "default", "names", "names_of_one_target", "index"],
)
def test_called_like_the_network(runtime, network, modality):
    x = images(3)
    with torch.no_grad():
        expected = network(x, modality)
    found = runtime(x, modality)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(found == ABSENT_LOGIT, expected == ABSENT_LOGIT)


def test_any_side(runtime, network):
    runtime.prepare("mr", 96)
    with torch.no_grad():
        torch.testing.assert_close(runtime(images(1, 96), "mr"), network(images(1, 96), "mr"), atol=1e-3, rtol=1e-3)


def test_released_it_holds_no_model_and_makes_it_again(runtime):
    expected = runtime(images(1), "mr").clone()
    about = runtime.modalities  # what it knows of the network, and does not make
    made = [kept for kept in vars(runtime).values() if isinstance(kept, dict) and kept and kept is not about]
    runtime.release()
    assert made and not any(made)
    torch.testing.assert_close(runtime(images(1), "mr"), expected, atol=1e-5, rtol=1e-5)


def test_a_result_can_be_written_to(runtime):
    """Those who take it for a plain tensor do: targets are masked in place."""
    runtime(images(2), "mr")[:, 0].fill_(1)


@pytest.mark.parametrize(
    ("modality", "said"),
    [("ct", "unknown modality 'ct'"), (["mr"], "1 modalities for 3 images"), (torch.tensor([0, 3, 0]), "index")],
    ids=["unknown", "number", "index"],
)
def test_what_makes_no_sense_is_refused(runtime, modality, said):
    with pytest.raises(ValueError, match=said):
        runtime(images(3), modality)


def test_no_modality_is_refused():
    network = randomise(ESPMedSAM(MODALITIES, img_size=64))
    with pytest.raises(ValueError, match="needs a modality"):
        make_runtime(network, "torch", "fp32")(images(1))


def test_a_network_that_cannot_be_folded_runs_in_torch():
    small = {"embed_dim": 24, "depth": 2, "num_heads": 3, "global_attn_indexes": [1], "window_size": 3}
    teacher = randomise(SAMTeacher(MODALITIES, 64, small))
    with torch.no_grad():
        expected = teacher(images(1), "mr")
    torch.testing.assert_close(make_runtime(teacher, "torch", "fp32")(images(1), "mr"), expected)
    for name in ("openvino", "onnxruntime"):
        if RUNTIMES[name].missing(torch.device("cpu"), "fp32") is None:
            with pytest.raises(RuntimeMissing, match="SAMTeacher"):
                make_runtime(teacher, name, "fp32")


def test_what_is_not_there_is_told_with_its_reason(network):
    with pytest.raises(RuntimeMissing, match="no fast fp16 on a CPU; use fp32 or bf16"):
        make_runtime(network, "torch", "fp16")
    with pytest.raises(ValueError, match="no runtime 'tflite'; take auto, torch, openvino"):
        make_runtime(network, "tflite")
    with pytest.raises(ValueError, match="no precision 'fp8'"):
        make_runtime(network, "torch", "fp8")


def test_available_runtimes_names_all():
    told = available_runtimes()
    assert list(told) == ["torch", "openvino", "onnxruntime", "tensorrt"]
    assert told["torch"]["fp32"] is None
    assert "GPU" in told["tensorrt"]["fp16"] or "device" in told["tensorrt"]["fp16"]
