"""The inferer's runtime: the same labels, and never those of old weights."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.inferers.runtime_switch import RuntimeSwitch
from esp_medsam_monai.networks import ESPMedSAM
from tests.networks.conftest import MODALITIES, randomise


@pytest.fixture
def network():
    return randomise(ESPMedSAM(MODALITIES, img_size=64))


@pytest.mark.parametrize("runtime", ["torch", "openvino", "onnxruntime"])
def test_labels_are_those_of_the_network(network, runtime):
    if runtime != "torch":
        pytest.importorskip(runtime, reason=f"extra fast: {runtime} is not installed")
    volume = torch.rand((1, 1, 40, 50, 5), generator=torch.Generator().manual_seed(0)) * 255
    plain = SliceBatchInferer(return_logits=True)(volume, network, "mr")
    inferer = SliceBatchInferer(return_logits=True, runtime=runtime, precision="fp32")
    assert inferer.runtime is None
    torch.testing.assert_close(inferer(volume, network, "mr"), plain, atol=1e-3, rtol=1e-3)
    assert inferer.runtime == f"{runtime} fp32"


def test_one_runtime_serves_until_the_weights_change(network):
    switch = RuntimeSwitch("torch", "fp32")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    switch(network)
    first = switch._current
    switch(network)
    assert switch._current is first
    other = randomise(ESPMedSAM(MODALITIES, img_size=64), seed=5)
    network.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(switch(network)(x, "mr"), other(x, "mr"), atol=1e-3, rtol=1e-3)


def test_training_calls_the_network_itself(network):
    assert RuntimeSwitch()(network) is network


def test_another_function_is_called_as_it_is():
    function = torch.nn.Conv2d(3, 1, 1)
    assert RuntimeSwitch("auto")(function) is function


def test_what_cannot_be_used_is_refused_with_its_reason(network):
    with pytest.raises(InputRefused, match=r"NO_RUNTIME.*no fast fp16 on a CPU"):
        RuntimeSwitch("torch", "fp16")(network)
    with pytest.raises(ValueError, match="no runtime 'tflite'"):
        SliceBatchInferer(runtime="tflite")
    with pytest.raises(ValueError, match="no precision 'half'"):
        SliceBatchInferer(runtime="auto", precision="half")


def test_int8_without_a_model_says_how_to_make_one(network, tmp_path):
    pytest.importorskip("openvino", reason="extra fast: openvino is not installed")
    run = RuntimeSwitch("openvino", "int8", tmp_path)(network)
    with pytest.raises(InputRefused, match=r"NO_RUNTIME.*esp-medsam quantize --modality mr --side 64"):
        run(torch.zeros(1, 3, 64, 64), "mr")
