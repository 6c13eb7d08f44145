"""QDMD: a target belongs to its own query and MLP, unless the published coupling is asked for."""

from __future__ import annotations

import pytest
import torch

from esp_medsam_monai.networks import QueryDecoder
from esp_medsam_monai.networks.routing import Route

TARGETS = ["a", "b", "c"]


def _embedding(count: int = 1) -> torch.Tensor:
    return torch.randn(count, 256, 4, 4, generator=torch.Generator().manual_seed(0))


def _gradients(decoder: QueryDecoder, target: int) -> tuple[list[float], list[float]]:
    """How strongly a target's mask pulls at each query and at each MLP."""
    decoder(_embedding(), None, Route(host=(target,))).square().sum().backward()

    def size(parameters):
        return sum(0.0 if p.grad is None else float(p.grad.abs().sum()) for p in parameters)

    mlps = decoder.hyper_mlps.values()
    return [size([query]) for query in decoder.queries.values()], [size(mlp.parameters()) for mlp in mlps]


@pytest.mark.parametrize("target", range(3))
def test_gradient_stays_with_the_target(randomised, target):
    for sizes in _gradients(randomised(QueryDecoder(TARGETS)), target):
        assert sizes[target] > 0
        assert [size for i, size in enumerate(sizes) if i != target] == [0, 0]


def test_coupled_queries_share_gradients_but_not_mlps(randomised):
    queries, mlps = _gradients(randomised(QueryDecoder(TARGETS, coupled_queries=True)), 1)
    assert min(queries) > 0
    assert mlps[1] > 0
    assert mlps[0] == mlps[2] == 0


@torch.no_grad()
def test_pairs(randomised):
    """Any (image, target) pairs in one call are the pairs one by one."""
    for coupled in (False, True):
        decoder = randomised(QueryDecoder(TARGETS, coupled_queries=coupled))
        embedding = _embedding(2)
        images, targets = [1, 0, 1, 1], [2, 0, 0, 1]
        found = decoder(embedding, torch.tensor(images), Route(host=tuple(targets)))
        pairs = zip(images, targets, strict=True)
        one_by_one = [decoder(embedding[i : i + 1], None, Route(host=(target,))) for i, target in pairs]
        torch.testing.assert_close(found, torch.cat(one_by_one), rtol=0, atol=1e-5)
        assert found.shape == (4, 16, 16)


@torch.no_grad()
def test_switches():
    shared = QueryDecoder(TARGETS, shared_query=True)
    assert len(shared.queries) == 1
    assert len(shared.hyper_mlps) == 3
    one_mlp = QueryDecoder(TARGETS, shared_hyper_mlp=True, extra_queries=0)
    assert len(one_mlp.hyper_mlps) == 1
    assert one_mlp(_embedding(), None, Route(host=(2,))).shape == (1, 16, 16)


@torch.no_grad()
@pytest.mark.parametrize("coupled", [False, True])
def test_extra_queries_take_part(randomised, coupled):
    decoder = randomised(QueryDecoder(TARGETS, coupled_queries=coupled))
    before = decoder(_embedding(), None, Route(host=(0,)))
    decoder.extra_queries += 1
    assert (decoder(_embedding(), None, Route(host=(0,))) - before).abs().max() > 1e-3


def test_bad_input():
    with pytest.raises(ValueError, match="extra_queries should not be negative, got -1"):
        QueryDecoder(TARGETS, extra_queries=-1)
    with pytest.raises(ValueError, match="leave out shared_query"):
        QueryDecoder(TARGETS, coupled_queries=True, shared_query=True)
