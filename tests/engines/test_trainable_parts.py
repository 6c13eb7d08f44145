"""Which parameters learn and which modules are in training mode, and that nothing else moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from esp_medsam_monai.engines import FrozenCheck, TrainableParts
from esp_medsam_monai.modalities import extended_modalities


class Network(torch.nn.Module):
    """The names of our networks, with layers that have batch norms."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.modalities = extended_modalities({"mr": ["a"], "us": ["b"]}, {"mr": ["c"], "oct": ["d"]})
        block = [torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Dropout(0.5)]
        self.image_encoder = torch.nn.Sequential(*block)
        self.controllers = torch.nn.ModuleDict(
            {name: torch.nn.Sequential(torch.nn.BatchNorm2d(2)) for name in self.modalities}
        )
        names = [f"{modality}_{target}" for modality, targets in self.modalities.items() for target in targets]
        self.mask_decoder = torch.nn.Module()
        self.mask_decoder.queries = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.randn(2)) for name in names})
        self.mask_decoder.hyper_mlps = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in names})

    def forward(self, x: torch.Tensor, name: str = "us", target: str = "us_b") -> torch.Tensor:
        x = self.controllers[name](self.image_encoder(x)) * self.mask_decoder.queries[target][None, :, None, None]
        return self.mask_decoder.hyper_mlps[target](x.mean((2, 3)))


def learning(network: torch.nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_only_the_parts_get_gradients_and_go_to_the_optimizer() -> None:
    network = Network()
    parts = TrainableParts(network, ["controllers.mr", "mask_decoder.queries.us_b"])
    expected = {"controllers.mr.0.weight", "controllers.mr.0.bias", "mask_decoder.queries.us_b"}
    assert learning(network) == expected
    assert {id(p) for p in parts.parameters()} == {id(p) for n, p in network.named_parameters() if n in expected}
    assert learning(TrainableParts(network).network) == {name for name, _ in network.named_parameters()}


def test_a_name_covers_whole_words_and_a_star_one_word() -> None:
    network = Network()
    network.controllers["mr_t2"] = torch.nn.BatchNorm2d(2)
    assert learning(TrainableParts(network, "controllers.mr").network) == {
        "controllers.mr.0.weight",
        "controllers.mr.0.bias",
    }
    assert learning(TrainableParts(network, "controllers.*.0.bias, image_encoder.0.bias").network) == {
        "controllers.mr.0.bias",
        "controllers.us.0.bias",
        "controllers.oct.0.bias",
        "image_encoder.0.bias",
    }


def test_new_means_what_added_targets_and_modalities_have_to_themselves() -> None:
    assert learning(TrainableParts(Network(), "new").network) == {
        "controllers.oct.0.weight",
        "controllers.oct.0.bias",
        *(f"mask_decoder.queries.{name}" for name in ("mr_c", "oct_d")),
        *(f"mask_decoder.hyper_mlps.{name}.{kind}" for name in ("mr_c", "oct_d") for kind in ("weight", "bias")),
    }


def test_everything_outside_the_parts_is_in_evaluation_mode() -> None:
    network = Network().train()
    TrainableParts(network, ["controllers.mr", "mask_decoder.queries.us_b"]).train()
    assert {name for name, module in network.named_modules() if module.training} == {
        "controllers.mr",
        "controllers.mr.0",
    }
    network.eval()
    TrainableParts(network).train()
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("contollers", "'contollers'.*There are: image_encoder, controllers, mask_decoder"),
        (["controllers.ct"], "There are: controllers.mr, controllers.us, controllers.oct"),
        (["mask_decoder.queries.ct_x"], "mask_decoder.queries.mr_a"),
        ([], "no such part"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error_that_lists_what_there_is(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainableParts(Network(), parts)


def test_new_without_new_targets_is_an_error() -> None:
    network = Network()
    network.modalities = {"mr": ["a"]}
    with pytest.raises(ValueError, match="--new_targets"):
        TrainableParts(network, "new")


def run(folder: Path, parts: Any, fault: Any = None, epochs: int = 2, network: Network | None = None) -> Network:
    """Train on noise, with a fault that may strike in the second iteration."""
    network = network or Network()
    chosen = TrainableParts(network, parts)
    optimizer = torch.optim.SGD(chosen.parameters(), lr=0.1)

    def step(engine: Engine, batch: torch.Tensor) -> None:
        network.train()
        chosen.train()
        optimizer.zero_grad()
        network(batch).square().sum().backward()
        optimizer.step()
        if fault is not None and engine.state.iteration == 2:
            fault(network)

    trainer = Engine(step)
    FrozenCheck(chosen, folder).attach(trainer)
    if epochs > 2:
        trainer.add_event_handler(Events.STARTED, lambda engine: None)
        trainer.load_state_dict({"epoch": 2, "epoch_length": 2, "max_epochs": epochs})
        trainer.run([torch.randn(4, 2, 3, 3)] * 2)
    else:
        trainer.run([torch.randn(4, 2, 3, 3)] * 2, max_epochs=epochs)
    return network


def test_what_is_frozen_stays_to_the_bit_and_the_rest_learns(tmp_path: Path) -> None:
    before = Network().state_dict()
    after = run(tmp_path, "controllers.us").state_dict()
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} == {
        f"controllers.us.0.{name}" for name in ("weight", "running_mean", "running_var", "num_batches_tracked")
    } | {"controllers.us.0.bias"}
    content = json.loads((tmp_path / "frozen.json").read_text())
    assert content["started"] == content["now"] and content["epoch"] == 2
    assert content["trained"] == ["controllers.us"] and content["trained_parameters"] == 4
    assert content["frozen_tensors"] == len(before) - 5


def touch_parameter(network: Network) -> None:
    network.image_encoder[0].weight.data[0, 0] += 1e-7


def touch_buffer(network: Network) -> None:
    network.image_encoder[1].running_mean[0] += 1e-7


@pytest.mark.parametrize(
    ("fault", "name"), [(touch_parameter, "image_encoder.0.weight"), (touch_buffer, "image_encoder.1.running_mean")]
)
def test_something_frozen_that_moves_is_named(tmp_path: Path, fault: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"changed in epoch 1: {name}"):
        run(tmp_path, "controllers.us", fault)


def test_a_resumed_training_is_compared_with_the_first_one(tmp_path: Path) -> None:
    network = run(tmp_path, "controllers.us")
    run(tmp_path, "controllers.us", epochs=3, network=network)
    touch_parameter(network)
    with pytest.raises(RuntimeError, match=r"frozen\.json.*began with"):
        run(tmp_path, "controllers.us", epochs=4, network=network)


def test_nothing_is_written_when_everything_learns(tmp_path: Path) -> None:
    run(tmp_path, None)
    assert not list(tmp_path.iterdir())
