"""Experts by row: what the host groups and what the device gathers are the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esp_medsam_monai.networks.routing import Route, apply_experts, select, to_device

ROUTES = [(0, 0, 0), (2, 0, 1, 0), (1,), (2, 2, 1)]


@pytest.fixture
def experts():
    torch.manual_seed(0)
    return [nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)) for _ in range(3)]


@pytest.mark.parametrize("numbers", ROUTES)
@pytest.mark.parametrize("where", ["host", "device"])
def test_apply_experts(experts, numbers, where):
    x = torch.randn(len(numbers), 5, 4)
    route = Route(host=numbers) if where == "host" else Route(index=torch.tensor(numbers))
    expected = torch.stack([experts[number](row) for number, row in zip(numbers, x, strict=True)])
    torch.testing.assert_close(apply_experts(experts, route, x), expected)


@pytest.mark.parametrize("numbers", ROUTES)
def test_select(numbers):
    parameters = [torch.full((2, 3), float(i)) for i in range(3)]
    expected = torch.stack([parameters[number] for number in numbers])
    for route in (Route(host=numbers), Route(index=torch.tensor(numbers))):
        assert torch.equal(select(parameters, route).expand(len(numbers), 2, 3), expected)


@pytest.mark.parametrize("where", ["host", "device"])
def test_gradients_reach_the_experts_in_use_alone(experts, where):
    route = Route(host=(0, 2)) if where == "host" else Route(index=torch.tensor((0, 2)))
    apply_experts(experts, route, torch.randn(2, 5, 4)).square().sum().backward()
    sizes = [0.0 if expert[1].weight.grad is None else float(expert[1].weight.grad.abs().sum()) for expert in experts]
    assert sizes[0] > 0
    assert sizes[1] == 0
    assert sizes[2] > 0


def test_host_routes_stay_on_the_host_where_they_can():
    """A mixed batch goes to an accelerator at once, so that nothing waits for it later."""
    accelerator = torch.device("meta")
    assert Route.from_host([1, 1], accelerator).uniform == 1
    assert Route.from_host([1, 0], accelerator).host is None
    assert Route.from_host([1, 0], torch.device("cpu")) == Route(host=(1, 0))
    assert to_device([3, 1], torch.device("cpu")).dtype == torch.int64
