"""Activation checkpointing: less is kept, some is computed twice, and everything that is learned stays the same."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from esp_medsam_monai.engines import TrainableParts
from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher
from esp_medsam_monai.networks.checkpointing import run_block
from esp_medsam_monai.networks.routing import Route
from tests.networks.conftest import MODALITIES

NAMES = ["mr", "xray", "mr"]
SMALL_SAM = {"embed_dim": 24, "depth": 3, "num_heads": 3, "global_attn_indexes": [2], "window_size": 3}


def _teachers(randomised: Callable[..., nn.Module], **options: Any) -> list[nn.Module]:
    options = {"encoder": SMALL_SAM, "img_size": 64, "freeze": False, **options}
    return [randomised(SAMTeacher(MODALITIES, use_checkpoint=again, **options)) for again in (False, True)]


def _learn(network: nn.Module, x: torch.Tensor, parts: Sequence[str] | None, steps: int = 2) -> list[torch.Tensor]:
    """A few steps of training; the losses."""
    trainable = TrainableParts(network, parts)
    optimizer = torch.optim.SGD(trainable.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        trainable.train()
        optimizer.zero_grad()
        features = network(x, NAMES, return_features=True)
        loss = features["logits"].sigmoid().mean() + features["patch_logits"].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def _compare(first: nn.Module, second: nn.Module) -> None:
    """Weights, running statistics, counters and gradients."""
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()), rtol=1e-6, atol=1e-7)
    gradients = [{name: each.grad for name, each in net.named_parameters()} for net in (first, second)]
    assert {name for name, each in gradients[0].items() if each is None} == {
        name for name, each in gradients[1].items() if each is None
    }
    kept = [{name: each for name, each in own.items() if each is not None} for own in gradients]
    assert kept[0]
    torch.testing.assert_close(*kept, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parts", [None, ["controllers"], ["image_encoder.layers.2", "mask_decoder"]])
def test_training_is_the_same(randomised, images, parts):
    """Also where blocks in training mode stand beside frozen ones."""
    first = randomised(ESPMedSAM(MODALITIES, img_size=64))
    second = randomised(ESPMedSAM(MODALITIES, img_size=64, use_checkpoint="true"))
    before = copy.deepcopy(first.state_dict())
    losses = [_learn(network, images(3), parts) for network in (first, second)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    assert losses[0][0] != losses[0][1]
    _compare(first, second)
    moved = {name for name, value in first.state_dict().items() if not torch.equal(value, before[name])}
    counters = {name for name in moved if name.endswith("num_batches_tracked")}
    assert all(first.state_dict()[name] == before[name] + 2 for name in counters)
    assert bool(counters) == (parts != ["controllers"])


@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("parts", [None, ["mask_decoder", "image_encoder.neck"]])
def test_training_of_a_teacher_is_the_same(randomised, images, adapters, parts):
    first, second = _teachers(randomised, use_adapters=adapters)
    losses = [_learn(network, images(3), parts) for network in (first, second)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    _compare(first, second)


def test_adapters_of_a_frozen_encoder_learn_the_same(randomised, images):
    first, second = _teachers(randomised)
    for network in (first, second):
        _learn(network, images(3), ["adapters"])
    _compare(first, second)


def test_a_route_that_only_the_device_knows(randomised, images):
    """The experts' parameters are gathered there with ``vmap``."""
    networks = [randomised(ESPMedSAM(MODALITIES, img_size=64, use_checkpoint=again)).train() for again in (False, True)]
    for network in networks:
        network.embed(images(3), Route(index=torch.tensor([1, 0, 1]))).square().mean().backward()
    _compare(*networks)


def _kept_bytes(network: nn.Module, x: torch.Tensor) -> int:
    """What a forward pass keeps for the backward pass, weights and equal tensors counted once."""
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x, "xray", embed_only=True)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in seen.items() if place not in own)


def test_less_is_kept(randomised, images):
    for networks in (
        [ESPMedSAM(MODALITIES, img_size=64, use_checkpoint=again).train() for again in (False, True)],
        _teachers(randomised),
    ):
        much, little = (_kept_bytes(network, images(2)) for network in networks)
        assert little < much / 3


def test_blocks_are_computed_again_in_training_alone(net, images):
    calls: Counter[str] = Counter()
    network = copy.deepcopy(net)
    network.image_encoder.use_checkpoint = True
    network.image_encoder.layers[0].blocks[0].conv1.register_forward_hook(lambda *_: calls.update(["conv"]))
    with torch.no_grad():
        network.train()(images(1), "xray")
        network.eval()(images(1), "xray")
    assert calls["conv"] == 2
    network.train()(images(1), "xray").mean().backward()
    assert calls["conv"] == 4


@torch.no_grad()
def test_inference_and_checkpoints_know_nothing_of_it(net, images):
    network = ESPMedSAM(MODALITIES, img_size=64, use_checkpoint=True).eval()
    network.load_state_dict(net.state_dict())
    assert torch.equal(network(images(2), ["mr", "xray"]), net(images(2), ["mr", "xray"]))


def test_statistics_come_back_when_the_second_computation_fails():
    """As they were after the first, and the layer's own tensors."""

    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            x = self.norm(x).square()
            if self.calls > 1:
                raise RuntimeError("out of memory")
            return x.exp()

    block = Once()
    mean = block.norm.running_mean
    out = run_block(block, torch.randn(3, 2, 4, 4, requires_grad=True) + 1, use_checkpoint=True)
    after = block.norm.running_mean.clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        out.sum().backward()
    assert block.norm.running_mean is mean and torch.equal(mean, after) and block.norm.num_batches_tracked == 1
